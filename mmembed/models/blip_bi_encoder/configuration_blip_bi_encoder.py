"""The settings of a BLIP bi-encoder: its two towers and the space that they are projected into."""

from __future__ import annotations

from typing import Any

from transformers import BlipTextConfig, BlipVisionConfig, PretrainedConfig

# What BLIP was trained with; transformers' defaults are 1e-5 and 1e-10.
_VISION = {"layer_norm_eps": 1e-6, "initializer_range": 0.02}
_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


class BlipBiEncoderConfig(PretrainedConfig):
    r"""Settings of a `BlipBiEncoderModel`.

    Args:
        text_config: Settings of the text tower, a `BlipTextConfig` or a dict. The tower has no cross-attention, whatever
            `is_decoder` says.
        vision_config: Settings of the vision tower, a `BlipVisionConfig` or a dict. What a dict leaves out is as BLIP was
            trained: layer norms have an epsilon of 1e-6.
        projection_dim: Dimension to which each modality is projected; BLIP's is 256.
        logit_scale_init_value: Logarithm of the initial inverse temperature; BLIP starts at a temperature of 0.07.
        image_mean: Mean of each channel, of values in 0..1.
        image_std: Standard deviation of each channel, of values in 0..1.
        initializer_range: Standard deviation of new weights.

    Example:
        >>> config = BlipBiEncoderConfig(vision_config={"image_size": 224})
        >>> config.vision_config.layer_norm_eps, config.image_size, config.projection_dim
        (1e-06, 224, 256)
    """

    model_type = "mmembed_blip_bi_encoder"
    sub_configs = {"text_config": BlipTextConfig, "vision_config": BlipVisionConfig}

    def __init__(
        self,
        text_config: BlipTextConfig | dict[str, Any] | None = None,
        vision_config: BlipVisionConfig | dict[str, Any] | None = None,
        projection_dim: int = 256,
        logit_scale_init_value: float = 2.6593,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if isinstance(vision_config, PretrainedConfig):
            vision_config = vision_config.to_dict()
        if isinstance(text_config, PretrainedConfig):
            text_config = text_config.to_dict()
        self.vision_config = BlipVisionConfig(**{**_VISION, **(vision_config or {})})
        # Cross-attention layers would be weights that never learn.
        self.text_config = BlipTextConfig(**{**(text_config or {}), "is_decoder": False, "use_cache": False})
        self.text_config.encoder_hidden_size = self.vision_config.hidden_size
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        self.image_mean = list(image_mean) if image_mean is not None else list(_CLIP_MEAN)
        self.image_std = list(image_std) if image_std is not None else list(_CLIP_STD)
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def image_size(self) -> Any:
        """Height and width in pixels that the position embeddings stand for."""
        return self.vision_config.image_size

    @property
    def hidden_size(self) -> int:
        """Length of the vectors that come out, by the name that other libraries read."""
        return self.projection_dim
