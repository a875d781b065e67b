"""A run is judged by what it wrote: it trains, it fails with status 0, it writes rubbish, it hangs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from mmembed.export.autotrain_project import AutoTrainError, write_autotrain_project
from mmembed.export.autotrain_run import check_autotrain, run_autotrain
from tests.export.fake_autotrain import fake_autotrain
from tests.tiny_models import tiny_bert

ROWS = [{"sentence1": f"word{n} red", "sentence2": f"a red word{n}"} for n in range(4)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base") / "bert"
    tiny_bert().save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def project(base: str, tmp_path: Path) -> Path:
    write_autotrain_project(tmp_path / "p", ROWS, [], task="pair", base_model=base, project_name="mugs")
    return tmp_path / "p"


def run(project: Path, mode: str, timeout: float = 60):
    return run_autotrain(project, "mugs", python=fake_autotrain(project.parent / "bin", mode), timeout=timeout)


def test_a_model_that_was_trained_is_loaded(project: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("ALLOW_REMOTE_CODE", "true")
    model = run(project, "trains")
    assert model.encode(["red mug"]).shape == (1, 16)
    assert "Running task sentence-transformers:pair" in (project / "autotrain.log").read_text()
    given = json.loads((project / "environment.json").read_text())
    assert given["ALLOW_REMOTE_CODE"] == "false" and given["HF_HUB_OFFLINE"] == "1" and "PYTHONPATH" not in given
    assert given["PATH"].split(os.pathsep)[0] == str(project.parent / "bin")
    with pytest.raises(AutoTrainError, match="mugs is there already"):
        run(project, "trains")


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fails", "ended with status 0 and wrote no weights; .* ValueError: Invalid number of classes"),
        ("nothing", "wrote no weights; .*It said: INFO"),
        ("fails late", "has the weights of its base: nothing was trained"),
        ("nan", "holds NaN or infinity in .*; lower lr"),
        ("cut off", "model.safetensors is damaged"),
    ],
)
def test_a_failure_with_status_0_is_a_failure(project: Path, mode: str, message: str) -> None:
    with pytest.raises(AutoTrainError, match=message):
        run(project, mode)


@pytest.mark.parametrize("mode", ["hangs", "hangs after"])
def test_a_run_that_hangs_is_ended_with_all_it_started(project: Path, monkeypatch, mode: str) -> None:
    monkeypatch.setattr("mmembed.export.autotrain_run._GRACE", 1)
    started = time.monotonic()
    with pytest.raises(AutoTrainError, match=r"took longer than 20 seconds and was ended; see .*autotrain.log"):
        run(project, mode, timeout=20)
    assert time.monotonic() - started < 60
    child = int((project / "child.pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(child)  # although it took no notice of being asked to end


def _runs(number: int) -> bool:
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_environment_without_it_is_told_how_to_get_it(tmp_path: Path) -> None:
    assert check_autotrain(fake_autotrain(tmp_path, "trains")) == "0.8.36"
    with pytest.raises(
        AutoTrainError, match="has no autotrain-advanced. AutoTrain needs an environment of its own: .*pip install"
    ):
        check_autotrain(fake_autotrain(tmp_path, "absent"))
    with pytest.raises(AutoTrainError, match="does not run"):
        check_autotrain(str(tmp_path / "none"))


def test_vectors_are_those_of_the_written_weights(project: Path) -> None:
    model = run(project, "trains")
    again = run_again(project)
    assert np.array_equal(model.encode(["red mug"]), again.encode(["red mug"]))


def run_again(project: Path):
    from mmembed.models.loading import load_model

    return load_model(project / "mugs", device="cpu")
