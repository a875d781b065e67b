"""The pooling that FlagEmbedding's training left on record, read without running what stands in the file."""

from __future__ import annotations

import dataclasses
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from mmembed.models.flag_embedding import recorded_pooling


@dataclasses.dataclass
class Arguments:
    output_dir: str = "last_token"
    warmup: str = "mean"
    sentence_pooling_method: str = "cls"
    normalize_embeddings: bool = True


class Marker:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(("written", "expected"), [("cls", "cls"), ("mean", "mean"), ("last_token", "lasttoken")])
def test_the_record_is_read(written: str, expected: str, tmp_path) -> None:
    torch.save(Arguments(sentence_pooling_method=written), tmp_path / "training_args.bin")
    assert recorded_pooling(tmp_path) == recorded_pooling(str(tmp_path)) == expected


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("written", ["cls", "mean", "last_token"])
def test_every_protocol_is_read(protocol: int, written: str, tmp_path) -> None:
    """A text that occurs twice is written once and then referred to by its number."""
    arguments = Arguments(sentence_pooling_method=written)
    arguments.__dict__.update({name: value for name, value in vars(arguments).items()})
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w") as archive:
        same = {"before": written, "sentence_pooling_method": written, "after": "mean"}
        archive.writestr("training_args/data.pkl", pickle.dumps(same, protocol=protocol))
    assert recorded_pooling(tmp_path) == {"last_token": "lasttoken"}.get(written, written)


def test_where_there_is_no_record(tmp_path) -> None:
    path = tmp_path / "training_args.bin"
    assert recorded_pooling(tmp_path) is None
    torch.save({"learning_rate": 1e-5}, path)  # another trainer's
    assert recorded_pooling(tmp_path) is None
    for content in (b"", b"no archive", pickle.dumps(Arguments())):
        path.write_bytes(content)
        assert recorded_pooling(tmp_path) is None
    for entries in ({"data.pkl": b"\x80\x02broken"}, {"a/data.pkl": b"N.", "b/data.pkl": b"N."}, {"other": b""}):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        assert recorded_pooling(tmp_path) is None


def test_a_pooling_that_nobody_has_is_refused(tmp_path) -> None:
    torch.save(Arguments(sentence_pooling_method="max"), tmp_path / "training_args.bin")
    with pytest.raises(ValueError, match="names the pooling 'max'; FlagEmbedding has cls, mean, last_token"):
        recorded_pooling(tmp_path)


def test_what_the_file_would_run_is_not_run(tmp_path) -> None:
    torch.save([Marker(tmp_path / "ran"), Arguments()], tmp_path / "training_args.bin")
    assert recorded_pooling(tmp_path) == "cls" and not (tmp_path / "ran").exists()


def test_an_archive_that_unpacks_to_much_is_left_alone(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "training_args.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("training_args/data.pkl", b"N" * (8 << 20))
    assert recorded_pooling(tmp_path) is None
