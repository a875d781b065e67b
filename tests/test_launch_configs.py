"""The launch configurations, read by accelerate itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).resolve().parents[1] / "accelerate_configs"


@pytest.mark.parametrize(
    ("name", "kind", "processes", "machines", "cpu"),
    [
        ("cpu", "NO", 1, 1, True),
        ("single_gpu", "NO", 1, 1, False),
        ("multi_gpu", "MULTI_GPU", 8, 1, False),
        ("multi_node", "MULTI_GPU", 16, 2, False),
    ],
)
def test_accelerate_reads_each(name: str, kind: str, processes: int, machines: int, cpu: bool) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    found = (config.distributed_type.value, config.num_processes, config.num_machines, config.use_cpu)
    assert found == (kind, processes, machines, cpu)
    assert config.machine_rank == 0
    if machines > 1:
        assert config.main_process_ip and config.main_process_port


def test_each_file_is_tested() -> None:
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == ["cpu", "multi_gpu", "multi_node", "single_gpu"]
    for path in CONFIGS.glob("*.yaml"):
        assert path.read_text().startswith("# "), f"{path.name} begins with a line that says when to use it"
        assert yaml.safe_load(path.read_text())["compute_environment"] == "LOCAL_MACHINE"


@pytest.mark.slow
def test_a_script_is_launched_on_the_cpu(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom accelerate import Accelerator\nstate = Accelerator()\n"
        "sys.stdout.write(f'{state.device.type} {state.num_processes} {sys.argv[1:]}')\n"
    )
    command = ["accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu.yaml"), str(script), "--epochs", "1"]
    run = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "cpu 1 ['--epochs', '1']"
