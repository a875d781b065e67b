"""Tiny random models of each family, built in code."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from mmembed.models.dual_encoder.building import train_tokenizer

WORDS = ["a red mug", "blue desk lamp", "green wool hat", "红色杯子", "the quick brown fox jumps over a lazy dog"]
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
BERT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}

TWO_TOWERS = ["clip", "siglip", "chinese_clip", "altclip", "metaclip_2", "blip", "vision_text_dual_encoder"]


def tokenizer(max_length: int = 32) -> Any:
    return train_tokenizer(WORDS, vocab_size=120, max_length=max_length)


def image(seed: int, size: tuple[int, int] = (23, 31)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def rows() -> list[dict[str, Any]]:
    """Text, image, both, in an order that mixes them."""
    return [
        {"text": "a red mug"},
        {"image": image(1)},
        {"text": "blue lamp", "image": image(2)},
        {"text": "the quick brown fox jumps"},
        {"image": image(3, (40, 20))},
        {"text": "红色", "image": image(4)},
    ]


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights, so that a tiny model tells its inputs apart."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter)
            elif parameter.ndim >= 2:
                parameter.mul_(4)
    return model


def build(family: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    torch.manual_seed(7)
    words = tokenizer()
    ids = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    size = {"height": 16, "width": 16}
    crop = {"size": {"shortest_edge": 16}, "crop_size": size}
    if family in ("clip", "metaclip_2"):
        name = "CLIP" if family == "clip" else "MetaClip2"
        config = getattr(transformers, f"{name}Config")(
            text_config={**BERT, **ids, "projection_dim": 12}, vision_config=VISION, projection_dim=12
        )
        images = transformers.CLIPImageProcessorPil(**crop)
        return getattr(transformers, f"{name}Model")(config), transformers.CLIPProcessor(images, words)
    if family == "siglip":
        text = {**BERT, **ids, "projection_size": 16}
        config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
        images = transformers.SiglipImageProcessorPil(size=size)
        words.model_max_length = 10**30  # as in the tokenizers of SigLIP 2
        return transformers.SiglipModel(config), transformers.SiglipProcessor(images, words)
    if family == "chinese_clip":
        config = transformers.ChineseCLIPConfig(text_config={**BERT, **ids}, vision_config=VISION, projection_dim=12)
        images = transformers.ChineseCLIPImageProcessorPil(size=size, crop_size=size)
        return transformers.ChineseCLIPModel(config), transformers.ChineseCLIPProcessor(images, words)
    if family == "altclip":
        text = {**BERT, **ids, "project_dim": 16, "pooler_fn": "cls"}
        config = transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
        images = transformers.CLIPImageProcessorPil(**crop)
        return transformers.AltCLIPModel(config), transformers.AltCLIPProcessor(images, words)
    if family == "blip":
        text = {**BERT, **ids, "sep_token_id": 3, "encoder_hidden_size": 16, "projection_dim": 12}
        # BLIP's own range is 1e-10, with which all images have one vector
        vision = {**VISION, "initializer_range": 0.02}
        config = transformers.BlipConfig(
            text_config=text, vision_config=vision, projection_dim=12, image_text_hidden_size=12
        )
        images = transformers.BlipImageProcessorPil(size=size)
        return transformers.BlipModel(config), transformers.BlipProcessor(images, words)
    if family == "vision_text_dual_encoder":
        config = transformers.VisionTextDualEncoderConfig(
            vision_config=transformers.ViTConfig(**VISION).to_dict(),
            text_config=transformers.BertConfig(**BERT, **ids).to_dict(),
            projection_dim=12,
        )
        images = transformers.ViTImageProcessorPil(size=size)
        processor = transformers.VisionTextDualEncoderProcessor(images, words)
        return transformers.VisionTextDualEncoderModel(config), processor
    raise ValueError(family)


def build_vlm() -> tuple[PreTrainedModel, ProcessorMixin]:
    torch.manual_seed(7)
    words = tokenizer(64)
    words.add_special_tokens({"additional_special_tokens": ["<image>", "<|end|>"]})
    text = {
        "model_type": "llama",
        "vocab_size": len(words),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    template = (
        "{% for m in messages %}{{ m['role'] }} {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    )
    size = {"height": 16, "width": 16}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return transformers.LlavaForConditionalGeneration(config), processor
