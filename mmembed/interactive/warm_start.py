"""A model that already writes questions of the chosen kind, before it learns to prefer: fine-tuning on the chosen ones."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset

from mmembed.data.schema import DataError
from mmembed.interactive.preference_checks import (
    PreferenceTrainingError,
    check_preference_processor,
    check_preference_rows,
    check_target_modules,
    undecoded,
)
from mmembed.interactive.preference_rows import plain_rows


def chosen_rows(rows: Dataset) -> Dataset:
    """The chosen question of each pair, once for each prompt, as TRL's fine-tuning takes it.

    Args:
        rows: pairs.

    Returns:
        Columns `prompt`, `completion` and `images`.

    Example:
        >>> says = lambda text: [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
        >>> asks = [{"role": "user", "content": [{"type": "text", "text": "Ask."}]}]
        >>> pair = {"prompt": asks, "chosen": says("Is it red?"), "rejected": says("Hm?"), "images": []}
        >>> chosen_rows(Dataset.from_list([pair, {**pair, "rejected": says("Eh?")}])).num_rows
        1
    """
    kept, seen = [], set()
    for row, record in enumerate(undecoded(rows.select_columns(["prompt", "chosen", "images"]))):
        images = [image.get("bytes") or image.get("path") for image in record["images"]]
        key = (repr(record["prompt"]), repr(record["chosen"]), tuple(images))
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return rows.select(kept).select_columns(["prompt", "chosen", "images"]).rename_column("chosen", "completion")


def warm_start(
    model: Any,
    processor: Any,
    rows: Dataset,
    *,
    output_dir: str,
    adapter: Any = None,
    **arguments: Any,
) -> Any:
    """Fine-tune a model on the chosen questions, by TRL's `SFTTrainer`.

    Args:
        model: a transformers model of images and texts.
        processor: its processor.
        rows: pairs.
        output_dir: folder for what the trainer logs.
        adapter: peft's configuration of an adapter; None trains every weight.
        **arguments: of TRL's `SFTConfig`, such as `num_train_epochs` and `learning_rate`.

    Returns:
        The trained model, a `PeftModel` with an adapter. It is the reference of what is trained next.

    Raises:
        DataError: rows that are no pairs.
        PreferenceTrainingError: a processor, an adapter or an argument with which nothing would be learnt.
    """
    from trl import SFTConfig, SFTTrainer

    check_preference_processor(processor)
    check_preference_rows(rows, name="training pairs")
    if adapter is not None:
        check_target_modules(model, adapter.target_modules)
    if arguments.get("max_length") is not None:
        raise PreferenceTrainingError(
            f"max_length={arguments['max_length']} would cut the question behind the images; leave it out"
        )
    on_cpu = bool(arguments.get("use_cpu", not torch.cuda.is_available()))
    fitting: dict[str, Any] = {
        "max_length": None,
        "completion_only_loss": True,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": on_cpu,
        **({"bf16": False, "gradient_checkpointing": False} if on_cpu else {}),
    }
    trainer = SFTTrainer(
        model,
        args=SFTConfig(output_dir, **{**fitting, **arguments}),
        train_dataset=chosen_rows(plain_rows(rows, processor)),
        processing_class=processor,
        peft_config=adapter,
    )
    probe = next(iter(trainer.get_train_dataloader()))
    if int((probe["labels"] >= 0).sum(dim=1).min()) == 0:
        raise DataError(
            "a chosen question has no token to learn from; see that the chat template writes it", file="training pairs"
        )
    trainer.train()
    return trainer.model
