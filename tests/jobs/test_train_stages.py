"""`mmembed train --stages`: from a file of stages to a chain of models, each measured against what came before."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mmembed.jobs.training_data
from mmembed.cli import main
from mmembed.training.stages import read_chain
from tests.jobs.tiny_jobs import MODEL, write_shop

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "model_arguments": {**MODEL, "text_layers": 2},
    "num_train_epochs": 1,
    "per_device_train_batch_size": 6,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "bootstrap_samples": 30,
    "learning_rate": 0.01,
}


@pytest.fixture(autouse=True)
def _scan_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting processes to look at twenty pictures takes seconds."""
    scan = mmembed.jobs.training_data.scan_images
    here = lambda *a, **k: scan(*a, **{**k, "num_workers": 0})  # noqa: E731
    monkeypatch.setattr(mmembed.jobs.training_data, "scan_images", functools.wraps(scan)(here))


def shop(folder: Path, name: str, rows: int = 20, **changes: Any) -> str:
    """A shop whose texts and pictures are its own."""
    from tests.training.tiny_runs import png

    file = write_shop(folder / name, rows, **changes)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["text"] = f"{name} {line['text']}"
        (folder / name / line["image"]).write_bytes(png(1000 * ord(name[0]) + number))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def stage_file(folder: Path, stages: list[dict], **more: Any) -> str:
    path = folder / "stages.yaml"
    defaults = {**TINY, **more.pop("defaults", {})}
    path.write_text(yaml.safe_dump({"defaults": defaults, "stages": stages, **more}, sort_keys=False))
    return str(path)


def run(file: str, out: Path, *words: str) -> int:
    return main(["train", "--stages", file, "--output_dir", str(out), *words])


VALIDATION = {1: "validation", 5: "validation", 9: "validation"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain that uses every option once."""
    folder = tmp_path_factory.mktemp("chain")
    watched = shop(folder, "w")
    file = stage_file(
        folder,
        [
            {"name": "first", "items": shop(folder, "a", split=VALIDATION), "num_train_epochs": 2},
            {
                "name": "second",
                "items": shop(folder, "b"),
                "freeze": ["image"],
                "last_layers": {"text": 1},
                "replay": 0.25,
                "ema": 0.5,
                "distillation": {"weight": 0.5, "kind": "similarity"},
                "average": 0.5,
                "average_curve": [0.5],
            },
            {
                "name": "third",
                "mixture": [
                    {"name": "x", "items": shop(folder, "c")},
                    {"name": "y", "items": shop(folder, "d"), "weight": 2},
                ],
                "loss": "CachedMultipleNegativesRankingLoss",
                "loss_arguments": {"mini_batch_size": 3},
                "soup_seeds": [1, 2],
            },
        ],
        watch=[{"name": "other", "items": watched}],
    )
    patch = pytest.MonkeyPatch()
    scan = mmembed.jobs.training_data.scan_images
    patch.setattr(mmembed.jobs.training_data, "scan_images", lambda *a, **k: scan(*a, **{**k, "num_workers": 0}))
    try:
        assert run(file, folder / "run") == 0
    finally:
        patch.undo()
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_first_stage_keeps_its_best_model_and_the_next_starts_from_it(everything: Path) -> None:
    records = read_chain(everything / "run")
    assert [record.state for record in records] == ["finished"] * 3
    facts = records[0].facts
    best = everything / "run" / "01-first" / f"checkpoint-{facts['best_step']}"
    kept, chosen = weights(records[0].model), weights(best)
    assert all(torch.equal(value, chosen[name]) for name, value in kept.items() if "logit_scale" not in name)
    assert records[1].start == str(records[0].model) and records[1].start_sha256 == records[0].model_sha256


def test_what_is_frozen_stays_and_the_last_layer_moves(everything: Path) -> None:
    before, trained = (weights(everything / "run" / name) for name in ("01-first/model", "02-second/trained"))
    moved = {name for name, value in trained.items() if not torch.equal(value, before[name])}
    assert any(".layer.1." in name or ".layers.1." in name for name in moved)
    assert not [name for name in moved if ".layer.0." in name or ".layers.0." in name or "vision" in name]


def test_the_average_lies_half_way_between_start_and_trained(everything: Path) -> None:
    run = everything / "run"
    start, trained, kept = (weights(run / name) for name in ("01-first/model", "02-second/trained", "02-second/model"))
    for name, value in kept.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (start[name] + trained[name]) / 2)
    curve = json.loads((run / "02-second" / "weight_curve.json").read_text())
    assert list(curve["forward"]["first"]) == ["0", "0.5", "1"] and curve["ends"] == ["first", "second, trained"]
    cells = json.loads((run / "forgetting.json").read_text())["forward"]["cells"]
    # the ends and the middle of the curve are models of the chain
    for data in ("first", "second", "other"):
        assert curve["forward"][data]["0"]["mean"] == cells["first"][data]["success@1"]["mean"]
        assert curve["forward"][data]["0.5"]["mean"] == cells["second"][data]["success@1"]["mean"]


def test_a_soup_is_the_mean_of_its_seeds(everything: Path) -> None:
    place = everything / "run" / "03-third"
    one, two, soup = (weights(place / name) for name in ("seed-1/whole/model", "seed-2/whole/model", "model"))
    assert any(not torch.equal(value, two[name]) for name, value in one.items())
    for name, value in soup.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (one[name] + two[name]) / 2)


def test_the_report_is_a_matrix_of_models_and_data(everything: Path) -> None:
    from mmembed import evaluate_retrieval, load_model, read_items
    from mmembed.images import ImagePolicy, ImageReader

    report = json.loads((everything / "run" / "forgetting.json").read_text())
    assert report["models"] == ["base", "first", "second", "third"]
    assert report["data"] == ["first", "second", "third/x", "third/y", "other"]
    assert report["learnt"] == {
        "first": "first",
        "second": "second",
        "third/x": "third",
        "third/y": "third",
        "other": None,
    }
    for way in ("forward", "backward"):
        assert set(report[way]["since_base"]) == {"first", "second", "third"}
        assert set(report[way]["since_learnt"]["third"]) == {"first", "second"}
        for row in report[way]["cells"].values():
            for cell in row.values():
                figure = cell["success@1"]
                assert figure["low"] <= figure["mean"] <= figure["high"] and figure["n"] == 5
    # one cell against the public function
    items = read_items(everything / "a" / "items.jsonl")
    test = items.select([row for row, split in enumerate(items["split"]) if split == "test"])
    model = load_model(everything / "run" / "02-second" / "model", device="cpu")
    reader = ImageReader(ImagePolicy(root=everything / "a"))
    found = evaluate_retrieval(model, test, test, reader=reader, ks=(1, 5))
    cell = report["forward"]["cells"]["second"]["first"]
    assert cell["success@1"]["mean"] == found["text_to_image_success@1"]
    assert cell["success@5"]["mean"] == found["text_to_image_success@5"]
    difference = report["forward"]["since_learnt"]["second"]["first"]["mean"]
    cells = report["forward"]["cells"]
    assert difference == pytest.approx(
        cells["second"]["first"]["success@1"]["mean"] - cells["first"]["first"]["success@1"]["mean"]
    )
    for name in ("forgetting.md", "forgetting.png", "02-second/forgetting.json", "02-second/weight_curve.png"):
        assert (everything / "run" / name).stat().st_size
    page = (everything / "run" / "forgetting.md").read_text()
    assert "| third |" in page and "Paired difference to the base" in page
    card = (everything / "run" / "02-second" / "model" / "README.md").read_text()
    assert "text → image" in card and "second" in card and "success@1" in card
    after_second = json.loads((everything / "run" / "02-second" / "forgetting.json").read_text())
    assert after_second["models"] == ["base", "first", "second"]


def test_a_finished_chain_is_neither_read_nor_trained_again(everything: Path, monkeypatch, capsys) -> None:
    import mmembed.jobs.stage_data as stage_data

    monkeypatch.setattr(stage_data, "load_run_data", lambda *a, **k: pytest.fail("the data was read again"))
    stamps = {path: path.stat().st_mtime for path in (everything / "run").rglob("model.safetensors")}
    assert run(str(everything / "stages.yaml"), everything / "run") == 0
    assert {path: path.stat().st_mtime for path in (everything / "run").rglob("model.safetensors")} == stamps
    assert "third" in capsys.readouterr().out


def test_other_options_for_a_finished_stage_are_refused(everything: Path, capsys) -> None:
    assert run(str(everything / "stages.yaml"), everything / "run", "--learning_rate", "0.5") == 2
    error = capsys.readouterr().err
    assert "'first' was trained with other settings: learning_rate" in error
    assert run(str(everything / "stages.yaml"), everything / "run", "--bootstrap_samples", "20") == 0


def test_a_changed_model_is_refused(everything: Path, tmp_path: Path, capsys) -> None:
    import shutil

    copy = shutil.copytree(everything / "run", tmp_path / "run")
    (copy / "02-second" / "model" / "model.safetensors").write_bytes(b"other")
    assert run(str(everything / "stages.yaml"), copy) == 2
    assert "02-second/model/model.safetensors is not what was written" in capsys.readouterr().err


# --- kill -9 --------------------------------------------------------------------------------------------------------

DEADLY = """
import os, signal, sys
from transformers import TrainerCallback
import mmembed.training.run_progress as progress

class Deadly(progress.ProgressFile):
    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        if "02-" in str(args.output_dir) and state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    if sys.argv[1] == "die":
        progress.ProgressFile = Deadly
    from mmembed.cli import main
    sys.exit(main(sys.argv[2:]))
"""


def test_kill_9_in_stage_two_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    cache = {"products": 24, "size": 32, "photos": 1, "cache_dir": str(tmp_path / "cache"), "num_workers": 0}
    stages = [{"name": "one"}, {"name": "two", "num_train_epochs": 4, "ema": 0.5}]
    file = stage_file(tmp_path, stages, defaults={"catalogue": cache, "test_percent": 25, "loss_arguments": {}})
    script = tmp_path / "deadly.py"
    script.write_text(DEADLY)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": str(tmp_path),
    }

    def start(how: str, out: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(script), how, "train", "--stages", file, "--output_dir", str(tmp_path / out)]
        command += ["--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "no"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    assert start("die", "cut").returncode == -signal.SIGKILL
    first, second = read_chain(tmp_path / "cut")
    assert (first.state, second.state) == ("finished", "running")
    stamp = (first.model / "model.safetensors").stat().st_mtime
    kept = sorted(path.name for path in second.folder.glob("checkpoint-*"))
    assert kept[-1] == "checkpoint-4" and not second.model.exists()
    done = start("live", "cut")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (first.model / "model.safetensors").stat().st_mtime == stamp
    log = [json.loads(line) for line in (second.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == sorted(line["step"] for line in log)
    whole = start("live", "whole")
    assert whole.returncode == 0, whole.stderr[-3000:]
    for name in ("01-one", "02-two"):
        one, two = (weights(tmp_path / out / name / "model") for out in ("cut", "whole"))
        assert all(torch.equal(value, two[key]) for key, value in one.items()), name
    reports = [json.loads((tmp_path / out / "forgetting.json").read_text()) for out in ("cut", "whole")]
    assert reports[0] == reports[1]


# --- what is wrong is said before anything begins ---------------------------------------------------------------------


def test_every_fault_of_a_file_is_said_at_once(tmp_path: Path, capsys) -> None:
    good = shop(tmp_path, "a", 8)
    path = tmp_path / "stages.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "default": {},
                "learning_rate": 1,
                "defaults": {**TINY, "output_dir": "x"},
                "stages": [
                    {"name": "one", "items": good, "learning_rat": 1, "replay": 0.5},
                    {"name": "two", "items": str(tmp_path / "gone.jsonl"), "model": "x"},
                    {"name": "two", "items": good, "num_train_epochs": "many", "distillation": {"wieght": 1}},
                    {"name": "three", "mixture": [{"name": "s", "item": good, "weight": -1}]},
                    {"name": "four", "items": good, "loss": "TripletLos", "ema": 2, "averag": 0.5},
                    {"items": good},
                ],
                "watch": [{"name": "w", "itms": good}],
            },
            sort_keys=False,
        )
    )
    assert run(str(path), tmp_path / "run") == 2
    error = capsys.readouterr().err
    for message in [
        "line 1: unknown key 'default'; did you mean 'defaults'?",
        "unknown key 'learning_rate'; it has defaults, stages, watch; a stage's options stand in `defaults`",
        "defaults: 'output_dir' is one of the run",
        "stage 'one': unknown option 'learning_rat'; did you mean 'learning_rate'?",
        "stage 'one': replay takes rows of earlier stages",
        "gone.jsonl is not there",
        "stage 'two': 'model' has no place here",
        "stage 'two': distillation: unknown key 'wieght'; did you mean 'weight'?",
        "the name 'two' is given 2 times",
        "stage 'four': ema=2",
        "stage 'four': loss 'TripletLos' is not known; did you mean 'TripletLoss'?",
        "num_train_epochs: found the text 'many', wanted number",
        "mixture[0]: unknown option 'item'; did you mean 'items'?",
        "weight=-1; it must be above 0",
        "stage 'four': unknown option 'averag'; did you mean 'average'?",
        "stages[5]: give it a `name`",
        "watch[0]: unknown option 'itms'; did you mean 'items'?",
    ]:
        assert message in error, (message, error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"replay": 1.0}, "replay=1"),
        ({"average": 0.0}, "average=0.0"),
        ({"average_curve": [2.0]}, "average_curve holds 2.0"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"soup_seeds": [1]}, "two seeds"),
        ({"soup_seeds": [1, 1]}, "twice"),
        ({"last_layers": {"txt": 1}}, "last_layers: txt"),
        ({"last_layers": {"text": 7}}, "stage 'two': last_layers: text=7"),
        ({"distillation": {"wieght": 1}}, "unknown key 'wieght'; did you mean 'weight'?"),
        ({"distillation": {"weight": -1.0}}, "stage 'two': distillation: weight=-1"),
        ({"freeze": ["no_such_thing"]}, "stage 'two': freeze: 'no_such_thing' matches no parameter"),
        ({"loss_arguments": {"temprature": 1}}, "'temprature'; did you mean 'temperature'"),
        ({"loss": "TripletLos"}, "did you mean 'TripletLoss'"),
        ({"loss": "TripletLoss"}, "stage 'two': TripletLoss takes 1 negative"),
        ({"num_negatives": 1, "loss": "TripletLoss"}, "no negative_ids"),
        ({"soup_seeds": [1, 2], "soup": "greedy"}, "a greedy soup is chosen on a validation part"),
        ({"layer_learning_rate_decay": 2}, "layer_learning_rate_decay=2"),
        ({"eval_strategy": "epoch"}, "stage 'two': eval_strategy asks for evaluation, but there is no validation part"),
        ({"image_root": "no_such_folder"}, "image_root: no_such_folder is no folder"),
    ],
)
def test_a_fault_of_the_second_stage_stops_the_chain_before_the_first(
    tmp_path: Path, capsys, stage: dict, message: str
) -> None:
    file = stage_file(
        tmp_path,
        [{"name": "one", "items": shop(tmp_path, "a", 8)}, {"name": "two", "items": shop(tmp_path, "b", 8), **stage}],
    )
    assert run(file, tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("01-*"))


def test_bad_data_of_a_later_stage_stops_the_chain_before_the_first(tmp_path: Path, capsys) -> None:
    late = shop(tmp_path, "b", 8, image={5: "images/gone.png"})
    Path(late).write_text(Path(late).read_text())
    file = stage_file(tmp_path, [{"name": "one", "items": shop(tmp_path, "a", 8)}, {"name": "two", "items": late}])
    (tmp_path / "b" / "images" / "gone.png").unlink(missing_ok=True)
    assert run(file, tmp_path / "run") == 2
    assert "gone.png" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("01-*"))


def test_a_greedy_soup_is_chosen_on_validation_and_goes_on_after_its_first_seed(tmp_path: Path, monkeypatch) -> None:
    import mmembed.jobs.train_stages as job

    file = stage_file(
        tmp_path,
        [{"name": "one", "items": shop(tmp_path, "a", split=VALIDATION), "soup_seeds": [1, 2], "soup": "greedy"}],
    )
    once = job._Chain._train_once

    def cut(self, plan, start, folder, seed):
        if seed == 2:
            raise KeyboardInterrupt
        return once(self, plan, start, folder, seed)

    monkeypatch.setattr(job._Chain, "_train_once", cut)
    assert run(file, tmp_path / "run") == 130
    stamp = (tmp_path / "run" / "01-one" / "seed-1" / "whole" / "model" / "model.safetensors").stat().st_mtime
    monkeypatch.undo()
    assert run(file, tmp_path / "run") == 0
    assert (tmp_path / "run" / "01-one" / "seed-1" / "whole" / "model" / "model.safetensors").stat().st_mtime == stamp
    facts = read_chain(tmp_path / "run")[0].facts
    alone = {tuple(row["models"]): row["score"] for row in facts["tried"][:2]}
    assert facts["taken"][0] == [1, 2][max(alone, key=alone.get)[0]] and len(facts["tried"]) == 3


def test_options_beside_the_file_win_in_every_stage(tmp_path: Path) -> None:
    file = stage_file(tmp_path, [{"name": "one", "items": shop(tmp_path, "a", 12), "max_steps": 9}])
    assert run(file, tmp_path / "run", "--max_steps", "1", "--save_strategy", "steps") == 0
    record = read_chain(tmp_path / "run")[0]
    assert record.facts["steps"] == 1 and record.settings["max_steps"] == 1


def test_held_out_images_that_a_later_stage_trains_on_are_said(tmp_path: Path, caplog) -> None:
    first, second = shop(tmp_path, "a", 12), shop(tmp_path, "b", 12)
    # a picture held out in the first is trained on in the second
    (tmp_path / "b" / "images" / "1.png").write_bytes((tmp_path / "a" / "images" / "0.png").read_bytes())
    file = stage_file(tmp_path, [{"name": "one", "items": first}, {"name": "two", "items": second}])
    with caplog.at_level("WARNING"):
        assert run(file, tmp_path / "run") == 0
    assert "1 held-out images of one stand in the training data of stage two" in caplog.text
    assert json.loads((tmp_path / "run" / "forgetting.json").read_text())["leaks"] == {"one": {}, "two": {"one": 1}}


def test_a_busy_folder_is_refused(tmp_path: Path, capsys) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from mmembed.training.run_lock import hold_run; hold_run({str(tmp_path / 'run')!r}); input()",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
    )
    try:
        while not (tmp_path / "run" / ".running").is_file() or not (tmp_path / "run" / ".running").stat().st_size:
            time.sleep(0.05)
        file = stage_file(tmp_path, [{"name": "one", "items": shop(tmp_path, "a", 8)}])
        assert run(file, tmp_path / "run") == 2
        assert f"process {holder.pid} on" in capsys.readouterr().err
    finally:
        holder.kill()
        holder.wait()
