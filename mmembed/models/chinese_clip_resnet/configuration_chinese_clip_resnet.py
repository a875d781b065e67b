"""The settings of Chinese-CLIP's ResNet model: its text tower, the stages of its vision tower, and its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, BertConfig, PretrainedConfig

# Of OpenAI's CLIP.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


class ChineseCLIPResNetConfig(PretrainedConfig):
    """Settings of a `ChineseCLIPResNetModel`; the defaults are those of the published clip_cn_rn50.

    Args:
        text_config: Configuration of the BERT; RBT3, with three layers, when None.
        projection_dim: Length of the vectors.
        vision_width: Channels after the stem of the ResNet; its last stage has 32 times as many.
        vision_layers: Blocks of its four stages.
        vision_heads: Heads of its attention pooling.
        image_size: Height and width in pixels, a multiple of 32.
        image_mean: Mean of each channel, of values in 0..1.
        image_std: Standard deviation of each channel, of values in 0..1.
        max_text_length: Tokens at which a text is cut.
        logit_scale_init_value: Logarithm of the initial inverse temperature.
        initializer_range: Standard deviation of new weights.

    Example:
        >>> config = ChineseCLIPResNetConfig()
        >>> config.projection_dim, config.text_config.num_hidden_layers
        (1024, 3)
    """

    model_type = "mmembed_chinese_clip_resnet"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        projection_dim: int = 1024,
        vision_width: int = 64,
        vision_layers: Sequence[int] = (3, 4, 6, 3),
        vision_heads: int = 32,
        image_size: int = 224,
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
        max_text_length: int = 52,
        logit_scale_init_value: float = 2.6592,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if text_config is None:
            text_config = BertConfig(vocab_size=21128, num_hidden_layers=3, pad_token_id=0)
        if isinstance(text_config, dict):
            settings = dict(text_config)
            text_config = AutoConfig.for_model(settings.pop("model_type", "bert"), **settings)
        if image_size % 32:
            raise ValueError(
                f"image_size={image_size}: expected a multiple of 32, by which the tower shrinks an image."
            )
        if len(vision_layers) != 4:
            raise ValueError(f"vision_layers={list(vision_layers)}: the tower has four stages.")
        if (32 * vision_width) % vision_heads:
            raise ValueError(f"vision_heads={vision_heads} does not divide the {32 * vision_width} channels.")
        self.text_config = text_config
        self.projection_dim = projection_dim
        self.vision_width, self.vision_layers, self.vision_heads = vision_width, list(vision_layers), vision_heads
        self.image_size = image_size
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.max_text_length = max_text_length
        self.logit_scale_init_value = logit_scale_init_value
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Length of the vectors, by the name that other libraries read."""
        return self.projection_dim
