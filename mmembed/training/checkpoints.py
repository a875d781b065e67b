"""Which checkpoint is whole: a manifest of hashes, written last, and the newest folder that keeps its promise."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.trainer_utils import rotate_checkpoints

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, incomplete, or belongs to another run."""


def write_manifest(folder: str | os.PathLike[str], run: dict[str, Any]) -> None:
    """Write the hashes of all files of a finished checkpoint, last and atomically: it says that the folder is whole.

    Args:
        folder: The checkpoint.
        run: What must be equal on resuming, e.g. world size and a fingerprint of the data.

    Example:
        >>> import tempfile; folder = Path(tempfile.mkdtemp()); _ = (folder / "a.bin").write_bytes(b"1")
        >>> write_manifest(folder, {"world_size": 1})
        >>> verify_checkpoint(folder)
        {'world_size': 1}
    """
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, f"{MANIFEST}.tmp")
    }
    temporary = folder / f"{MANIFEST}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"run": run, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / MANIFEST)


def verify_checkpoint(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest.

    Args:
        folder: The checkpoint.

    Returns:
        What `write_manifest` was told of the run.

    Raises:
        CheckpointError: Naming the first file that is missing or differs.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, run = manifest["files"], manifest["run"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {MANIFEST}: it was not written to its end.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read: {error}.") from None
    for name, promise in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} lacks {name}.")
        if path.stat().st_size != promise["size"] or _sha256(path) != promise["sha256"]:
            raise CheckpointError(f"{path} is not what was written: size or SHA-256 differs.")
    return run


def newest_checkpoint(output_dir: str | os.PathLike[str]) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint below a run's folder, and why newer ones were passed over.

    Args:
        output_dir: The run's folder.

    Returns:
        The checkpoint or None, and one sentence for each folder that was passed over.

    Example:
        >>> newest_checkpoint("/nonexistent")
        (None, [])
    """
    folder = Path(output_dir)
    steps = {int(m[1]): path for path in folder.glob("checkpoint-*") if (m := _CHECKPOINT.match(path.name))}
    passed_over = []
    for step in sorted(steps, reverse=True):
        try:
            verify_checkpoint(steps[step])
            return steps[step], passed_over
        except CheckpointError as error:
            passed_over.append(str(error))
    return None, passed_over


def read_tensors(into: dict[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Copy what a checkpoint keeps beside its model into the tensors of a run.

    Args:
        into: Name → tensor, overwritten in place.
        path: The safetensors file.

    Raises:
        CheckpointError: If the file is missing or holds other names.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path.parent} lacks {path.name}, which holds {', '.join(list(into)[:5])}.")
    stored = load_file(path)
    if differing := sorted(set(stored) ^ set(into)):
        raise CheckpointError(
            f"{path} and this run differ in what is trained, first {differing[0]!r}; resume with the same loss and lora."
        )
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(stored[name])


def resumable_checkpoint(
    resume_from_checkpoint: str | bool | None,
    output_dir: str | os.PathLike[str],
    run: Callable[[], Mapping[str, Any]],
    *,
    sharded: bool = False,
) -> str | None:
    """The checkpoint that a run can go on from as if it had not been interrupted.

    Args:
        resume_from_checkpoint: A checkpoint folder, True for the newest whole one below `output_dir`, None to start anew.
        output_dir: The run's folder.
        run: Gives what must be as `write_manifest` was told; asked only where there is a checkpoint.
        sharded: The optimizer is kept in parts, in files of other names.

    Returns:
        The checkpoint; None to start anew.

    Raises:
        CheckpointError: If the named one is damaged, of another run, or holds no optimizer.
    """
    if resume_from_checkpoint is True:
        found, passed_over = newest_checkpoint(output_dir)
        for reason in passed_over:
            logger.warning("passed over a checkpoint: %s", reason)
        resume_from_checkpoint = str(found) if found else None
    if not resume_from_checkpoint:
        return None
    written = verify_checkpoint(resume_from_checkpoint)
    for name, value in run().items():
        if written.get(name) != value:
            raise CheckpointError(
                f"{resume_from_checkpoint} was written with {name}={written.get(name)!r}, this run has {value!r}; "
                "resume with the same, or start anew in another output_dir."
            )
    if not sharded and not (Path(resume_from_checkpoint) / "optimizer.pt").is_file():
        raise CheckpointError(
            f"{resume_from_checkpoint} holds a model and no optimizer (save_only_model): training cannot go on "
            "from it exactly; start anew from that model, in another output_dir."
        )
    return resume_from_checkpoint


def write_checkpoint(trainer: Trainer, write: Callable[[], None], run_dir: str, run: Mapping[str, Any]) -> None:
    """Have a trainer write its checkpoint, make it whole, and only then remove older ones.

    Args:
        trainer: Whose step it is of; its `save_total_limit` says how many stay.
        write: Writes the files: the `_save_checkpoint` of the trainer's own parent.
        run_dir: Where the checkpoint's folder goes.
        run: For `write_manifest`.

    Raises:
        CheckpointError: If it cannot be written.
    """
    folder = Path(run_dir) / f"checkpoint-{trainer.state.global_step}"
    limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    try:
        write()
        if trainer.args.should_save:
            write_manifest(folder, dict(run))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(why_not_written(folder, error)) from error
    finally:
        trainer.args.save_total_limit = limit
    if trainer.args.should_save:
        rotate_checkpoints(
            output_dir=run_dir,
            save_total_limit=limit,
            best_model_checkpoint=trainer.state.best_model_checkpoint,
            use_mtime=True,
        )


def why_not_written(folder: str | os.PathLike[str], error: Exception) -> str:
    """What to tell of a checkpoint that could not be written, with the room on its disk and the last whole one.

    Args:
        folder: The checkpoint.
        error: What came up.

    Returns:
        The message.
    """
    run_dir = Path(folder).parent
    room = (
        f"{shutil.disk_usage(run_dir).free / 2**20:.0f} MiB are free" if run_dir.is_dir() else "there is no such folder"
    )
    last, _ = newest_checkpoint(run_dir)
    kept = f"the last whole checkpoint is {last}" if last else "no checkpoint was written before"
    return f"{folder} could not be written: {error} ({room} in {run_dir}); {kept}."


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
