"""The tensors of a TorchScript archive, such as OpenAI's CLIP files: its pickle is walked, and nothing in it is ever called.

Python's own unpickler calls what a pickle names. Here each instruction is carried out by hand, and only those that a
TorchScript archive is made of: they build numbers, strings, containers, tensors, and objects without behaviour.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import zipfile
from dataclasses import dataclass, field
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
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2")
# Instructions that push their argument, or a constant.
_ARGUMENTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Modules within modules, modules in all, and letters of a name: an archive may name one module twice, and each again,
# without end.
_DEEPEST, _MOST, _LONGEST = 64, 100_000, 1_000


@dataclass(frozen=True)
class _Name:
    """A global that the pickle names. It is never looked up."""

    module: str
    name: str


@dataclass
class _Object:
    """Stands for an object of any class of the archive: has its attributes and does nothing."""

    attributes: dict[str, Any] = field(default_factory=dict)


_MARK = object()


def _known(module: str, name: str) -> _Name:
    """The name, if tensors or the archive's own classes need it."""
    if (
        (module == "torch._utils" and name in _REBUILD)
        or (module == "torch" and (name in _DTYPES or name == "device"))
        or (module, name) == ("collections", "OrderedDict")
        or module == "torch.jit._pickle"  # lists of one type
        or module.split(".")[0] == "__torch__"
    ):
        return _Name(module, name)
    raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no tensor; a TorchScript archive needs none")


class _Walk:
    """One pickle, carried out by hand."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, torch.Tensor] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(_member(self.archive, f"{self.root}/data.pkl")):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise pickle.UnpicklingError("the pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _ARGUMENTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "GLOBAL":
            stack.append(_known(*argument.split(" ", 1)))
        elif name in _TUPLES:
            stack.append(self._popped(_TUPLES[name]))
        elif name == "TUPLE":
            stack.append(self._to_mark())
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else self._popped(1)
            _of(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else self._popped(2)
            _of(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("NEWOBJ", "REDUCE"):
            made_of, arguments = self._popped(2)
            stack.append(_made(_of(made_of, _Name), _of(arguments, tuple)))
        elif name == "BUILD":
            (state,) = self._popped(1)
            _of(stack[-1], _Object).attributes = state if isinstance(state, dict) else {}
        elif name != "PROTO":
            raise pickle.UnpicklingError(f"the instruction {name} is none that a TorchScript archive needs")

    def _popped(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise pickle.UnpicklingError("the pickle takes more than it has made")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def _to_mark(self) -> tuple[Any, ...]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return tuple(reversed(items))

    def _storage(self, reference: Any) -> torch.Tensor:
        _, kind, key, _, count = _of(reference, tuple)
        dtype = _DTYPES[_of(kind, _Name).name]
        if key not in self.storages:
            data = bytearray(_member(self.archive, f"{self.root}/data/{key}", _of(count, int) * dtype.itemsize))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        if (self.storages[key].dtype, self.storages[key].numel()) != (dtype, count):
            raise pickle.UnpicklingError(f"storage {key} is described in two ways")
        return self.storages[key]


def _of(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise pickle.UnpicklingError(f"the pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _made(name: _Name, arguments: tuple[Any, ...]) -> Any:
    if name.name in _REBUILD and name.module == "torch._utils":
        return _tensor(*arguments[:4])
    if name.module == "torch.jit._pickle":
        return arguments[0]
    return _Object()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
    """A view: a tensor takes no memory beyond its storage, whatever it claims to be."""
    extents, steps = _of(size, tuple), _of(stride, tuple)
    numbers = (offset, *extents, *steps)
    if len(extents) != len(steps) or any(type(number) is not int or not 0 <= number < 2**48 for number in numbers):
        raise pickle.UnpicklingError("a tensor's offset, extents and strides are no counts")
    end = offset + sum((extent - 1) * step for extent, step in zip(extents, steps)) + 1
    if not isinstance(storage, torch.Tensor) or (0 not in extents and end > storage.numel()):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return torch.as_strided(storage, extents, steps, offset)


def _member(archive: zipfile.ZipFile, name: str, size: int | None = None) -> bytes:
    """The bytes of a member with values, which torch never compresses: what is read is no larger than the file."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or (size is not None and member.file_size != size):
        raise pickle.UnpicklingError(f"{name} is compressed, or of another size than its tensors")
    return archive.read(member)


def is_script_archive(archive: zipfile.ZipFile) -> bool:
    """Whether a zip file is a TorchScript archive and not what `torch.save` writes."""
    return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def read_script_archive(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """The tensors of a TorchScript module by their dotted names.

    Args:
        archive: The open file.

    Returns:
        What `state_dict()` of the module would hold, and the tensors that are plain attributes of its modules.

    Raises:
        pickle.UnpicklingError: If it names anything but tensors and the archive's own classes, or is damaged.
        KeyError: If a part of the archive is missing.

    Example:
        >>> path = getfixture("tmp_path") / "linear.pt"
        >>> torch.jit.script(torch.nn.Linear(2, 3)).save(path)
        >>> {name: tuple(tensor.shape) for name, tensor in read_script_archive(zipfile.ZipFile(path)).items()}
        {'weight': (3, 2), 'bias': (3,)}
    """
    roots = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise pickle.UnpicklingError(f"it has {len(roots)} data.pkl, expected one")
    # Entries may point to the same bytes. Of the code, which is not read, torch compresses some.
    parts = [
        part for part in archive.infolist() if part.filename.startswith((f"{roots[0]}/data/", f"{roots[0]}/data.pkl"))
    ]
    if sum(part.file_size for part in parts) > os.path.getsize(str(archive.filename)):
        raise pickle.UnpicklingError("its parts are larger than the file")
    tensors: dict[str, torch.Tensor] = {}
    below = [("", _Walk(archive, roots[0]).run(), 0)]
    met = 0
    while below:
        prefix, module, depth = below.pop()
        met += 1
        if depth > _DEEPEST or met > _MOST:
            raise pickle.UnpicklingError("its modules contain each other")
        for name, value in module.attributes.items() if isinstance(module, _Object) else ():
            if isinstance(value, (torch.Tensor, _Object)) and len(prefix) + len(_of(name, str)) > _LONGEST:
                raise pickle.UnpicklingError(f"a name has more than {_LONGEST} letters")
            if isinstance(value, torch.Tensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, _Object):
                below.append((f"{prefix}{name}.", value, depth + 1))
    return tensors
