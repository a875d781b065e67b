"""A BLIP bi-encoder: the towers and projections by which BLIP contrasts images with texts, as one model of vectors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BlipTextModel, BlipVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_blip_bi_encoder import BlipBiEncoderConfig


class BlipBiEncoderModel(PreTrainedModel):
    """Texts and images as vectors of one space: the first position of each tower, projected and L2-normalised.

    These are the vectors of BLIP's image-text contrast (ITC). transformers' `BlipModel` has projections without biases and
    cannot hold them; `BlipForImageTextRetrieval` can, and returns similarities of pairs only.

    `pixel_values` of dtype uint8 are pixels and are normalised here; floating point ones are normalised already. Images of
    another size than `config.image_size` are read with position embeddings resized to them.

    Args:
        config: The settings.

    Example:
        >>> text = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
        >>> vision = {"hidden_size": 24, "num_hidden_layers": 1, "intermediate_size": 16, "image_size": 32}
        >>> model = BlipBiEncoderModel(BlipBiEncoderConfig(text, vision, projection_dim=8)).eval()
        >>> model(pixel_values=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).pooler_output.shape
        torch.Size([2, 8])
    """

    config_class = BlipBiEncoderConfig
    base_model_prefix = "blip_bi_encoder"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True

    def __init__(self, config: BlipBiEncoderConfig) -> None:
        super().__init__(config)
        self.text_model = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim)
        # One element rather than none: DeepSpeed fails on parameters without a dimension.
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init_value)))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BlipBiEncoderModel):
            init.constant_(module.logit_scale, float(module.config.logit_scale_init_value))

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Vectors of texts.

        Args:
            input_ids: int64 (rows, length), [CLS] first. Training for matching puts [ENC] there; contrast does not.
            attention_mask: int64 (rows, length), 1 where a token stands; all ones when None.
            token_type_ids: Not read: BLIP has no segments.

        Returns:
            `pooler_output` (rows, projection_dim), L2-normalised; `last_hidden_state` (rows, length, width).

        Raises:
            ValueError: If a text is longer than the text tower has positions.
        """
        limit = self.config.text_config.max_position_embeddings
        if input_ids.shape[1] > limit:
            raise ValueError(
                f"{input_ids.shape[1]} tokens, and the text tower has {limit} positions; truncate the texts."
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        embedded = self._embedded(input_ids)
        hidden = self.text_model(encoder_embeds=embedded, attention_mask=attention_mask).last_hidden_state
        vectors = F.normalize(self.text_projection(hidden[:, 0]), dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=vectors)

    def _embedded(self, input_ids: Tensor) -> Tensor:
        """What the text tower's own embeddings give, (rows, length, width).

        They add the positions in place, which fails where the word embeddings are frozen and asked for gradients, as when
        adapters are trained with activation checkpointing.
        """
        layer = self.text_model.embeddings
        positions = layer.position_embeddings(layer.position_ids[:, : input_ids.shape[1]])
        return layer.dropout(layer.LayerNorm(layer.word_embeddings(input_ids) + positions))

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Vectors of images.

        Args:
            pixel_values: uint8 (images, 3, height, width), or floating point, normalised.

        Returns:
            `pooler_output` (images, projection_dim), L2-normalised; `last_hidden_state` (images, 1 + patches, width).
        """
        pixels = self._normalized(pixel_values.to(self.device, non_blocking=True))
        resized = tuple(pixels.shape[-2:]) != (self.config.image_size, self.config.image_size)
        hidden = self.vision_model(pixel_values=pixels, interpolate_pos_encoding=resized).last_hidden_state
        vectors = F.normalize(self.visual_projection(hidden[:, 0]), dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=vectors)

    def _normalized(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.dtype != torch.uint8:
            _refuse_unscaled(pixel_values)
            return pixel_values.to(self.dtype)
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.config.image_mean, device=pixel_values.device).view(shape)
        std = torch.tensor(self.config.image_std, device=pixel_values.device).view(shape)
        return ((pixel_values.to(torch.float32) / 255 - mean) / std).to(self.dtype)

    def get_fused_features(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows that have both a text and an image: the mean of the two vectors, without any parameter.

        Args:
            input_ids: int64 (rows, length).
            pixel_values: (rows, 3, height, width), as `get_image_features` takes them.
            attention_mask: int64 (rows, length).
            token_type_ids: Not read.

        Returns:
            `pooler_output` (rows, projection_dim), L2-normalised.

        Raises:
            ValueError: If texts and images differ in number.
        """
        if input_ids.shape[0] != pixel_values.shape[0]:
            raise ValueError(f"{len(input_ids)} texts and {len(pixel_values)} images; fused rows have one of each.")
        text = self.get_text_features(input_ids, attention_mask).pooler_output
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
            token_type_ids: Not read: BLIP has no segments.
            pixel_values: (images, 3, height, width) of the rows that have one, in row order; uint8, or normalised.
            num_images_per_sample: int64 (rows,), 0 or 1; may be left out when every row has an image.
            return_dict: Taken for the callers that pass it; the output is always a `ModelOutput`.

        Returns:
            `pooler_output` (rows, projection_dim), L2-normalised.

        Raises:
            ValueError: If a row has neither text nor image, or the counts do not fit.
        """
        if input_ids is None:
            if pixel_values is None:
                raise ValueError("pass input_ids, pixel_values or both.")
            return BaseModelOutputWithPooling(pooler_output=self.get_image_features(pixel_values).pooler_output)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        has_text = attention_mask.bool().any(dim=1)  # (rows,)
        has_image = _rows_with_image(has_text, pixel_values, num_images_per_sample)
        missing = (~has_text & ~has_image).nonzero().flatten().tolist()
        if missing:
            raise ValueError(f"rows {missing[:10]} have neither a text nor an image.")
        parts, rows = [], []
        text: Any = None
        image: Any = None
        if bool(has_text.any()):
            text = self.get_text_features(input_ids[has_text], attention_mask[has_text]).pooler_output
            parts.append(text[~has_image[has_text]])
            rows.append((has_text & ~has_image).nonzero().flatten())
        if pixel_values is not None and bool(has_image.any()):
            image = self.get_image_features(pixel_values).pooler_output
            parts.append(image[~has_text[has_image]])
            rows.append((has_image & ~has_text).nonzero().flatten())
        both = has_text & has_image
        if bool(both.any()):
            parts.append(_fused(text[has_image[has_text]], image[has_text[has_image]]))
            rows.append(both.nonzero().flatten())
        order = torch.cat(rows).argsort()
        return BaseModelOutputWithPooling(pooler_output=torch.cat(parts)[order])


def _fused(text: Tensor, image: Tensor) -> Tensor:
    return F.normalize(text + image, dim=-1)


def _rows_with_image(has_text: Tensor, pixel_values: Tensor | None, counts: Tensor | None) -> Tensor:
    if pixel_values is None:
        return torch.zeros_like(has_text)
    if counts is None:
        counts = torch.ones(len(has_text), dtype=torch.int64)
    if int(counts.max()) > 1:
        raise ValueError("a row has more than one image; a BLIP bi-encoder takes one image a row.")
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
