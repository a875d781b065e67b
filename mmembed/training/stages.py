"""Stages in a chain: each starts from the best model of the one before, and none that is finished is trained again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmembed.training.run_lock import hold_run, release_run, write_whole

logger = logging.getLogger(__name__)

CHAIN = "stages.json"  # of the run: its stages in their order
RECORD = "stage.json"  # of a stage: what it was told, what became of it
MODEL = "model"  # of a stage: the folder of its best model
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WEIGHTS = (".safetensors", ".bin", ".pt")
_REWRITTEN = (".md", ".png")  # a card may be edited later without its weights being others


class StageError(ValueError):
    """Stages that cannot be chained, or a run's folder that holds something else than they would have left."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One link of the chain.

    Args:
        name: Names its folder: letters, digits, ".", "_" and "-".
        train: Called with the folder (or name) of the model to start from, None where the chain has none, and the stage's
            own folder. It leaves its best model in the sub-folder `model` and returns facts to keep, such as the best
            metric and its step. It is called again after an interruption and then goes on by itself
            (`EmbeddingTrainer.train(resume_from_checkpoint=True)` does).
        settings: What decides the outcome; a stage that was finished with other settings is refused.

    Example:
        >>> Stage("muge", train=lambda start, folder: {"best": 0.5}, settings={"learning_rate": 1e-5}).name
        'muge'
    """

    name: str = dataclasses.field(metadata={"help": "names its folder"})
    train: Callable[[str | None, Path], Mapping[str, Any]] = dataclasses.field(
        metadata={"help": "trains from a model's folder in the stage's own, leaves `model` there, returns facts"}
    )
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"help": "what decides the outcome"})


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What is known of a stage, as it stands in its `stage.json`.

    Args:
        name: The stage.
        folder: Its folder.
        state: "waiting", "running", "interrupted", "failed" or "finished"; a stage whose process was killed still says
            "running", which `mmembed.training.run_lock.run_holder` tells apart.
        settings: What it was told.
        start: The model it started from.
        start_sha256: Hash of that model's weights; None where it is no folder.
        model_sha256: Hash of the weights of its own model, once finished.
        files: Of its model: name → {"size", "sha256"}.
        facts: What training returned.
        error: Why it failed.
        began: When it first began, in seconds since 1970.
        ended: When it was finished.
    """

    name: str
    folder: Path
    state: str = "waiting"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start: str | None = None
    start_sha256: str | None = None
    model_sha256: str | None = None
    files: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    began: float | None = None
    ended: float | None = None

    @property
    def model(self) -> Path:
        """The folder of the stage's model."""
        return self.folder / MODEL


def run_stages(
    stages: Sequence[Stage],
    output_dir: str | os.PathLike[str],
    *,
    start: str | os.PathLike[str] | None = None,
    report: Callable[[list[StageRecord]], Any] | None = None,
) -> list[StageRecord]:
    """Train stages one after another, each from the best model of the one before.

    A stage is finished when its `stage.json` says so and its model has the hashes that stand there: calling this again
    after an interruption (also `kill -9`) passes over finished stages and goes on in the one that was cut.

    Args:
        stages: The chain, at least one stage.
        output_dir: Folder of the run; stage k works in `0k-NAME` within it.
        start: The model that the first stage starts from, given to its `train`.
        report: Called with the finished stages so far: once with none, then after each stage, also after one that was
            found finished. A forgetting report, for example; what it has measured it keeps itself.

    Returns:
        The record of each stage.

    Raises:
        StageError: If names are unfit, or the folder holds a stage that was finished with other settings, from another
            model, or whose model was changed since.
        RunBusyError: If another process trains in the folder.

    Example:
        >>> def train(start, folder):
        ...     (folder / "model").mkdir(parents=True)
        ...     before = (Path(start) / "weights.bin").read_text() if start else ""
        ...     _ = (folder / "model" / "weights.bin").write_text(before + folder.name[1])
        ...     return {"best": 0.5}
        >>> out = getfixture("tmp_path")
        >>> records = run_stages([Stage("muge", train), Stage("flickr", train)], out)
        >>> (records[1].model / "weights.bin").read_text(), records[1].facts
        ('12', {'best': 0.5})
        >>> run_stages([Stage("muge", train), Stage("flickr", train)], out) == records  # nothing is trained again
        True
    """
    _check(stages)
    from mmembed.distributed import rank

    folder = Path(output_dir)
    first = rank() == 0
    if first:
        hold_run(folder)
        chain = {"stages": [{"name": s.name, "folder": _place(folder, n, s).name} for n, s in enumerate(stages)]}
        write_whole(folder / CHAIN, json.dumps(chain, indent=1) + "\n")
    try:
        records: list[StageRecord] = []
        if report is not None:
            report([])
        given = None if start is None else os.fspath(start)
        for number, stage in enumerate(stages):
            place = _place(folder, number, stage)
            record = _take_up(read_record(place, stage.name), stage, given)
            _wait()  # all have read the record before the first process writes it
            if record.state != "finished":
                record = _train(stage, record, given, writes=first)
            else:
                logger.info("stage %s was finished before; its model is %s", stage.name, record.model)
            records.append(record)
            if report is not None:
                report(list(records))
            _wait()
            given = str(record.model)
        return records
    finally:
        if first:
            release_run(folder)


def read_chain(output_dir: str | os.PathLike[str]) -> list[StageRecord]:
    """The stages of a run's folder, those that have not begun among them.

    Args:
        output_dir: A folder that `run_stages` was given.

    Returns:
        The records, in the order of the chain; empty where the folder has no chain.

    Raises:
        StageError: If a file of the run cannot be read.
    """
    folder = Path(output_dir)
    if not (folder / CHAIN).is_file():
        return []
    try:
        listed = json.loads((folder / CHAIN).read_text(encoding="utf-8"))["stages"]
        return [read_record(folder / stage["folder"], stage["name"]) for stage in listed]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, StageError):
            raise
        raise StageError(f"{folder / CHAIN} cannot be read ({error}); remove it and start the run again") from None


def read_record(folder: Path, name: str) -> StageRecord:
    """The record of a stage; "waiting" where it has none.

    Args:
        folder: The stage's folder.
        name: The stage.

    Returns:
        Its record.

    Raises:
        StageError: If its file cannot be read.
    """
    path = folder / RECORD
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(StageRecord)} - {"folder"}
        return StageRecord(folder=folder, **{key: value for key, value in held.items() if key in known})
    except FileNotFoundError:
        return StageRecord(name=name, folder=folder)
    except (ValueError, TypeError, AttributeError) as error:
        raise StageError(f"{path} cannot be read ({error}); remove {folder} to train the stage again") from None


def weights_sha256(folder: str | os.PathLike[str]) -> str:
    """One hash over the weight files of a model's folder.

    Args:
        folder: The model.

    Returns:
        The hash in hex.

    Raises:
        StageError: If there are none.
    """
    return _weights_of(_hashed(Path(folder)), Path(folder))


def _check(stages: Sequence[Stage]) -> None:
    if not stages:
        raise StageError("a chain needs at least one stage, got none")
    names = [stage.name for stage in stages]
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise StageError(f"stage name {name!r}: use letters, digits, '.', '_' and '-', as it names a folder")
        if names.count(name) > 1:
            raise StageError(f"two stages are called {name!r}; each needs a name of its own")


def _place(folder: Path, number: int, stage: Stage) -> Path:
    return folder / f"{number + 1:02d}-{stage.name}"


def _take_up(record: StageRecord, stage: Stage, start: str | None) -> StageRecord:
    """The record as it is to go on with, once nothing in it contradicts what is asked for now."""
    begun = record.state == "finished" or any(record.folder.glob("checkpoint-*"))
    settings = json.loads(json.dumps(stage.settings, default=str))
    start_sha = weights_sha256(start) if start is not None and Path(start).is_dir() else None
    if begun and record.state != "waiting":
        again = f"Go on with the same, name another output_dir, or remove {record.folder} and the stages after it"
        differing = sorted(
            key for key in {*settings, *record.settings} if settings.get(key) != record.settings.get(key)
        )
        if differing:
            was, now = record.settings.get(differing[0]), settings.get(differing[0])
            raise StageError(
                f"stage {stage.name!r} was {'trained' if record.state == 'finished' else 'begun'} with other settings: "
                f"{', '.join(differing)} (first: {was!r}, now {now!r}). {again}."
            )
        if record.start_sha256 is not None and start_sha is not None and record.start_sha256 != start_sha:
            raise StageError(f"stage {stage.name!r} started from other weights than those in {start}. {again}.")
    if record.state == "finished":
        _verify(record)
        return record
    return dataclasses.replace(
        record,
        settings=settings,
        start=start,
        start_sha256=start_sha,
        began=record.began or time.time(),
        error=None,
    )


def _verify(record: StageRecord) -> None:
    found = _hashed(record.model) if record.model.is_dir() else {}
    for name, promise in record.files.items():
        if found.get(name) != promise:
            what = "is missing" if name not in found else "is not what was written"
            raise StageError(
                f"stage {record.name!r} is finished, but {record.model / name} {what}; restore it, or remove "
                f"{record.folder} and the stages after it to train them again"
            )


def _train(stage: Stage, record: StageRecord, start: str | None, *, writes: bool) -> StageRecord:
    def keep(state: str, **changes: Any) -> StageRecord:
        changed = dataclasses.replace(record, state=state, **changes)
        if writes:
            changed.folder.mkdir(parents=True, exist_ok=True)
            held = {k: v for k, v in dataclasses.asdict(changed).items() if k != "folder"}
            write_whole(changed.folder / RECORD, json.dumps(held, indent=1, ensure_ascii=False, default=str) + "\n")
        return changed

    keep("running")
    try:
        facts = dict(stage.train(start, record.folder))
    except KeyboardInterrupt:
        keep("interrupted")
        raise
    except Exception as error:
        keep("failed", error=f"{type(error).__name__}: {error}")
        raise
    _wait()
    if not writes:
        _wait()
        return read_record(record.folder, stage.name)
    if not record.model.is_dir():
        raise StageError(f"stage {stage.name!r} left no model in {record.model}")
    files = _hashed(record.model)
    finished = keep(
        "finished",
        facts=json.loads(json.dumps(facts, default=str)),
        files=files,
        model_sha256=_weights_of(files, record.model),
        ended=time.time(),
    )
    _wait()
    return finished


def _wait() -> None:
    from mmembed.distributed import world_size

    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def _hashed(folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in _REWRITTEN:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": digest}
    return files


def _weights_of(files: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    weights = [f"{name} {file['sha256']}" for name, file in files.items() if name.endswith(_WEIGHTS)]
    if not weights:
        raise StageError(f"{folder} holds no weights ({', '.join(_WEIGHTS)}), so it is no model to go on from")
    return hashlib.sha256("\n".join(weights).encode()).hexdigest()
