"""What is taken for a query, and the vectors of each kind, against the model asked directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from mmembed.models.dual_encoder.building import train_tokenizer
from mmembed.search.queries import Query, QueryError, as_queries, as_query, encode_queries, query_key, unit_rows
from tests.tiny_models import WORDS, tiny_bert, tiny_dual_encoder

RED = Image.new("RGB", (32, 32), "red")


def test_kinds() -> None:
    rounds = ["a mug", "is it red? yes"]
    asked = ["mug", RED, np.zeros((4, 4, 3), np.uint8), {"text": "mug", "image": RED}, rounds, {"text": rounds, "image": RED},
             {"text": None, "image": RED}, {"text": " ", "image": RED}, Query("mug"), tuple(rounds)]  # fmt: skip
    kinds = [query.kind for query in as_queries(asked)]
    assert kinds == ["text", "image", "image", "composed", "dialogue", "composed", "image", "image", "text", "dialogue"]
    assert as_query(rounds).text == "a mug, is it red? yes" and as_query({"text": rounds, "image": RED}).is_dialogue
    assert as_queries([]) == []


def test_a_transparent_or_grey_image_becomes_rgb() -> None:
    assert as_query(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).image.getpixel((0, 0)) == (255, 255, 255)  # type: ignore[union-attr]
    assert as_query(Image.new("L", (2, 2), 7)).image.mode == "RGB"  # type: ignore[union-attr]


def test_a_key_is_of_the_content() -> None:
    keys = {
        query_key(as_query(one))
        for one in ("mug", "Mug", ["mug"], RED, {"text": "mug", "image": RED}, Image.new("RGB", (32, 32)))
    }
    assert len(keys) == 6 and query_key(as_query({"text": "mug"})) == query_key(as_query("mug"))


def test_rows_are_in_the_order_of_the_queries_whatever_their_kinds() -> None:
    model = tiny_dual_encoder()
    asked = as_queries(["red", RED, ["a", "b? no"], {"text": "mug", "image": RED}, "blue", RED])
    together = encode_queries(model, asked, dialogue_tokens=6)
    for number, query in enumerate(asked):
        assert together[number] == pytest.approx(encode_queries(model, [query], dialogue_tokens=6)[0], abs=1e-6)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    assert encode_queries(model, []).shape == (0, 8)


def test_a_prompt_is_the_models_own_or_the_one_given() -> None:
    model = tiny_bert()
    plain = encode_queries(model, as_queries(["red mug"]))
    given = encode_queries(model, as_queries(["red mug"]), prompt="blue ")
    assert given == pytest.approx(model.encode(["blue red mug"], normalize_embeddings=True), abs=1e-6)
    model.prompts["query"] = "blue "
    assert encode_queries(model, as_queries(["red mug"])) == pytest.approx(given, abs=1e-6)
    assert encode_queries(model, as_queries(["red mug"]), prompt="") == pytest.approx(plain, abs=1e-6)


def test_a_dialogue_may_be_longer_than_a_caption() -> None:
    model = tiny_bert()
    model.max_seq_length = 6
    rounds = as_queries([["red mug", "colour1 blue shirt? no"]])
    text = rounds[0].text
    assert encode_queries(model, rounds) == pytest.approx(model.encode([text], normalize_embeddings=True), abs=1e-6)
    longer = encode_queries(model, rounds, dialogue_tokens=16)
    model.max_seq_length = 16
    assert longer == pytest.approx(model.encode([text], normalize_embeddings=True), abs=1e-6)
    model.max_seq_length = 6
    assert np.abs(longer - encode_queries(model, rounds)).max() > 1e-3


def test_a_model_without_a_transformer_reads_texts() -> None:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(WORDS, vocab_size=100, max_length=16)
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=8), Normalize()], device="cpu"
    )
    assert encode_queries(model, as_queries(["red mug"])) == pytest.approx(model.encode(["red mug"]), abs=1e-6)
    with pytest.raises(QueryError, match="does not read: its image"):
        encode_queries(model, as_queries([RED]))


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_out_of_range(weight: float) -> None:
    with pytest.raises(ValueError, match="text_weight"):
        encode_queries(tiny_bert(), [], text_weight=weight)


def test_weights_of_0_and_1_are_one_part_alone() -> None:
    model = tiny_dual_encoder()
    both = as_queries([{"text": "mug", "image": RED}])
    assert encode_queries(model, both, text_weight=1) == pytest.approx(
        encode_queries(model, as_queries(["mug"])), abs=1e-6
    )
    assert encode_queries(model, both, text_weight=0) == pytest.approx(
        encode_queries(model, as_queries([RED])), abs=1e-6
    )


def test_unit_rows_of_very_small_and_large_numbers() -> None:
    rows = np.array([[1e-30, 0], [3e30, 4e30], [0, 0]])
    assert unit_rows(rows) == pytest.approx(np.array([[1, 0], [0.6, 0.8], [0, 0]]))
