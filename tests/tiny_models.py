"""Tiny random models made in code, as the tests of every room use them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from mmembed.models.dual_encoder.building import build_dual_encoder, train_tokenizer
from mmembed.models.loading import load_model

WORDS = [f"word{i} colour{i % 5} red blue shirt mug" for i in range(60)]


def tiny_dual_encoder(**config) -> SentenceTransformer:
    """A dual encoder of some thousand parameters over texts of `WORDS` and 32-pixel images."""
    sizes = {
        "text_hidden_size": 16,
        "text_layers": 1,
        "text_heads": 2,
        "image_hidden_sizes": (8, 16),
        "image_depths": (1, 1),
    }
    return build_dual_encoder(
        WORDS, **{"projection_dim": 8, "image_size": 32, "image_embedding_size": 8, **sizes, **config}
    )


def tiny_clip(folder: str | None = None) -> SentenceTransformer:
    """A stock CLIP, saved as transformers saves it and loaded."""
    tokenizer = train_tokenizer(WORDS, vocab_size=200, max_length=16)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text.update(eos_token_id=tokenizer.sep_token_id, bos_token_id=tokenizer.cls_token_id, pad_token_id=0)
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=8)
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        model.save_pretrained(place)
        CLIPProcessor(images, tokenizer).save_pretrained(place)
        return load_model(place, device="cpu")


def tiny_bert() -> SentenceTransformer:
    """A stock BERT with the pooler that it is published with, whose tokens are averaged."""
    tokenizer = train_tokenizer(WORDS, vocab_size=200, max_length=16)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = BertModel(BertConfig(**small, vocab_size=len(tokenizer), max_position_embeddings=16))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return load_model(folder, device="cpu")
