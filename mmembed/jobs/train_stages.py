"""`mmembed train --stages x.yaml`: stages in a chain, each measured against all that was learnt before it."""

from __future__ import annotations

import copy
import gc
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, save_config
from mmembed.jobs.stage_data import ChainData
from mmembed.jobs.stage_file import ChainPlan, StagePlan, read_stage_file
from mmembed.jobs.stage_options import BASE_OPTIONS, TRAINED
from mmembed.jobs.stage_report import StageReport
from mmembed.jobs.train_options import TrainOptions
from mmembed.training.run_lock import hold_run, release_run, write_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from mmembed.training.stages import StageRecord

logger = logging.getLogger(__name__)

DOING = "doing.json"


def train_stages(options: TrainOptions) -> list[StageRecord]:
    """Train the stages of a file one after another, and report after each what it gained and what it cost.

    In `output_dir`: `base/`, a folder `01-NAME` for each stage with its model, checkpoints and log, `cells/` with the ranks
    of every query by model and data set, and `forgetting.{json,md,png}`, the report so far (each stage keeps its own as well).
    Called again after an interruption it goes on where it was.

    Args:
        options: `stages` names the file; what is written beside it wins over the file in every stage.

    Returns:
        The record of each stage.

    Raises:
        OptionsError: With every fault of the file, before anything begins.
        StageError: If the folder holds stages of other settings, or was changed.
    """
    plan = read_stage_file(options)
    folder = Path(options.output_dir or Path("runs") / Path(str(options.stages)).stem)
    return _Chain(plan, folder, options).run()


class _Chain:
    """One run of a chain: what its steps share."""

    def __init__(self, plan: ChainPlan, folder: Path, options: TrainOptions) -> None:
        self.plan, self.folder, self.options = plan, folder, options
        self.args = self.arguments(plan.stages[0], folder)  # also brings up the process group, where there is one
        self.first = self.args.process_index == 0
        self.data = ChainData(plan, folder, show_progress_bar=not self.args.disable_tqdm)
        self.report = StageReport(plan, folder, self.data, self.args, self.note)

    def run(self) -> list[StageRecord]:
        from mmembed.training.stages import Stage, run_stages

        if self.first:
            hold_run(self.folder)
        try:
            with self.args.main_process_first(desc="base"):
                self._make_base()
            done = self.report.is_whole()
            if not done:
                self._check_ahead()
            stages = [Stage(p.name, self._training_of(p), p.settings) for p in self.plan.stages]
            start = self.folder / "base" / "model"
            records = run_stages(
                stages, self.folder, start=start, report=self.report if self.first and not done else None
            )
        finally:
            release_run(self.folder)
        if self.first:
            from mmembed.jobs.forgetting_report import report_table

            self.note(None)
            report = json.loads((self.folder / "forgetting.json").read_text(encoding="utf-8"))
            sys.stdout.write(
                f"\n{report_table(report)}\n\nreport   {self.folder / 'forgetting.md'}\n"
                f"picture  {self.folder / 'forgetting.png'}\nmodel    {records[-1].model}\n"
            )
        from accelerate import PartialState

        # a process that leaves while the group's threads run may abort
        _barrier()
        PartialState().destroy_process_group()
        return records

    # --- before anything is trained -------------------------------------------------------------------------------

    def _make_base(self) -> None:
        """Write the model that the chain starts from; a new tokenizer learns from the texts of every stage."""
        from mmembed.jobs.model_choice import choose_model
        from mmembed.jobs.run_report import save_model
        from mmembed.training.checkpoints import MANIFEST, verify_checkpoint, write_manifest

        place = self.folder / "base"
        wanted = {name: getattr(self.plan.base, name) for name in BASE_OPTIONS}
        if (place / MANIFEST).is_file():
            made = verify_checkpoint(place)
            if made != json.loads(json.dumps(wanted)):
                raise OptionsError(
                    f"{place} was made of {made}, and now {wanted} is asked for; name another output_dir, or go on with "
                    "the same base"
                )
            return
        if not self.first:
            return
        self.note("making the base")
        from transformers import set_seed

        set_seed(self.args.seed)
        model = choose_model(self.plan.base, self.data.every_train_part())
        place.mkdir(parents=True, exist_ok=True)
        save_model(model, place / "model")
        write_manifest(place, wanted)

    def _check_ahead(self) -> None:
        """What would otherwise come to light only when a later stage begins: its data, its loss, what it freezes."""
        from mmembed.jobs.model_choice import load_named
        from mmembed.losses.building import build_loss
        from mmembed.training.layer_freezing import below_last_layers
        from mmembed.training.optimizer import freeze

        self.data.held_out()
        base = load_named(str(self.folder / "base" / "model"))
        for plan in self.plan.stages:
            args = self.arguments(plan, self.folder)
            with as_option_errors():
                try:
                    watches = str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no"
                    if watches and not self.data.has_validation(plan):
                        raise ValueError(
                            "eval_strategy asks for evaluation, but there is no validation part; see validation_percent"
                        )
                    pairs = self.data.train_pairs(plan, args)
                    patterns = list(args.freeze or [])
                    for tower, layers in plan.stage.last_layers.items():
                        patterns += below_last_layers(base, tower, layers)
                    if args.lora is None and patterns:
                        freeze(base, patterns)
                    loss = None
                    if "GIST" not in args.loss:
                        loss = build_loss(
                            args.loss,
                            base,
                            args.loss_arguments,
                            mask_false_negatives=args.mask_false_negatives,
                            num_negatives=pairs.num_negatives,
                            matryoshka_dims=args.matryoshka_dims,
                            matryoshka_weights=args.matryoshka_weights,
                        )
                    if plan.stage.distillation:
                        self._distilled(plan, loss, base)
                    greedy = plan.stage.soup == "greedy" and plan.stage.soup_seeds
                    if greedy and self.data.evaluator(plan, args, None) is None:
                        raise ValueError("a greedy soup is chosen on a validation part, and none is evaluated")
                except ValueError as error:
                    if type(error) is not ValueError:
                        raise
                    raise OptionsError(f"stage {plan.name!r}: {error}") from error

    # --- one stage ------------------------------------------------------------------------------------------------

    def arguments(self, plan: StagePlan, folder: Path, seed: int | None = None) -> Any:
        """The training arguments of a stage; where it has a validation part, the best model there is kept."""
        from mmembed.jobs.training_arguments import embedding_arguments

        options = copy.copy(plan.options)
        given = dict(plan.options.extra)
        options.output_dir = str(folder)
        if plan.stage.mixture:
            options.items = options.items or "mixture"  # None would mean the drawn catalogue and its own defaults
        watched = given.get("eval_strategy", "epoch") if self._validated(plan) else "no"
        # the others wait while the first process measures, which takes longer than a step
        defaults: dict[str, Any] = {"save_strategy": "epoch", "save_total_limit": 2, "ddp_timeout": 7200}
        if str(watched) != "no":
            defaults |= {
                "eval_strategy": watched,
                "save_strategy": watched,
                "load_best_model_at_end": True,
                "metric_for_best_model": "validation_mean_recall",
                "greater_is_better": True,
            }
            if "eval_steps" in given:
                defaults["save_steps"] = given["eval_steps"]
        if str(given.get("save_strategy", "")) == "no" or str(given.get("eval_strategy", "")) == "no":
            for name in ("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "eval_strategy"):
                defaults.pop(name, None)
        options.extra = {**defaults, **given}
        if not hasattr(self, "data"):
            options.extra.pop("early_stopping_patience", None)  # its metric is settled once the data is known
        if seed is not None:
            options.extra["seed"] = seed
        return embedding_arguments(options)

    def _validated(self, plan: StagePlan) -> bool:
        return hasattr(self, "data") and self.data.has_validation(plan)

    def _training_of(self, plan: StagePlan) -> Any:
        def train(start: str | None, folder: Path) -> Mapping[str, Any]:
            with as_option_errors():
                return self._train(plan, str(start), folder)

        return train

    def _train(self, plan: StagePlan, start: str, folder: Path) -> dict[str, Any]:
        from mmembed.jobs.model_choice import load_named
        from mmembed.jobs.run_report import save_model
        from mmembed.training.weight_averaging import load_averaged, weights_of

        folder.mkdir(parents=True, exist_ok=True)
        if self.first:
            save_config(folder / "config.yaml", plan.settings)
        if plan.stage.soup_seeds:
            model, facts = self._soup(plan, start, folder)
        else:
            model, facts = self._train_once(plan, start, folder, None)
        if not self.first:
            return facts
        if plan.stage.average is not None or plan.stage.average_curve:
            save_model(model, folder / TRAINED)
        if plan.stage.average is not None:
            self.note(f"averaging {plan.name}")
            alpha = plan.stage.average
            end = start if plan.stage.average_with == "start" else str(self.folder / "base" / "model")
            load_averaged(model, [weights_of(load_named(end)), weights_of(model)], [1 - alpha, alpha])
            facts |= {"average": alpha, "average_with": plan.stage.average_with}
        save_model(model, folder / "model")
        return facts

    def _train_once(
        self, plan: StagePlan, start: str, folder: Path, seed: int | None
    ) -> tuple[SentenceTransformer, dict[str, Any]]:
        from transformers import set_seed

        from mmembed.jobs.model_choice import load_named, stored_image_features, stored_text_features
        from mmembed.jobs.training_arguments import augmentation_of
        from mmembed.training.ema import ExponentialMovingAverage
        from mmembed.training.layer_freezing import below_last_layers
        from mmembed.training.lora import merge_lora
        from mmembed.training.run_progress import PROGRESS, ProgressFile
        from mmembed.training.trainer import EmbeddingTrainer

        stage = plan.stage
        args = self.arguments(plan, folder, seed)
        self.note(f"training {plan.name}" + (f", seed {seed}" if seed is not None else ""))
        set_seed(args.seed)
        pairs = self.data.train_pairs(plan, args)
        run_data = self.data.run_data(plan)
        model = load_named(start)
        guide = load_named(plan.options.guide_model) if plan.options.guide_model else None
        # what the images and texts are standardised by belongs to the layers above it, which the start brought along
        statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
        options = copy.copy(plan.options)
        options.features_dir = options.features_dir or str(self.folder / "features")
        images = stored_image_features(options, args, model, run_data)
        texts = stored_text_features(options, args, model, run_data)
        if plan is not self.plan.stages[0]:
            for name, buffer in model.named_buffers():
                buffer.copy_(statistics[name])
        for tower, layers in stage.last_layers.items():
            args.freeze = [*(args.freeze or []), *below_last_layers(model, tower, layers)]
        callbacks: list[Any] = [ProgressFile(folder / PROGRESS)]
        evaluator = self.data.evaluator(plan, args, images)
        trainer = EmbeddingTrainer(
            model=model,
            args=args,
            train_data=pairs,
            loss=(lambda trained: self._distilled_of(plan, args, trained, pairs, start))
            if stage.distillation
            else None,
            evaluator=evaluator,
            reader=run_data.reader,
            augmentation=augmentation_of(options),
            image_features=images,
            text_features=texts,
            guide=guide,
            callbacks=callbacks,
        )
        if stage.ema is not None:  # made once the trainer has settled what learns
            ema = ExponentialMovingAverage(model, stage.ema)
            trainer.add_callback(ema)
            if evaluator is not None:
                trainer.evaluator = ema.evaluated(evaluator)
        trainer.train(resume_from_checkpoint=True if self.options.resume else None)
        trainer.accelerator.wait_for_everyone()
        if args.lora is not None:
            merge_lora(model)
        trainer.write_temperature()
        state = trainer.state
        facts: dict[str, Any] = {"steps": state.global_step}
        if state.best_metric is not None:
            facts |= {"best_metric": state.best_metric, "best_step": state.best_global_step}
        if self.first:
            facts["leaks"] = self.data.leaks_into(plan, pairs)
        del trainer
        gc.collect()
        return model, facts

    def _soup(self, plan: StagePlan, start: str, folder: Path) -> tuple[SentenceTransformer, dict[str, Any]]:
        """The stage once with each seed, each kept when it is whole, and the mean of their weights."""
        from mmembed.jobs.model_choice import load_named
        from mmembed.jobs.run_report import save_model
        from mmembed.training.checkpoints import MANIFEST, verify_checkpoint, write_manifest
        from mmembed.training.weight_averaging import average_weights, greedy_soup, weights_of

        runs: dict[int, dict[str, Any]] = {}
        for seed in plan.stage.soup_seeds:
            place = folder / f"seed-{seed}"
            whole = place / "whole"
            done = (whole / MANIFEST).is_file()
            # every process looks before the first one writes
            _barrier()
            if done:
                runs[seed] = verify_checkpoint(whole)
                continue
            model, runs[seed] = self._train_once(plan, start, place, seed)
            if self.first:
                whole.mkdir(parents=True, exist_ok=True)
                save_model(model, whole / "model")
                write_manifest(whole, runs[seed])
            del model
        _barrier()
        models = [load_named(str(folder / f"seed-{seed}" / "whole" / "model")) for seed in plan.stage.soup_seeds]
        states = [weights_of(model) for model in models]
        soup = models[0]
        facts: dict[str, Any] = {"soup": plan.stage.soup, "seeds": {str(seed): run for seed, run in runs.items()}}
        if not self.first:
            return soup, facts
        self.note(f"mixing the soup of {plan.name}")
        if plan.stage.soup == "uniform":
            soup.load_state_dict(average_weights(states, [1 / len(states)] * len(states)))
            return soup, facts
        args = self.arguments(plan, folder)
        evaluator = self.data.evaluator(plan, args, None)

        def score(state: Mapping[str, Any]) -> float:
            soup.load_state_dict(state)
            return float(evaluator(soup)[evaluator.primary_metric])

        best, taken, tried = greedy_soup(states, score)
        soup.load_state_dict(best)
        return soup, {**facts, "taken": [plan.stage.soup_seeds[number] for number in taken], "tried": tried}

    def _distilled_of(self, plan: StagePlan, args: Any, model: Any, pairs: Any, start: str) -> Any:
        from mmembed.jobs.model_choice import load_named
        from mmembed.losses.building import build_loss

        guide = load_named(plan.options.guide_model) if plan.options.guide_model else None
        loss = build_loss(
            args.loss,
            model,
            args.loss_arguments,
            mask_false_negatives=args.mask_false_negatives,
            num_negatives=pairs.num_negatives,
            guide=guide,
            matryoshka_dims=args.matryoshka_dims,
            matryoshka_weights=args.matryoshka_weights,
        )
        named = plan.stage.distillation.get("teacher", "base")
        teachers = {"base": str(self.folder / "base" / "model"), "start": start}
        return self._distilled(plan, loss, load_named(teachers.get(named, named)))

    def _distilled(self, plan: StagePlan, loss: Any, teacher: Any) -> Any:
        from mmembed.losses.distillation import DistilledLoss

        given = dict(plan.stage.distillation)
        teacher_is = given.pop("teacher", "base")
        stored = plan.options.store_image_features or plan.options.store_text_features
        same_tower = teacher_is == "start" or (teacher_is == "base" and plan is self.plan.stages[0])
        if stored and not same_tower:
            raise ValueError(
                "stored features are those of the stage's own frozen tower, which the teacher need not share; distil from "
                "the start (distillation.teacher: start), or store no features"
            )
        if loss is None:
            raise ValueError("distillation does not go with the GIST losses, which have a guide already")
        return DistilledLoss(loss, teacher, **given)

    def note(self, doing: str | None) -> None:
        """Keep what is being done where `mmembed status` finds it."""
        if self.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / DOING, json.dumps({"doing": doing, "since": time.time()}) + "\n")
            if doing:
                logger.info("%s", doing)


def _barrier() -> None:
    from mmembed.distributed import world_size

    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()
