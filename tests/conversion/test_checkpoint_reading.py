"""Checkpoints: every nesting gives the same tensors; damage and code give one error, and the code never runs."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmembed.conversion.checkpoint_reading import ConversionError, read_checkpoint, read_config_file

from . import tiny_open_clip as tiny


def state() -> dict[str, torch.Tensor]:
    return {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(2.5, dtype=torch.float16)}


def same(got: dict[str, torch.Tensor]) -> None:
    assert set(got) == set(state())
    for name, tensor in state().items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state().items()}


@pytest.mark.parametrize(
    ("held", "nesting", "rest"),
    [
        (state(), (), {}),
        (OrderedDict(state()), (), {}),
        (
            {"epoch": 3, "name": "x", "state_dict": prefixed("module.")},
            ("state_dict", "module."),
            {"epoch": 3, "name": "x"},
        ),
        ({"model": state(), "optimizer": {"lr": 0.1}}, ("model",), {"optimizer": {"lr": 0.1}}),
        ({"model_state_dict": prefixed("module.module.")}, ("model_state_dict", "module.", "module."), {}),
        ({"state_dict": {"model": state()}, "step": 1}, ("state_dict", "model"), {"step": 1}),
        ({**state(), "step": 7, "note": None}, (), {"step": 7, "note": None}),
    ],
    ids=["flat", "ordered", "state_dict", "model", "twice", "nested", "beside"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_every_nesting_is_taken_off(
    held: Any, nesting: tuple[str, ...], rest: Any, legacy: bool, tmp_path: Path
) -> None:
    torch.save(held, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    same(checkpoint.tensors)
    assert (checkpoint.nesting, checkpoint.rest) == (nesting, rest)
    assert checkpoint.path == tmp_path / "a.pt" and checkpoint.folder == tmp_path


def test_safetensors_are_read_and_come_first_in_a_folder(tmp_path: Path) -> None:
    torch.save({"wrong": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    save_file(state(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}}')
    checkpoint = read_checkpoint(tmp_path)
    same(checkpoint.tensors)
    assert checkpoint.path.name == "open_clip_model.safetensors" and checkpoint.config == {"model_cfg": {}}


def test_a_prefix_that_not_every_key_has_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt").tensors) == {"module.a", "b"}


# --- what is no checkpoint ----------------------------------------------------------------------------------------------


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ConversionError, match="holds nothing, and none of model.safetensors"):
        read_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConversionError, match="holds notes.txt, and none of"):
        read_checkpoint(tmp_path)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(ConversionError, match="is empty"):
        read_checkpoint(tmp_path / "empty.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(ConversionError, match="does not exist"):
        read_checkpoint(tmp_path / "pipe.pt")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([torch.ones(1)], "holds a list, not a state_dict"),
        (torch.ones(1), "holds a Tensor, not a state_dict"),
        ({"epoch": 3, "loss": 0.5}, "holds no tensor, but epoch, loss"),
        ({}, "holds no tensor, but nothing"),
        ({"state_dict": {}}, "holds no tensor"),
        ({"a": torch.eye(2).to_sparse()}, "a is quantized, sparse"),
        ({"a": torch.ones(2, device="meta")}, "a is quantized, sparse or without values"),
    ],
)
def test_what_holds_no_plain_tensors_is_named(held: Any, said: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match=said):
        read_checkpoint(tmp_path / "a.pt")


def test_a_configuration_is_one_object_of_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert read_config_file(path) == {"a": 1}
    for content, said in ((b"[1]", "holds a list"), (b"{", "cannot be read as JSON"), (b"\xff\xfe", "cannot be read")):
        path.write_bytes(content)
        with pytest.raises(ConversionError, match=said):
            read_config_file(path)
    with pytest.raises(ConversionError, match="cannot be read"):
        read_config_file(tmp_path / "none.json")


# --- damage -------------------------------------------------------------------------------------------------------------


def write(kind: str, path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(tensors, path)
    elif kind == "script":
        tiny.script_module(tensors).save(path)
    else:
        torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = ["safetensors", "zip", "legacy", "script"]


@pytest.mark.security
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.9, -100, -1])
def test_a_truncated_file_is_one_error(kind: str, kept: float, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "a.pt", {f"w{index}": torch.randn(40, 40) for index in range(4)})
    whole = path.read_bytes()
    length = int(len(whole) * kept) if kept > 0 else len(whole) + int(kept)
    path.write_bytes(whole[: max(length, 1)])
    with pytest.raises(ConversionError, match=f"{path.name} is truncated, damaged"):
        read_checkpoint(path)


@pytest.mark.security
@pytest.mark.parametrize("kind", KINDS)
def test_random_damage_is_that_error_or_is_not_seen(kind: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path / "a.pt", {"w": torch.randn(4, 4), "b.c": torch.randn(4)})
    whole, draw, refused = path.read_bytes(), random.Random(1), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            assert all(type(tensor) is torch.Tensor for tensor in read_checkpoint(path).tensors.values())
        except ConversionError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "content", [b"hello, this is text\n", b"\x80\x04N.", b"PK\x03\x04", bytes(1000), b"\x93NUMPY\x01\x00"]
)
def test_a_file_of_another_kind_is_one_error(content: bytes, tmp_path: Path) -> None:
    for name in ("a.pt", "a.safetensors", "a.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConversionError, match=name):
            read_checkpoint(tmp_path / name)


# --- code ---------------------------------------------------------------------------------------------------------------


class Attack:
    """Runs a command when it is unpickled by Python's own unpickler."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


class Evaluated(Attack):
    def __reduce__(self) -> Any:
        return eval, (f"__import__('os').system({self.command!r})",)


def plain_pickle(held: Any, path: Path) -> None:
    with open(path, "wb") as file:
        pickle.dump(held, file)


def zipped(held: Any, path: Path) -> None:
    torch.save(held, path)


def legacy(held: Any, path: Path) -> None:
    torch.save(held, path, _use_new_zipfile_serialization=False)


def script(held: Any, path: Path) -> None:
    """A sound TorchScript archive whose data.pkl was exchanged."""
    tiny.script_module(state()).save(path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, pickle.dumps(held, protocol=2) if name.endswith("/data.pkl") else content)


@pytest.mark.security
@pytest.mark.parametrize("attack", [Attack, Evaluated])
@pytest.mark.parametrize("save", [plain_pickle, zipped, legacy, script])
@pytest.mark.parametrize("where", ["alone", "beside", "in the state_dict"])
def test_code_in_a_checkpoint_is_refused_and_never_run(attack: Any, save: Any, where: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile = attack(f"touch {marker}")
    held = {"alone": hostile, "beside": {"state_dict": {}, "hyper": hostile}, "in the state_dict": {"w": hostile}}[
        where
    ]
    save(held, tmp_path / "a.pt")
    for folder in (False, True):
        path = tmp_path / "a.pt"
        if folder:
            path = tmp_path / "folder"
            path.mkdir()
            (path / "pytorch_model.bin").write_bytes((tmp_path / "a.pt").read_bytes())
        with pytest.raises(ConversionError, match="a.pt|pytorch_model.bin"):
            read_checkpoint(path)
        assert not marker.exists()
    # The file does what it is said to do where nobody looks.
    if save is plain_pickle:
        with open(tmp_path / "a.pt", "rb") as file:
            pickle.load(file)
        assert marker.exists()


@pytest.mark.security
def test_the_error_says_what_the_file_holds_and_what_to_do(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "args": Attack("true")}, tmp_path / "a.pt")
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(tmp_path / "a.pt")
    message = str(caught.value)
    assert "posix.system" in message and "could run code" in message and "state_dict alone" in message


@pytest.mark.security
def test_a_safetensors_name_is_never_read_as_a_pickle(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    plain_pickle(Attack(f"touch {marker}"), tmp_path / "model.safetensors")
    with pytest.raises(ConversionError):
        read_checkpoint(tmp_path)
    assert not marker.exists()


@pytest.mark.security
def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    held: dict[str, Any] = {}
    held["model"] = held
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match="holds no tensor"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.security
def test_a_tensor_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "a.pt")
    with pytest.raises(ConversionError, match="claim 4398046511104"):
        read_checkpoint(tmp_path / "a.pt")
    shared = torch.zeros(100)
    torch.save({"a": shared, "b": shared, "c": torch.zeros(1).expand(1, 100)}, tmp_path / "b.pt")
    assert set(read_checkpoint(tmp_path / "b.pt").tensors) == {"a", "b", "c"}


def test_no_check_of_this_page_reads_with_pythons_unpickler() -> None:
    """The one call of pickle in the package is none: the table of allowed calls has no entry for conversion."""
    from tests.test_floors import ALLOWED_CALLS

    assert not [name for name in ALLOWED_CALLS if name.startswith("mmembed/conversion/")]
