"""Tiny image towers as the Shopee kernels save them, and a process that has timm."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ["timm==1.0.31", "torchvision==0.29.2"]

CONFIG = {
    "timm_model": "eca_nfnet_l0",
    "timm_tiny_kwargs": {
        "depths": [1, 2, 1, 1],
        "channels": [16, 32, 32, 48],
        "group_size": 8,
        "stem_chs": 16,
        "num_features": 40,
    },
    "image_size": 48,
    "scale": 16.0,
    "margin": 0.3,
}
CONFIG_DM = {**CONFIG, "timm_model": "dm_nfnet_f0", "image_size": 33}


def original_state_dict(seed: int = 0) -> dict[str, torch.Tensor]:
    """eca_nfnet_l0 with a head and no neck."""
    layout = {**_backbone(skipinit=False), "final.weight": (5, 40)}
    return _filled(layout, seed)


def original_state_dict_dm(seed: int = 0) -> dict[str, torch.Tensor]:
    """dm_nfnet_f0 with GeM, fc, bn and a head."""
    layout = {**_backbone(skipinit=True), "pooling.p": (1,), "fc.weight": (12, 40), "fc.bias": (12,)}
    layout |= {f"bn.{name}": (12,) for name in ("weight", "bias", "running_mean", "running_var")}
    return _filled({**layout, "bn.num_batches_tracked": (), "final.weight": (5, 12)}, seed)


def _backbone(skipinit: bool) -> dict[str, tuple[int, ...]]:
    """Name → shape, by the sizes of `CONFIG`: bottlenecks of a quarter (eca) or half (dm) the width."""
    sizes = CONFIG["timm_tiny_kwargs"]
    group, stem = sizes["group_size"], sizes["stem_chs"]
    layout: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, width: int, kernel: int) -> None:
        layout[f"{name}.weight"] = (out, width, kernel, kernel)
        layout[f"{name}.bias"], layout[f"{name}.gain"] = (out,), (out, 1, 1, 1)

    widths = [3, stem // 8, stem // 4, stem // 2, stem]
    for number in range(4):
        conv(f"backbone.stem.conv{number + 1}", widths[number + 1], widths[number], 3)
    before = stem
    for stage, (depth, out) in enumerate(zip(sizes["depths"], sizes["channels"])):
        middle = max(8, (out // (2 if skipinit else 4) + 4) // 8 * 8)
        for block in range(depth):
            name = f"backbone.stages.{stage}.{block}"
            if block == 0 and (stage or before != out):
                conv(f"{name}.downsample.conv", out, before, 1)
            conv(f"{name}.conv1", middle, before, 1)
            conv(f"{name}.conv2", middle, group, 3)
            conv(f"{name}.conv2b", middle, group, 3)
            conv(f"{name}.conv3", out, middle, 1)
            if skipinit:
                for layer, (there, here) in (("fc1", (middle, out)), ("fc2", (out, middle))):
                    layout[f"{name}.attn_last.{layer}.weight"] = (there, here, 1, 1)
                    layout[f"{name}.attn_last.{layer}.bias"] = (there,)
                layout[f"{name}.skipinit_gain"] = ()
            else:
                layout[f"{name}.attn_last.conv.weight"] = (1, 1, 3)
            before = out
    conv("backbone.final_conv", sizes["num_features"], before, 1)
    return layout


def _filled(layout: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in layout.items():
        value = torch.randn(shape, generator=generator) * 0.3
        if name.endswith(("gain", "bn.weight")):
            value = 1 + value
        if name == "pooling.p":
            value = torch.full(shape, 2.5)
        state[name] = value.abs() + 0.5 if name.endswith("running_var") else value
    if "bn.num_batches_tracked" in state:
        state["bn.num_batches_tracked"] = torch.tensor(7)
    return state


_START = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import torch
# torchvision's operators are compiled for CUDA; timm needs no more than that these two are known by name
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def run_with_timm(script: str, *arguments: str | os.PathLike[str]) -> str:
    """Run a script in a process that has timm, which this environment has not; the test skips where pip has no index.

    Args:
        script: Python source; `sys.argv[1:]` are the arguments.
        *arguments: Its arguments.

    Returns:
        What it printed.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, "-c", _START + script, str(_overlay()), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _overlay() -> Path:
    """A folder with timm and torchvision, made once for all runs; nothing is installed into this environment."""
    name = "-".join([*_PACKAGES, f"python{sys.version_info[0]}.{sys.version_info[1]}"])
    folder = Path.home() / ".cache" / "mmembed" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        whole = Path(scratch) / "whole"
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--retries", "0", "--timeout", "5"]
        done = subprocess.run([*pip, "--target", str(whole), *_PACKAGES], capture_output=True, text=True, timeout=200)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            pytest.skip(f"timm is not here and pip cannot fetch it: {last[0]}")
        try:
            os.replace(whole, folder)
        except OSError:  # another process was first
            assert folder.is_dir()
    return folder
