"""`mmembed train-reranker`: read, split by query, find candidates, measure, train, measure again, keep."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError, parse_options, save_config
from mmembed.jobs.train_reranker_options import TrainRerankerOptions
from mmembed.jobs.training_arguments import build_arguments, kept_options

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import CrossEncoder

    from mmembed.jobs.reranker_data import RerankerPart

# What a run without any data does: a small cross-encoder over the drawn catalogue.
_CATALOGUE: dict[str, Any] = {
    "first_stage": "bm25",
    "candidates": 8,
    "loss": "CandidateScoringLoss",
    "num_negatives": 7,
    "max_tokens": 4096,
}
_TRAINING: dict[str, Any] = {"num_train_epochs": 10.0, "learning_rate": 5e-4, "warmup_steps": 0.1}
_ALWAYS: dict[str, Any] = {"save_strategy": "no", "eval_strategy": "no", "logging_steps": 20}
# Words far apart from the start, and none dropped: so it sees soon that a word of the query stands in the passage too.
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `train-reranker`.

    Returns:
        0 when the model is trained, measured and saved.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
    """
    options = parse_options(
        TrainRerankerOptions,
        argv,
        passthrough=_arguments_class,
        prog="mmembed train-reranker",
        description=TrainRerankerOptions.__doc__ or "",
    )
    run(options)
    return 0


def run(options: TrainRerankerOptions) -> dict[str, Any]:
    """Train a reranker and show what it gained.

    Args:
        options: What to train on, what to train and how; training arguments stand in `extra`.

    Returns:
        The metrics, as they stand in `metrics.json`.
    """
    from mmembed.rerankers.training_rows import reranker_loss
    from mmembed.training.run_lock import hold_run, release_run

    if options.data is None:
        options = _for_the_catalogue(options)
    args = build_arguments(options, _arguments_class(), run_folder="reranker", defaults=lambda given: _ALWAYS)
    with as_option_errors():
        row = reranker_loss(options.loss)
    if options.max_tokens is not None and row.in_batch:
        raise OptionsError(f"max_tokens with {options.loss}: its batches make pairs that no row has; leave it out")
    if str(args.eval_strategy.value) != "no":
        raise OptionsError("eval_strategy: held-out queries are scored before and after training, not during it")
    if options.scorer == "text" and not options.query_use == options.document_use == "text":
        raise OptionsError("scorer text reads texts: query_use and document_use are text")
    if options.scorer != "text" and options.model is None:
        raise OptionsError(f"scorer {options.scorer} needs a model")
    if args.process_index == 0:
        hold_run(str(args.output_dir))
    try:
        return _run(options, args)
    finally:
        release_run(str(args.output_dir))


def _run(options: TrainRerankerOptions, args: Any) -> dict[str, Any]:
    from transformers import set_seed

    from mmembed.jobs import reranker_report, run_report
    from mmembed.jobs.reranker_data import label_counts, load_reranker_data
    from mmembed.rerankers.token_budget import TokenBudget
    from mmembed.rerankers.training_rows import build_reranker_loss, training_rows
    from mmembed.training.reranker_trainer import RerankerTrainer
    from mmembed.training.run_progress import PROGRESS, ProgressFile
    from mmembed.whole_files import write_whole

    # 1. read, split, find candidates
    out = Path(str(args.output_dir))
    main_process = args.process_index == 0
    set_seed(args.seed)
    with args.main_process_first(desc="reading the data"):
        parts = load_reranker_data(options, show_progress_bar=not args.disable_tqdm)
    train, test = parts["train"], parts["test"]

    # 2. model, and the rows of its loss
    model = _model(options, args, train)
    readers = _readers(options, train)
    pairs = train.pairs if options.first_stage == "given" else train.with_first_stage_negatives()
    with as_option_errors():
        rows = training_rows(
            pairs,
            train.queries,
            train.documents,
            loss=options.loss,
            num_negatives=options.num_negatives,
            use_scores=options.use_scores,
            seed=args.seed,
            query_use=options.query_use,
            document_use=options.document_use,
            reader=readers,
        )
        loss = build_reranker_loss(
            options.loss, model, options.loss_arguments, whole_batch=options.max_tokens is not None
        )
    if options.max_tokens is not None:
        args.batch_sampler = TokenBudget(model, options.max_tokens, prompt=_prompt(args), world_size=args.world_size)

    # 3. measure before
    stages: dict[str, dict[str, Any]] = {}
    if main_process:
        if options.first_stage != "given":
            stages[options.first_stage] = reranker_report.per_query(test.candidates, test.relevant, options.ks)
        stages["before"] = _measure(model, test, options, args)

    # 4. train
    trainer = RerankerTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        loss=loss,
        data_sha256=_fingerprint(rows, options),
        callbacks=[ProgressFile(out / PROGRESS)],
    )
    if main_process:
        kept = kept_options(options, args)
        kept.pop("batch_sampler", None)
        save_config(out / "config.yaml", kept)
    trainer.train(resume_from_checkpoint=True if options.resume else None)
    trainer.accelerator.wait_for_everyone()
    if not main_process:
        return {}

    # 5. measure after
    model.eval()
    stages["after"] = _measure(model, test, options, args)
    sampling = {"samples": options.bootstrap_samples, "seed": args.seed}
    measured: dict[str, Any] = {
        "n": len(test.relevant),
        "stages": reranker_report.summarise(stages, **sampling),
        "gain": reranker_report.gains(stages, **sampling),
        "data": {name: dict(label_counts(part)) for name, part in parts.items()} | {"training rows": len(rows)},
    }

    # 6. save
    def save(folder: str) -> None:
        model.save_pretrained(folder, create_model_card=False)
        reranker_report.write_card(
            Path(folder),
            measured,
            name=out.name,
            base_model=None if options.model is None else Path(options.model).name,
            language=options.language,
            license=options.license,
            facts=_facts(options, args, measured),
        )

    write_whole(out / "model", save)
    run_report.write_json(out / "metrics.json", measured)
    sys.stdout.write(
        f"\n{reranker_report.results_table(measured)}\n\n"
        f"queries  {measured['n']} held out, {len(train.relevant)} trained on\n"
        f"metrics  {out / 'metrics.json'}\nmodel    {out / 'model'}\n"
    )
    return measured


def _arguments_class() -> type:
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    return CrossEncoderTrainingArguments


def _for_the_catalogue(options: TrainRerankerOptions) -> TrainRerankerOptions:
    """What is not said is chosen for the drawn catalogue."""
    default = TrainRerankerOptions()
    chosen = {name: value for name, value in _CATALOGUE.items() if getattr(options, name) == getattr(default, name)}
    if "loss" not in chosen:
        chosen = {name: value for name, value in chosen.items() if name not in ("max_tokens", "num_negatives")}
    changed = dataclasses.replace(options, **chosen)
    changed.extra, changed.sources = {**_TRAINING, **options.extra}, options.sources
    return changed


def _model(options: TrainRerankerOptions, args: Any, train: RerankerPart) -> CrossEncoder:
    from mmembed.jobs.model_choice import resolve_name

    device = str(args.device)
    with as_option_errors():
        if options.scorer == "vision_language":
            from mmembed.rerankers.vision_language import load_vlm_reranker

            lengths: dict[str, Any] = {"query_max_length": options.query_max_length}
            return load_vlm_reranker(
                resolve_name(options.model or ""), device=device, **{**lengths, **options.vision_language}
            )
        if options.scorer == "blip_itm":
            from mmembed.rerankers.blip_itm import load_blip_itm

            return load_blip_itm(resolve_name(options.model or ""), device=device)
        from mmembed.rerankers.text_pairs import load_text_reranker

        lengths = {"max_length": options.max_length, "query_max_length": options.query_max_length}
        if options.model is None:
            return _small_model(train, lengths, device, args.seed)
        return load_text_reranker(resolve_name(options.model), new_head=options.new_head, device=device, **lengths)


def _small_model(train: RerankerPart, lengths: dict[str, Any], device: str, seed: int) -> CrossEncoder:
    """A new cross-encoder whose words are those of the training queries and of the documents."""
    import tempfile

    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertForSequenceClassification

    from mmembed.models.dual_encoder.building import train_tokenizer
    from mmembed.rerankers.text_pairs import load_text_reranker

    texts = [text for table in (train.queries, train.documents) for text in table["text"][:] if text]
    words = train_tokenizer(texts, vocab_size=4000, max_length=128)
    frame = [(token, words.convert_tokens_to_ids(token)) for token in (words.cls_token, words.sep_token)]
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
    )
    words.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # which text a word is of
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(words), max_position_embeddings=128, pad_token_id=words.pad_token_id, **_SIZES
        )
        config.num_labels = 1
        BertForSequenceClassification(config).save_pretrained(folder)
        words.save_pretrained(folder)
        return load_text_reranker(folder, device=device, **lengths)


def _readers(options: TrainRerankerOptions, part: RerankerPart) -> Any:
    """One reader of the images of queries and documents; None where texts are read."""
    from datasets import concatenate_datasets

    from mmembed.encode import reader_of

    used = [(options.query_use, part.queries), (options.document_use, part.documents)]
    tables = [items.select_columns(["image"]) for use, items in used if use != "text" and "image" in items.column_names]
    return reader_of(concatenate_datasets(tables)) if tables else None


def _measure(model: CrossEncoder, part: RerankerPart, options: TrainRerankerOptions, args: Any) -> dict[str, Any]:
    from mmembed.jobs.reranker_report import per_query
    from mmembed.rerankers.reranking import rerank

    texts = options.query_use == options.document_use == "text"
    run = rerank(
        model,
        part.candidates,
        part.queries,
        part.documents,
        query_use=options.query_use,
        document_use=options.document_use,
        max_tokens=options.score_tokens if texts else None,
        batch_size=args.eval_batch_size,
        reader=_readers(options, part),
        prompt=_prompt(args),
        show_progress_bar=not args.disable_tqdm,
    )
    return per_query(run, part.relevant, options.ks)


def _prompt(args: Any) -> str | None:
    prompts = args.prompts
    if prompts is not None and not isinstance(prompts, str):
        raise OptionsError("prompts is one text, put before every query")
    return prompts


def _fingerprint(rows: Dataset, options: TrainRerankerOptions) -> str:
    """SHA-256 of what a row is, ids where images are read."""
    digest = hashlib.sha256(f"{options.loss} {options.query_use} {options.document_use} {options.max_tokens}".encode())
    for batch in rows.with_format("arrow").iter(1000):
        digest.update(json.dumps(batch.to_pydict(), sort_keys=True).encode())
    return digest.hexdigest()


def _facts(options: TrainRerankerOptions, args: Any, measured: dict[str, Any]) -> dict[str, Any]:
    shown = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "seed")
    return {
        "loss": f"{options.loss} {json.dumps(options.loss_arguments, sort_keys=True)}",
        "data": "drawn catalogue" if options.data is None else Path(options.data).name,
        "first stage": f"{options.first_stage}, {options.candidates} candidates",
        **{f"{name} {what}": n for name in ("train", "test") for what, n in measured["data"][name].items()},
        **{name: str(getattr(args, name)) for name in shown},
        **({} if options.max_tokens is None else {"tokens a batch": options.max_tokens}),
    }
