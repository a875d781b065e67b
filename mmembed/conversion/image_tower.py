"""A Shopee kernel's image tower (timm backbone, pooling, fc, bn, ArcFace head) → an `ImageTowerModel` over timm's model.

The public kernels replace `head.fc` and `head.global_pool` of a timm model by nothing, pool, and train an ArcFace head on
the products. The head is no part of the tower; it is kept beside it, in the subfolder `head`, to go on training.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TimmWrapperConfig
from transformers.utils import is_timm_available

from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError
from mmembed.conversion.converting import Conversion
from mmembed.conversion.key_table import Mapped, Rule, load_exactly, map_keys
from mmembed.models.image_tower.configuration_image_tower import ImageTowerConfig
from mmembed.models.image_tower.modeling_image_tower import ImageTowerModel
from mmembed.models.image_tower.processing_image_tower import ImageTowerProcessor

HEAD = "head"
_PARTS = ("backbone.", "pooling.", "fc.", "bn.", "final.")
_IMAGE_SIZE = 512  # of most public kernels
_BILINEAR = 2

RULES = [
    Rule(r"backbone\.(head\.fc|classifier)\.(weight|bias)", reason="ImageNet's classes, which the tower does not read"),
    Rule(r"backbone\.(.+)", r"backbone.timm_model.\1"),
    Rule(r"pooling\.p", "gem.exponent", lambda exponent: exponent.reshape(1)),
    Rule(r"fc\.(weight|bias)", r"neck.linear.\1"),
    Rule(r"bn\.(weight|bias|running_mean|running_var|num_batches_tracked)", r"neck.norm.\1"),
    Rule(r"final\.weight", f"{HEAD}/weight"),
]


@dataclass
class ArcFaceHead:
    """The class centres of a checkpoint's ArcFace head, and what its configuration says of the head.

    Args:
        weight: (classes, dim), for `ArcFaceLoss.weight`.
        settings: Scale, margin and the like, as the original names them.
    """

    weight: torch.Tensor
    settings: dict[str, Any] = field(default_factory=dict)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `arcface_head.safetensors`, the settings in its metadata.

        Args:
            folder: Made where it is not there.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        metadata = {"settings": json.dumps(self.settings)}
        weight = self.weight.float().contiguous().clone()
        save_file({"weight": weight}, Path(folder) / "arcface_head.safetensors", metadata)


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has a backbone, and beside it nothing but the kernels' pooling, neck and head."""
    names = checkpoint.tensors
    return all(name.startswith(_PARTS) for name in names) and any(name.startswith("backbone.") for name in names)


def convert(
    checkpoint: Checkpoint, config: Mapping[str, Any] | None, tokenizer: str | os.PathLike[str] | None
) -> Conversion:
    """The tower, and its head beside it.

    Args:
        checkpoint: Flat, or in the usual wrappers.
        config: None for timm's eca_nfnet_l0 … l3 and dm_nfnet_f0 … f6. Read of it: `timm_model`, the name in timm;
            `timm_tiny_kwargs` or `model_args`, further arguments of `timm.create_model`; `image_size`; `dropout`; and for
            the head `scale`, `margin`, `easy_margin`, `ls_eps`, `n_classes`.
        tokenizer: None: an image tower reads no text.

    Returns:
        The conversion; `beside["head"]` is the head where the checkpoint has one.

    Raises:
        ConversionError: If timm is not installed, it has no such model, or the keys do not fit.
    """
    if tokenizer is not None:
        raise ConversionError(f"tokenizer={os.fspath(tokenizer)!r}: an image tower reads no text; leave it out.")
    given, tensors = dict(config or {}), checkpoint.tensors
    mapped = map_keys(tensors, RULES, family="image_tower")
    name = given.get("timm_model") or _timm_name(tensors)
    arguments = given.get("timm_tiny_kwargs") or given.get("model_args")
    notes = []
    if "image_size" not in given:
        notes.append(
            f"The checkpoint does not tell the size of its images; {_IMAGE_SIZE} pixels as in most public kernels, other: "
            'config {"image_size": …}.'
        )
    size = int(given.get("image_size", _IMAGE_SIZE))
    fc = tensors.get("fc.weight")
    model = _built(
        ImageTowerConfig(
            TimmWrapperConfig(architecture=name, model_args=arguments, do_pooling=False),
            pooling="gem" if "pooling.p" in tensors else "avg",
            embedding_dim=len(fc) if fc is not None else None,
            dropout=float(given.get("dropout", 0.0)),
            neck_norm="bn.weight" in tensors,
            image_size=size,
        )
    )
    load_exactly(model, _of_tower(mapped), family="image_tower")
    # The kernels read with OpenCV: bilinear without antialiasing, and no crop.
    processor = ImageTowerProcessor(image_size=size, resize="squash", resample=_BILINEAR, antialias=False)
    conversion = Conversion(model.eval(), mapped, processor, notes=notes)
    weight = mapped.tensors.get(f"{HEAD}/weight")
    if weight is not None:
        width = model.config.projection_dim
        if weight.ndim != 2 or weight.shape[1] != width:
            raise ConversionError(
                f"image_tower: final.weight has the shape {tuple(weight.shape)}, and the tower's vectors have {width} "
                "dimensions. Is the configuration the checkpoint's own? Nothing was written."
            )
        names = ("scale", "margin", "easy_margin", "ls_eps", "n_classes")
        head: Any = (ArcFaceHead(weight, {n: given[n] for n in names if n in given}),)
        conversion.beside[HEAD] = head
        notes.append(
            f"{HEAD}/arcface_head.safetensors holds the {len(weight)} class centres, for ArcFaceLoss.weight; the tower's "
            "vectors need none of it."
        )
    return conversion


def _of_tower(mapped: Mapped) -> Mapped:
    """Without the head, for which the model has no place."""
    kept = {name: tensor for name, tensor in mapped.tensors.items() if not name.startswith(f"{HEAD}/")}
    return Mapped(kept, mapped.renamed, mapped.dropped, mapped.rules)


def _timm_name(tensors: Mapping[str, torch.Tensor]) -> str:
    """The published model whose keys these are: what a block has tells the family, how many there are its size."""
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"backbone\.stages\.0\.(\d+)\.", name))}
    first = {name.removeprefix("backbone.stages.0.0.") for name in tensors if name.startswith("backbone.stages.0.0.")}
    size = len(blocks) - 1
    if "attn_last.conv.weight" in first and "skipinit_gain" not in first and 0 <= size <= 3:
        return f"eca_nfnet_l{size}"
    if {"attn_last.fc1.weight", "skipinit_gain"} <= first and 0 <= size <= 6:
        return f"dm_nfnet_f{size}"
    raise ConversionError(
        'image_tower: the keys do not tell which of timm\'s models this is; give its name, config {"timm_model": '
        '"eca_nfnet_l0"}.'
    )


def _built(config: ImageTowerConfig) -> ImageTowerModel:
    what = f"an image tower of timm's {config.backbone_config.architecture}"
    if not is_timm_available():
        raise ConversionError(f"{what} needs timm, which is not installed: pip install 'mmembed[timm]'.")
    try:
        return ImageTowerModel(config)
    except ImportError as error:  # timm without its torchvision, or too old for the model
        raise ConversionError(f"{what} cannot be built: {error}") from error
    except TypeError as error:
        raise ConversionError(f"{what} takes other arguments: {error}") from error
