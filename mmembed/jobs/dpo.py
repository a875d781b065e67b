"""`mmembed dpo`: read pairs of questions, measure, warm up, train by preference, measure again, keep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.dpo_options import LORA, DpoOptions
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, apply_extra, parse_options, save_config
from mmembed.jobs.training_arguments import free_output_dir, kept_options

if TYPE_CHECKING:
    from datasets import Dataset

_ALWAYS: dict[str, Any] = {"save_strategy": "no", "eval_strategy": "no", "logging_steps": 10}
_WARM = "warm_start"


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `dpo`.

    Returns:
        0 when the model is trained, measured and saved.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
        DataError: If the pairs have a fault.
        ImportError: If TRL or peft is not installed.
    """
    options = parse_options(
        DpoOptions, argv, passthrough=_arguments_class, prog="mmembed dpo", description=DpoOptions.__doc__ or ""
    )
    run(options)
    return 0


def run(options: DpoOptions) -> dict[str, Any]:
    """Train a questioner by preference and show what it learnt.

    Args:
        options: Which pairs, which model and how; arguments of TRL's DPOConfig stand in `extra`.

    Returns:
        The metrics, as they stand in `metrics.json`.
    """
    from mmembed.training.run_lock import hold_run, release_run

    if options.held_out is not None and options.pairs is None:
        raise OptionsError("--held_out goes with --pairs; drawn pairs bring held-out ones of their own")
    if options.loop and options.pairs is None:
        raise OptionsError("--loop goes with --pairs; of drawn pairs the loop is over the drawn products")
    if options.dialogues() and options.pairs is not None and not options.loop:
        raise OptionsError("--loop: say over which items the dialogues are, such as {items: items.jsonl, part: test}")
    if options.catalogue and options.pairs is not None:
        raise OptionsError("--catalogue is of drawn pairs; leave it out beside --pairs")
    args = _training_arguments(options)
    if args.process_index == 0:
        hold_run(str(args.output_dir))
    try:
        return _run(options, args)
    finally:
        release_run(str(args.output_dir))


def _run(options: DpoOptions, args: Any) -> dict[str, Any]:
    from transformers import set_seed

    from mmembed.interactive.preference_trainer import PreferenceTrainer
    from mmembed.jobs import dpo_report
    from mmembed.jobs.run_report import write_json
    from mmembed.training.run_progress import PROGRESS, ProgressFile
    from mmembed.whole_files import write_whole

    # 1. pairs and model
    out = Path(str(args.output_dir))
    main_process = args.process_index == 0
    set_seed(args.seed)
    with args.main_process_first(desc="reading the pairs"):
        train, held_out, name = _pairs_and_model(options, out)
    model, processor = _load(options, name)
    adapter = _adapter(options)
    measured = _Measurement(processor, held_out, options, quiet=args.disable_tqdm or not main_process)
    if main_process:
        measured.stage("base", model)

    # 2. warm start: of a resumed run the one that it began with
    if options.warm_start:
        model, adapter = _warm(options, args, model, processor, train, adapter, out)
        if main_process:
            measured.stage(_WARM, model)

    # 3. train
    with as_option_errors():
        trainer = PreferenceTrainer(
            model,
            args,
            train_dataset=train,
            eval_dataset=held_out if str(args.eval_strategy.value) != "no" else None,
            processing_class=processor,
            adapter=adapter,
            precompute_reference=options.precompute_reference,
            callbacks=[ProgressFile(out / PROGRESS)],
        )
    if main_process:
        save_config(out / "config.yaml", kept_options(options, args))
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    trainer.accelerator.wait_for_everyone()
    if not main_process:
        return {}

    # 4. measure after
    trained = trainer.accelerator.unwrap_model(trainer.model)
    measured.stage("trained", trained)
    figures: dict[str, Any] = {
        "pairs": {"train": len(train), "held out": 0 if held_out is None else len(held_out)},
        **measured.figures(train),
        "steps": trainer.state.global_step,
        "loss": dpo_report.last_logged(trainer.state.log_history),
        "trainable parameters": sum(p.numel() for p in trained.parameters() if p.requires_grad),
    }

    # 5. ask in dialogues, with what it was trained from beside it
    if options.dialogues():
        figures["loop"] = _loop(options, out, trained, processor, name, quiet=bool(args.disable_tqdm))

    # 6. save
    def save(folder: str) -> None:
        dpo_report.save_model(trained, processor, folder)
        dpo_report.write_card(Path(folder), figures, options=options, args=args, base_model=name)

    write_whole(out / "model", save)
    write_json(out / "metrics.json", figures)
    if "loop" in figures:
        sys.stdout.write(f"\n{figures['loop']['table']}\n")
    sys.stdout.write(
        f"\n{dpo_report.results_table(figures)}\n\nmetrics  {out / 'metrics.json'}\nmodel    {out / 'model'}\n"
    )
    return figures


def _arguments_class() -> type:
    from mmembed.interactive.preference_trainer import DPOConfig

    kind: type = DPOConfig
    return kind


def _training_arguments(options: DpoOptions) -> Any:
    import dataclasses

    from mmembed.interactive.preference_trainer import preference_arguments

    known = [field.name for field in dataclasses.fields(DpoOptions)]
    given = apply_extra(_arguments_class(), options.extra, options.sources, known=known)
    if "loss_type" in given:
        raise OptionsError("loss_type: name the loss by --loss, which sets what goes with it")
    defaults = dict(_ALWAYS)
    if options.pairs is None:
        from mmembed.jobs.catalogue_questions import TRAINING

        defaults |= TRAINING
    out = str(options.output_dir or free_output_dir(Path("runs") / "dpo"))
    with as_option_errors():
        return preference_arguments(out, loss=options.loss, **{**defaults, **given})


def _adapter(options: DpoOptions) -> Any:
    if options.train == "full":
        if options.lora:
            raise OptionsError("--lora is of an adapter; leave it out where every weight is trained")
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise ImportError('an adapter needs peft: pip install "mmembed[dpo]"') from None
    from mmembed.interactive.preference_trainer import LANGUAGE_MODEL

    try:
        return LoraConfig(**{"target_modules": LANGUAGE_MODEL, **LORA, **options.lora})
    except (TypeError, ValueError) as error:
        raise OptionsError(f"--lora: {error}; its keys are the arguments of peft.LoraConfig") from None


# --- what is trained, and on what ----------------------------------------------------------------------------------


def _pairs_and_model(options: DpoOptions, out: Path) -> tuple[Dataset, Dataset | None, str]:
    """Training pairs, held-out pairs, and the name or folder of the model."""
    if options.pairs is None:
        from mmembed.jobs.catalogue_questions import catalogue_run

        return catalogue_run(options, out)
    if options.model is None:
        raise OptionsError("--model: name the vision-language model that is to learn from these pairs")
    from mmembed.interactive.preference_rows import read_preference_rows
    from mmembed.jobs.model_choice import resolve_name

    train = read_preference_rows(options.pairs)
    held_out = None if options.held_out is None else read_preference_rows(options.held_out)
    if held_out is not None and "target_key" in train.column_names and "target_key" in held_out.column_names:
        from mmembed.interactive.preferences import check_no_leak

        check_no_leak(train["target_key"][:], held_out["target_key"][:], {})
    return train, held_out, resolve_name(options.model)


def _load(options: DpoOptions, name: str) -> tuple[Any, Any]:
    from mmembed.interactive.vision_language_loading import load_vision_language

    loaded = load_vision_language(
        name, revision=options.revision, device="cpu", dtype=options.dtype, processor_kwargs=options.processor_kwargs
    )
    return loaded.model, loaded.processor


def _warm(
    options: DpoOptions, args: Any, model: Any, processor: Any, train: Dataset, adapter: Any, out: Path
) -> tuple[Any, Any]:
    """The model after the warm start, and the adapter that is still to be made."""
    from mmembed.interactive.warm_start import warm_start
    from mmembed.whole_files import write_whole

    kept = out / _WARM
    if options.resume and kept.is_dir():
        if adapter is None:
            return type(model).from_pretrained(kept, use_safetensors=True, dtype=model.dtype), None
        from peft import PeftModel

        return PeftModel.from_pretrained(model, kept, is_trainable=True), None
    given = {"seed": args.seed, "use_cpu": args.use_cpu, "disable_tqdm": args.disable_tqdm, **options.warm_start}
    try:
        model = warm_start(model, processor, train, output_dir=str(out / f"{_WARM}_log"), adapter=adapter, **given)
    except TypeError as error:
        raise OptionsError(f"--warm_start: {error}; its keys are the arguments of TRL's SFTConfig") from None
    if args.process_index == 0:
        write_whole(kept, lambda folder: model.save_pretrained(folder))
    return model, None


def _loop(options: DpoOptions, out: Path, trained: Any, processor: Any, name: str, *, quiet: bool) -> dict[str, Any]:
    """The same dialogues with the base, the trained model and others."""
    from mmembed.interactive.vision_language_model import VisionLanguageModel

    base, _ = _load(options, name)
    models = {
        "base": VisionLanguageModel(base.to(trained.device), processor, name=name, batch_size=32),
        "trained": VisionLanguageModel(trained, processor, name=f"{out.name}/model", batch_size=32),
    }
    shared: dict[str, Any] = {"dialogues": options.dialogues(), "rounds": options.loop_rounds, "quiet": quiet}
    if options.pairs is None:
        from mmembed.jobs.catalogue_questions import catalogue_loop

        return catalogue_loop(options, out, models, **shared)
    from mmembed.jobs.questioner_loop import loop_over_items

    return loop_over_items(options.loop, out, models, samples=options.bootstrap_samples, **shared)


class _Measurement:
    """The held-out pairs at each stage of a run."""

    def __init__(self, processor: Any, rows: Dataset | None, options: DpoOptions, *, quiet: bool) -> None:
        self.processor, self.rows, self.options, self.quiet = processor, rows, options, quiet
        self.found: dict[str, Any] = {}

    def stage(self, name: str, model: Any) -> None:
        """Measure a model."""
        if self.rows is None or not len(self.rows):
            return
        from mmembed.interactive.pair_accuracy import accuracy_line, pair_accuracy, pair_log_probabilities

        self.found[name] = pair_log_probabilities(
            model,
            self.processor,
            self.rows,
            batch_size=self.options.measure_batch_size,
            show_progress_bar=not self.quiet,
        )
        clusters = self.rows["target_key"][:] if "target_key" in self.rows.column_names else None
        told = pair_accuracy(self.found[name], clusters=clusters, samples=self.options.bootstrap_samples)
        sys.stdout.write(f"held-out pairs, {name}: {accuracy_line(told)}\n")
        sys.stdout.flush()

    def figures(self, train: Dataset) -> dict[str, Any]:
        """Accuracies by stage, gains of the trained model over each other stage, and guesses without images."""
        from mmembed.jobs import dpo_report

        return dpo_report.pair_figures(self.found, train, self.rows, samples=self.options.bootstrap_samples)
