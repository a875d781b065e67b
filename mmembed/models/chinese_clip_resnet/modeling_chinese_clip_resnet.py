"""Chinese-CLIP with a ResNet: texts through a BERT, images through OpenAI's modified ResNet, into one space."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_chinese_clip_resnet import ChineseCLIPResNetConfig


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution; strides are average pools, so that no pixel is skipped.

    (images, channels, height, width) → (images, 4 width, height / stride, width / stride)
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut = None
        if stride > 1 or channels != 4 * width:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            conv, norm = nn.Conv2d(channels, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            self.shortcut = nn.Sequential(OrderedDict(pool=pool, conv=conv, norm=norm))

    def forward(self, hidden: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(hidden)))
        inner = self.pool(F.relu(self.bn2(self.conv2(inner))))
        inner = self.bn3(self.conv3(inner))
        return F.relu(inner + (hidden if self.shortcut is None else self.shortcut(hidden)))


class AttentionPool(nn.Module):
    """Attention of the mean position to itself and all others: (images, width, height, width') → (images, dim)."""

    def __init__(self, positions: int, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(positions + 1, width))
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.c_proj = nn.Linear(width, width), nn.Linear(width, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        positions = hidden.flatten(2).transpose(1, 2)  # (images, positions, width)
        positions = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1)
        positions = positions + self.positional_embedding.to(positions.dtype)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (images, heads, positions, width / heads)
            for part in (self.q_proj(positions[:, :1]), self.k_proj(positions), self.v_proj(positions))
        )
        pooled = F.scaled_dot_product_attention(query, key, value)
        return self.c_proj(pooled.transpose(1, 2).flatten(1))


class ModifiedResNet(nn.Module):
    """OpenAI's ResNet (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4): three convolutions in the
    stem, pools instead of strides, attention pooling at the end."""

    def __init__(self, config: ChineseCLIPResNetConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for number, blocks in enumerate(config.vision_layers):
            inner = width * 2**number
            first = Bottleneck(channels, inner, stride=1 if number == 0 else 2)
            channels = 4 * inner
            others = [Bottleneck(channels, inner, stride=1) for _ in range(1, blocks)]
            self.add_module(f"layer{number + 1}", nn.Sequential(first, *others))
        positions = (config.image_size // 32) ** 2
        self.attnpool = AttentionPool(positions, channels, config.vision_heads, config.projection_dim)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(images, 3, size, size) → the map of the last stage (images, 32 width, size / 32, size / 32), and the vectors."""
        hidden = F.relu(self.bn1(self.conv1(pixel_values)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        hidden = F.avg_pool2d(F.relu(self.bn3(self.conv3(hidden))), 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden = stage(hidden)
        return hidden, self.attnpool(hidden)


class ChineseCLIPResNetModel(PreTrainedModel):
    """Texts and images as vectors of one space, not normalised, as cn_clip's `encode_text` and `encode_image` give them.

    `pixel_values` of dtype uint8 are pixels and are normalised here; floating point ones are normalised already.
    Gradient checkpointing covers the BERT alone: batch norm would count a batch twice.

    Args:
        config: The settings.

    Example:
        >>> from transformers import BertConfig
        >>> text = BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> config = ChineseCLIPResNetConfig(text, 8, vision_width=4, vision_layers=[1, 1, 1, 1], vision_heads=2, image_size=64)
        >>> model = ChineseCLIPResNetModel(config).eval()
        >>> model(pixel_values=torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).pooler_output.shape
        torch.Size([2, 8])
    """

    config_class = ChineseCLIPResNetConfig
    base_model_prefix = "chinese_clip_resnet"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ChineseCLIPResNetConfig) -> None:
        super().__init__(config)
        self.text_model = AutoModel.from_config(
            config.text_config, dtype=torch.get_default_dtype(), add_pooling_layer=False
        )
        self.vision_model = ModifiedResNet(config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        # One element rather than none: DeepSpeed fails on parameters without a dimension.
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init_value)))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # All at once: for classes outside its package, transformers skips modules without parameters of their own.
        if not isinstance(module, ChineseCLIPResNetModel):
            return
        for inner in module.vision_model.modules():
            if isinstance(inner, nn.Conv2d):
                init.kaiming_normal_(inner.weight)
        pool = module.vision_model.attnpool
        width = pool.q_proj.in_features
        for tensor in (pool.positional_embedding, *(getattr(pool, f"{name}_proj").weight for name in "qkvc")):
            init.normal_(tensor, std=width**-0.5)
        init.normal_(module.text_projection.weight, std=module.text_projection.in_features**-0.5)
        init.constant_(module.logit_scale, float(module.config.logit_scale_init_value))

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Vectors of texts, from the hidden state of [CLS].

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length), 1 where a token stands; all ones when None.
            token_type_ids: int64 (rows, length).

        Returns:
            `pooler_output` (rows, projection_dim), `last_hidden_state` (rows, length, hidden).
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.text_model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.text_projection(hidden[:, 0]))

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Vectors of images.

        Args:
            pixel_values: uint8 (images, 3, size, size), or floating point and normalised.

        Returns:
            `pooler_output` (images, projection_dim), `last_hidden_state` (images, channels, size / 32, size / 32).

        Raises:
            ValueError: If the images are of another size than the model's.
        """
        size = self.config.image_size
        if pixel_values.shape[1:] != (3, size, size):
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)}, expected (images, 3, {size}, {size})."
            )
        hidden, vectors = self.vision_model(self._normalized(pixel_values))
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=vectors)

    def _normalized(self, pixel_values: Tensor) -> Tensor:
        pixels = pixel_values.to(self.device, non_blocking=True)
        if pixels.dtype == torch.uint8:
            shape = (1, -1, 1, 1)
            mean = torch.tensor(self.config.image_mean, device=pixels.device).view(shape)
            std = torch.tensor(self.config.image_std, device=pixels.device).view(shape)
            pixels = (pixels.to(torch.float32) / 255 - mean) / std
        else:
            _refuse_unscaled(pixels)
        # Convolutions on the CPU run about twice as fast on this layout.
        return pixels.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def get_fused_features(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows that have both a text and an image: the mean of the two L2-normalised vectors.

        Args:
            input_ids: int64 (rows, length).
            pixel_values: uint8 (rows, 3, size, size), or floating point and normalised.
            attention_mask: int64 (rows, length).
            token_type_ids: int64 (rows, length).

        Returns:
            `pooler_output` (rows, projection_dim).

        Raises:
            ValueError: If texts and images differ in number.
        """
        if input_ids.shape[0] != pixel_values.shape[0]:
            raise ValueError(f"{len(input_ids)} texts and {len(pixel_values)} images; fused rows have one of each.")
        text = self.get_text_features(input_ids, attention_mask, token_type_ids).pooler_output
        return BaseModelOutputWithPooling(
            pooler_output=_fused(text, self.get_image_features(pixel_values).pooler_output)
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        num_images_per_sample: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows of which some have a text, some an image and some both; what is present decides.

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length); a row without text is all zero.
            token_type_ids: int64 (rows, length).
            pixel_values: uint8 (images, 3, size, size) of the rows that have one, in row order; or normalised ones.
            num_images_per_sample: int64 (rows,), 0 or 1; may be left out when every row has an image.
            return_dict: Taken for the callers that pass it; the output is always a `ModelOutput`.

        Returns:
            `pooler_output` (rows, projection_dim); a row with text and image gets the mean of the two normalised vectors.

        Raises:
            ValueError: If a row has neither text nor image, or the counts do not fit.
        """
        if input_ids is None:
            if pixel_values is None:
                raise ValueError("pass input_ids, pixel_values or both.")
            return self.get_image_features(pixel_values)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        has_text = attention_mask.bool().any(dim=1)  # (rows,)
        has_image = _rows_with_image(has_text, pixel_values, num_images_per_sample)
        missing = (~has_text & ~has_image).nonzero().flatten().tolist()
        if missing:
            raise ValueError(f"rows {missing[:10]} have neither a text nor an image.")
        parts, rows = [], []
        text = image = None
        if bool(has_text.any()):
            token_types = token_type_ids[has_text] if token_type_ids is not None else None
            text = self.get_text_features(input_ids[has_text], attention_mask[has_text], token_types).pooler_output
            parts.append(text[~has_image[has_text]])
            rows.append((has_text & ~has_image).nonzero().flatten())
        if pixel_values is not None and bool(has_image.any()):
            image = self.get_image_features(pixel_values).pooler_output
            parts.append(image[~has_text[has_image]])
            rows.append((has_image & ~has_text).nonzero().flatten())
        both = has_text & has_image
        if text is not None and image is not None and bool(both.any()):
            parts.append(_fused(text[has_image[has_text]], image[has_text[has_image]]))
            rows.append(both.nonzero().flatten())
        return BaseModelOutputWithPooling(pooler_output=torch.cat(parts)[torch.cat(rows).argsort()])


def _fused(text: Tensor, image: Tensor) -> Tensor:
    return (F.normalize(text, dim=-1) + F.normalize(image, dim=-1)) / 2


def _rows_with_image(has_text: Tensor, pixel_values: Tensor | None, counts: Any) -> Tensor:
    if pixel_values is None:
        return torch.zeros_like(has_text)
    if counts is None:
        counts = torch.ones(len(has_text), dtype=torch.int64)
    if int(counts.max()) > 1:
        raise ValueError("a row has more than one image; this model takes one image a row.")
    if len(counts) != len(has_text) or int(counts.sum()) != len(pixel_values):
        raise ValueError(
            f"{len(pixel_values)} images for {int(counts.sum())} of {len(has_text)} rows; pass "
            "num_images_per_sample with one 0 or 1 a row."
        )
    return counts.to(has_text.device).bool()


def _refuse_unscaled(pixels: Tensor) -> None:
    """Raise where floating point pixels lie in 0..255: training saw normalised ones, a few units around 0."""
    if torch.compiler.is_compiling() or not pixels.numel():
        return  # an exported graph takes what it is given
    largest = float(pixels.detach().abs().amax())
    if largest > 20:
        raise ValueError(
            f"floating point pixel_values of up to {largest:.6g} were never scaled; pass uint8 pixels, or normalised ones."
        )
