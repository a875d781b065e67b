"""Would TRL train on these pairs, or only look as if it did?

Its trainer of preferences has traps for models of images that make no sound: completions cut away behind the image tokens
train on nothing, and an empty `image` key hides the placeholders. Each check here raises before a step is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from datasets import Dataset

from mmembed.data.schema import DataError, shown

COLUMNS = ("prompt", "chosen", "rejected", "images")


class PreferenceTrainingError(ValueError):
    """A model, processor or argument with which preference training would fail or do nothing, with what to do."""


def check_preference_rows(rows: Dataset, *, name: str = "pairs") -> None:
    """Refuse rows that are not of TRL's conversational format for images, or that nothing can be learnt from.

    Args:
        rows: columns `prompt`, `chosen`, `rejected` (messages) and `images` (a list of images); others are left alone.
        name: what the rows are called in messages.

    Raises:
        DataError: with the row and the field.

    Example:
        >>> says = lambda text: [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
        >>> asks = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Ask."}]}]
        >>> rows = Dataset.from_list([{"prompt": asks, "chosen": says("Is it red?"), "rejected": says("Hm?"), "images": []}])
        >>> check_preference_rows(rows)
        Traceback (most recent call last):
        mmembed.data.schema.DataError: pairs: row 0: field 'images': 0 images for 1 image blocks in the prompt; ...
    """
    for column in COLUMNS:
        if column not in rows.column_names:
            hint = (
                "; wrap each image in a list, as `images`"
                if column == "images" and "image" in rows.column_names
                else ""
            )
            raise DataError(f"no such column; found {rows.column_names}{hint}", file=name, field=column)
    if not len(rows):
        raise DataError("no rows; there is nothing to train on", file=name)
    for row, record in enumerate(undecoded(rows.select_columns(list(COLUMNS)))):
        where: dict[str, Any] = {"file": name, "row": row}
        blocks = 0
        for column in ("prompt", "chosen", "rejected"):
            blocks += _check_messages(record[column], column, where)
        images = record["images"]
        if not isinstance(images, list) or any(image is None for image in images):
            raise DataError(f"found {shown(images)}, expected a list of images", field="images", **where)
        if len(images) != blocks:
            raise DataError(
                f"{len(images)} images for {blocks} image blocks in the prompt; there is one block for each image, in order",
                field="images",
                **where,
            )
        if _text(record["chosen"]) == _text(record["rejected"]):
            raise DataError(
                "chosen and rejected are the same text; there is nothing to prefer", field="rejected", **where
            )


def check_preference_processor(processor: Any) -> None:
    """Refuse what is no processor of images and texts with a chat template.

    Args:
        processor: what `AutoProcessor` gave.

    Raises:
        PreferenceTrainingError: with its class.
    """
    from transformers import ProcessorMixin

    kind = type(processor).__name__
    if not isinstance(processor, ProcessorMixin) or getattr(processor, "image_processor", None) is None:
        raise PreferenceTrainingError(
            f"a {kind} is no processor of images and texts: pairs would be trained as texts alone. AutoProcessor gives a bare "
            "tokenizer where it does not know the processor's class, or where that needs torchvision; load one by its class"
        )
    if not isinstance(processor.chat_template, str):
        raise PreferenceTrainingError(
            f"this {kind} has no chat template, or several; save the one to use with the model"
        )
    if processor.tokenizer.eos_token is None:
        raise PreferenceTrainingError(f"the tokenizer of this {kind} has no eos_token; a question would have no end")


def check_preference_arguments(args: Any, *, precompute_reference: bool = False) -> None:
    """Refuse arguments of TRL's `DPOConfig` under which pairs with images are cut, or cannot be trained here.

    Args:
        args: a `DPOConfig`.
        precompute_reference: the reference's log-probabilities are computed once, before the first step.

    Raises:
        PreferenceTrainingError: with the argument.
    """
    if args.max_length is not None:
        raise PreferenceTrainingError(
            f"max_length={args.max_length} would cut what stands behind the images, which is the question itself, without a "
            "word: set it to null, and make images smaller (max_pixels) where they take too many tokens"
        )
    if args.use_cpu and (args.bf16 or args.fp16):
        raise PreferenceTrainingError("on a CPU train in float32: set bf16 and fp16 to false")
    if "robust" in args.loss_type and not 0 <= args.label_smoothing < 0.5:
        raise PreferenceTrainingError(
            f"label_smoothing={args.label_smoothing} is the share of pairs that the robust loss takes for wrong: from 0 to below 0.5"
        )
    if args.precompute_ref_log_probs:
        raise PreferenceTrainingError(
            "TRL refuses precompute_ref_log_probs where there are images; precompute_reference does the same"
        )
    if args.sync_ref_model and precompute_reference:
        raise PreferenceTrainingError(
            "sync_ref_model moves the reference during training, and precompute_reference computes what it says before: set one "
            "of them to false"
        )
    if args.pad_to_multiple_of is not None:
        raise PreferenceTrainingError("TRL pads no batch with images to a multiple: set pad_to_multiple_of to null")
    if args.remove_unused_columns is False:
        raise PreferenceTrainingError(
            "remove_unused_columns=false would hand columns of provenance to the model; leave it true"
        )


def check_target_modules(model: Any, target_modules: Iterable[str] | str | None) -> None:
    """Refuse an adapter that would sit on the language model's head, or nowhere.

    Args:
        model: a transformers model.
        target_modules: of peft's `LoraConfig`: a regular expression over whole names, a list of endings, or "all-linear".

    Raises:
        PreferenceTrainingError: with what was matched.
    """
    import re

    if target_modules is None:
        raise PreferenceTrainingError("target_modules is not given; name the layers that get an adapter")
    if target_modules == "all-linear":
        return  # peft leaves the head out
    if isinstance(target_modules, str):
        try:
            pattern = re.compile(target_modules)
        except re.error as error:
            raise PreferenceTrainingError(
                f"target_modules={target_modules!r} is no regular expression: {error}"
            ) from None
        found = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    else:
        ends = tuple(target_modules)
        found = [
            name for name, _ in model.named_modules() if any(name == end or name.endswith(f".{end}") for end in ends)
        ]
    head = model.get_output_embeddings()
    on_head = [name for name, module in model.named_modules() if module is head and name in found]
    if on_head:
        raise PreferenceTrainingError(
            f"target_modules put an adapter on {on_head[0]}: TRL computes log-probabilities from its bare weight, so that "
            "adapter would never be trained; leave the head out"
        )
    if not found:
        raise PreferenceTrainingError(f"target_modules={target_modules!r} match no layer of the {type(model).__name__}")


def check_preference_batch(batch: Mapping[str, Any], model: Any) -> None:
    """Refuse a batch in which a completion has no tokens, images are missing, or a sequence is too long.

    Args:
        batch: what TRL's collator made of the longest rows.
        model: the model in training.

    Raises:
        PreferenceTrainingError: with the numbers.
    """
    completions = batch["completion_mask"].sum(dim=1)  # (2 · pairs,)
    if int(completions.min()) == 0:
        raise PreferenceTrainingError(
            f"{int((completions == 0).sum())} of {len(completions)} questions have no token left in their sequence of "
            f"{batch['input_ids'].shape[1]}: nothing would be learnt from them, without an error. Set max_length to null and "
            "see that the chat template writes the assistant's turn"
        )
    if not any(name.startswith("pixel_values") for name in batch):
        raise PreferenceTrainingError(f"the collator made {sorted(batch)} and no pixels: the images would not be seen")
    config = model.config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = int(batch["attention_mask"].sum(dim=1).max())
    if positions is not None and longest > positions:
        raise PreferenceTrainingError(
            f"the longest pair has {longest} tokens and the model takes {positions}: make images smaller (max_pixels, or the "
            "processor's own size), show fewer of them, or shorten captions"
        )


def probe_rows(rows: Dataset, *, most: int = 4) -> Dataset:
    """The rows that are likeliest to be too long: with the most images, and with the longest texts.

    Args:
        rows: pairs.
        most: how many rows at most.

    Returns:
        Some of the rows.
    """
    sizes = []
    for row, record in enumerate(undecoded(rows.select_columns(list(COLUMNS)))):
        text = sum(len(_text(record[column])) for column in ("prompt", "chosen", "rejected"))
        sizes.append((len(record["images"]), text, row))
    by_text = sorted(sizes, key=lambda size: (-size[1], size[2]))[: most // 2]
    chosen = {row for *_, row in sorted(sizes, key=lambda size: (-size[0], -size[1], size[2]))[: most - most // 2]}
    return rows.select(sorted(chosen | {row for *_, row in by_text}))


def undecoded(rows: Dataset) -> Iterator[dict[str, Any]]:
    """The rows, their images as they are stored; nothing is opened."""
    if len(rows):
        for table in rows.with_format("arrow").iter(256):
            yield from table.to_pylist()


def _check_messages(messages: Any, column: str, where: dict[str, Any]) -> int:
    """The number of image blocks in some messages."""
    if not isinstance(messages, list) or not messages:
        raise DataError(f"found {shown(messages)}, expected a list of messages", field=column, **where)
    blocks = 0
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
            raise DataError(
                f"found the content {shown(content)}, expected a list of blocks such as {{'type': 'text', 'text': …}}",
                field=column,
                **where,
            )
        for block in content:
            if "image" in block:
                raise DataError(
                    "a block has the key 'image': TRL takes it for one that is filled already, even where it is null, and "
                    "counts no placeholder. Leave the key out of every block; images go into `images`",
                    field=column,
                    **where,
                )
            if block.get("type") not in ("image", "text"):
                raise DataError(
                    f"a block of type {shown(block.get('type'))}, expected image or text", field=column, **where
                )
            blocks += block["type"] == "image"
    expected = ("user", "assistant") if column == "prompt" else ("assistant",)
    if column == "prompt" and messages[-1].get("role") != "user":
        raise DataError(
            f"the last message is of {shown(messages[-1].get('role'))}, expected user", field=column, **where
        )
    if column != "prompt" and (blocks or [message.get("role") for message in messages] != ["assistant"]):
        raise DataError(f"expected one message of {expected[0]} without images", field=column, **where)
    if column != "prompt" and not _text(messages).strip():
        raise DataError("an empty question", field=column, **where)
    return blocks


def _text(messages: list[dict[str, Any]]) -> str:
    return "\n".join(
        block.get("text") or "" for message in messages for block in message["content"] if block["type"] == "text"
    )
