"""`mmembed convert`: an original checkpoint → a folder that transformers and sentence-transformers load, and back."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mmembed.jobs.options import OptionsError, parse_options

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
    back: Literal["open_clip", "cn_clip", "cn_clip_flash"] | None = dataclasses.field(
        default=None,
        metadata={"help": "write a model folder (as --checkpoint) in an original's layout instead of reading one"},
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
    if options.back is not None:
        sys.stdout.write(f"checkpoint  {_written_back(options)}\n")
        return 0
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


def _written_back(options: ConvertOptions) -> Path:
    given = [name for name in ("family", "original_config", "tokenizer") if getattr(options, name) is not None]
    if given:
        raise OptionsError(
            f"--back reads a model folder, which has all that {', '.join(given)} would say; leave it out"
        )
    if options.back == "open_clip":
        from mmembed.conversion.open_clip_export import export_open_clip

        return export_open_clip(options.checkpoint, options.output_dir)
    from mmembed.conversion.cn_clip_export import export_cn_clip

    if options.output_dir.exists() and (not options.output_dir.is_dir() or any(options.output_dir.iterdir())):
        raise OptionsError(
            f"--output_dir: {options.output_dir} is there already and not an empty folder; name a new one"
        )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    layout = "flash" if options.back == "cn_clip_flash" else "standard"
    return export_cn_clip(options.checkpoint, options.output_dir / "clip_cn.pt", layout=layout)


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
