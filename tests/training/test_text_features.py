"""Stored text features stand in for a frozen text tower: same vectors, same training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmembed.training.text_features import store_text_features
from tests.tiny_models import WORDS, tiny_dual_encoder

TEXTS = [*WORDS[:9], WORDS[0], "a text of other words, and a longer one than those before it"]


@torch.no_grad()
def test_stored_features_give_the_vectors_that_the_tower_gives(tmp_path: Path) -> None:
    model = tiny_dual_encoder(frozen_text_tower=True, text_levels=[0], text_standardise=True).eval()
    stored = store_text_features(model, TEXTS, tmp_path, show_progress_bar=False)
    model.transformers_model.fit_text_statistics(stored.load(sorted(set(TEXTS)))[:, 0])
    features = model.preprocess([{"text": text} for text in TEXTS])
    direct = model(dict(features))["sentence_embedding"]
    through = model({**features, "text_features": stored.load(TEXTS)})["sentence_embedding"]
    torch.testing.assert_close(through, direct, atol=5e-3, rtol=0)  # kept as float16
    assert torch.allclose(through[0], through[9]) and not torch.allclose(through[0], through[1], atol=1e-3)


def test_they_are_computed_once_and_again_for_other_texts_or_weights(tmp_path: Path) -> None:
    model = tiny_dual_encoder(frozen_text_tower=True)
    store_text_features(model, TEXTS, tmp_path, show_progress_bar=False)
    encode, calls = model.transformers_model.encode_frozen_text, []
    model.transformers_model.encode_frozen_text = lambda *a: calls.append(1) or encode(*a)
    store_text_features(model, reversed(TEXTS), tmp_path, show_progress_bar=False)
    assert not calls and len(list(tmp_path.glob("*.npy"))) == 1
    store_text_features(model, [*TEXTS, "one more"], tmp_path, show_progress_bar=False)
    with torch.no_grad():
        next(model.transformers_model.text_model.parameters()).add_(0.1)
    store_text_features(model, TEXTS, tmp_path, show_progress_bar=False)
    assert len(calls) == 2 and len(list(tmp_path.glob("*.npy"))) == 3 and not list(tmp_path.glob("*.tmp"))


def test_a_frozen_text_tower_neither_learns_nor_drops(tmp_path: Path) -> None:
    model = tiny_dual_encoder(frozen_text_tower=True, text_dropout=0.5).train()
    encoder = model.transformers_model
    assert not any(p.requires_grad for p in encoder.text_model.parameters())
    assert all(p.requires_grad for p in encoder.text_projection.parameters())
    features = model.preprocess([{"text": TEXTS[0]}])
    first, second = (model(dict(features))["sentence_embedding"] for _ in range(2))
    assert torch.equal(first, second)


def test_what_cannot_be_stored_or_found_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not frozen"):
        store_text_features(tiny_dual_encoder(), TEXTS, tmp_path, show_progress_bar=False)
    with pytest.raises(ValueError, match="no text"):
        store_text_features(tiny_dual_encoder(frozen_text_tower=True), [], tmp_path)
    stored = store_text_features(tiny_dual_encoder(frozen_text_tower=True), TEXTS, tmp_path, show_progress_bar=False)
    with pytest.raises(KeyError, match="another text"):
        stored.load(["another text"])
