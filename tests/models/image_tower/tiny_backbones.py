"""Tiny random vision backbones of each kind that an image tower can stand on."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPVisionConfig,
    ConvNextConfig,
    Dinov2Config,
    MobileNetV2Config,
    PretrainedConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

LAYERS: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
# name → (configuration, width, the poolings it can have)
BACKBONES: dict[str, tuple[PretrainedConfig, int, list[str]]] = {
    "resnet": (
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        16,
        ["avg", "gem", "pooler"],
    ),
    "mobilenet_v2": (MobileNetV2Config(depth_multiplier=0.1, min_depth=4), 1280, ["avg", "gem"]),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]), 16, ["pooler"]),
    "vit": (ViTConfig(**LAYERS, intermediate_size=16, patch_size=8), 16, ["avg", "gem", "cls", "pooler"]),
    "dinov2": (Dinov2Config(**LAYERS, patch_size=8), 16, ["cls", "avg"]),
    "clip": (CLIPVisionConfig(**LAYERS, intermediate_size=16, patch_size=8), 16, ["pooler", "cls"]),
    "swin": (
        SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4),
        16,
        ["avg"],
    ),
}
CASES = [(name, pooling) for name, (_, _, poolings) in BACKBONES.items() for pooling in poolings]
