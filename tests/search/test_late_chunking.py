"""Late chunks against means of token embeddings taken by hand, and against the model's own vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

from mmembed.data.schema import DataError
from mmembed.search.late_chunking import late_chunks
from tests.tiny_models import WORDS, tiny_bert, tiny_clip

TEXT = "word1 red mug. colour2 blue shirt! word3 mug"
CUTS = [(0, 14), (15, 34), (35, 44)]


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return tiny_bert()


def items_of(**texts: str) -> Dataset:
    return Dataset.from_dict({"id": list(texts), "text": list(texts.values())})


def tokens_of(model: SentenceTransformer, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The embeddings of a text's tokens, special ones among them, and the places of their characters."""
    found = model.tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
    with torch.inference_mode():
        output = model[0]({name: found[name] for name in ("input_ids", "attention_mask")})
    return output["token_embeddings"][0].numpy(), [tuple(pair) for pair in found["offset_mapping"][0].tolist()]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_spans_are_means_of_their_tokens_in_the_whole_text(model) -> None:
    text = TEXT[:34]
    embeddings, places = tokens_of(model, text)
    rows = [[row for row, (a, b) in enumerate(places) if b > a and low <= a < high] for low, high in CUTS[:2]]
    assert all(rows) and sum(map(len, rows)) == len(places) - 2 and len(places) <= 16
    expected = [
        unit(embeddings[[0, *rows[0]]].mean(axis=0)),
        unit(embeddings[[*rows[1], len(places) - 1]].mean(axis=0)),
    ]
    found = late_chunks(model, items_of(a=text), spans={"a": CUTS[:2]})
    assert found.ids == ["a#0", "a#1"] and np.asarray(found.vectors) == pytest.approx(np.stack(expected), abs=1e-6)
    # and not what each is by itself
    alone = model.encode([text[a:b] for a, b in CUTS[:2]], normalize_embeddings=True)
    assert np.abs(np.asarray(found.vectors) - alone).max() > 1e-3


def test_one_span_is_the_models_own_vector(model) -> None:
    texts = {"a": "red mug", "b": "word4 colour1 blue", "c": "  mug  "}
    found = late_chunks(model, items_of(**texts), spans=lambda text: [(0, len(text))])
    assert np.asarray(found.vectors) == pytest.approx(
        model.encode(list(texts.values()), normalize_embeddings=True), abs=1e-6
    )


@pytest.mark.parametrize("include", [True, False])
def test_a_prompt_counts_as_the_model_counts_it(include: bool) -> None:
    model = tiny_bert()
    model[1].include_prompt = include
    found = late_chunks(model, items_of(a="red mug"), spans=lambda text: [(0, len(text))], prompt="blue shirt ")
    own = model.encode(["red mug"], prompt="blue shirt ", normalize_embeddings=True)
    assert np.asarray(found.vectors) == pytest.approx(own, abs=1e-6)
    model.prompts["passage"], model.default_prompt_name = "blue shirt ", "passage"
    assert np.asarray(late_chunks(model, items_of(a="red mug"), spans={"a": [(0, 7)]}).vectors) == pytest.approx(
        own, abs=1e-6
    )


def test_windows_take_each_token_from_the_first_that_has_it(model) -> None:
    text = " ".join(WORDS[:6])  # more tokens than the sixteen of the model
    limit, overlap = 10, 3
    whole = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = whole["input_ids"], whole["offset_mapping"]
    special = model.tokenizer("")["input_ids"]
    taken = np.zeros((len(ids), 16), dtype=np.float32)
    start = done = 0
    first = last = None
    while done < len(ids):
        end = min(start + limit - 2, len(ids))
        window = torch.tensor([[special[0], *ids[start:end], special[1]]])
        with torch.inference_mode():
            output = model[0]({"input_ids": window, "attention_mask": torch.ones_like(window)})["token_embeddings"][
                0
            ].numpy()
        taken[done:end] = output[1 + done - start : 1 + end - start]
        first, last = output[0] if first is None else first, output[-1]
        done, start = end, end - overlap
    middle = len(text) // 2
    halves = [
        [row for row, (a, _) in enumerate(places) if low <= a < high]
        for low, high in ((0, middle), (middle, len(text)))
    ]
    expected = [
        unit(np.concatenate([first[None], taken[halves[0]]]).mean(axis=0)),
        unit(np.concatenate([taken[halves[1]], last[None]]).mean(axis=0)),
    ]
    spans = {"a": [(0, middle), (middle, len(text))]}
    found = late_chunks(model, items_of(a=text), spans=spans, max_tokens=limit, overlap=overlap)
    assert np.asarray(found.vectors) == pytest.approx(np.stack(expected), abs=1e-6)


def test_company_and_batches_change_nothing(model) -> None:
    texts = {f"d{number}": " ".join(WORDS[number : number + 1 + number % 5]) for number in range(12)}
    together = late_chunks(model, items_of(**texts), spans=lambda text: [(0, 9), (9, len(text))], batch_size=5)
    assert together.ids == [f"d{number}#{half}" for number in range(12) for half in range(2)]
    for id, text in texts.items():
        alone = late_chunks(model, items_of(**{id: text}), spans=lambda text: [(0, 9), (9, len(text))], batch_size=1)
        assert np.asarray(alone.vectors) == pytest.approx(
            np.asarray(together.vectors)[together.rows(alone.ids)], abs=1e-5
        )


def test_what_stands_behind_the_mean_is_applied_to_each_span(model) -> None:
    torch.manual_seed(1)
    deeper = SentenceTransformer(modules=[model[0], Pooling(16, "mean"), Dense(16, 4), Normalize()], device="cpu")
    found = late_chunks(deeper, items_of(a="red mug"), spans={"a": [(0, 7)]})
    assert np.asarray(found.vectors) == pytest.approx(deeper.encode(["red mug"]), abs=1e-6) and found.vectors.shape == (
        1,
        4,
    )


def test_nothing_to_encode(model) -> None:
    assert late_chunks(model, items_of(a="red"), spans={"a": []}).vectors.shape == (0, 16)
    empty = Dataset.from_dict({"id": ["a"], "text": ["b"]}).select([])
    assert len(late_chunks(model, empty)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spans": {"a": [(0, 3), (3, 4)]}}, r"span 1 \(3, 4\) of item 'a' holds no token"),
        ({"spans": {"a": [(5, 2)]}}, "holds no token"),
        ({"max_tokens": 17}, "the model reads 16"),
        ({"max_tokens": 2, "overlap": 0}, "none is left"),
        ({"max_tokens": 8, "overlap": 6}, "none is left"),
        ({"overlap": -1}, "overlap=-1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_is_refused(model, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        late_chunks(model, items_of(a="red mug shirt"), **arguments)


def test_items_and_models_that_are_refused(model) -> None:
    with pytest.raises(DataError, match="item 'b' has no text"):
        late_chunks(model, Dataset.from_dict({"id": ["a", "b"], "text": ["red", None]}))
    with pytest.raises(ValueError, match="this model is Transformer → Normalize|this model is Transformer"):
        late_chunks(tiny_clip(), items_of(a="red"))
    first = SentenceTransformer(modules=[model[0], Pooling(16, "cls")], device="cpu")
    with pytest.raises(ValueError, match="pools by 'cls'"):
        late_chunks(first, items_of(a="red"))
