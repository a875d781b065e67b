"""A new image tower: small and untrained, or a neck on a trained backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoImageProcessor, ResNetConfig

from mmembed.models.image_tower.configuration_image_tower import ImageTowerConfig
from mmembed.models.image_tower.modeling_image_tower import ImageTowerModel
from mmembed.models.image_tower.processing_image_tower import ImageTowerProcessor
from mmembed.models.loading import sentence_transformer

_BICUBIC = 3
_CONVNEXT_WHOLE = 384  # from this size on ConvNeXt squashes instead of cropping


def build_image_tower(
    *,
    image_size: int = 96,
    embedding_size: int = 32,
    hidden_sizes: Sequence[int] = (32, 64, 128, 256),
    depths: Sequence[int] = (1, 1, 1, 1),
    resize: str = "squash",
    seed: int = 0,
    **config: Any,
) -> SentenceTransformer:
    """A small image tower with random weights: a ResNet and a neck.

    Args:
        image_size: Height and width of images in pixels.
        embedding_size: Channels after the ResNet's stem.
        hidden_sizes: Channels of its stages.
        depths: Blocks of its stages.
        resize: "squash" or "crop".
        seed: Of the random weights.
        **config: Further settings of `ImageTowerConfig`.

    Returns:
        The untrained model.

    Example:
        >>> from PIL import Image
        >>> model = build_image_tower(image_size=32, embedding_size=8, hidden_sizes=[8], depths=[1], embedding_dim=4)
        >>> model.encode([Image.new("RGB", (40, 30))]).shape
        (1, 4)
    """
    backbone = ResNetConfig(
        embedding_size=embedding_size, hidden_sizes=list(hidden_sizes), depths=list(depths), layer_type="basic"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ImageTowerModel(ImageTowerConfig(backbone, image_size=image_size, **{"embedding_dim": 128, **config}))
    return sentence_transformer(model.eval(), ImageTowerProcessor(image_size, resize))


def image_tower_from_backbone(
    backbone: str, *, resize: str | None = None, seed: int = 0, **config: Any
) -> SentenceTransformer:
    """An image tower on a trained backbone; the neck is new.

    Unless they are given, the image's size, scaling and cropping are those of the backbone's image processor.

    Args:
        backbone: Folder or name of a vision model; timm's begin with "timm/" and need timm installed.
        resize: "squash" or "crop".
        seed: Of the new weights.
        **config: Settings of `ImageTowerConfig`.

    Returns:
        The model.

    Example:
        >>> image_tower_from_backbone("microsoft/resnet-18", pooling="gem", embedding_dim=256)  # doctest: +SKIP
    """
    images = AutoImageProcessor.from_pretrained(backbone, use_fast=False)
    found, own = _settings_of(images)
    settings = {**own, **config}
    size, edge = settings["image_size"], found["shortest_edge"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ImageTowerModel.from_backbone(backbone, **settings)
    processor = ImageTowerProcessor(
        size,
        resize or found["resize"],
        shortest_edge=max(size, edge * size // own["image_size"]) if edge is not None else None,
        resample=found["resample"],
    )
    return sentence_transformer(model, processor)


def _settings_of(images: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """How a backbone's image processor scales, and the size, mean and deviation of what comes out."""
    if hasattr(images, "data_config"):  # timm's: (3, height, width), the share of the scaled image that is kept
        timm = images.data_config
        size = min(timm["input_size"][1:])
        edge = int(size / timm.get("crop_pct", 1.0))
        filters = {"nearest": 0, "bilinear": 2, "bicubic": 3}
        scaling = {"resize": "crop", "resample": filters.get(timm.get("interpolation"), _BICUBIC)}
        own = {"image_size": size, "image_mean": list(timm["mean"]), "image_std": list(timm["std"])}
        return {**scaling, "shortest_edge": edge}, own
    size, crop = dict(images.size), bool(getattr(images, "do_center_crop", False))
    edge = size.get("shortest_edge")
    if getattr(images, "crop_pct", None) and edge is not None and edge < _CONVNEXT_WHOLE:
        crop, side, edge = True, edge, int(edge / images.crop_pct)
    elif crop:
        square = dict(images.crop_size)
        side = min(square["height"], square["width"])
    else:
        side = edge or min(size["height"], size["width"])
        edge = None
    scaling = {"resize": "crop" if crop else "squash", "resample": int(images.resample), "shortest_edge": edge}
    return scaling, {"image_size": side, "image_mean": list(images.image_mean), "image_std": list(images.image_std)}
