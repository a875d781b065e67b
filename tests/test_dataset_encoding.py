"""Items → a folder of vectors: as one encoding, interrupted and gone on with, and never mixed with another."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
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
    code = "import mmembed.dataset_encoding; from mmembed import encode_dataset; assert callable(encode_dataset)"
    subprocess.run([sys.executable, "-c", code], check=True)


class Bars:
    """What `tqdm` is told, in its place."""

    def __init__(self) -> None:
        self.made: list[dict] = []

    def __call__(self, **options):
        bars = self

        class Bar:
            def __enter__(self):
                bars.made.append({**options, "updates": []})
                return self

            def __exit__(self, *_):
                return None

            def update(self, count):
                bars.made[-1]["updates"].append(count)

        return Bar()


def test_the_bar_moves_within_a_shard_and_begins_where_the_last_run_stopped(model, tmp_path: Path, monkeypatch) -> None:
    bars = Bars()
    monkeypatch.setattr(module, "tqdm", bars)
    with monkeypatch.context() as patch:

        def stopping(*arguments, **options):
            if len(bars.made[-1]["updates"]) >= 2:
                raise Stopped
            return encode_items(*arguments, **options)

        patch.setattr(module, "encode_items", stopping)
        with pytest.raises(Stopped):
            encode(model, items(10), tmp_path / "e", batch_size=2)
    encode(model, items(10), tmp_path / "e", batch_size=3)
    first, second = bars.made
    assert (first["total"], first["initial"], first["updates"]) == (10, 0, [2, 2])
    # with `initial`, the rate and the time left are of what this run has done and has to do
    assert (second["total"], second["initial"], second["updates"]) == (10, 4, [3, 1, 2])


def test_rows_a_file_are_chosen_by_the_number_of_items_and_kept(model, tmp_path: Path) -> None:
    short = {"show_progress_bar": False}
    whole = encode_dataset(model, items(10), tmp_path / "a", **short)
    assert whole.manifest["shard_rows"] == 1024
    from mmembed.encoding_plan import begin_folder

    plan = {"count": 1_000_000, "shard_rows": None, "model": None, "revision": None}
    assert begin_folder(str(tmp_path / "b"), dict(plan), None)["shard_rows"] == 31_250
    assert begin_folder(str(tmp_path / "c"), {**plan, "count": 10**8}, None)["shard_rows"] == 65_536
    encode(model, items(10), tmp_path / "d", shard_rows=4)
    assert encode_dataset(model, items(10), tmp_path / "d", **short).manifest["shard_rows"] == 4
    (tmp_path / "d" / "manifest.json").write_text(
        (tmp_path / "d" / "manifest.json").read_text().replace('"shard_rows": 4', '"shard_rows": "4"')
    )
    with pytest.raises(DataError, match="field 'shard_rows': found string '4', expected a whole number"):
        encode_dataset(model, items(10), tmp_path / "d", **short)


def test_another_revision_that_is_named_is_refused(model, tmp_path: Path) -> None:
    encode(model, items(), tmp_path / "e", revision="v1")
    assert encode(model, items(), tmp_path / "e").manifest["revision"] == "v1"
    with pytest.raises(DataError, match="holds embeddings with another revision: 'v1' there, 'v2' now"):
        encode(model, items(), tmp_path / "e", revision="v2")


def test_what_a_killed_process_left_is_no_obstacle_and_does_not_stay(model, tmp_path: Path) -> None:
    for name in (".plan.json-abcd_123", ".vectors-00001.npy-abcd1234"):
        (tmp_path / "e" / name).mkdir(parents=True)
    encode(model, items(), tmp_path / "e")
    # killed between the manifest and the end
    (tmp_path / "e" / "plan.json").write_text("{}")
    (tmp_path / "e" / ".ids-00000.jsonl-abcd1234").mkdir()
    encode(model, items(), tmp_path / "e")
    assert not [name for name in os.listdir(tmp_path / "e") if name.startswith((".", "plan", "shard"))]
    (tmp_path / "f" / ".git").mkdir(parents=True)
    with pytest.raises(DataError, match="something other than embeddings"):
        encode(model, items(), tmp_path / "f")


def test_an_item_that_lacks_what_is_encoded_is_found_before_the_work(model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "encode_items", None)
    table = items(8)
    broken = Dataset.from_dict(
        {**table.to_dict(), "text": [*table["text"][:6], None, None], "image": [None, *table["image"][1:6], None, None]}
    ).cast_column("image", ImageFeature(decode=False))
    for use, message in [
        ("text", r"items: row 6: 2 items have no text, first: 'sku-6'"),
        ("image", r"items: row 0: 3 items have no image, first: 'sku-0'"),
        ("fused", r"items: row 6: 2 items have neither a text nor an image, first: 'sku-6'"),
    ]:
        with pytest.raises(DataError, match=message):
            encode(model, broken, tmp_path / "e", use=use)
    assert not (tmp_path / "e").exists()
    parts = Dataset.from_dict({"id": ["a", "b"], "text": ["x", None], "text_parts": [None, []]})
    with pytest.raises(DataError, match="row 1: 1 items have no text, first: 'b'"):
        encode(model, parts, tmp_path / "e")


def test_a_model_that_makes_no_number_is_said_by_item_and_nothing_is_kept(model, tmp_path: Path, monkeypatch) -> None:
    def broken(*arguments, **options):
        vectors = encode_items(*arguments, **options)
        vectors[1] = np.nan
        return vectors

    monkeypatch.setattr(module, "encode_items", broken)
    with pytest.raises(DataError, match="items: row 1: the model makes no vector of 'sku-1', but NaN"):
        encode(model, items(), tmp_path / "e")
    assert os.listdir(tmp_path / "e") == ["plan.json"]


def test_a_full_disk_is_said_and_what_is_whole_stays(model, tmp_path: Path, monkeypatch) -> None:
    write = module.write_shard

    def full(folder, number, *rest):
        if number == 1:
            raise OSError(28, "No space left on device")
        return write(folder, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", full)
        with pytest.raises(DataError, match=r"cannot be written \(No space left on device\); make room"):
            encode(model, items(), tmp_path / "e")
    assert "shard-00000.json" in os.listdir(tmp_path / "e")
    assert np.allclose(
        np.asarray(encode(model, items(), tmp_path / "e").vectors), encode_items(model, items()), atol=1e-6
    )


def test_ids_that_occur_twice_are_told_with_their_rows(model, tmp_path: Path) -> None:
    table = Dataset.from_dict({"id": ["a", "b", "c", "b"], "text": list("wxyz")})
    with pytest.raises(
        DataError, match=r"items: row 3: field 'id': an id occurs twice; ids are unique: 'b', also in row 1"
    ):
        encode(model, table, tmp_path / "e")


GROWTH = """
import os, sys, threading, time
import torch
from datasets import load_from_disk
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from mmembed.dataset_encoding import write_dataset_vectors
from mmembed.models.dual_encoder.building import train_tokenizer

def used():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

tokens = train_tokenizer(["red mug", "blue lamp"], vocab_size=60, max_length=16)
model = SentenceTransformer(modules=[StaticEmbedding(tokens, embedding_dim=512)], device="cpu")
peaks = []
for name in sys.argv[2:]:
    peak, over = used(), False
    def watch():
        global peak
        while not over:
            peak = max(peak, used())
            time.sleep(0.005)
    watcher = threading.Thread(target=watch)
    watcher.start()
    write_dataset_vectors(model, load_from_disk(name), name + "-vectors", shard_rows=1000, show_progress_bar=False)
    over = True
    watcher.join()
    peaks.append(peak)
print(*peaks)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_items(tmp_path: Path) -> None:
    """Six times the items, whose vectors are 49 MB: not 12 MB more than for 4,000 of them."""
    for rows in (4_000, 24_000):
        names = [f"item-{row}" for row in range(rows)]
        Dataset.from_dict({"id": names, "text": names}).save_to_disk(str(tmp_path / str(rows)))
    folders = [str(tmp_path / str(rows)) for rows in (4_000, 4_000, 24_000)]
    (tmp_path / "again").symlink_to(folders[0])
    folders[0] = str(tmp_path / "again")  # once to warm up
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, "-", *folders],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    _, small, large = map(int, done.stdout.split())
    assert large - small < 12 * 1024, (small, large)
    assert len(Embeddings.load(folders[2] + "-vectors")) == 24_000
