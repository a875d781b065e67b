"""How many processes take part, and whether the way they were launched would train wrongly without a word."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist


def world_size() -> int:
    """Number of processes of the running group, 1 without one.

    Example:
        >>> world_size()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number in the running group, 0 without one.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def average(tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place; every process passes the same shapes."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
            tensor /= world_size()


class LaunchError(RuntimeError):
    """The processes were launched in a way that would not train what was asked for."""


def check_launch(*, device: torch.device, world: int, num_visible_gpus: int, fsdp: bool) -> None:
    """Refuse launches that are known to train without synchronising, or not to do what they are named for.

    Args:
        device: Where this process trains.
        world: Processes that the trainer believes take part.
        num_visible_gpus: GPUs that one process would drive with nn.DataParallel.
        fsdp: Whether FSDP was asked for.

    Raises:
        LaunchError: With what to launch instead.

    Example:
        >>> check_launch(device=torch.device("cpu"), world=1, num_visible_gpus=1, fsdp=False)
        >>> check_launch(device=torch.device("cpu"), world=1, num_visible_gpus=1, fsdp=True)
        Traceback (most recent call last):
        mmembed.distributed.LaunchError: FSDP on CPU would run as plain DDP, nothing sharded; ...
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and world != launched:
        raise LaunchError(
            f"{launched} processes were launched but the trainer sees {world}: each would train alone and their models "
            "differ. On CPU pass --use_cpu true under torchrun or `accelerate launch --multi_gpu --num_processes N`."
        )
    if num_visible_gpus > 1:
        raise LaunchError(
            f"one process sees {num_visible_gpus} GPUs and would split batches with DataParallel, which cannot split "
            "rows that mix texts and images; use `accelerate launch --multi_gpu`, or CUDA_VISIBLE_DEVICES=0."
        )
    if fsdp and device.type == "cpu":
        raise LaunchError(
            "FSDP on CPU would run as plain DDP, nothing sharded; use accelerate_configs/multi_gpu.yaml or a GPU."
        )


def check_wrapped(wrapped: torch.nn.Module, plain: torch.nn.Module, world: int) -> None:
    """Refuse to train when several processes take part but the model is not wrapped, so gradients stay apart.

    Raises:
        LaunchError: With the launch that is known to do this.
    """
    if world > 1 and wrapped is plain:
        raise LaunchError(
            f"{world} processes take part but the model is not wrapped for them: gradients would never be averaged. This "
            "happens with ddp_backend='gloo' on a machine without GPUs; pass --use_cpu true as well."
        )
