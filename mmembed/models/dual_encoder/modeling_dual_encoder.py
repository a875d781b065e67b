"""A dual encoder: a text tower and a vision tower projected into one space, and a head that fuses text with image."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_dual_encoder import DualEncoderConfig


class Projection(nn.Sequential):
    """A tower's pooled vector → the shared space: (rows, width) → (rows, dim)."""

    def __init__(self, kind: str, width: int, hidden: int, dim: int, dropout: float) -> None:
        if kind == "linear":
            super().__init__(nn.Dropout(dropout), nn.Linear(width, dim, bias=False))
        else:
            super().__init__(
                nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
            )


class GeneralizedMean(nn.Module):
    """(rows, positions, width) → (rows, width): the mean of x**p, to the power 1/p, with p learnt
    (Radenović et al. 2018, https://arxiv.org/abs/1711.02512); p = 1 is the mean, large p the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, positions: Tensor) -> Tensor:
        values = positions.float().clamp(min=1e-6)
        return values.pow(self.exponent).mean(dim=1).pow(1 / self.exponent).to(positions.dtype)


class WeightedSum(nn.Module):
    """w text + (1 - w) image, with one learnt w in (0, 1) that starts at 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.text_weight = nn.Parameter(torch.zeros(1))

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        weight = torch.sigmoid(self.text_weight)
        return weight * text + (1 - weight) * image


class ResidualMLP(nn.Module):
    """The mean of both plus a learnt function of both; at the start the function is zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(2 * dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        residual = self.outer(F.gelu(self.inner(torch.cat([text, image], dim=-1))))
        return (text + image) / 2 + residual


class Gate(nn.Module):
    """g text + (1 - g) image, with g in (0, 1) for each dimension, a learnt function of both that starts at 0.5."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(torch.cat([text, image], dim=-1)))
        return gate * text + (1 - gate) * image


class DualEncoderModel(PreTrainedModel):
    """Texts, images and both at once as vectors of one space.

    `pixel_values` of dtype uint8 are pixels and are normalised here, on the tower's device. Floating point ones are what
    `encode_frozen_layers` returned, and only the rest of the vision tower is run on them.

    Args:
        config: The settings.

    Example:
        >>> from transformers import BertConfig, ResNetConfig
        >>> text = BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> vision = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        >>> config = DualEncoderConfig(text, vision, projection_dim=8, image_size=32)
        >>> model = DualEncoderModel(config).eval()
        >>> model(pixel_values=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).pooler_output.shape
        torch.Size([2, 8])
    """

    config_class = DualEncoderConfig
    base_model_prefix = "dual_encoder"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _tied_weights_keys: Any = None

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__(config)
        if config.joint_config is not None:
            self.joint_model = AutoModel.from_config(config.joint_config, dtype=torch.get_default_dtype())
        elif config.text_config is not None and config.vision_config is not None:
            self.text_model = _tower(config.text_config, with_pooler=config.text_pooling == "pooler")
            self.vision_model = _tower(config.vision_config, with_pooler=config.image_pooling == "pooler")
        else:
            raise ValueError("a dual encoder needs text_config and vision_config, or joint_config.")
        self.image_pool = GeneralizedMean() if config.image_pooling == "gem" else None
        if config.text_width is None or config.image_width is None:
            config.text_width, config.image_width = self._trial_widths()
        if config.text_standardise:
            self.register_buffer("text_feature_mean", torch.zeros(config.text_width))
            self.register_buffer("text_feature_std", torch.ones(config.text_width))
        if config.image_standardise:
            self.register_buffer("image_feature_mean", torch.zeros(config.image_width))
            self.register_buffer("image_feature_std", torch.ones(config.image_width))
        dim, hidden = config.modality_dim, config.projection_hidden_dim
        self.text_projection = Projection(
            config.text_projection, config.text_width, hidden, dim, config.text_projection_dropout
        )
        self.visual_projection = Projection(
            config.image_projection, config.image_width, hidden, dim, config.projection_dropout
        )
        heads = {"weighted_sum": WeightedSum, "mlp": lambda: ResidualMLP(dim), "gated": lambda: Gate(dim)}
        self.fusion = heads[config.fusion]() if config.fusion in heads else None
        # One element rather than none: DeepSpeed fails on parameters without a dimension.
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init_value)))
        self.post_init()
        self.freeze_image_layers(config.frozen_image_layers)
        self.freeze_text_tower(config.frozen_text_tower)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # All at once: for classes outside its package, transformers skips modules without parameters of their own.
        if not isinstance(module, DualEncoderModel):
            return
        for layer in (*module.text_projection, *module.visual_projection):
            if isinstance(layer, nn.Linear):  # keeps the length of a vector, whatever the widths
                init.normal_(layer.weight, std=layer.in_features**-0.5)
        if module.image_pool is not None:
            init.constant_(module.image_pool.exponent, 3.0)
        if isinstance(module.fusion, WeightedSum):
            init.zeros_(module.fusion.text_weight)
        elif isinstance(module.fusion, ResidualMLP):
            init.zeros_(module.fusion.outer.weight)
        elif isinstance(module.fusion, Gate):
            init.zeros_(module.fusion.gate.weight)
        init.constant_(module.logit_scale, float(module.config.logit_scale_init_value))
        if module.config.text_standardise:
            init.zeros_(module.text_feature_mean)
            init.ones_(module.text_feature_std)
        if module.config.image_standardise:
            init.zeros_(module.image_feature_mean)
            init.ones_(module.image_feature_std)

    # --- text ---------------------------------------------------------------------------------------------------

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Vectors of texts.

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length), 1 where a token stands; all ones when None.
            token_type_ids: int64 (rows, length).

        Returns:
            `pooler_output` (rows, projection_dim), L2-normalised.
        """
        return BaseModelOutputWithPooling(
            pooler_output=self._alone(self._text(input_ids, attention_mask, token_type_ids))
        )

    def _text(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        pooled = self._pooled_text(input_ids, attention_mask, token_type_ids)
        return self._projected_text(pooled)

    def _projected_text(self, pooled: Tensor) -> Tensor:
        if self.config.text_standardise:
            pooled = ((pooled - self.text_feature_mean) / self.text_feature_std).clamp(-6, 6)
        return F.normalize(self.text_projection(pooled), dim=-1)  # (rows, modality_dim)

    def _pooled_text(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        call = self.joint_model.get_text_features if self.config.joint_config is not None else self.text_model.forward
        taken = inspect.signature(call).parameters
        inputs = {name: value for name, value in given.items() if value is not None and name in taken}
        if self.config.joint_config is not None:
            return self.joint_model.get_text_features(**inputs).pooler_output
        levels = self.config.text_levels
        output = self.text_model(**inputs, **({"output_hidden_states": True} if levels else {}))
        pooled = self._pooled_tokens(output, attention_mask)
        if not levels:
            return pooled
        return torch.cat([pooled, *(_mean(output.hidden_states[level], attention_mask) for level in levels)], dim=-1)

    def _pooled_tokens(self, output: Any, attention_mask: Tensor) -> Tensor:
        if self.config.text_pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise ValueError(f"text_pooling='pooler': {type(self.text_model).__name__} has no pooler.")
            return output.pooler_output
        tokens = output.last_hidden_state  # (rows, length, width)
        if self.config.text_pooling == "cls":
            return tokens[:, 0]
        if self.config.text_pooling == "last":
            last = attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(dim=1)
            return tokens[torch.arange(tokens.shape[0], device=tokens.device), last]
        return _mean(tokens, attention_mask)

    # --- image --------------------------------------------------------------------------------------------------

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Vectors of images.

        Args:
            pixel_values: uint8 (images, 3, height, width), or floating point, what `encode_frozen_layers` returned.

        Returns:
            `pooler_output` (images, projection_dim), L2-normalised.
        """
        return BaseModelOutputWithPooling(pooler_output=self._alone(self._image(pixel_values)))

    def _image(self, pixel_values: Tensor) -> Tensor:
        pixel_values = pixel_values.to(self.device, non_blocking=True)
        if pixel_values.dtype == torch.uint8:
            pooled = self._pooled_image(self._normalized(pixel_values), 0)
        elif self.config.frozen_image_layers:
            activations = pixel_values.to(self.dtype)
            if activations.ndim == 4:
                activations = activations.contiguous(memory_format=torch.channels_last)
            pooled = self._pooled_image(activations, self.config.frozen_image_layers)
        else:
            raise ValueError(
                f"pixel_values of {pixel_values.dtype} stand for the output of frozen image layers, and this model has "
                "none (frozen_image_layers=0); pass pixels as uint8."
            )
        if self.config.image_standardise:
            # an outlier of one feature must not drown the others
            pooled = ((pooled - self.image_feature_mean) / self.image_feature_std).clamp(-6, 6)
        return F.normalize(self.visual_projection(pooled), dim=-1)  # (images, modality_dim)

    def _normalized(self, pixel_values: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.config.image_mean, device=pixel_values.device).view(shape)
        std = torch.tensor(self.config.image_std, device=pixel_values.device).view(shape)
        pixels = (pixel_values.to(torch.float32) / 255 - mean) / std
        # Convolutions on the CPU run about twice as fast on this layout.
        return pixels.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _pooled_image(self, activations: Tensor, start: int) -> Tensor:
        """From the output of unit `start` - 1 (pixels when it is 0) to the pooled vector (images, image_width)."""
        count, frozen = self.num_image_layers, self.config.frozen_image_layers
        if start == count:  # the tower is frozen as a whole: its activations are the pooled vectors
            return activations
        if frozen == count:
            with torch.no_grad():
                return self._pooled_image_from(activations, start)
        return self._pooled_image_from(activations, start)

    def _pooled_image_from(self, activations: Tensor, start: int) -> Tensor:
        if self.config.joint_config is not None:
            return self.joint_model.get_image_features(pixel_values=activations).pooler_output
        units = self._image_units()
        if units is None:
            output = self.vision_model(pixel_values=activations, output_hidden_states=bool(self.config.image_levels))
            return self._pool(output.last_hidden_state, getattr(output, "pooler_output", None), output.hidden_states)
        # Between the stem and the last convolution lie the layers, whose outputs are the tower's hidden states.
        hidden: dict[int, Tensor] = {start - 2: activations}
        for number in range(start, len(units)):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.config.frozen_image_layers):
                activations = units[number](activations)
            hidden[number - 1] = activations
        if self.config.image_pooling == "pooler":
            pooler = torch.flatten(self.vision_model.pooler(activations), start_dim=1)
        else:
            pooler = None
        return self._pool(activations, pooler, hidden)

    def _pool(self, last: Tensor, pooler: Tensor | None, hidden: Any) -> Tensor:
        pooling = self.config.image_pooling
        if pooling == "pooler":
            if pooler is None:
                raise ValueError(f"image_pooling='pooler': {type(self.vision_model).__name__} has no pooler.")
            pooled = pooler.flatten(1)
        elif pooling == "cls":
            if last.ndim != 3:
                raise ValueError(f"image_pooling='cls': {type(self.vision_model).__name__} has no first token.")
            pooled = last[:, 0]
        elif pooling == "gem":
            pooled = self.image_pool(_positions(last))
        else:
            pooled = _positions(last).mean(dim=1)
        levels = [_raster(hidden[level], grid) for level, grid in self._levels(hidden)]
        return torch.cat([pooled, *levels], dim=-1)

    def _levels(self, hidden: Any) -> list[tuple[int, int]]:
        count = len(self._image_units()) - 2 if self._image_units() is not None else len(hidden or ())
        levels = []
        for level, grid in self.config.image_levels or []:
            positive = level + count if level < 0 else level
            if not 0 <= positive < count:
                raise ValueError(f"image_levels: {level} is not among the vision tower's {count} hidden states.")
            levels.append((positive, grid))
        return levels

    # --- frozen layers ------------------------------------------------------------------------------------------

    def _image_units(self) -> list[nn.Module] | None:
        """The parts of a purely sequential tower, in order; None where the tower is one unit."""
        if self.config.vision_config is None or self.config.vision_config.model_type != "mobilenet_v2":
            return None
        return [self.vision_model.conv_stem, *self.vision_model.layer, self.vision_model.conv_1x1]

    @property
    def num_image_layers(self) -> int:
        """Units that `freeze_image_layers` counts: 18 of MobileNetV2 (stem, 16 layers, last convolution), else 1."""
        units = self._image_units()
        return 1 if units is None else len(units)

    def freeze_image_layers(self, count: int) -> None:
        """Stop the first units of the vision tower from learning; their batch statistics and dropout stay off as well.

        Args:
            count: How many, of `num_image_layers`; -1 means all, 0 none.

        Raises:
            ValueError: If the tower has fewer units, or image_levels would need a frozen one's output.
        """
        total = self.num_image_layers
        number = total if count == -1 else count
        if not 0 <= number <= total:
            hint = "; this tower freezes as a whole" if total == 1 else ""
            raise ValueError(f"frozen_image_layers={count}: the vision tower has {total} units{hint} (-1 is all).")
        if 0 < number < total:
            # Hidden state i is the output of unit i + 1.
            lost = [level for level, _ in self._levels(None) if level + 1 < number - 1]
            if lost:
                raise ValueError(
                    f"frozen_image_layers={count}: image_levels {lost} lie inside the frozen part; freeze fewer or all."
                )
        self.config.frozen_image_layers = number
        for module in self._frozen_modules(total):
            module.requires_grad_(True)
        for module in self._frozen_modules(number):
            module.requires_grad_(False)
        self.train(self.training)

    def _frozen_modules(self, number: int) -> list[nn.Module]:
        units = self._image_units()
        if number == 0:
            return []
        if number < self.num_image_layers:
            return units[:number]
        if self.config.joint_config is not None:
            names = ("vision_model", "visual_projection")
            return [getattr(self.joint_model, name) for name in names if hasattr(self.joint_model, name)]
        return [module for module in (self.vision_model, self.image_pool) if module is not None]

    def freeze_text_tower(self, frozen: bool = True) -> None:
        """Stop the text tower from learning, and keep its dropout off; its projection goes on learning.

        Args:
            frozen: Whether it is.

        Raises:
            ValueError: If the text tower is a part of a joint model.
        """
        if frozen and self.config.joint_config is not None:
            raise ValueError("frozen_text_tower: the text tower of a joint model cannot be frozen alone.")
        if frozen or self.config.frozen_text_tower:
            self.text_model.requires_grad_(not frozen)
        self.config.frozen_text_tower = frozen
        self.train(self.training)

    @torch.no_grad()
    def encode_frozen_text(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """What the frozen text tower makes of texts, to be stored and passed as `text_features` later.

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length).
            token_type_ids: int64 (rows, length).

        Returns:
            Floating point (rows, text_width).

        Raises:
            ValueError: If the text tower is not frozen.
        """
        if not self.config.frozen_text_tower:
            raise ValueError("the text tower is not frozen; call freeze_text_tower or set frozen_text_tower.")
        return self._pooled_text(input_ids, attention_mask, token_type_ids)

    @torch.no_grad()
    def fit_text_statistics(self, features: Tensor) -> None:
        """Set the mean and deviation by which pooled texts are standardised to those of a sample.

        Args:
            features: Floating point (sample, text_width), what `encode_frozen_text` gave for training texts.

        Raises:
            ValueError: If the model does not standardise texts.
        """
        if not self.config.text_standardise:
            raise ValueError("the model was built with text_standardise=False.")
        self.text_feature_mean.copy_(features.float().mean(dim=0))
        self.text_feature_std.copy_(features.float().std(dim=0) + 1e-3)

    def train(self, mode: bool = True) -> DualEncoderModel:
        super().train(mode)
        if hasattr(self, "logit_scale"):  # construction is over
            if self.config.frozen_text_tower:
                self.text_model.eval()
            for module in self._frozen_modules(self.config.frozen_image_layers):
                module.eval()
        return self

    @torch.no_grad()
    def encode_frozen_layers(self, pixel_values: Tensor) -> Tensor:
        """What the frozen part of the vision tower makes of images, to be stored and passed as `pixel_values` later.

        Args:
            pixel_values: uint8 (images, 3, height, width).

        Returns:
            Floating point, (images, channels, height', width'), or (images, image_width) when the whole tower is frozen.

        Raises:
            ValueError: If nothing is frozen, or the pixels are not uint8.
        """
        frozen = self.config.frozen_image_layers
        if not frozen:
            raise ValueError("no image layer is frozen; call freeze_image_layers or set frozen_image_layers.")
        if pixel_values.dtype != torch.uint8:
            raise ValueError(f"encode_frozen_layers takes uint8 pixels, got {pixel_values.dtype}.")
        activations = self._normalized(pixel_values.to(self.device, non_blocking=True))
        if frozen == self.num_image_layers:
            return self._pooled_image(activations, 0)
        for unit in self._image_units()[:frozen]:
            activations = unit(activations)
        return activations

    @torch.no_grad()
    def fit_image_statistics(self, activations: Tensor) -> None:
        """Set the mean and deviation by which pooled image features are standardised to those of a sample.

        Args:
            activations: Floating point (sample, image_width), what `encode_frozen_layers` gave for training images.

        Raises:
            ValueError: If the model does not standardise, or the activations are not pooled features.
        """
        if not self.config.image_standardise:
            raise ValueError("the model was built with image_standardise=False.")
        if activations.ndim != 2 or activations.shape[1] != self.config.image_width:
            raise ValueError(
                f"activations of shape {tuple(activations.shape)}, expected (sample, {self.config.image_width})."
            )
        self.image_feature_mean.copy_(activations.float().mean(dim=0))
        self.image_feature_std.copy_(activations.float().std(dim=0) + 1e-3)

    # --- both ---------------------------------------------------------------------------------------------------

    def get_fused_features(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows that have both a text and an image.

        Args:
            input_ids: int64 (rows, length).
            pixel_values: uint8 (rows, 3, height, width), or activations.
            attention_mask: int64 (rows, length).
            token_type_ids: int64 (rows, length).

        Returns:
            `pooler_output` (rows, projection_dim), L2-normalised.

        Raises:
            ValueError: If the model has no fusion.
        """
        if input_ids.shape[0] != pixel_values.shape[0]:
            raise ValueError(f"{len(input_ids)} texts and {len(pixel_values)} images; fused rows have one of each.")
        text = self._text(input_ids, attention_mask, token_type_ids)
        return BaseModelOutputWithPooling(pooler_output=self._fused(text, self._image(pixel_values)))

    def _alone(self, vectors: Tensor) -> Tensor:
        """One modality's vectors in the space of all rows."""
        # Twice the same half: its product with a fused row is the mean of the products with the row's text and image.
        return torch.cat([vectors, vectors], dim=-1) / math.sqrt(2) if self.config.fusion == "concat" else vectors

    def _fused(self, text: Tensor, image: Tensor) -> Tensor:
        if self.config.fusion == "concat":
            return torch.cat([text, image], dim=-1) / math.sqrt(2)
        if self.fusion is None:
            raise ValueError(
                "a row has both a text and an image, and this model has fusion='none'; pass one of them, or build the "
                "model with another fusion."
            )
        return F.normalize(self.fusion(text, image), dim=-1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        num_images_per_sample: Tensor | None = None,
        text_features: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Vectors of rows of which some have a text, some an image and some both; what is present decides.

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length); a row without text is all zero.
            token_type_ids: int64 (rows, length).
            pixel_values: uint8 (images, 3, height, width) of the rows that have one, in row order; or activations.
            num_images_per_sample: int64 (rows,), 0 or 1; may be left out when every row has an image.
            text_features: Floating point (rows, 1, text_width), what `encode_frozen_text` gave for the texts of the rows
                that have one; the text tower is not run then.
            return_dict: Taken for the callers that pass it; the output is always a `ModelOutput`.

        Returns:
            `pooler_output` (rows, projection_dim), L2-normalised.

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
        has_image = self._rows_with_image(has_text, pixel_values, num_images_per_sample)
        missing = (~has_text & ~has_image).nonzero().flatten().tolist()
        if missing:
            raise ValueError(f"rows {missing[:10]} have neither a text nor an image.")
        parts, rows = [], []
        text = image = None
        if bool(has_text.any()):
            token_types = token_type_ids[has_text] if token_type_ids is not None else None
            if text_features is not None:
                text = self._projected_text(text_features[has_text, 0].to(self.dtype))
            else:
                text = self._text(input_ids[has_text], attention_mask[has_text], token_types)
            alone = ~has_image[has_text]
            parts.append(self._alone(text[alone]))
            rows.append((has_text & ~has_image).nonzero().flatten())
        if bool(has_image.any()):
            image = self._image(pixel_values)
            alone = ~has_text[has_image]
            parts.append(self._alone(image[alone]))
            rows.append((has_image & ~has_text).nonzero().flatten())
        both = has_text & has_image
        if bool(both.any()):
            parts.append(self._fused(text[has_image[has_text]], image[has_text[has_image]]))
            rows.append(both.nonzero().flatten())
        order = torch.cat(rows).argsort()
        return BaseModelOutputWithPooling(pooler_output=torch.cat(parts)[order])

    @staticmethod
    def _rows_with_image(has_text: Tensor, pixel_values: Tensor | None, counts: Tensor | None) -> Tensor:
        if pixel_values is None:
            return torch.zeros_like(has_text)
        if counts is None:
            counts = torch.ones(len(has_text), dtype=torch.int64)
        if int(counts.max()) > 1:
            raise ValueError("a row has more than one image; a dual encoder takes one image a row.")
        if len(counts) != len(has_text) or int(counts.sum()) != len(pixel_values):
            raise ValueError(
                f"{len(pixel_values)} images for {int(counts.sum())} of {len(has_text)} rows; pass "
                "num_images_per_sample with one 0 or 1 a row."
            )
        return counts.to(has_text.device).bool()

    # --- construction -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _trial_widths(self) -> tuple[int, int]:
        training, frozen = self.training, self.config.frozen_image_layers
        self.config.frozen_image_layers = 0
        self.eval()
        ids = torch.ones(1, 2, dtype=torch.int64, device=self.device)
        size = self.config.image_size
        pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.device)
        widths = self._pooled_text(ids, None, None).shape[-1], self._pooled_image(self._normalized(pixels), 0).shape[-1]
        self.config.frozen_image_layers = frozen
        self.train(training)
        return widths

    @classmethod
    def from_towers(cls, text: str | PreTrainedModel, vision: str | PreTrainedModel, **config: Any) -> DualEncoderModel:
        """Put two trained towers together; the projections and the fusion head are new.

        Args:
            text: A text model, or its folder or name; safetensors, loaded as float32.
            vision: A vision model, or its folder or name. The same as `text` for one CLIP-like model with both towers.
            **config: Settings of `DualEncoderConfig`.

        Returns:
            The model, in evaluation mode.
        """
        if text is vision or (isinstance(text, str) and text == vision):
            joint = _loaded(text)
            model = cls(DualEncoderConfig(joint_config=joint.config, **config))
            model.joint_model.load_state_dict(joint.state_dict())
            return model.eval()
        towers = {"text_model": _loaded(text), "vision_model": _loaded(vision)}
        model = cls(
            DualEncoderConfig(towers["text_model"].config, towers["vision_model"].config, **config),
        )
        for name, tower in towers.items():
            result = getattr(model, name).load_state_dict(tower.state_dict(), strict=False)
            unused = [key for key in result.unexpected_keys if not key.startswith("pooler.")]
            if result.missing_keys or unused:
                raise ValueError(
                    f"{name}: the weights of {type(tower).__name__} do not fit {type(getattr(model, name)).__name__}: "
                    f"missing {result.missing_keys[:3]}, unused {unused[:3]}."
                )
        return model.eval()


def _positions(hidden: Tensor) -> Tensor:
    """(rows, channels, height, width) or (rows, positions, width) → (rows, positions, width)."""
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


def _mean(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """(rows, length, width) → (rows, width), over the tokens that are no padding."""
    weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _raster(hidden: Tensor, grid: int) -> Tensor:
    """Means over the cells of a grid, (rows, channels * grid * grid); over all positions where there is no map."""
    if hidden.ndim == 4:
        return F.adaptive_avg_pool2d(hidden, grid).flatten(1)
    return hidden.mean(dim=1)


def _tower(config: PretrainedConfig, *, with_pooler: bool) -> PreTrainedModel:
    """A pooler that nothing reads would be weights that never learn."""
    kind = MODEL_MAPPING.get(type(config), None)
    if not with_pooler and kind is not None and _has_learnt_pooler(kind):
        return AutoModel.from_config(config, dtype=torch.get_default_dtype(), add_pooling_layer=False)
    return AutoModel.from_config(config, dtype=torch.get_default_dtype())


def _has_learnt_pooler(kind: Any) -> bool:
    kinds: Sequence[Any] = kind if isinstance(kind, (list, tuple)) else [kind]
    return all("add_pooling_layer" in inspect.signature(one.__init__).parameters for one in kinds)


def _loaded(tower: str | PreTrainedModel) -> PreTrainedModel:
    if isinstance(tower, PreTrainedModel):
        return tower
    return AutoModel.from_pretrained(tower, dtype=torch.float32, use_safetensors=True)
