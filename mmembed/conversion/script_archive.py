"""The tensors of a TorchScript archive, such as OpenAI's CLIP files: its pickles are walked, its code is never run."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import torch

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Module:
    """Stands for an object of any class of the archive: keeps its attributes and does nothing."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> torch.Tensor:
    end = offset + sum((extent - 1) * step for extent, step in zip(size, stride)) + 1
    if offset < 0 or any(extent < 0 for extent in size) or any(step < 0 for step in stride):
        raise pickle.UnpicklingError("a tensor has a negative extent")
    if 0 not in size and end > storage.numel():
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return torch.as_strided(storage, size, stride, offset)


class _Unpickler(pickle.Unpickler):
    """Knows tensors and nothing else: every other class becomes a `_Module` without behaviour."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root = archive, root
        self._storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return name
        if module.startswith("__torch__"):
            return _Module
        if module == "torch.jit._pickle":  # lists of numbers
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no tensor; a TorchScript archive needs none")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, kind, key, _, count = pid
        if str(key) not in self._storages:
            dtype = _DTYPES[kind]
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            if values.numel() != count:
                raise pickle.UnpicklingError(f"storage {key} has {values.numel()} values, not {count}")
            self._storages[str(key)] = values
        return self._storages[str(key)]


def read_script_archive(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """The tensors of a TorchScript module by their dotted names.

    Args:
        archive: The open file.

    Returns:
        What `state_dict()` of the module would hold.

    Raises:
        pickle.UnpicklingError: If it refers to anything but tensors and the archive's own classes.
        KeyError: If a part of the archive is missing.
    """
    root = next(name.split("/", 1)[0] for name in archive.namelist() if name.endswith("/data.pkl"))
    tensors: dict[str, torch.Tensor] = {}

    def walk(module: Any, prefix: str) -> None:
        for name, value in getattr(module, "attributes", {}).items():
            if isinstance(value, torch.Tensor):
                tensors[prefix + name] = value.clone()
            elif isinstance(value, _Module):
                walk(value, f"{prefix}{name}.")

    walk(_Unpickler(archive, root).load(), "")
    return tensors
