"""An image tower: any vision backbone, pooled, and a neck that makes an L2-normalised vector of it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_image_tower import ImageTowerConfig


class GeneralizedMean(nn.Module):
    """(rows, positions, width) → (rows, width): the mean of x**p, to the power 1/p, with p learnt
    (Radenović et al. 2018, https://arxiv.org/abs/1711.02512); p = 1 is the mean, large p the maximum."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.full((1,), float(exponent)))

    def forward(self, positions: Tensor) -> Tensor:
        exponent = self.exponent.float()
        values = positions.float().clamp(min=1e-6)
        return values.pow(exponent).mean(dim=1).pow(1 / exponent).to(positions.dtype)


class Neck(nn.Module):
    """(rows, feature_width) → (rows, projection_dim): dropout, a linear layer, batch normalisation; each may be absent."""

    def __init__(self, width: int, dim: int | None, dropout: float, norm: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, dim) if dim is not None else None
        self.norm = nn.BatchNorm1d(dim if dim is not None else width) if norm else None

    def forward(self, features: Tensor) -> Tensor:
        features = self.dropout(features)
        if self.linear is not None:
            features = self.linear(features)
        return self.norm(features) if self.norm is not None else features


class ImageTowerModel(PreTrainedModel):
    """Images as vectors.

    `pixel_values` of dtype uint8 are pixels and are normalised here, on the model's device; floating point ones are
    normalised already. The order is backbone, pooling, neck, L2 normalisation.

    Args:
        config: The settings.

    Raises:
        ValueError: If the backbone is no vision model, or cannot be pooled that way.

    Example:
        >>> from transformers import ResNetConfig
        >>> vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        >>> model = ImageTowerModel(ImageTowerConfig(vision, embedding_dim=4, image_size=32)).eval()
        >>> model(pixel_values=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).pooler_output.shape
        torch.Size([2, 4])
    """

    config_class = ImageTowerConfig
    base_model_prefix = "image_tower"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__(config)
        if config.backbone_config is None:
            raise ValueError("an image tower needs backbone_config.")
        self.backbone = _backbone(config.backbone_config, with_pooler=config.pooling == "pooler")
        if self.backbone.main_input_name != "pixel_values":
            raise ValueError(
                f"{type(self.backbone).__name__} reads {self.backbone.main_input_name}; an image tower takes a vision model "
                "alone, such as the vision tower of a CLIP (CLIPVisionModel)."
            )
        # A backbone without it would have to be recomputed as a whole, and its batch statistics counted twice.
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        self.gem = GeneralizedMean(config.gem_exponent) if config.pooling == "gem" else None
        if config.feature_width is None:
            config.feature_width = self._trial_width()
        self.neck = Neck(config.feature_width, config.embedding_dim, config.dropout, config.neck_norm)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # All at once: for classes outside its package, transformers skips modules without parameters of their own.
        if not isinstance(module, ImageTowerModel):
            return
        if module.neck.linear is not None:
            init.xavier_normal_(module.neck.linear.weight)
            init.zeros_(module.neck.linear.bias)
        if module.gem is not None:
            init.constant_(module.gem.exponent, float(module.config.gem_exponent))

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:
        self.backbone._set_gradient_checkpointing(enable, *args, **kwargs)  # timm's models have their own way

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Vectors of images.

        Args:
            pixel_values: uint8 (images, 3, height, width), or floating point and already normalised.

        Returns:
            `pooler_output` (images, projection_dim), L2-normalised; `last_hidden_state`, what the backbone gave,
            (images, channels, height', width') or (images, positions, width).
        """
        pixel_values = pixel_values.to(self.device, non_blocking=True)
        if pixel_values.dtype == torch.uint8:
            pixel_values = self._normalized(pixel_values)
        else:
            _refuse_unscaled(pixel_values)
        hidden, pooled = self._pooled(pixel_values.to(self.dtype))
        vectors = F.normalize(self.neck(pooled), dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=vectors)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        num_images_per_sample: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows, each of which is one image.

        Args:
            pixel_values: uint8 (rows, 3, height, width), or floating point and already normalised.
            num_images_per_sample: int64 (rows,), all 1; for the callers that pass it.
            input_ids: Not read; refused where `attention_mask` says that a row has a text.
            attention_mask: int64 (rows, length), all zero.
            return_dict: Taken for the callers that pass it; the output is always a `ModelOutput`.

        Returns:
            What `get_image_features` returns.

        Raises:
            ValueError: If a row has a text, no image, or several.
        """
        has_text = attention_mask is not None and bool(attention_mask.any())
        if has_text or (input_ids is not None and attention_mask is None):
            raise ValueError("an image tower reads images; leave the texts out, or use a model that reads both.")
        if pixel_values is None:
            raise ValueError("pass pixel_values; an image tower reads nothing else.")
        if num_images_per_sample is not None:
            wrong = (num_images_per_sample != 1).nonzero().flatten().tolist()
            if wrong or len(num_images_per_sample) != len(pixel_values):
                raise ValueError(
                    f"{len(pixel_values)} images for {len(num_images_per_sample)} rows, rows {wrong[:10]} without exactly "
                    "one; each row of an image tower is one image."
                )
        return self.get_image_features(pixel_values)

    def _normalized(self, pixel_values: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.config.image_mean, device=pixel_values.device).view(shape)
        std = torch.tensor(self.config.image_std, device=pixel_values.device).view(shape)
        return (pixel_values.to(torch.float32) / 255 - mean) / std

    def _pooled(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Floating point pixels → (what the backbone gave, (images, feature_width))."""
        # Convolutions on the CPU run about twice as fast on this layout.
        output = self.backbone(pixel_values=pixels.contiguous(memory_format=torch.channels_last))
        last, pooling, name = output.last_hidden_state, self.config.pooling, type(self.backbone).__name__
        if pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise ValueError(f"pooling='pooler': {name} has no pooler; choose avg or gem.")
            return last, output.pooler_output.flatten(1)
        if pooling == "cls":
            if last.ndim != 3:
                raise ValueError(f"pooling='cls': {name} has no first token; choose avg or gem.")
            return last, last[:, 0]
        positions = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last  # (images, positions, width)
        return last, self.gem(positions) if self.gem is not None else positions.mean(dim=1)

    @torch.no_grad()
    def _trial_width(self) -> int:
        training = self.training
        self.eval()
        size = self.config.image_size
        width = self._pooled(torch.zeros(1, 3, size, size, device=self.device, dtype=self.dtype))[1].shape[-1]
        self.train(training)
        return width

    @classmethod
    def from_backbone(cls, backbone: str | PreTrainedModel, **config: Any) -> ImageTowerModel:
        """Put a neck on a trained backbone; the neck is new.

        Args:
            backbone: A vision model, or its folder or name; safetensors, loaded as float32. A timm model's name starts
                with "timm/".
            **config: Settings of `ImageTowerConfig`.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: If the weights do not fit.
        """
        if not isinstance(backbone, PreTrainedModel):
            backbone = AutoModel.from_pretrained(backbone, dtype=torch.float32, use_safetensors=True)
        model = cls(ImageTowerConfig(backbone.config, **config))
        result = model.backbone.load_state_dict(backbone.state_dict(), strict=False)
        unused = [key for key in result.unexpected_keys if not key.startswith("pooler.")]
        if result.missing_keys or unused:
            raise ValueError(
                f"the weights of {type(backbone).__name__} do not fit {type(model.backbone).__name__}: missing "
                f"{result.missing_keys[:3]}, unused {unused[:3]}."
            )
        return model.eval()


def _backbone(config: PretrainedConfig, *, with_pooler: bool) -> PreTrainedModel:
    """A learnt pooler that nothing reads would be weights that never learn."""
    kind = MODEL_MAPPING.get(type(config), None)
    kinds = kind if isinstance(kind, (list, tuple)) else [kind]
    learnt = all(k is not None and "add_pooling_layer" in inspect.signature(k.__init__).parameters for k in kinds)
    given = {"add_pooling_layer": False} if learnt and not with_pooler else {}
    return AutoModel.from_config(config, dtype=torch.get_default_dtype(), **given)


def _refuse_unscaled(pixels: Tensor) -> None:
    """Raise where floating point pixels lie in 0..255: training saw normalised ones, a few units around 0."""
    if torch.compiler.is_compiling() or not pixels.numel():
        return  # an exported graph takes what it is given
    largest = float(pixels.detach().abs().amax())
    if largest > 20:
        raise ValueError(
            f"floating point pixel_values of up to {largest:.6g} were never scaled; pass uint8 pixels, or normalised ones."
        )
