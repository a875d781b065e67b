"""Train an image tower: read photos of the same things, classify them by angle, measure whether a photo finds its others."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import as_option_errors, check_names
from mmembed.jobs.options import OptionsError, parse_options, save_config
from mmembed.jobs.train_image_tower_options import ImageTowerOptions
from mmembed.jobs.training_arguments import build_arguments, embedding_arguments_class, kept_options

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from mmembed.evaluation.ranking import Ranking
    from mmembed.jobs.photo_groups import PhotoData
    from mmembed.losses.arcface import ArcFaceLoss

ARCFACE = "ArcFaceLoss"
HEAD = "arcface_head.safetensors"
# What a run without any data does: the small tower and the training of the drawn catalogue.
_MODEL: dict[str, Any] = {"image_size": 64, "embedding_dim": 128}
_AUGMENTATION: dict[str, Any] = {"crop": [0.75, 1.0], "flip": 0.5, "colour": 0.1}
_TRAINING: dict[str, Any] = {
    "num_train_epochs": 12.0,
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 128,
    "learning_rate": 2e-3,
    "warmup_steps": 0.1,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.05,
    "loss_arguments": {"scale": 20.0, "margin": 0.3, "start": 0.0, "growth": 0.5},
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 50,
}


def main(argv: Sequence[str]) -> int:
    """Run the job.

    Args:
        argv: The words of the command line.

    Returns:
        0 when the tower is trained, measured and saved.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
    """
    options = parse_options(
        ImageTowerOptions,
        argv,
        passthrough=embedding_arguments_class,
        prog="mmembed train-image-tower",
        description=ImageTowerOptions.__doc__ or "",
    )
    run(options)
    return 0


def run(options: ImageTowerOptions) -> dict[str, Any]:
    """Train a tower and show what it gained.

    Args:
        options: What to train on, what to train and how; training arguments stand in `extra`.

    Returns:
        The metrics, as they stand in `metrics.json`.
    """
    from transformers import set_seed

    from mmembed.data.augment import Augmentation
    from mmembed.data.training_pairs import TrainingPairs
    from mmembed.evaluation.ranking import headline
    from mmembed.jobs import run_report
    from mmembed.jobs.photo_groups import load_photos, photo_pairs
    from mmembed.losses.arcface import MarginGrowth
    from mmembed.losses.building import loss_row
    from mmembed.training.lora import merge_lora
    from mmembed.training.run_progress import PROGRESS, ProgressFile
    from mmembed.training.trainer import EmbeddingTrainer

    # 1. parse
    args = build_arguments(options, embedding_arguments_class(), run_folder="image_tower", defaults=_defaults(options))
    out, main_process = Path(str(args.output_dir)), args.process_index == 0
    with as_option_errors():
        if args.loss != ARCFACE:
            loss_row(args.loss)
        check_names("augmentation", options.augmentation, Augmentation)
        given = {**(_AUGMENTATION if options.items is None else {}), **options.augmentation}
        augmentation = Augmentation(**given) if given else None
    set_seed(args.seed)

    # 2. read and check
    with args.main_process_first(desc="reading the photos"):
        data = load_photos(options, record_to=out / "bad_samples.jsonl", show_progress_bar=not args.disable_tqdm)
    train, validation, test = (data.parts.get(name) for name in ("train", "validation", "test"))
    if train is None or test is None or not len(photo_pairs(test, lonely=False)):
        raise OptionsError("no group of the test part has two photos; give a split column or a larger test_percent")
    if validation is None and args.eval_strategy != "no":
        raise OptionsError("eval_strategy asks for evaluation, but there is no validation part; see validation_percent")

    # 3. model
    model = _tower(options)
    with as_option_errors():
        loss = _arcface(model, train, options, args) if args.loss == ARCFACE else None

    # 4. measure before
    rankings = {"before": _rank(model, test, args, data)} if main_process else {}

    # 5. train: each row shows a photo and another of the same thing, and both are classified
    with as_option_errors():
        trainer = EmbeddingTrainer(
            model=model,
            args=args,
            train_data=TrainingPairs(
                train,
                train,
                photo_pairs(train, lonely=True),
                query_use="image",
                document_use="image",
                show_progress_bar=False,
            ),
            loss=loss,
            evaluator=_evaluator(validation, options, args, data) if validation is not None else None,
            reader=data.reader,
            augmentation=augmentation,
            callbacks=[ProgressFile(out / PROGRESS)],
        )
    if loss is not None:
        trainer.add_callback(MarginGrowth(loss))
    if main_process:
        save_config(out / "config.yaml", kept_options(options, args))
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    trainer.leave_group()
    if not main_process:
        return {}

    # 6. measure after
    if args.lora is not None:
        merge_lora(model)
    rankings["after"] = _rank(model, test, args, data)
    sampling = {"samples": options.bootstrap_samples, "seed": args.seed}
    measured: dict[str, Any] = {
        stage: run_report.summarise(ways, ks=options.ks, **sampling) for stage, ways in rankings.items()
    }
    measured["gain"] = run_report.gains(rankings["before"], rankings["after"], **sampling)
    measured["gain_metric"] = f"{headline(rankings['after'])}@1"
    measured["data"] = {
        **{f"{name} photos": len(part) for name, part in data.parts.items()},
        "training groups": len(set(train["group"][:])),
        "bad images": len(data.bad_images),
        "shared between parts": len(data.leaks),
    }

    # 7. save
    run_report.save_model(model, out / "model")
    if loss is not None:
        _save_head(loss, train, out / "model" / HEAD)
    run_report.write_json(out / "metrics.json", measured)
    for name, ways in (("queries_before.jsonl", rankings["before"]), ("queries.jsonl", rankings["after"])):
        run_report.write_queries(out / name, ways, test, test)
    _write_card(out, model, measured, options, args)
    rows = {stage: measured[stage] for stage in ("before", "after")}
    sys.stdout.write(
        f"\n{run_report.results_table(rows, options.ks)}\n\n"
        f"metrics        {out / 'metrics.json'}\nmodel          {out / 'model'}\n"
    )
    return measured


def _defaults(options: ImageTowerOptions) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    def defaults(given: dict[str, Any]) -> Mapping[str, Any]:
        own = dict(_TRAINING) if options.items is None else {}
        own["loss"] = ARCFACE
        if given.get("loss", ARCFACE) == ARCFACE:
            own["batch_sampler"] = "batch_sampler"  # one thing may well show twice in a batch of classes
        else:
            own.pop("loss_arguments", None)
        return own

    return defaults


def _tower(options: ImageTowerOptions) -> SentenceTransformer:
    from mmembed.jobs.model_choice import load_named, resolve_name
    from mmembed.models import ImageTowerConfig
    from mmembed.models.image_tower.building import build_image_tower, image_tower_from_backbone

    if options.model is not None:
        if options.backbone or options.model_arguments:
            raise OptionsError("give model, or backbone and model_arguments for a new tower, not both")
        return load_named(options.model)
    kind = image_tower_from_backbone if options.backbone else build_image_tower
    check_names("model_arguments", options.model_arguments, kind, ImageTowerConfig)
    with as_option_errors():
        if options.backbone:
            return image_tower_from_backbone(resolve_name(options.backbone), **options.model_arguments)
        return build_image_tower(**{**(_MODEL if options.items is None else {}), **options.model_arguments})


def _arcface(model: SentenceTransformer, train: Dataset, options: ImageTowerOptions, args: Any) -> ArcFaceLoss:
    from mmembed.data.keys import group_key
    from mmembed.losses.arcface import ArcFaceLoss

    if not args.mask_false_negatives:
        raise OptionsError("mask_false_negatives=False keeps the groups from ArcFaceLoss, which learns by them")
    taken = {"model", "num_classes", "dim", "class_keys", "class_counts"} & set(args.loss_arguments)
    if taken:
        raise OptionsError(f"loss_arguments has {sorted(taken)[0]!r}, which the data tells; see adaptive_margin")
    check_names("loss_arguments", args.loss_arguments, ArcFaceLoss)
    counts = Counter(train["group"][:])
    groups = sorted(counts)
    return ArcFaceLoss(
        model,
        num_classes=len(groups),
        class_keys=[group_key(group) for group in groups],
        class_counts=[counts[group] for group in groups] if options.adaptive_margin else None,
        **{"seed": args.seed, **args.loss_arguments},
    )


def _save_head(loss: ArcFaceLoss, train: Dataset, path: Path) -> None:
    """The class centres, with the group that each stands for."""
    from safetensors.torch import save_file

    about = {"groups": sorted(set(train["group"][:])), "sub_centres": loss.sub_centres}
    save_file({"weight": loss.weight.detach().cpu().contiguous()}, path, {"settings": json.dumps(about)})


def _rank(model: SentenceTransformer, photos: Dataset, args: Any, data: PhotoData) -> dict[str, Ranking]:
    from mmembed.evaluation.ranking import rank_retrieval
    from mmembed.jobs.photo_groups import photo_pairs

    return rank_retrieval(
        model,
        photos,
        photos,
        photo_pairs(photos, lonely=False),
        query_use="image",
        document_use="image",
        directions="forward",
        exclude_same_id=True,
        batch_size=args.eval_batch_size,
        reader=data.reader,
        show_progress_bar=not args.disable_tqdm,
    )


def _evaluator(photos: Dataset, options: ImageTowerOptions, args: Any, data: PhotoData) -> Any:
    from mmembed.evaluation.retrieval_evaluator import RetrievalEvaluator
    from mmembed.jobs.photo_groups import photo_pairs

    return RetrievalEvaluator(
        photos,
        photos,
        photo_pairs(photos, lonely=False),
        name="validation",
        query_use="image",
        document_use="image",
        directions="forward",
        exclude_same_id=True,
        ks=options.ks,
        batch_size=args.eval_batch_size,
        reader=data.reader,
    )


def _write_card(
    out: Path, model: SentenceTransformer, measured: dict[str, Any], options: ImageTowerOptions, args: Any
) -> None:
    from mmembed.export.card import CardFacts, write_card

    shown = (
        "num_train_epochs",
        "per_device_train_batch_size",
        "learning_rate",
        "lr_scheduler_type",
        "weight_decay",
        "seed",
    )
    facts = CardFacts(
        name=out.name,
        inputs=["image"],
        dimensions=model.get_embedding_dimension(),
        base_model=options.model or options.backbone,
        license=options.license,
        training_data={**measured["data"], "source": Path(options.items).name if options.items else "drawn catalogue"},
        losses=[f"{args.loss} {json.dumps(args.loss_arguments, sort_keys=True)}"],
        hyper_parameters={**{name: str(getattr(args, name)) for name in shown}, "world size": args.world_size},
        results={stage: measured[stage] for stage in ("before", "after")},
        gains=measured["gain"],
        gain_metric=measured["gain_metric"],
    )
    write_card(out / "model", facts)
