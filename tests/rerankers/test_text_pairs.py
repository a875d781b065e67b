"""Rerankers of two texts: pairs cut as by hand, scores as of plain transformers, and what plain sentence-transformers reads."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from mmembed.losses.reranking import CandidateScoringLoss
from mmembed.rerankers.text_pairs import PairTransformer, RerankerError, load_text_reranker
from tests.models.tiny_models import BERT, tokenizer
from tests.rerankers.tiny_rerankers import POSITIONS, tiny_reranker

LONG = "the quick brown fox jumps over a lazy dog and a red mug, " * 6
PAIRS = [
    ("a red mug", "red mugs"),
    ("a red mug", LONG),
    (LONG, "a red mug"),
    (LONG, LONG[7:]),
    ("blue desk lamp", "红色杯子"),
    (LONG, ""),
]


def by_hand(folder: Path, pairs: list[tuple[str, str]], max_length: int, query_max_length: int) -> np.ndarray:
    """FlagEmbedding's rule in ids, each pair alone: the query cut, the passage cut to what is left, then [CLS] q [SEP] p [SEP]
    or <s> q </s></s> p </s>."""
    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for query, passage in pairs:
        q, p = (words(text, add_special_tokens=False)["input_ids"] for text in (query, passage))
        q = q[:query_max_length]
        between = [words.sep_token_id] * (1 if model.config.model_type == "bert" else 2)
        p = p[: max_length - 2 - len(between) - len(q)]
        ids = [words.cls_token_id, *q, *between, *p, words.sep_token_id]
        types = [0] * (len(ids) - len(p) - 1) + [1] * (len(p) + 1)
        given = {"token_type_ids": torch.tensor([types])} if model.config.type_vocab_size > 1 else {}
        with torch.no_grad():
            scores.append(model(input_ids=torch.tensor([ids]), **given).logits.item())
    return np.array(scores)


@pytest.mark.parametrize(("max_length", "query_max_length"), [(None, None), (24, None), (24, 5), (17, 12)])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_pairs_are_cut_as_by_hand(kind, max_length, query_max_length, tmp_path) -> None:
    folder = tiny_reranker(tmp_path, kind)
    model = load_text_reranker(folder, device="cpu", max_length=max_length, query_max_length=query_max_length)
    length = max_length or POSITIONS  # 512 is more than it has positions for
    assert model.max_seq_length == length and not model.training
    expected = by_hand(folder, PAIRS, length, query_max_length or length * 3 // 4)
    assert np.abs(model.predict(PAIRS) - expected).max() < 1e-4
    assert np.ptp(expected) > 0.01
    stock = CrossEncoder(str(folder), device="cpu", max_length=length, activation_fn=torch.nn.Identity())
    assert np.abs(stock.predict(PAIRS) - expected).max() > 1e-3  # which shortens whichever is longer


@pytest.mark.parametrize("normalize", [None, False, True])
def test_scores_are_logits_or_their_sigmoid(normalize, tmp_path) -> None:
    folder = tiny_reranker(tmp_path / "plain")
    model = load_text_reranker(folder, device="cpu", normalize=normalize)
    logits = by_hand(folder, PAIRS, POSITIONS, POSITIONS * 3 // 4)
    expected = 1 / (1 + np.exp(-logits)) if normalize else logits
    assert np.abs(model.predict(PAIRS) - expected).max() < 1e-4
    ranked = model.rank(PAIRS[0][0], [passage for _, passage in PAIRS[:2]])
    assert [hit["corpus_id"] for hit in ranked] == list(np.argsort(-expected[:2]))
    # Saved, they stay what they were, here and in plain sentence-transformers.
    model.save_pretrained(str(tmp_path / "saved"))
    again = load_text_reranker(tmp_path / "saved", device="cpu")
    assert np.abs(again.predict(PAIRS) - model.predict(PAIRS)).max() < 1e-5
    stock = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert type(stock[0]) is Transformer
    assert np.abs(stock.predict(PAIRS[:2]) - expected[:2]).max() < 1e-4


def test_a_saved_length_is_kept_and_can_be_changed(tmp_path) -> None:
    load_text_reranker(tiny_reranker(tmp_path / "a"), device="cpu", max_length=20).save_pretrained(str(tmp_path / "b"))
    assert load_text_reranker(tmp_path / "b", device="cpu").max_seq_length == 20
    assert load_text_reranker(tmp_path / "b", device="cpu", max_length=30).max_seq_length == 30


def test_a_prompt_stands_before_the_query_and_counts(tmp_path) -> None:
    model = load_text_reranker(tiny_reranker(tmp_path), device="cpu", max_length=20)
    before = [(f"red {query}", passage) for query, passage in PAIRS]
    assert np.abs(model.predict(PAIRS, prompt="red ") - model.predict(before)).max() < 1e-5


def test_a_length_for_one_call(tmp_path) -> None:
    folder = tiny_reranker(tmp_path)
    model = load_text_reranker(folder, device="cpu")
    for text in ({"max_length": 20}, {"max_length": 20, "padding": "max_length"}):
        found = model.predict(PAIRS, processing_kwargs={"text": text})
        assert np.abs(found - by_hand(folder, PAIRS, 20, 15)).max() < 1e-4
    tokens = model[0].preprocess(PAIRS[:1], processing_kwargs={"text": text})
    assert tokens["input_ids"].shape == (1, 20)


def test_a_text_that_looks_like_an_address_is_a_text(tmp_path) -> None:
    folder = tiny_reranker(tmp_path)
    pairs = [("https://example.com/a.png", "https://example.com/b.png"), ("/etc/hosts.jpg", "data:image/png;base64,AA")]
    found = load_text_reranker(folder, device="cpu").predict(pairs)
    assert np.abs(found - by_hand(folder, pairs, POSITIONS, POSITIONS * 3 // 4)).max() < 1e-4


def test_copies_and_other_processes_cut_in_the_same_way(tmp_path) -> None:
    model = load_text_reranker(tiny_reranker(tmp_path), device="cpu", query_max_length=4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin[0]) is PairTransformer and twin[0].query_max_length == 4
        assert np.abs(twin.predict(PAIRS) - model.predict(PAIRS)).max() < 1e-5


def test_it_trains_and_is_read_again(tmp_path) -> None:
    model = load_text_reranker(tiny_reranker(tmp_path / "model"), device="cpu", max_length=20)
    before = model.predict(PAIRS)
    table = {"query": ["a red mug", LONG], "positive": ["red mug", LONG], "negative_1": ["hat", "a dog"]}
    table["label"] = [[2.0, 0.0], [1.0, 0.5]]
    args = CrossEncoderTrainingArguments(
        str(tmp_path / "run"), use_cpu=True, report_to="none", max_steps=2, learning_rate=1e-2, disable_tqdm=True,
        save_strategy="no", per_device_train_batch_size=2,
    )  # fmt: skip
    CrossEncoderTrainer(model, args, Dataset.from_dict(table), loss=CandidateScoringLoss(model)).train()
    model.save_pretrained(str(tmp_path / "trained"))
    again = load_text_reranker(tmp_path / "trained", device="cpu")
    assert np.abs(model.predict(PAIRS) - before).max() > 1e-3
    assert np.abs(again.predict(PAIRS) - model.predict(PAIRS)).max() < 1e-5


def test_flag_embeddings_scores(shared_data, tmp_path) -> None:
    folder = shared_data / "parity" / "bge_reranker"
    config = XLMRobertaConfig(**json.loads((folder / "config.json").read_text())["model_config"])
    roberta = XLMRobertaForSequenceClassification(config)
    roberta.load_state_dict(load_file(folder / "original_state_dict.safetensors"))
    roberta.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    for normalize, expected in ((False, outputs["logits"].flatten()), (True, outputs["normalized_scores"])):
        model = load_text_reranker(tmp_path, device="cpu", normalize=normalize)
        with torch.no_grad():
            features = model(dict(tokens))
        scores = model.activation_fn(features["scores"]).flatten()
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_inputs_that_are_no_pairs_are_refused(tmp_path) -> None:
    model = load_text_reranker(tiny_reranker(tmp_path), device="cpu")
    for bad, got in (
        (["a", "b", "c"], r"list of \(str, str, str\)"),
        (("a", 3), r"tuple of \(str, int\)"),
        ("a", "str"),
    ):
        with pytest.raises(ValueError, match=f"pair 1: expected a query and a passage, two strings, got {got}"):
            model[0].preprocess([("a", "b"), bad])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 41}, "max_length=41: .* has positions for 40 tokens"),
        ({"max_length": 12}, "max_length=12 holds 4 special tokens and a query of up to 9: none is left"),
        ({"query_max_length": 40}, "none is left for the passage"),
        ({"query_max_length": 0}, "a query needs at least 1 token"),
    ],
)
def test_lengths_that_cannot_be_are_refused(arguments, message, tmp_path) -> None:
    with pytest.raises(RerankerError, match=message):
        load_text_reranker(tiny_reranker(tmp_path), device="cpu", **arguments)


def test_models_that_score_no_pairs_are_refused(tmp_path) -> None:
    with pytest.raises(RerankerError, match="has 3 labels; a reranker has 1"):
        load_text_reranker(tiny_reranker(tmp_path / "three", labels=3), device="cpu")
    with pytest.raises(RerankerError, match="is no folder"):
        load_text_reranker(tmp_path / "nothing")
    words = tokenizer()
    BertModel(BertConfig(**BERT, vocab_size=len(words))).save_pretrained(tmp_path / "bare")
    words.save_pretrained(tmp_path / "bare")
    with pytest.raises(RerankerError, match="has no classifier, its architecture is BertModel.*new_head=True"):
        load_text_reranker(tmp_path / "bare", device="cpu")
    assert load_text_reranker(tmp_path / "bare", device="cpu", new_head=True).predict(PAIRS).shape == (len(PAIRS),)


def test_pickled_weights_are_refused(tmp_path) -> None:
    folder = tiny_reranker(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "model.safetensors").unlink()
    torch.save(weights, other / "pytorch_model.bin")
    with pytest.raises(RerankerError, match="Only safetensors are read"):
        load_text_reranker(other, device="cpu")
    trusted = load_text_reranker(other, device="cpu", model_kwargs={"use_safetensors": False})
    assert np.abs(trusted.predict(PAIRS) - load_text_reranker(folder, device="cpu").predict(PAIRS)).max() < 1e-5
