"""The wording of dialogues and captions against the goldens of ChatIR and BLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmembed.models import BlipBiEncoderConfig, BlipBiEncoderModel, DualEncoderProcessor
from mmembed.models.blip_bi_encoder.dialogue_text import clean_caption, dialogue_text, encode_dialogues
from mmembed.models.loading import sentence_transformer

from ..tiny_models import tokenizer


def test_captions_are_cleaned_as_by_the_original(shared_data: Path) -> None:
    golden = json.loads((shared_data / "parity" / "blip" / "pre_caption_golden.json").read_text())
    assert len(golden) > 10
    for case in golden:
        assert clean_caption(case["text"], case["max_words"]) == case["out"], case["text"]


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ('"It\'s", he said: no! (really) #1~', "it's , he said no really 1"),
        ("tabs\t\tand  spaces\n", "tabs and spaces"),
        ("one\ttab stays", "one\ttab stays"),
        ("...", ""),
    ],
)
def test_captions_are_cleaned_by_the_rules(caption: str, cleaned: str) -> None:
    assert clean_caption(caption) == cleaned


def test_words_beyond_the_limit_are_cut() -> None:
    assert clean_caption("a b c d", max_words=3) == "a b c"
    assert len(clean_caption("w " * 99).split()) == 50


def test_rounds_are_joined_and_nothing_is_cleaned() -> None:
    assert dialogue_text(["A dog!", "is it red? no"]) == "A dog!, is it red? no"
    assert dialogue_text(["caption only"]) == "caption only"
    for wrong in ("a text", [], ["a", None]):
        with pytest.raises(ValueError, match="a list of at least one string"):
            dialogue_text(wrong)  # type: ignore[arg-type]


def test_dialogues_have_their_own_limit_of_tokens() -> None:
    words = tokenizer()
    text = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = BlipBiEncoderConfig({**text, "intermediate_size": 16, "max_position_embeddings": 256}, vision)
    torch.manual_seed(0)
    processor = DualEncoderProcessor(words, image_size=16, resize="squash", max_text_length=8)
    model = sentence_transformer(BlipBiEncoderModel(config).eval(), processor)
    assert model.max_seq_length == 8
    rounds = [f"is the mug red? {answer}" for answer in ["no"] * 12]
    encoded = words(dialogue_text(rounds), max_length=200, truncation=True, return_tensors="pt")
    assert 8 < encoded["input_ids"].shape[1] <= 200
    with torch.no_grad():
        wanted = model[0].model(encoded["input_ids"], encoded["attention_mask"]).pooler_output
        cut = model[0].model(encoded["input_ids"][:, :20]).pooler_output
    vectors = encode_dialogues(model, [rounds, rounds[:1]], convert_to_tensor=True)
    torch.testing.assert_close(vectors[:1], wanted, atol=1e-5, rtol=0)
    shorter = encode_dialogues(model, [rounds], max_tokens=20, convert_to_tensor=True)
    assert (shorter - wanted).abs().max() > 1e-4 and shorter.shape == cut.shape
