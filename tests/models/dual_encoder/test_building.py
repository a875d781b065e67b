"""The small new dual encoder, its vocabulary, and two trained towers put together."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, MobileNetV2Config

from mmembed.models.dual_encoder.building import build_dual_encoder, dual_encoder_from_towers, train_tokenizer
from mmembed.models.loading import load_model

from ..tiny_models import BERT, WORDS, image, rows, tokenizer

SMALL = {
    "image_size": 32,
    "text_hidden_size": 16,
    "text_layers": 1,
    "text_heads": 2,
    "image_embedding_size": 8,
    "image_hidden_sizes": [8, 16],
    "image_depths": [1, 1],
    "projection_dim": 8,
}


def test_the_same_texts_give_the_same_model() -> None:
    first, second, other = (build_dual_encoder(WORDS, **SMALL, seed=seed) for seed in (5, 5, 6))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not np.allclose(first.encode(rows()), other.encode(rows()))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    build_dual_encoder(WORDS, **SMALL)
    assert torch.equal(torch.rand(1), expected)  # the caller's generator is left alone


def test_every_size_is_an_argument() -> None:
    model = build_dual_encoder(
        WORDS, **{**SMALL, "projection_dim": 12}, vocab_size=60, max_text_length=9, text_intermediate_size=20,
        fusion="concat", image_levels=[0], resize="crop", text_dropout=0.3,
    )  # fmt: skip
    config = model.config
    assert (len(model.tokenizer), model.max_seq_length, model.get_embedding_dimension()) == (60, 9, 24)
    assert (config.text_config.intermediate_size, config.text_config.hidden_dropout_prob) == (20, 0.3)
    assert (config.image_width, model.processor.resize, model.processor.image_size) == (24, "crop", 32)
    assert model.preprocess(["a red mug " * 9])["input_ids"].shape == (1, 9)


def test_the_vocabulary_is_learnt_lower_cased_and_splits_chinese() -> None:
    words = train_tokenizer([*WORDS, None, " "], vocab_size=200, max_length=16)
    assert words.tokenize("A Red MUG") == ["▁a", "▁red", "▁mug"]
    assert words.tokenize("红色杯子") == ["▁红", "▁色", "▁杯", "▁子"]
    assert words.decode(words("a red mug, a lamp")["input_ids"], skip_special_tokens=True).startswith("a red mug")
    assert set(words("зонт")["input_ids"][2:-1]) == {words.unk_token_id}
    assert words("red")["input_ids"][0] == words.cls_token_id and words("red")["input_ids"][-1] == words.sep_token_id
    assert sorted(words.get_vocab().values()) == list(range(len(words)))
    again = train_tokenizer(list(WORDS), vocab_size=200, max_length=16)
    assert again.get_vocab() == words.get_vocab()
    with pytest.raises(ValueError, match="there is none"):
        train_tokenizer([" "], vocab_size=10, max_length=4)


def test_a_built_model_survives_its_folder_in_plain_sentence_transformers(tmp_path) -> None:
    model = build_dual_encoder(WORDS, **SMALL, fusion="gated")
    expected = model.encode(rows(), prompt="a ")
    model.save_pretrained(str(tmp_path))
    plain = SentenceTransformer(str(tmp_path), device="cpu")  # mmembed.models is imported: no flag is needed
    for loaded in (plain, load_model(tmp_path, device="cpu")):
        assert np.allclose(loaded.encode(rows(), prompt="a "), expected, atol=1e-6)
        assert loaded.get_embedding_dimension() == 8
    plain.save_pretrained(str(tmp_path / "again"))
    assert np.allclose(load_model(tmp_path / "again", device="cpu").encode(rows(), prompt="a "), expected, atol=1e-6)


def test_prompts_go_before_texts() -> None:
    model = build_dual_encoder(WORDS, **SMALL)
    given = model.preprocess([{"text": "mug", "image": image(1)}, {"image": image(1)}], prompt="a red ")
    assert torch.equal(given["input_ids"], model.preprocess([{"text": "a red mug"}, {"image": image(1)}])["input_ids"])


def test_trained_towers_bring_their_own_settings(tmp_path) -> None:
    torch.manual_seed(0)
    words = tokenizer()
    text = SentenceTransformer(
        modules=[_text_module(tmp_path, words), _cls_pooling()], device="cpu"
    )  # fmt: skip
    text.max_seq_length = 11
    text.save_pretrained(str(tmp_path / "text"))
    # as older versions of sentence-transformers wrote it
    saved = json.loads((tmp_path / "text" / "sentence_bert_config.json").read_text())
    (tmp_path / "text" / "sentence_bert_config.json").write_text(json.dumps({**saved, "max_seq_length": 11}))
    vision = transformers.MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.1, finegrained_output=False))
    vision.save_pretrained(tmp_path / "vision")
    transformers.MobileNetV2ImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], resample=2
    ).save_pretrained(tmp_path / "vision")
    model = dual_encoder_from_towers(
        str(tmp_path / "text"), str(tmp_path / "vision"), projection_dim=8, frozen_image_layers=-1
    )
    config, processor = model.config, model.processor
    assert (config.text_pooling, config.max_text_length, model.max_seq_length) == ("cls", 11, 11)
    assert (config.image_size, config.image_mean, config.image_std) == (32, [0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    assert (processor.resize, processor.shortest_edge, processor.resample) == ("crop", 40, 2)
    own = transformers.MobileNetV2ImageProcessorPil.from_pretrained(tmp_path / "vision")
    stock = own([image(1, (50, 90))], return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values"]
    ours = model.preprocess([image(1, (50, 90))])["pixel_values"]
    assert (stock.float() - ours.float()).abs().float().mean() < 1.0
    assert model.encode(rows()).shape == (6, 8)
    half = dual_encoder_from_towers(str(tmp_path / "text"), str(tmp_path / "vision"), image_size=16, max_text_length=7)
    assert (half.processor.image_size, half.processor.shortest_edge, half.max_seq_length) == (16, 20, 7)


def _text_module(folder, words):
    from sentence_transformers.base.modules import Transformer

    BertModel(BertConfig(**BERT, vocab_size=len(words))).save_pretrained(folder / "bert")
    words.save_pretrained(folder / "bert")
    return Transformer(str(folder / "bert"))


def _cls_pooling():
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(16, pooling_mode="cls")
