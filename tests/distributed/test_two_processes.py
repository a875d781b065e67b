"""Two processes train as one does on the same global batches: same losses, same weights, no rank left waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
CACHED = {"loss": "CachedMultipleNegativesRankingLoss"}
LEARNT = {"learnable_temperature": True, "temperature": 0.1}
BOTH_WAYS = {"directions": ["query_to_doc", "doc_to_query"], "partition_mode": "per_direction"}


def launch(options: dict, processes: int, folder: Path, *extra: str) -> subprocess.CompletedProcess:
    folder.mkdir(parents=True)
    script = [str(ROOT / "tests" / "distributed" / "train_tiny.py"), json.dumps({**options, "output_dir": str(folder)})]
    command = [sys.executable, *script]
    if processes > 1:
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes),
            "--main_process_port", "0", *extra, *script,
        ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=ROOT)


def trained(options: dict, processes: int, folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    done = launch(options, processes, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line], load_file(folder / "state.safetensors")


CASES = [
    pytest.param({"rows": 24, "loss_arguments": {**LEARNT, **BOTH_WAYS}}, id="plain"),
    pytest.param({"rows": 24, **CACHED, "loss_arguments": {**LEARNT, "mini_batch_size": 3}}, id="cached"),
    pytest.param({"rows": 24, "only_rank_0_has_images": True, "loss_arguments": LEARNT}, id="no-image-on-rank-1"),
    pytest.param({"rows": 24, "model": "clip"}, id="stock-clip"),
    pytest.param({"rows": 24, "model": "bert"}, id="stock-bert-with-an-unused-pooler"),
    pytest.param(
        {"rows": 24, **CACHED, "loss_arguments": {"mini_batch_size": 4}, "matryoshka_dims": [8, 4]},
        id="cached-matryoshka",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize("options", CASES)
def test_losses_and_weights_are_those_of_one_process(options: dict, tmp_path: Path) -> None:
    shared = {"epochs": 2, "rank_batch_size": 4, **options}
    losses_1, state_1 = trained({**shared, "batch_size": 8}, 1, tmp_path / "one")
    losses_2, state_2 = trained({**shared, "batch_size": 4}, 2, tmp_path / "two")
    assert losses_1 == pytest.approx(losses_2, abs=1e-5) and len(losses_1) == 6
    assert set(state_1) == set(state_2)
    for name, value in state_1.items():
        torch.testing.assert_close(state_2[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [7, 9, 10, 11, 15, 17])
def test_any_number_of_rows_finishes(rows: int, tmp_path: Path) -> None:
    losses, _ = trained({"rows": rows, "batch_size": 3, "epochs": 2}, 2, tmp_path / "run")
    assert losses


def test_processes_that_would_not_be_synchronised_are_refused(tmp_path: Path) -> None:
    """gloo without use_cpu leaves the model unwrapped: every rank would train alone."""
    script = tmp_path / "unwrapped.py"
    script.write_text(
        "import torch\n"
        "from mmembed.distributed import LaunchError, check_wrapped\n"
        "model = torch.nn.Linear(1, 1)\n"
        "try:\n    check_wrapped(model, model, 2)\nexcept LaunchError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert "gradients would never be averaged" in done.stdout, done.stderr
