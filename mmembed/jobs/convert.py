"""`mmembed convert`: an original checkpoint → a folder that transformers and sentence-transformers load."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mmembed.jobs.options import parse_options

Family = Literal["visualized_bge", "chinese_clip", "ruclip", "open_clip", "blip", "image_tower"]


@dataclasses.dataclass
class ConvertOptions:
    """Which checkpoint becomes which folder."""

    checkpoint: Path = dataclasses.field(metadata={"help": "file of weights, or the folder that holds it"})
    output_dir: Path = dataclasses.field(metadata={"help": "folder to write; must not exist yet, or be empty"})
    family: Family | None = dataclasses.field(
        default=None, metadata={"help": "family of the model; found from the names of the weights when left out"}
    )
    original_config: Path | None = dataclasses.field(
        default=None,
        metadata={
            "help": "the original's own configuration (JSON); the published sizes need none; also as --config x.json"
        },
    )
    tokenizer: str | None = dataclasses.field(
        default=None, metadata={"help": "folder, file or Hub name of the tokenizer, where the checkpoint has none"}
    )


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint and say what became of it.

    Args:
        argv: The words after the verb.

    Returns:
        0 when the folder is written.

    Raises:
        OptionsError: For a wrong option.
        ConversionError: If the checkpoint cannot be converted; nothing is written then.

    Example:
        >>> main(["--checkpoint", "nowhere.pt", "--output_dir", "converted"])
        Traceback (most recent call last):
        mmembed.conversion.checkpoint_reading.ConversionError: nowhere.pt does not exist.
    """
    words = _with_json_config(argv)
    options = parse_options(
        ConvertOptions, words, prog="mmembed convert", description="Convert an original checkpoint to a model folder."
    )
    from mmembed.conversion.converting import convert_checkpoint

    report = convert_checkpoint(
        options.family,
        options.checkpoint,
        options.output_dir,
        config=options.original_config,
        tokenizer=options.tokenizer,
    )
    sys.stdout.write(summary(report, options.output_dir))
    return 0


def summary(report: dict[str, Any], output_dir: Path) -> str:
    """The report in a few lines.

    Args:
        report: From `convert_checkpoint`.
        output_dir: Where the model was written.

    Returns:
        Lines of text; the whole report stands in `conversion_report.json`.

    Example:
        >>> report = {"family": "blip", "model": "M", "parameters": 2, "mapped": {"a": ["b"]}, "dropped": {"q": "of training"},
        ...           "missing": [], "notes": []}
        >>> print(summary(report, Path("out")))
        blip → M, 2 parameters: 1 keys mapped, 1 dropped
          dropped  1 keys: of training
        report   out/conversion_report.json
        model    out
    """
    dropped: dict[str, int] = {}
    for reason in report["dropped"].values():
        dropped[reason] = dropped.get(reason, 0) + 1
    head = (
        f"{report['family']} → {report['model']}, {report['parameters']:,} parameters: {len(report['mapped'])} keys "
        f"mapped, {len(report['dropped'])} dropped"
    )
    lines = [head, *(f"  dropped  {count} keys: {reason}" for reason, count in dropped.items())]
    lines += [f"  missing  {one}" for one in report["missing"]] + [f"  note     {one}" for one in report["notes"]]
    lines += [f"report   {output_dir / 'conversion_report.json'}", f"model    {output_dir}"]
    return "\n".join(lines) + "\n"


def _with_json_config(argv: Sequence[str]) -> list[str]:
    """`--config x.json` is the original's configuration; `--config x.yaml` holds options, as of every verb."""
    words = list(argv)
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        following = value or (words[number + 1] if number + 1 < len(words) else "")
        if name == "--config" and following.endswith(".json"):
            words[number] = "--original_config" + (f"={value}" if value else "")
    return words
