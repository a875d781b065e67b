"""`mmembed train`: read, check, build, measure, train, measure again, keep."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options, save_config
from mmembed.jobs.train_options import TrainOptions
from mmembed.jobs.training_arguments import (
    augmentation_of,
    embedding_arguments,
    embedding_arguments_class,
    kept_options,
    measured_use,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from mmembed.evaluation.ranking import Ranking
    from mmembed.jobs.training_data import Part, RunData
    from mmembed.training.arguments import EmbeddingTrainingArguments

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `train`.

    Returns:
        0 when the model is trained, measured and saved.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
    """
    options = parse_options(
        TrainOptions,
        argv,
        passthrough=embedding_arguments_class,
        prog="mmembed train",
        description=TrainOptions.__doc__ or "",
    )
    if options.stages is not None:
        from mmembed.jobs.train_stages import train_stages

        train_stages(options)
        return 0
    run(options)
    return 0


def run(options: TrainOptions) -> dict[str, Any]:
    """Fine-tune a model and show what it gained.

    Args:
        options: What to train on, what to train and how; training arguments stand in `extra`.

    Returns:
        The metrics, as they stand in `metrics.json`.
    """
    from mmembed.losses.building import loss_row
    from mmembed.training.run_lock import hold_run, release_run

    args = embedding_arguments(options)
    with as_option_errors():
        loss_row(args.loss)
        augmentation = augmentation_of(options)
    if args.process_index == 0:
        hold_run(str(args.output_dir))
    try:
        return _run(options, args, augmentation)
    finally:
        release_run(str(args.output_dir))


def _run(options: TrainOptions, args: EmbeddingTrainingArguments, augmentation: Any) -> dict[str, Any]:
    from transformers import set_seed

    from mmembed.data.training_pairs import TrainingPairs
    from mmembed.evaluation.ranking import headline
    from mmembed.jobs import run_report
    from mmembed.jobs.catalogue_references import catalogue_references, near_twins
    from mmembed.jobs.model_choice import choose_model, load_named, stored_image_features, stored_text_features
    from mmembed.jobs.training_data import load_run_data
    from mmembed.losses.building import loss_row
    from mmembed.training.lora import merge_lora
    from mmembed.training.run_progress import PROGRESS, ProgressFile
    from mmembed.training.trainer import EmbeddingTrainer

    # 1. begin
    out = Path(str(args.output_dir))
    main_process = args.process_index == 0
    set_seed(args.seed)

    # 2. read and check
    with args.main_process_first(desc="reading the data"):
        data = load_run_data(options, record_to=out / "bad_samples.jsonl", show_progress_bar=not args.disable_tqdm)
    train, validation, test = data.parts["train"], data.measured("validation"), data.measured("test")
    if test is None:
        raise OptionsError("no pair falls into the test part; give a split column or a test_percent above 0")
    if validation is None and args.eval_strategy != "no":
        raise OptionsError("eval_strategy asks for evaluation, but there is no validation part; see validation_percent")

    # 3. model
    model = choose_model(options, train)
    guide = load_named(options.guide_model) if options.guide_model else None
    stored = stored_image_features(options, args, model, data)
    stored_texts = stored_text_features(options, args, model, data)

    # 4. measure before
    rankings: dict[str, dict[str, Ranking]] = {}
    if main_process:
        rankings["before"] = _rank(model, test, options, args, data, image_features=stored)

    # 5. train
    with as_option_errors():
        trainer = EmbeddingTrainer(
            model=model,
            args=args,
            train_data=TrainingPairs(
                train.queries,
                train.documents,
                train.pairs,
                query_use=options.query_use,
                document_use=options.document_use,
                num_negatives=options.num_negatives,
                scored=loss_row(args.loss).labels == "score",
                teacher_scores=loss_row(args.loss).labels == "scores",
            ),
            evaluator=_evaluator(validation, options, args, data, stored) if validation is not None else None,
            reader=data.reader,
            augmentation=augmentation,
            image_features=stored,
            text_features=stored_texts,
            guide=guide,
            callbacks=[ProgressFile(out / PROGRESS)],
        )
    if main_process:
        save_config(out / "config.yaml", kept_options(options, args))
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    # what is left is the first process's work; the others are done, and say so before they go
    trainer.leave_group()
    if not main_process:
        return {}

    # 6. measure after, on the images themselves
    if args.lora is not None:
        merge_lora(model)
    rankings["after"] = _rank(model, test, options, args, data)
    sampling = {"samples": options.bootstrap_samples, "seed": args.seed}
    measured: dict[str, Any] = {
        stage: run_report.summarise(ways, ks=options.ks, **sampling) for stage, ways in rankings.items()
    }
    measured["gain"] = run_report.gains(rankings["before"], rankings["after"], **sampling)
    measured["gain_metric"] = f"{headline(rankings['after'])}@1"
    measured["data"] = {
        **{f"{name} pairs": len(part.pairs) for name, part in data.parts.items()},
        "bad images": len(data.bad_images),
        "shared between parts": len(data.leaks),
    }
    if data.is_catalogue:
        measured["references"] = catalogue_references(test, train, ks=options.ks, **options.catalogue)
        measured["data"]["test products with a near twin"] = near_twins(test, **options.catalogue)

    # 7. save
    trainer.write_temperature()
    run_report.save_model(model, out / "model")
    run_report.write_json(out / "metrics.json", measured)
    for name, ways in (("queries_before.jsonl", rankings["before"]), ("queries.jsonl", rankings["after"])):
        run_report.write_queries(out / name, ways, test.queries, test.documents)
    direction, ranking = next((r.direction, r) for r in rankings["after"].values())
    first = measured["after"][direction][measured["gain_metric"]]["mean"]
    sheet = run_report.draw_sheet(
        out / "model" / "contact_sheet.png",
        ranking,
        test.queries,
        test.documents,
        data.reader,
        number=options.sheet_queries,
        title=f"{direction.replace('_to_', ' → ')}: queries from the best found to the worst",
        subtitle=f"{measured['gain_metric']} {first:.3f} over {len(ranking.query_ids)} held-out queries",
    )
    run_report.write_run_card(out / "model", model, measured, options, args)
    rows = {"before": measured["before"], "after": measured["after"], **measured.get("references", {})}
    sys.stdout.write(
        f"\n{run_report.results_table(rows, options.ks)}\n\n"
        f"contact sheet  {sheet}\nmetrics        {out / 'metrics.json'}\nmodel          {out / 'model'}\n"
    )
    return measured


def _evaluator(part: Part, options: TrainOptions, args: Any, data: RunData, stored: Any) -> Any:
    from mmembed.evaluation.retrieval_evaluator import RetrievalEvaluator

    return RetrievalEvaluator(
        part.queries,
        part.documents,
        part.pairs,
        name="validation",
        query_use=measured_use(options.query_use),
        document_use=measured_use(options.document_use),
        ks=options.ks,
        batch_size=args.eval_batch_size,
        reader=data.reader,
        image_features=stored,
    )


def _rank(
    model: SentenceTransformer, part: Part, options: TrainOptions, args: Any, data: RunData, image_features: Any = None
) -> dict[str, Ranking]:
    from mmembed.evaluation.ranking import rank_retrieval

    return rank_retrieval(
        model,
        part.queries,
        part.documents,
        part.pairs,
        query_use=measured_use(options.query_use),
        document_use=measured_use(options.document_use),
        batch_size=args.eval_batch_size,
        reader=data.reader,
        image_features=image_features,
        show_progress_bar=not args.disable_tqdm,
    )
