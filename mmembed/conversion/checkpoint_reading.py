"""What tensors does a file of weights hold? Read without running any code that the file may carry."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mmembed.conversion.script_archive import is_script_archive, read_script_archive

# In a folder the first of these is read.
_WEIGHT_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_CONFIG_FILES = ("open_clip_config.json", "config.json")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.",)
# What stands in `Checkpoint.nesting` where the file is a TorchScript archive.
SCRIPT = "TorchScript"


class ConversionError(ValueError):
    """A checkpoint cannot be converted: what was found, in which file, and what to do."""


@dataclass
class Checkpoint:
    """The tensors of a file or folder, and what lay beside them.

    Attributes:
        path: The file that was read.
        tensors: Name → tensor, wrappers and "module." taken off; floating point as stored.
        nesting: What was taken off, outermost first, such as ("state_dict", "module.") or ("TorchScript",).
        rest: What is no tensor of the model: epoch, step, name, ...
        config: The configuration in the folder of the file, where there is one.
        folder: The folder of the file.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    nesting: tuple[str, ...] = ()
    rest: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        return self.path.parent


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the tensors of a safetensors file, a PyTorch checkpoint, a TorchScript archive, or a folder with one of them.

    Pickled checkpoints are read by PyTorch's restricted unpickler, which builds tensors and plain containers and nothing
    else. Of a TorchScript archive the tensors are read and the code is left alone.

    Args:
        path: File, or folder that holds `model.safetensors`, `pytorch_model.bin` or their open_clip namesakes.

    Returns:
        The tensors and what lay beside them.

    Raises:
        ConversionError: If there is no such file, it is damaged, holds code or objects, or holds no tensors.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> torch.save({"epoch": 3, "state_dict": {"module.proj": torch.eye(2)}}, folder / "epoch_3.pt")
        >>> checkpoint = read_checkpoint(folder / "epoch_3.pt")
        >>> list(checkpoint.tensors), checkpoint.nesting, checkpoint.rest
        (['proj'], ('state_dict', 'module.'), {'epoch': 3})
    """
    file = _weight_file(Path(path))
    script = False
    try:
        script = file.suffix != ".safetensors" and _is_script(file)
        held: Any = load_file(file) if file.suffix == ".safetensors" else _read_pickled(file, script)
    except Exception as error:  # damaged bytes raise whatever they happen to lead to
        raise ConversionError(_damage(file, error)) from error
    tensors, nesting, rest = _unwrapped(held, file)
    _check_tensors(tensors, file)
    return Checkpoint(file, tensors, (SCRIPT, *nesting) if script else nesting, rest, _config_beside(file))


def _weight_file(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in _WEIGHT_FILES if (path / name).is_file()]
        if not found:
            names = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
            raise ConversionError(
                f"{path} holds {names}, and none of {', '.join(_WEIGHT_FILES)}; name the file itself."
            )
        return found[0]
    if not path.is_file():
        raise ConversionError(f"{path} does not exist.")
    if path.stat().st_size == 0:
        raise ConversionError(f"{path} is empty.")
    return path


def _is_script(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return is_script_archive(archive)


def _read_pickled(file: Path, script: bool) -> Any:
    if not script:
        return torch.load(file, map_location="cpu", weights_only=True)
    with zipfile.ZipFile(file) as archive:
        return read_script_archive(archive)


def _damage(file: Path, error: Exception) -> str:
    said = str(error).strip().split("\n")[0]
    if "weights_only" in str(error) or "Unsupported global" in str(error) or "WeightsUnpickler" in str(error):
        detail = next((line.strip() for line in str(error).split("\n") if "GLOBAL" in line or "global" in line), said)
        return (
            f"{file} holds more than tensors and plain containers, and reading that could run code: {detail}. "
            "Save its state_dict alone where it was made."
        )
    return f"{file} is truncated, damaged or no file of weights: {type(error).__name__}: {said}"


def _unwrapped(held: Any, file: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...], dict[str, Any]]:
    nesting: list[str] = []
    rest: dict[str, Any] = {}
    while isinstance(held, Mapping) and len(nesting) < 8:  # a pickle may hold itself
        wrapper = next((name for name in _WRAPPERS if isinstance(held.get(name), Mapping)), None)
        if wrapper is None:
            break
        rest.update({str(name): value for name, value in held.items() if name != wrapper})
        nesting.append(wrapper)
        held = held[wrapper]
    if not isinstance(held, Mapping):
        raise ConversionError(f"{file} holds a {type(held).__name__}, not a state_dict.")
    tensors = {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
    rest.update({str(name): value for name, value in held.items() if not isinstance(value, torch.Tensor)})
    if not tensors:
        raise ConversionError(f"{file} holds no tensor, but {', '.join(map(str, list(held)[:6])) or 'nothing'}.")
    for prefix in _PREFIXES:
        while all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            nesting.append(prefix)
    return tensors, tuple(nesting), rest


def _check_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Plain tensors only, and no more of them than the file can hold."""
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ConversionError(
                f"{file}: {name} is quantized, sparse or without values; only plain tensors are read."
            )
    # A tensor may claim any size with a stride of zero. Those that several names share count once for each.
    claimed, size = sum(tensor.nbytes for tensor in tensors.values()), file.stat().st_size
    if claimed > 8 * size + 2**20:
        raise ConversionError(f"{file} has {size} bytes, and its tensors claim {claimed}; it is damaged.")


def _config_beside(file: Path) -> dict[str, Any] | None:
    for name in _CONFIG_FILES:
        path = file.parent / name
        if path.is_file():
            return read_config_file(path)
    return None


def read_config_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON file with one object.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        ConversionError: If it is no JSON object.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConversionError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConversionError(f"{path} holds a {type(config).__name__}, expected an object of settings.")
    return config
