"""A project and AutoTrain's own Python → a trained model, or what went wrong. Its exit status says nothing of either."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from sentence_transformers import SentenceTransformer

from mmembed.encoding_fingerprints import model_fingerprint
from mmembed.export.autotrain_project import BASE, CONFIG, AutoTrainError, check_project_name
from mmembed.models.loading import load_model

LOG = "autotrain.log"
PACKAGE = "autotrain-advanced"
TESTED = "0.8.36"

_ASK = f"from importlib.metadata import version; print(version({PACKAGE!r}))"
_GRACE = 10  # seconds between asking a run to end and ending it
_FAILED = re.compile(r"failed due to an exception|^\w*(Error|Exception)\b|\bERROR\b|Killed|No space left", re.MULTILINE)


def check_autotrain(python: str) -> str:
    """The version of AutoTrain in an environment.

    Args:
        python: its Python.

    Returns:
        Such as "0.8.36".

    Raises:
        AutoTrainError: there is no such Python, or no AutoTrain in its environment, with how to make one.
    """
    how = (
        f"AutoTrain needs an environment of its own: python3.11 -m venv at && at/bin/pip install {PACKAGE}=={TESTED}, "
        "then --python at/bin/python"
    )
    try:
        asked = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AutoTrainError(f"{python} does not run ({error}). {how}") from None
    if asked.returncode:
        raise AutoTrainError(f"{python} has no {PACKAGE}. {how}")
    return asked.stdout.strip()


def run_autotrain(
    folder: str | os.PathLike[str], project_name: str, *, python: str, timeout: float
) -> SentenceTransformer:
    """Run a project, and load what it trained.

    AutoTrain ends with status 0 when it failed. What counts is a folder of weights that is younger than the run, is whole,
    holds numbers, loads, and differs from the base.

    Args:
        folder: what `write_autotrain_project` wrote. The run writes below it, and its output into autotrain.log.
        project_name: as in the project.
        python: the Python of AutoTrain's environment.
        timeout: seconds after which the run and all that it started are ended.

    Returns:
        The trained model.

    Raises:
        AutoTrainError: nothing was trained, with the end of what was said; or it took too long.
    """
    place = Path(folder).resolve()
    check_project_name(project_name)
    trained = place / project_name
    if trained.exists():
        raise AutoTrainError(f"{trained} is there already; remove it, or name another project")
    started = time.time()
    log = place / LOG
    status = _run([os.path.abspath(python), "-m", "autotrain.cli.autotrain", "--config", CONFIG], place, log, timeout)
    if status is None:
        raise AutoTrainError(
            f"AutoTrain took longer than {timeout:g} seconds and was ended; see {log}. {_last_words(log)}"
        )
    weights = trained / "model.safetensors"
    shards = trained / "model.safetensors.index.json"
    if not weights.is_file() and not shards.is_file():
        raise AutoTrainError(
            f"AutoTrain ended with status {status} and wrote no weights; see {log}. {_last_words(log)}"
        )
    if weights.is_file():
        if weights.stat().st_mtime < started - 1:
            raise AutoTrainError(f"{weights} is older than this run; see {log}. {_last_words(log)}")
        _check_numbers(weights, log)
    try:
        model = load_model(trained, device="cpu")
        vectors = torch.as_tensor(model.encode([{"text": "a red mug"}, {"text": "blue"}]))
    except Exception as error:
        raise AutoTrainError(f"what AutoTrain wrote to {trained} does not load: {error}; see {log}") from error
    if not torch.isfinite(vectors).all():
        raise AutoTrainError(f"the model in {trained} gives NaN or infinity; lower lr, see {log}")
    base = place / BASE
    if base.is_dir() and _weights_of(model) == _weights_of(load_model(base, device="cpu")):
        raise AutoTrainError(f"the model in {trained} has the weights of its base: nothing was trained; see {log}")
    return model


def _run(command: list[str], place: Path, log: Path, timeout: float) -> int | None:
    """The exit status; None where it took too long. All that it started ends with it."""
    environment = {
        **os.environ,
        # its `accelerate` is found by name
        "PATH": os.pathsep.join([os.path.dirname(command[0]), os.environ.get("PATH", "")]),
        "ALLOW_REMOTE_CODE": "false",  # which AutoTrain would allow
        "PAUSE_ON_FAILURE": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if (place / BASE).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):  # of this environment
        environment.pop(name, None)
    with open(log, "wb") as file:
        running = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return running.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(running)


def _end(running: subprocess.Popen[Any]) -> None:
    """End a run and all that it started, whatever of it is left."""
    for number, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            running.poll()
            try:
                os.killpg(running.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.05)


def _check_numbers(weights: Path, log: Path) -> None:
    try:
        with safe_open(weights, framework="pt") as file:
            for name in file.keys():
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    raise AutoTrainError(f"{weights} holds NaN or infinity in {name}; lower lr, see {log}")
    except (SafetensorError, OSError) as error:
        raise AutoTrainError(f"{weights} is damaged ({error}); see {log}") from None


def _weights_of(model: SentenceTransformer) -> str:
    return model_fingerprint(torch.nn.ParameterList(model.parameters()))


def _last_words(log: Path) -> str:
    """The line of the log that most likely says why, else its last."""
    try:
        text = log.read_bytes()[-200_000:].decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    telling = [line for line in lines if _FAILED.search(line)]
    found = (telling or lines)[-1:]
    return f"It said: {found[0][:300]}" if found else "It said nothing."
