"""Items → vectors: every use, chunks, weighted parts, order, laziness and what is refused."""

from __future__ import annotations

import copy
import io
import os
import signal
import threading

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from mmembed.encode import encode_items
from mmembed.encoding_batches import batch_numbers
from mmembed.images import ImageError, ImagePolicy, ImageReader
from mmembed.models.dual_encoder.building import build_dual_encoder, train_tokenizer

WORDS = ["red mug", "blue desk lamp", "green wool hat"]


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return build_dual_encoder(
        WORDS, image_size=16, text_hidden_size=16, text_layers=1, text_heads=2, image_embedding_size=8,
        image_hidden_sizes=[8, 16], image_depths=[1, 1], projection_dim=8,
    )  # fmt: skip


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), dtype=np.uint8))


def encoded(seed: int) -> dict:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def items(count: int = 7, **columns) -> Dataset:
    data = {
        "id": [f"sku-{i}" for i in range(count)],
        "text": [f"{WORDS[i % 3]} {'very ' * i}long" for i in range(count)],
        "image": [encoded(i) for i in range(count)],
    }
    return Dataset.from_dict({**data, **columns}).cast_column("image", ImageFeature(decode=False))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_each_use_is_the_models_own_vector_in_order(model, batch_size) -> None:
    table = items()
    texts, pictures = table["text"][:], [picture(i) for i in range(7)]
    expected = {
        "text": [{"text": text} for text in texts],
        "image": [{"image": image} for image in pictures],
        "fused": [{"text": text, "image": image} for text, image in zip(texts, pictures)],
    }
    for use, rows in expected.items():
        vectors = encode_items(model, table, use=use, batch_size=batch_size)
        one_by_one = np.stack([model.encode([row])[0] for row in rows])
        assert vectors.dtype == np.float32 and np.allclose(vectors, one_by_one, atol=1e-5)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_fused_takes_what_is_there(model) -> None:
    table = items(3, text=["red mug", None, "hat"], image=[None, encoded(1), encoded(2)])
    rows = [{"text": "red mug"}, {"image": picture(1)}, {"text": "hat", "image": picture(2)}]
    assert np.allclose(encode_items(model, table, use="fused"), model.encode(rows), atol=1e-5)
    plain = table.remove_columns("image")
    assert np.allclose(
        encode_items(model, plain.select([0, 2]), use="fused"), model.encode([rows[0], "hat"]), atol=1e-5
    )


def test_weighted_parts_are_summed(model) -> None:
    parts = [
        [{"text": "red mug", "weight": 0.75}, {"text": "green hat", "weight": 0.25}],
        None,
        [{"text": "blue lamp", "weight": 0.1}],
    ]
    table = items(3, text=["red mug", "desk", None], image=[encoded(0), encoded(1), None], text_parts=parts)
    first, second = model.encode(["red mug", "green hat"])
    expected = 0.75 * first + 0.25 * second
    expected = np.stack([expected / np.linalg.norm(expected), *model.encode(["desk", "blue lamp"])])
    for size in (1, 8):
        assert np.allclose(encode_items(model, table, use="text", batch_size=size), expected, atol=1e-5)
    fused = encode_items(model, table, use="fused")
    first, second = model.encode([{"text": text, "image": picture(0)} for text in ("red mug", "green hat")])
    expected = 0.75 * first + 0.25 * second
    assert np.allclose(fused[0], expected / np.linalg.norm(expected), atol=1e-5)
    assert np.allclose(fused[1:], model.encode([{"text": "desk", "image": picture(1)}, "blue lamp"]), atol=1e-5)
    assert np.allclose(
        encode_items(model, table.select([0, 1]), use="image"), model.encode([picture(0), picture(1)]), atol=1e-5
    )
    cancelled = items(1, text_parts=[[{"text": "a", "weight": 1.0}, {"text": "a", "weight": -1.0}]])
    with pytest.raises(ValueError, match="cancel out"):
        encode_items(model, cancelled, use="text")


def test_missing_modalities_are_named_by_id(model) -> None:
    table = items(4, text=["a", None, "b", None], image=[None, encoded(1), None, encoded(3)])
    with pytest.raises(ValueError, match="no text: 'sku-1', 'sku-3'"):
        encode_items(model, table, use="text")
    with pytest.raises(ValueError, match="no image: 'sku-0', 'sku-2'"):
        encode_items(model, table, use="image")
    with pytest.raises(ValueError, match="neither a text nor an image: 'sku-1'"):
        encode_items(model, table.select([0, 1]).remove_columns("image"), use="fused")
    with pytest.raises(ValueError, match="use='both'"):
        encode_items(model, table, use="both")


def test_a_bad_image_is_named(model) -> None:
    table = items(2, image=[encoded(0), {"bytes": b"<html>", "path": None}])
    with pytest.raises(ValueError, match="sku-1"):
        encode_items(model, table, use="image")
    with pytest.raises(ValueError, match="the image of item 'sku-1' cannot be read"):
        encode_items(model, table, use="fused", reader=ImageReader(on_bad="skip"))


def test_paths_are_read_below_their_common_folder_or_by_the_given_reader(model, tmp_path) -> None:
    paths = []
    for i, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        picture(i).save(tmp_path / folder / "image.png")
        paths.append({"bytes": None, "path": str((tmp_path / folder / "image.png").resolve())})
    table = items(2, image=paths)
    expected = model.encode([picture(0), picture(1)])
    assert np.allclose(encode_items(model, table, use="image"), expected, atol=1e-5)
    reader = ImageReader(ImagePolicy(root=tmp_path))
    assert np.allclose(encode_items(model, table, use="image", reader=reader), expected, atol=1e-5)
    with pytest.raises(ValueError, match="sku-1"):
        encode_items(model, table, use="image", reader=ImageReader(ImagePolicy(root=tmp_path / "a")))


class Counting:
    """Counts the images that were read and not yet encoded."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.waiting = self.most = 0
        self.lock = threading.Lock()
        self.inner = ImageReader()
        self.hook = model.register_forward_hook(self._encoded)

    def read(self, source, id):
        with self.lock:
            self.waiting += 1
            self.most = max(self.most, self.waiting)
        return self.inner.read(source, id)

    def _encoded(self, module, inputs, output) -> None:
        with self.lock:
            self.waiting -= len(output["sentence_embedding"])


def test_at_most_a_few_chunks_of_images_are_held(model) -> None:
    reader = Counting(model)
    try:
        encode_items(model, items(40), use="image", batch_size=4, reader=reader)
    finally:
        reader.hook.remove()
    assert reader.waiting == 0 and reader.most <= 3 * 4


def test_the_models_modes_are_put_back(model) -> None:
    model.train()
    model[0].model.text_model.eval()
    before = [module.training for module in model.modules()]
    vectors = encode_items(model, items(3), use="text")
    assert [module.training for module in model.modules()] == before and any(before) and not all(before)
    assert np.array_equal(vectors, encode_items(model, items(3), use="text"))  # encoded without dropout
    with pytest.raises(ValueError, match="no text"):
        encode_items(model, items(1, text=[None]), use="text")
    assert [module.training for module in model.modules()] == before
    model.eval()


def test_prompts_empty_tables_and_other_modules(model) -> None:
    table = items(2)
    with_prompt = encode_items(model, table, use="text", prompt="a red ")
    assert np.allclose(with_prompt, model.encode([f"a red {text}" for text in table["text"][:]]), atol=1e-5)
    assert encode_items(model, table.select([]), use="text").shape == (0, 8)
    words = train_tokenizer(WORDS, vocab_size=60, max_length=16)
    static = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    urls = Dataset.from_dict({"id": ["a"], "text": ["https://example.org/mug.png red mug"]})
    vectors = encode_items(static, urls)
    assert vectors.shape == (1, 4) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


class Stored:
    """Activations kept in memory, as `mmembed.training.image_features` keeps them in a folder."""

    num_views = 1

    def __init__(self, model: SentenceTransformer, table: Dataset) -> None:
        frozen = model.transformers_model.encode_frozen_layers
        pictures = {id: picture(i) for i, id in enumerate(table["id"][:])}
        self.kept = {id: frozen(model.preprocess([image])["pixel_values"])[0] for id, image in pictures.items()}

    def load(self, ids, views):
        return torch.stack([self.kept[id].half() for id in ids])


def test_stored_activations_stand_in_for_images(model) -> None:
    frozen = copy.deepcopy(model)
    frozen.transformers_model.freeze_image_layers(-1)
    table = items(5)
    for use in ("image", "fused"):
        stored = encode_items(frozen, table, use=use, image_features=Stored(frozen, table), batch_size=2)
        assert np.allclose(stored, encode_items(model, table, use=use), atol=2e-3)


def test_worker_processes_and_threads_give_the_same_bits(model) -> None:
    table = items(9)
    for use in ("text", "image", "fused"):
        expected = encode_items(model, table, use=use, batch_size=2, num_workers=0)
        assert np.array_equal(encode_items(model, table, use=use, batch_size=2, num_workers=2), expected)
    broken = items(3, image=[encoded(0), {"bytes": b"<html>", "path": None}, encoded(2)])
    with pytest.raises(ImageError, match="image of id 'sku-1': not an image") as caught:
        encode_items(model, broken, use="image", num_workers=1)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(ValueError, match="num_workers=-1"):
        encode_items(model, table, num_workers=-1)


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait(model) -> None:
    class Deadly:
        def read(self, source, id):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="worker"):
        encode_items(model, items(2), use="image", reader=Deadly(), num_workers=1)


def test_items_of_one_length_share_a_batch_and_none_is_lost() -> None:
    texts = ["a" * (1 + (7 * row) % 23) for row in range(300)]
    table = Dataset.from_dict({"id": [str(row) for row in range(300)], "text": texts})
    batches = list(batch_numbers(table, 2))
    assert sorted(row for batch in batches for row in batch) == list(range(300))
    assert [len(batch) for batch in batches] == [2] * 150
    window = [len(texts[row]) for batch in batches[:64] for row in batch]  # 64 batches are sorted together
    assert window == sorted(window, reverse=True) and {row for batch in batches[:64] for row in batch} == set(
        range(128)
    )
    parts = [[{"text": "a" * row, "weight": 1.0}, {"text": "a", "weight": 1.0}] for row in (1, 9, 5)]
    assert list(batch_numbers(Dataset.from_dict({"id": list("abc"), "text_parts": parts}), 1)) == [[1], [2], [0]]
    assert list(batch_numbers(Dataset.from_dict({"id": list("abc")}), 2)) == [[0, 1], [2]]


def test_the_models_own_prompt_and_dimension_hold(model) -> None:
    own = copy.deepcopy(model)
    own.prompts = {"query": "a red "}
    own.default_prompt_name = "query"
    own.truncate_dim = 3
    table = items(4)
    rows = [{"text": text} for text in table["text"][:]]
    found = encode_items(own, table, use="text")
    assert found.shape == (4, 3) and np.allclose(found, own.encode(rows, normalize_embeddings=True), atol=1e-6)
    assert np.allclose(found, model.encode(rows, prompt="a red ", truncate_dim=3, normalize_embeddings=True), atol=1e-6)
    assert np.allclose(
        encode_items(own, table, prompt=""), model.encode(rows, truncate_dim=3, normalize_embeddings=True), atol=1e-6
    )


def test_weighted_parts_never_make_a_larger_batch(model) -> None:
    parts = [[{"text": f"{word} {n}", "weight": 0.2} for n in range(5)] for word in WORDS]
    table = items(3, text_parts=parts)
    sizes = []
    hook = model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output["sentence_embedding"])))
    try:
        encode_items(model, table, use="fused", batch_size=2)
    finally:
        hook.remove()
    assert sum(sizes) == 15 and max(sizes) == 2


class OnlyEncodes:
    """What has an `encode` as sentence-transformers has it, and nothing else."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model, self.seen = model, []

    def encode(self, inputs, prompt=None, batch_size=32, normalize_embeddings=False, show_progress_bar=None):
        self.seen += inputs
        return self.model.encode(
            [{"text": row} if isinstance(row, str) else row for row in inputs],
            prompt=prompt, batch_size=batch_size, normalize_embeddings=normalize_embeddings,
        )  # fmt: skip


def test_anything_with_an_encode_will_do(model) -> None:
    table = items(5)
    embedder = OnlyEncodes(model)
    assert np.allclose(encode_items(embedder, table), encode_items(model, table), atol=1e-6)
    assert sorted(embedder.seen) == sorted(table["text"][:])
    assert np.allclose(encode_items(embedder, table, use="fused"), encode_items(model, table, use="fused"), atol=1e-6)


def test_each_batch_is_told(model) -> None:
    told: list[int] = []
    encode_items(model, items(7), batch_size=3, on_encoded=told.append)
    assert told == [3, 3, 1]
