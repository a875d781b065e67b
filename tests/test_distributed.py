"""One process is no group, and launches that would not train together are refused."""

from __future__ import annotations

import pytest
import torch

from mmembed.distributed import LaunchError, average, check_launch, check_wrapped, rank, world_size

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_alone_there_is_no_group() -> None:
    assert world_size() == 1 and rank() == 0
    tensor = torch.tensor([1.0, 2.0])
    average([tensor])
    assert tensor.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("launched", "arguments", "message"),
    [
        ("2", {"device": CPU, "world": 1, "num_visible_gpus": 0, "fsdp": False}, "2 processes .* sees 1"),
        (None, {"device": GPU, "world": 1, "num_visible_gpus": 2, "fsdp": False}, "2 GPUs .* DataParallel"),
        (None, {"device": CPU, "world": 1, "num_visible_gpus": 0, "fsdp": True}, "FSDP on CPU"),
        (None, {"device": CPU, "world": 1, "num_visible_gpus": 0, "fsdp": False}, None),
        ("2", {"device": CPU, "world": 2, "num_visible_gpus": 0, "fsdp": False}, None),
        (None, {"device": GPU, "world": 1, "num_visible_gpus": 1, "fsdp": True}, None),
    ],
)
def test_launches(monkeypatch: pytest.MonkeyPatch, launched: str | None, arguments: dict, message: str | None) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if launched is not None:
        monkeypatch.setenv("WORLD_SIZE", launched)
    if message is None:
        check_launch(**arguments)
        return
    with pytest.raises(LaunchError, match=message):
        check_launch(**arguments)


def test_several_processes_need_a_wrapped_model() -> None:
    plain = torch.nn.Linear(1, 1)
    check_wrapped(plain, plain, 1)
    check_wrapped(torch.nn.Sequential(plain), plain, 2)
    with pytest.raises(LaunchError, match="--use_cpu true"):
        check_wrapped(plain, plain, 2)
