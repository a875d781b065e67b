"""TorchScript archives: the tensors that torch itself finds, and nothing of what a hostile pickle asks for."""

from __future__ import annotations

import pickle
import random
import resource
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from mmembed.conversion.checkpoint_reading import ConversionError, read_checkpoint
from mmembed.conversion.script_archive import read_script_archive

from . import tiny_open_clip as tiny

SIZES = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(20), "vocab_size": torch.tensor(600)}


# --- sound archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_openais_layout_gives_its_state_dict(half: bool, tmp_path: Path) -> None:
    state = {**tiny.original_state_dict(), **SIZES}
    module = tiny.script_module({name: t.half() if half and t.ndim else t for name, t in state.items()})
    module.save(tmp_path / "ViT-tiny.pt")
    checkpoint = read_checkpoint(tmp_path / "ViT-tiny.pt")
    wanted = module.state_dict()
    assert checkpoint.nesting == ("TorchScript",) and not checkpoint.rest
    assert set(checkpoint.tensors) == set(wanted) == set(state)
    for name, tensor in wanted.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype and torch.equal(checkpoint.tensors[name], tensor), name


class Convolution(nn.Module):
    """What scripted modules may also hold: attributes of many types, parameters that share, views, all kinds of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 4)
        self.tied = self.head
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)])
        self.names, self.sizes, self.factor = ["a", "b"], [1, 2, 3], 0.5
        self.table = {"x": 1}
        self.register_buffer("strided", torch.arange(12).reshape(3, 4).t())
        self.register_buffer("expanded", torch.zeros(1).expand(2, 3))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("bytes", torch.arange(3, dtype=torch.uint8))
        self.register_buffer("brain", torch.ones(2, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean(dim=[2, 3])) * self.factor + self.sizes[0] + len(self.names)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_any_module_gives_its_state_dict(how: str, tmp_path: Path) -> None:
    module = Convolution().eval()
    made = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.randn(1, 3, 8, 8))
    made.save(tmp_path / "module.pt")
    wanted = torch.jit.load(tmp_path / "module.pt").state_dict()
    tensors = read_checkpoint(tmp_path / "module.pt").tensors
    assert set(wanted) <= set(tensors) and "head.weight" in wanted
    for name, tensor in wanted.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name


def test_what_torch_saves_otherwise_is_no_archive(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "plain.pt")
    assert read_checkpoint(tmp_path / "plain.pt").nesting == ()


# --- hostile ones, written by hand --------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(
    offset: int = 0, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), held: bytes | None = None
) -> bytes:
    rest = number(offset) + numbers(*size) + numbers(*stride) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (held or storage()) + rest + b"tR"


def module(*items: tuple[str, bytes]) -> bytes:
    return b"c__torch__\nModule\n)\x81}(" + b"".join(text(name) + value for name, value in items) + b"ub"


def archive(
    path: Path,
    root: bytes,
    *,
    data: bytes = struct.pack("<4f", 1, 2, 3, 4),
    compression: int = zipfile.ZIP_STORED,
    others: dict[str, bytes] | None = None,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("m/data.pkl", b"\x80\x02" + root + b".")
        file.writestr("m/constants.pkl", b"\x80\x02).")
        file.writestr("m/data/0", data)
        for name, content in (others or {}).items():
            file.writestr(name, content)
    return path


def test_a_sound_archive_written_by_hand_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pt", module(("a", tensor()), ("b", module(("c", tensor(1, (3,), (1,)))))))
    tensors = read_checkpoint(path).tensors
    assert {name: values.tolist() for name, values in tensors.items()} == {"a": [1, 2, 3, 4], "b.c": [2, 3, 4]}


@pytest.mark.security
@pytest.mark.parametrize(
    "attack",
    [
        lambda c: b"cos\nsystem\n(" + text(c) + b"tR",
        lambda c: b"cposix\nsystem\n(" + text(c) + b"tR",
        lambda c: b"cbuiltins\neval\n(" + text(f"__import__('os').system({c!r})") + b"tR",
        lambda c: b"c__builtin__\nexec\n(" + text(c) + b"tR",
        lambda c: b"(S'" + c.encode() + b"'\nios\nsystem\n",  # INST
        lambda c: b"(cos\nsystem\n" + text(c) + b"o",  # OBJ
        lambda c: b"\x8c\x02os\x8c\x06system\x93(" + text(c) + b"tR",  # STACK_GLOBAL
        lambda c: b"cos\nsystem\n(" + text(c) + b"t\x81",  # NEWOBJ
        lambda c: b"csubprocess\nPopen\n(" + text(c) + b"t}\x92",  # NEWOBJ_EX
        lambda c: b"\x82\x01",  # EXT1
        lambda c: b"ctorch.hub\nload\n(" + text(c) + b"tR",
        lambda c: b"ctorch._utils\n_rebuild_from_type_v2\n(" + text(c) + b"tR",
        lambda c: b"ctorch\nload\n(" + text(c) + b"tR",
        lambda c: b"cmmembed.conversion.script_archive\nos.system\n(" + text(c) + b"tR",
        # a state for what is not an object of the archive
        lambda c: b"ccollections\nOrderedDict\n)R" + b"}(" + text("__reduce__") + text(c) + b"ub",
    ],
)
def test_code_in_the_pickle_is_never_run(attack, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for index, root in enumerate((attack(f"touch {marker}"), module(("a", attack(f"touch {marker}"))))):
        path = archive(tmp_path / f"{index}.pt", root)
        with pytest.raises(ConversionError, match=f"{index}.pt"):
            read_checkpoint(path)
        assert not marker.exists()


@pytest.mark.security
def test_names_of_the_archives_own_classes_are_never_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An importable `__torch__` with a class that acts when it is made, called or given a state."""
    marker = tmp_path / "marker"
    (tmp_path / "__torch__.py").write_text(
        f"open({str(marker)!r}, 'w')\nclass Module:\n    def __setstate__(self, state):\n        open({str(marker)!r}, 'w')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    root = module(("a", tensor()), ("f", b"c__torch__\nModule\n(" + text("x") + b"tR"))
    tensors = read_checkpoint(archive(tmp_path / "m.pt", root)).tensors
    assert list(tensors) == ["a"] and not marker.exists()


@pytest.mark.security
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (tensor(0, (5,), (1,)), "beyond its storage"),
        (tensor(1, (4,), (1,)), "beyond its storage"),
        (tensor(0, (2, 2), (3, 1)), "beyond its storage"),
        (tensor(-1, (2,), (1,)), "no counts"),
        (tensor(0, (2,), (-1,)), "no counts"),
        (tensor(0, (2, 2), (1,)), "no counts"),
        (tensor(0, (2**62,), (1,)), "no counts"),
        (tensor(held=storage(count=5)), "another size"),
        (tensor(held=storage(count=2**40)), "another size"),
        (tensor(held=storage(count=-4)), "another size"),
        (tensor(held=storage(key="../../etc/passwd")), "KeyError"),
        (tensor(held=storage(kind="device")), "KeyError"),
        (tensor(held=text("no storage")), "beyond its storage|no storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(tR", "TypeError"),
        (tensor()[:-3] + b".", "ends|takes more|MARK|tuple|str|no tensor|no end"),
        (b"R", "object where a _Name"),
        (b"0", "instruction POP"),
        (b"h\x07", "KeyError"),
        (b"](" + number(1) + b"u", "list where a dict"),
        (b"}" + number(1) + b"a", "dict where a list"),
        (b"}(" + number(1) + b"u", "zip"),
    ],
)
def test_a_false_description_is_an_error(value: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=said):
        read_checkpoint(archive(tmp_path / "m.pt", module(("a", value))))


@pytest.mark.security
def test_a_storage_is_of_one_type(tmp_path: Path) -> None:
    root = module(("a", tensor()), ("b", tensor(held=storage(kind="IntStorage"))))
    with pytest.raises(ConversionError, match="described in two ways"):
        read_checkpoint(archive(tmp_path / "m.pt", root))


@pytest.mark.security
def test_claims_of_size_take_no_memory(tmp_path: Path) -> None:
    """A tensor of 2**46 values by a stride of zero, a compressed bomb, one storage under a million names."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConversionError, match="claim"):
        read_checkpoint(archive(tmp_path / "stride.pt", module(("a", tensor(0, (2**46,), (0,))))))
    with pytest.raises(ConversionError, match="parts are larger|compressed"):
        zeros = bytes(2**28)
        root = module(("a", tensor(0, (1,), (1,), storage(count=2**26))))
        read_checkpoint(archive(tmp_path / "bomb.pt", root, data=zeros, compression=zipfile.ZIP_DEFLATED))
    del zeros
    many = module(*((f"a{index}", tensor(0, (4, 1000), (1, 0))) for index in range(300)))
    with pytest.raises(ConversionError, match="claim"):
        read_checkpoint(archive(tmp_path / "many.pt", many))
    for prefix in (b"r\xff\xff\xff\x7f", b"\x8e" + struct.pack("<Q", 2**40), b"\x96" + struct.pack("<Q", 2**40)):
        with pytest.raises(ConversionError):  # memo index, bytes and bytearray of a size to be set aside
            read_checkpoint(archive(tmp_path / "memo.pt", module(("a", number(1) + prefix))))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert used < 800 * 1024, f"{used // 1024} MB"  # of which the bomb's own making is 256 MB


@pytest.mark.security
def test_parts_that_lie_upon_each_other_are_refused(tmp_path: Path) -> None:
    """A hundred storages whose entries point to the same bytes of the file."""
    path = archive(tmp_path / "m.pt", module(("a", tensor())), data=bytes(4096))
    with zipfile.ZipFile(path, "a") as file:
        entry = file.getinfo("m/data/0")
        for index in range(1, 100):
            twin = zipfile.ZipInfo(f"m/data/{index}")
            for name in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(twin, name, getattr(entry, name))
            file.filelist.append(twin)
            file.NameToInfo[twin.filename] = twin
        file._didModify = True
    with pytest.raises(ConversionError, match="larger than the file"):
        read_checkpoint(path)


@pytest.mark.security
def test_modules_that_contain_each_other_end(tmp_path: Path) -> None:
    # A module that is its own child: made, remembered, and put under a name of its own.
    itself = b"c__torch__\nModule\n)\x81q\x01}(" + text("a") + b"h\x01ub"
    with pytest.raises(ConversionError, match="contain each other"):
        read_checkpoint(archive(tmp_path / "cycle.pt", itself))
    # Each level names the one below twice: 2**40 modules in forty lines.
    root = module(("a", tensor()))
    for level in range(40):
        root = module(("left", root + b"q" + bytes([level])), ("right", b"h" + bytes([level])))
    with pytest.raises(ConversionError, match="contain each other"):
        read_checkpoint(archive(tmp_path / "twice.pt", root))


@pytest.mark.security
def test_work_is_bounded_by_the_file(tmp_path: Path) -> None:
    """A million marks, each looked for again; a name that many tensors repeat."""
    began = time.monotonic()
    with pytest.raises(ConversionError):
        read_checkpoint(archive(tmp_path / "marks.pt", b"(" * 1_000_000 + b"t" * 1_000_001))
    long = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000
    with pytest.raises(ConversionError, match="letters"):
        leaf = module(*((f"a{index}", tensor()) for index in range(1000)))
        read_checkpoint(archive(tmp_path / "names.pt", b"c__torch__\nModule\n)\x81}(" + long + leaf + b"ub"))
    assert time.monotonic() - began < 30


@pytest.mark.security
def test_archives_without_or_with_two_pickles_are_refused(tmp_path: Path) -> None:
    two = archive(tmp_path / "two.pt", module(("a", tensor())), others={"other/data.pkl": b"\x80\x02)."})
    with pytest.raises(ConversionError, match="2 data.pkl"):
        read_checkpoint(two)
    with zipfile.ZipFile(tmp_path / "none.pt", "w") as file:
        file.writestr("m/constants.pkl", b"\x80\x02).")
    with pytest.raises(ConversionError, match="0 data.pkl"):
        read_checkpoint(tmp_path / "none.pt")


@pytest.mark.security
def test_random_damage_raises_nothing_else(tmp_path: Path) -> None:
    tiny.script_module({"a.weight": torch.randn(4, 4), "a.bias": torch.randn(4), **SIZES}).save(tmp_path / "sound.pt")
    with zipfile.ZipFile(tmp_path / "sound.pt") as file:
        members = {name: file.read(name) for name in file.namelist()}
    pickled = next(name for name in members if name.endswith("/data.pkl"))
    draw = random.Random(0)
    refused = 0
    for index in range(400):
        data = bytearray(members[pickled])
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path = tmp_path / f"{index % 2}.pt"
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, bytes(data) if name == pickled else content)
        try:
            tensors = read_checkpoint(path).tensors
            assert all(value.numel() <= 16 for value in tensors.values())
        except ConversionError:
            refused += 1
    assert refused > 100


def test_the_function_itself_raises_as_it_says(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pt", b"cos\nsystem\n)R")
    with zipfile.ZipFile(path) as file, pytest.raises(pickle.UnpicklingError, match="GLOBAL os.system"):
        read_script_archive(file)
