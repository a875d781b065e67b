"""Items → a folder of vectors: as one encoding, interrupted and gone on with, and never mixed with another."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from sentence_transformers import SentenceTransformer

from mmembed import dataset_encoding as module
from mmembed.data.schema import DataError
from mmembed.dataset_encoding import encode_dataset, items_fingerprint, model_fingerprint
from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.models.dual_encoder.building import build_dual_encoder
from mmembed.models.loading import load_model

WORDS = ["red mug", "blue desk lamp", "green wool hat"]


def tiny(**options) -> SentenceTransformer:
    torch.manual_seed(0)
    return build_dual_encoder(
        WORDS, image_size=16, text_hidden_size=16, text_layers=1, text_heads=2, image_embedding_size=8,
        image_hidden_sizes=[8], image_depths=[1], projection_dim=8, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return tiny()


def png(seed: int) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def items(count: int = 10) -> Dataset:
    data = {
        "id": [f"sku-{i}" for i in range(count)],
        "text": [f"{WORDS[i % 3]} {'very ' * i}long" for i in range(count)],
        "image": [png(i) for i in range(count)],
    }
    return Dataset.from_dict(data).cast_column("image", ImageFeature(decode=False))


def encode(model, table, folder, **options) -> Embeddings:
    return encode_dataset(model, table, folder, **{"shard_rows": 4, "show_progress_bar": False, **options})


@pytest.mark.parametrize("use", ["text", "image", "fused"])
def test_the_vectors_are_those_of_one_encoding(model, tmp_path: Path, use) -> None:
    found = encode(model, items(), tmp_path / "e", use=use)
    assert found.ids == items()["id"][:]
    assert np.allclose(np.asarray(found.vectors), encode_items(model, items(), use=use), atol=1e-6)
    assert found.manifest["use"] == use and len(found.manifest["shards"]) == 3
    assert sorted(os.listdir(tmp_path / "e")) == sorted(
        ["manifest.json", *(f"ids-{i:05}.jsonl" for i in range(3)), *(f"vectors-{i:05}.npy" for i in range(3))]
    )


def test_half_precision_and_no_item_at_all(model, tmp_path: Path) -> None:
    half = encode(model, items(), tmp_path / "half", dtype="float16")
    assert half.vectors.dtype == np.float16
    assert np.allclose(np.asarray(half.vectors), encode_items(model, items()), atol=1e-3)
    assert encode(model, items().select([]), tmp_path / "none").vectors.shape == (0, 8)


class Stopped(Exception):
    pass


def test_an_interrupted_run_goes_on_where_it_stopped(model, tmp_path: Path, monkeypatch) -> None:
    whole = encode(model, items(), tmp_path / "whole")
    encoded: list[list[str]] = []

    def counting(model, table, **options):
        if len(encoded) == 2:
            raise Stopped
        encoded.append(table["id"][:])
        return encode_items(model, table, **options)

    monkeypatch.setattr(module, "encode_items", counting)
    with pytest.raises(Stopped):
        encode(model, items(), tmp_path / "e")
    with pytest.raises(DataError, match="not finished"):
        Embeddings.load(tmp_path / "e")
    encoded[:] = [["first run"]]
    found = encode(model, items(), tmp_path / "e")
    assert encoded == [["first run"], ["sku-8", "sku-9"]]
    assert np.array_equal(np.asarray(found.vectors), np.asarray(whole.vectors)) and found.manifest == whole.manifest


def test_a_shard_that_was_damaged_meanwhile_is_written_again(model, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "e"
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", lambda *_: (_ for _ in ()).throw(Stopped()))
        with pytest.raises(Stopped):
            encode(model, items(), folder)
    data = bytearray((folder / "vectors-00001.npy").read_bytes())
    data[-1] ^= 1
    (folder / "vectors-00001.npy").write_bytes(data)
    (folder / "shard-00002.json").write_text('{"rows": 2, "ids": "../x"}')
    assert np.allclose(np.asarray(encode(model, items(), folder).vectors), encode_items(model, items()), atol=1e-6)


def test_a_finished_folder_is_loaded_without_encoding(model, tmp_path: Path, monkeypatch) -> None:
    first = encode(model, items(), tmp_path / "e")
    monkeypatch.setattr(module, "encode_items", None)
    assert encode(model, items(), tmp_path / "e", batch_size=3).ids == first.ids
    (tmp_path / "e" / "vectors-00000.npy").write_bytes(b"")
    with pytest.raises(DataError, match="vectors-00000.npy"):
        encode(model, items(), tmp_path / "e")


@pytest.mark.parametrize("finished", [True, False])
def test_another_model_other_items_or_options_are_refused(model, tmp_path: Path, monkeypatch, finished: bool) -> None:
    folder = tmp_path / "e"
    if finished:
        encode(model, items(), folder)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(module, "encode_items", lambda *_, **__: (_ for _ in ()).throw(Stopped()))
            with pytest.raises(Stopped):
                encode(model, items(), folder)
    other = tiny()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    renamed = items().map(lambda row: {"id": row["id"] + "x"})
    retold = items().map(lambda row: {"text": row["text"].upper()})
    for arguments, options, message in [
        ((other, items()), {}, "another model"),
        ((model, renamed), {}, "other items"),
        ((model, retold), {}, "other items"),
        ((model, items().select(range(9, -1, -1))), {}, "other items"),
        ((model, items()), {"use": "fused"}, "other items|another use"),
        ((model, items()), {"prompt": "query: "}, "another prompt: None there, 'query: ' now"),
        ((model, items()), {"dtype": "float16"}, "another dtype"),
        ((model, items()), {"shard_rows": 5}, "another shard_rows: 4 there, 5 now"),
    ]:
        with pytest.raises(DataError, match=message):
            encode(*arguments, folder, **options)
    assert np.allclose(np.asarray(encode(model, items(), folder).vectors), encode_items(model, items()), atol=1e-6)


def test_what_cannot_be_done_leaves_nothing(model, tmp_path: Path) -> None:
    for options, message in [
        ({"use": "both"}, "use='both'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"shard_rows": 0}, "shard_rows=0"),
        ({"batch_size": 0}, "batch_size=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            encode(model, items(), tmp_path / "e", **options)
    twice = Dataset.from_dict({"id": ["a", "a"], "text": ["x", "y"]})
    with pytest.raises(DataError, match="an id occurs twice"):
        encode(model, twice, tmp_path / "e")
    assert not (tmp_path / "e").exists()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="something other than embeddings"):
        encode(model, items(), tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_plan_that_is_none_is_refused(model, tmp_path: Path) -> None:
    for data in ("{", "[]", "[" * 100_000):
        (tmp_path / "plan.json").write_text(data)
        with pytest.raises(DataError, match="plan.json: not"):
            encode(model, items(), tmp_path)


def test_a_model_is_known_by_what_makes_its_vectors(model, tmp_path: Path) -> None:
    first = model_fingerprint(model)
    assert model_fingerprint(tiny()) == first
    model.save_pretrained(str(tmp_path / "a"))
    model.save_pretrained(str(tmp_path / "b"))
    here, there = (SentenceTransformer(str(tmp_path / name), trust_remote_code=False) for name in "ab")
    assert model_fingerprint(here) == model_fingerprint(there)  # whatever folder it was loaded from
    there.prompts["query"] = "find: "
    there.default_prompt_name = "query"
    assert model_fingerprint(here) != model_fingerprint(there)
    other = tiny()
    other[0].processor.tokenizer.add_tokens(["zebra"])
    assert model_fingerprint(other) != first
    other = tiny()
    other.max_seq_length = 3
    assert model_fingerprint(other) != first
    # Asking moves neither the model nor its vectors.
    assert model_fingerprint(model) == first
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    assert model_fingerprint(model) == first  # saving writes into the processor of the model in memory
    assert model_fingerprint(load_model(tmp_path / "saved", device="cpu")) == first


def test_items_are_known_by_what_is_encoded() -> None:
    table = items(3)
    assert items_fingerprint(table, "text") == items_fingerprint(table.remove_columns("image"), "text")
    assert items_fingerprint(table, "image") == items_fingerprint(table.remove_columns("text"), "image")
    assert len({items_fingerprint(table, use) for use in ("text", "image", "fused")}) == 3
    other = Dataset.from_dict({**table.to_dict(), "image": [png(9), png(1), png(2)]}).cast_column(
        "image", ImageFeature(decode=False)
    )
    assert items_fingerprint(other, "image") != items_fingerprint(table, "image")
    assert items_fingerprint(other, "text") == items_fingerprint(table, "text")
    # A boundary between id and text that moves is another table.
    one, two = (Dataset.from_dict({"id": [a], "text": [b]}) for a, b in (("ab", "c"), ("a", "bc")))
    assert items_fingerprint(one, "text") != items_fingerprint(two, "text")
    weighted = [Dataset.from_dict({"id": ["a"], "text_parts": [[{"text": "x", "weight": w}]]}) for w in (0.5, 0.6)]
    assert items_fingerprint(weighted[0], "text") != items_fingerprint(weighted[1], "text")


def test_the_manifest_is_json_that_others_can_read(model, tmp_path: Path) -> None:
    encode(model, items(), tmp_path / "e", model_name="my/model", revision="v1")
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["model"], manifest["revision"], manifest["dim"], manifest["count"]) == ("my/model", "v1", 8, 10)


def test_the_public_name_is_the_function_whatever_is_imported_first() -> None:
    import subprocess
    import sys

    code = "import mmembed.dataset_encoding; from mmembed import encode_dataset; assert callable(encode_dataset)"
    subprocess.run([sys.executable, "-c", code], check=True)
