"""`convert_checkpoint`: an original checkpoint of a known family → a folder that transformers and sentence-transformers load."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint, read_config_file
from mmembed.conversion.key_table import Mapped

# Asked in this order which of them knows a checkpoint's keys. Each module has `recognises(checkpoint)` and
# `convert(checkpoint, config, tokenizer) -> Conversion`.
FAMILIES = ("visualized_bge", "chinese_clip", "ruclip", "open_clip", "blip", "image_tower")


# No original layout calls its towers so.
_TRANSFORMERS = ("text_model.", "vision_model.")


@dataclass
class Conversion:
    """A converted model before it is written.

    Args:
        model: With the checkpoint's weights.
        mapped: What became of each key.
        processor: Of the model; None where the checkpoint came without a tokenizer or image settings.
        missing: What the folder will lack, one sentence each.
        notes: What a user should know, one sentence each.
        image_processor: Saved where there is no processor for want of a tokenizer.
        beside: Further models, folder name → (model, its processor where it has one); each is saved as stock transformers in a subfolder.
    """

    model: PreTrainedModel
    mapped: Mapped
    processor: Any = None
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    image_processor: Any = None
    beside: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def convert_checkpoint(
    family: str | None,
    path: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Convert an original checkpoint to a folder of transformers and sentence-transformers.

    Args:
        family: visualized_bge, chinese_clip, ruclip, open_clip, blip or image_tower; None finds it from the keys.
        path: The checkpoint, or a folder that holds it.
        output_dir: A folder that does not exist, or is empty.
        config: The original's own configuration, a dict or a JSON file, for what the weights do not tell; the published
            sizes need none.
        tokenizer: Folder, file or Hub name of the tokenizer where the checkpoint carries none.

    Returns:
        The report, also written as `conversion_report.json`: family, source, mapped and dropped keys with the reasons,
        what is missing, notes.

    Raises:
        ConversionError: If the checkpoint is damaged, of another family, or its keys do not fit; nothing is written then.

    Example:
        >>> convert_checkpoint("chinese_clip", "clip_cn_vit-b-16.pt", "chinese-clip", tokenizer="bert-base-chinese")
        ... # doctest: +SKIP
    """
    out = Path(output_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError(f"{out} exists and is not an empty folder; choose another output_dir.")
    if family is not None and family not in FAMILIES:
        raise ConversionError(f"unknown family {family!r}; the families are {', '.join(FAMILIES)}.")
    given = dict(config) if isinstance(config, Mapping) else read_config_file(config) if config is not None else None
    checkpoint = read_checkpoint(path)
    if any(name.startswith(_TRANSFORMERS) for name in checkpoint.tensors):
        raise ConversionError(_in_transformers_format(checkpoint))
    name = family or recognise(checkpoint)
    try:
        conversion: Conversion = _module(name).convert(checkpoint, given, tokenizer)
    except ConversionError:
        raise
    except KeyError as error:
        raise ConversionError(f"{checkpoint.path} has no {error}, which every checkpoint of {name} has.") from error
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError, OSError) as error:
        raise ConversionError(
            f"{checkpoint.path} cannot be converted as {name}: {type(error).__name__}: {error} Nothing was written."
        ) from error
    report = {
        "family": name,
        "source": {"file": checkpoint.path.name, "sha256": _sha256(checkpoint.path), "nesting": checkpoint.nesting},
        "model": type(conversion.model).__name__,
        "parameters": sum(parameter.numel() for parameter in conversion.model.parameters()),
        "mapped": {source: list(targets) for source, targets in conversion.mapped.renamed},
        "dropped": dict(conversion.mapped.dropped),
        "missing": conversion.missing,
        "notes": conversion.notes,
    }
    _write(conversion, report, out)
    return report


def recognise(checkpoint: Checkpoint) -> str:
    """The family whose keys a checkpoint has.

    Raises:
        ConversionError: If no family knows them.
    """
    for name in FAMILIES:
        if _module(name).recognises(checkpoint):
            return name
    if "model_type" in (checkpoint.config or {}):
        raise ConversionError(_in_transformers_format(checkpoint))
    first = ", ".join(list(checkpoint.tensors)[:6])
    raise ConversionError(
        f"{checkpoint.path}: no family has keys such as {first}. Families: {', '.join(FAMILIES)}; name one to see what fits."
    )


def _in_transformers_format(checkpoint: Checkpoint) -> str:
    kind = (checkpoint.config or {}).get("model_type")
    what = f" ({kind})" if kind else ""
    return (
        f"{checkpoint.path} is in transformers' own format already{what} and needs no conversion: "
        f"load_model({str(checkpoint.folder)!r}) reads it where its configuration and tokenizer lie beside it"
        + ("." if checkpoint.path.suffix == ".safetensors" else ", with model_kwargs={'use_safetensors': False}.")
    )


def _module(name: str) -> Any:
    return importlib.import_module(f"mmembed.conversion.{name}")


def _write(conversion: Conversion, report: dict[str, Any], out: Path) -> None:
    """Write beside the place and move there whole."""
    from mmembed.models.loading import load_model

    made = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    scratch = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        whole, plain = scratch / "whole", scratch / "plain"
        if conversion.processor is not None:
            conversion.model.save_pretrained(plain)
            conversion.processor.save_pretrained(plain)
            load_model(plain, device="cpu").save_pretrained(str(whole), create_model_card=False)
        else:
            conversion.model.save_pretrained(whole)
            if conversion.image_processor is not None:
                conversion.image_processor.save_pretrained(whole)
        for name, parts in conversion.beside.items():
            for part in parts:
                part.save_pretrained(whole / name)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (whole / "conversion_report.json").write_text(text + "\n", encoding="utf-8")
        os.replace(whole, out)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConversionError(f"{out} could not be written, and was not: {type(error).__name__}: {error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        for folder in made if not out.exists() else ():
            with contextlib.suppress(OSError):  # never there, or something else is in it by now
                folder.rmdir()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
