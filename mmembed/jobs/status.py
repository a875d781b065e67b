"""`mmembed status DIR`: how far a run is, read from its files alone, while it runs or afterwards."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmembed.jobs.options import OptionsError, parse_options

_MARKS = ("stages.json", "metrics.jsonl", "progress.json", "metrics.json", "config.yaml", ".running", "doing.json")
_STALLED = 600  # seconds without a step after which a run that is alive is said to be still


@dataclasses.dataclass
class StatusOptions:
    """Which run, and how it is shown."""

    run_dir: Path = dataclasses.field(
        metadata={"help": "folder of a run (its output_dir); may be given without --run_dir"}
    )
    json: bool = dataclasses.field(default=False, metadata={"help": "print JSON instead of a table"})
    every: float | None = dataclasses.field(
        default=None, metadata={"help": "print again every so many seconds until nothing is at work in the folder"}
    )


def main(argv: Sequence[str]) -> int:
    """Print how far a run is.

    Args:
        argv: The words after the verb, the folder first or as `--run_dir`.

    Returns:
        The exit status, 0.

    Raises:
        OptionsError: If the folder is not there, or is no run's.

    Example:
        >>> main([str(getfixture("tmp_path"))])
        /...: empty; nothing has run here yet
        0
    """
    words = ["--run_dir", *argv] if argv and not argv[0].startswith("-") else list(argv)
    options = parse_options(
        StatusOptions, words, prog="mmembed status", description="Show how far the run in a folder is."
    )
    while True:
        status = run_status(options.run_dir)
        sys.stdout.write((json.dumps(status, indent=1) if options.json else shown(status)) + "\n")
        sys.stdout.flush()
        if options.every is None or not status["alive"]:
            return 0
        time.sleep(options.every)


def run_status(folder: Path) -> dict[str, Any]:
    """What a run's files say of it.

    Args:
        folder: The run's folder.

    Returns:
        "folder", "alive", "holder" (pid, host, since; or None), "doing" (or None), and "stages", one mapping each: "stage",
        "state" ("waiting", "running", "interrupted", "killed", "failed", "finished"), "step", "max_steps",
        "steps_per_second", "rows_per_second", "seconds_left", "seconds_since_step", "loss", "metric" (name and value of the
        last evaluation), "best_metric" and "error"; None for what is not known.

    Raises:
        OptionsError: If the folder is not there, or holds something else than a run.
    """
    from mmembed.training.run_lock import run_holder
    from mmembed.training.stages import read_chain

    if not folder.is_dir():
        raise OptionsError(
            f"{folder} is {'no folder' if folder.exists() else 'not there'}; name the output_dir of a run"
        )
    inside = sorted(path.name for path in folder.iterdir())
    if inside and not any(mark in inside for mark in _MARKS) and not any(n.startswith("checkpoint-") for n in inside):
        some = ", ".join(inside[:4]) + (" …" if len(inside) > 4 else "")
        raise OptionsError(
            f"{folder} is no run's folder: it has none of {', '.join(_MARKS[:5])}; it holds {some}. Name the output_dir of "
            "`mmembed train`"
        )
    holder = run_holder(folder)
    chain = read_chain(folder)
    stages = [_chained(record, holder is not None) for record in chain]
    if not chain and inside:
        stages = [_single(folder, holder is not None)]
    doing = _read(folder / "doing.json").get("doing") if holder else None
    return {"folder": str(folder), "alive": holder is not None, "holder": holder, "doing": doing, "stages": stages}


def shown(status: Mapping[str, Any]) -> str:
    """A status as lines for a terminal.

    Args:
        status: From `run_status`.

    Returns:
        The lines.
    """
    from mmembed.pages import text_table

    if not status["stages"]:
        state = f"at work: {status['doing'] or 'beginning'}" if status["alive"] else "empty; nothing has run here yet"
        return f"{status['folder']}: {state}"
    rows = []
    for stage in status["stages"]:
        step, steps = stage["step"], stage["max_steps"]
        share = f" ({100 * step // steps} %)" if steps else ""
        last = [f"loss {stage['loss']:.4g}"] if stage["loss"] is not None else []
        if stage["metric"]:
            last.append(f"{stage['metric'][0]} {stage['metric'][1]:.4g}")
        if stage["best_metric"] is not None:
            last.append(f"best {stage['best_metric']:.4g}")
        rows.append(
            [
                stage["stage"],
                stage["state"],
                "" if step is None else f"{step}/{steps}{share}",
                "" if not stage["steps_per_second"] else _rate(stage),
                "" if stage["seconds_left"] is None else duration(stage["seconds_left"]),
                ", ".join(last),
            ]
        )
    lines = [text_table(rows, ["stage", "state", "step", "rate", "left", "last"])]
    holder = status["holder"]
    if holder:
        lines.append(f"at work: {status['doing'] or 'training'} (process {holder.get('pid')} on {holder.get('host')})")
    for stage in status["stages"]:
        still = stage["seconds_since_step"]
        if stage["state"] == "running" and still is not None and still > _STALLED:
            lines.append(f"{stage['stage']}: no step for {duration(still)}")
        if stage["error"]:
            lines.append(f"{stage['stage']} failed: {stage['error']}")
        if stage["state"] in ("killed", "interrupted"):
            lines.append(f"{stage['stage']}: start the same command again to go on from its newest whole checkpoint")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A length of time as a person says it.

    Args:
        seconds: Its length.

    Returns:
        Such as "40 s", "12 min" or "3 h 05 min".

    Example:
        >>> duration(40), duration(725), duration(11_100)
        ('40 s', '12 min', '3 h 05 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _rate(stage: Mapping[str, Any]) -> str:
    rows = stage["rows_per_second"]
    return f"{stage['steps_per_second']:.3g} steps/s" + (f", {rows:.3g} rows/s" if rows else "")


def _chained(record: Any, alive: bool) -> dict[str, Any]:
    state = record.state
    if state == "running" and not alive:
        state = "killed"
    places = [record.folder, *record.folder.glob("seed-*")]  # a soup trains in folders of its own
    place = max(places, key=lambda path: _read(path / "progress.json").get("updated", 0.0))
    found = _facts(place, running=state == "running")
    found["best_metric"] = record.facts.get("best_metric")
    return {"stage": record.name, "state": state, **found, "error": record.error if state == "failed" else None}


def _single(folder: Path, alive: bool) -> dict[str, Any]:
    finished = (folder / "metrics.json").is_file() and not alive
    begun = any((folder / name).exists() for name in ("progress.json", "metrics.jsonl")) or any(
        folder.glob("checkpoint-*")
    )
    state = "running" if alive else "finished" if finished else "killed" if begun else "waiting"
    return {"stage": folder.name, "state": state, **_facts(folder, running=alive), "best_metric": None, "error": None}


def _facts(folder: Path, *, running: bool) -> dict[str, Any]:
    progress = _read(folder / "progress.json")
    if not progress:  # a run of another trainer: its newest checkpoint knows
        states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name[11:]))
        state = _read(states[-1]) if states else {}
        progress = {"step": state.get("global_step"), "max_steps": state.get("max_steps")}
    step, steps, rate = progress.get("step"), progress.get("max_steps"), progress.get("steps_per_second")
    updated = progress.get("updated")
    lines = _lines(folder / "metrics.jsonl")
    loss = next((line["loss"] for line in reversed(lines) if "loss" in line), None)
    evaluated: dict[str, Any] = next(
        (line for line in reversed(lines) if any(key.startswith("eval_") for key in line)), {}
    )
    names = [key for key in evaluated if key.startswith("eval_") and not key.endswith(("runtime", "per_second"))]
    name = next((key for key in names if key.endswith("mean_recall")), names[0] if names else None)
    return {
        "step": step,
        "max_steps": steps,
        "steps_per_second": rate if running else None,
        "rows_per_second": progress.get("rows_per_second") if running else None,
        "seconds_left": (steps - step) / rate if running and rate and steps else None,
        "seconds_since_step": max(0.0, time.time() - updated) if updated else None,
        "loss": loss,
        "metric": [name.removeprefix("eval_"), evaluated[name]] if name else None,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet
        return {}
    return held if isinstance(held, dict) else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            held = json.loads(line)
        except ValueError:
            continue  # the line that is being written, or was when the run was killed
        if isinstance(held, dict):
            found.append(held)
    return found
