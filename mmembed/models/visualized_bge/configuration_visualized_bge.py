"""The settings of Visualized-BGE: its text encoder, its EVA02 image tower, and how a row becomes a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig

POOLINGS = ("cls", "mean")
# The text encoders that the original knows. Their layers are the same; their positions of a plain text are not.
TEXT_TYPES = ("bert", "xlm-roberta")


class EvaVisionConfig(PretrainedConfig):
    r"""Settings of an `EvaVisionModel`, the image tower of EVA02-CLIP.

    Args:
        hidden_size: Width of the tokens.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Heads of a block's attention.
        intermediate_size: Width of the gated layer.
        image_size: Height and width of an image in pixels.
        patch_size: Height and width of a patch in pixels.
        layer_norm_eps: Epsilon of every LayerNorm.
        patch_dropout: Share of an image's patches that training leaves out, drawn anew each time.
        rope_theta: Base of the rotary angles.
        rope_grid: Patches on a side at which the angles were trained; a finer or coarser grid is stretched to it.
        initializer_range: Standard deviation of new weights.

    Example:
        >>> EvaVisionConfig(image_size=224, patch_size=16).num_patches
        196
    """

    model_type = "mmembed_eva_vision"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 2048,
        image_size: int = 224,
        patch_size: int = 16,
        layer_norm_eps: float = 1e-6,
        patch_dropout: float = 0.0,
        rope_theta: float = 10000.0,
        rope_grid: int = 16,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if hidden_size % num_attention_heads or (hidden_size // num_attention_heads) % 4:
            raise ValueError(
                f"hidden_size={hidden_size} with num_attention_heads={num_attention_heads}: a head's width must be a "
                "multiple of 4, half of it for the rows and half for the columns of the image."
            )
        if image_size % patch_size:
            raise ValueError(f"image_size={image_size} is no multiple of patch_size={patch_size}.")
        if not 0 <= patch_dropout < 1:
            raise ValueError(f"patch_dropout={patch_dropout}; it is a share from 0 to below 1.")
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.image_size, self.patch_size = image_size, patch_size
        self.layer_norm_eps, self.patch_dropout = layer_norm_eps, patch_dropout
        self.rope_theta, self.rope_grid = rope_theta, rope_grid
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


class VisualizedBGEConfig(PretrainedConfig):
    r"""Settings of a `VisualizedBGEModel`.

    Args:
        text_config: Configuration of the text encoder, a BERT or an XLM-RoBERTa; a dict needs `model_type`.
        vision_config: Configuration of the image tower.
        pooling: "cls", the first token, or "mean" of the row's tokens, image tokens among them.
        normalize: Whether vectors are L2-normalised. In a sentence-transformers folder its `Normalize` does it anyway.
        empty_text_ids: Token ids of the empty text, which stands beside an image that comes alone.
        image_mean: Mean of each channel, of values in 0..1.
        image_std: Standard deviation of each channel, of values in 0..1.
        initializer_range: Standard deviation of new weights.

    Example:
        >>> from transformers import BertConfig
        >>> config = VisualizedBGEConfig(BertConfig(max_position_embeddings=512), EvaVisionConfig())
        >>> config.hidden_size, config.max_text_length  # 512 positions less the 196 of an image
        (768, 316)
    """

    model_type = "mmembed_visualized_bge"
    sub_configs = {"text_config": AutoConfig, "vision_config": EvaVisionConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: EvaVisionConfig | dict[str, Any] | None = None,
        pooling: str = "cls",
        normalize: bool = True,
        empty_text_ids: Sequence[int] = (101, 102),
        image_mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        image_std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}; choose one of {', '.join(POOLINGS)}.")
        self.text_config = _text_config(text_config)
        self.vision_config = (
            vision_config if isinstance(vision_config, PretrainedConfig) else EvaVisionConfig(**(vision_config or {}))
        )
        self.pooling, self.normalize = pooling, normalize
        self.empty_text_ids = [int(token) for token in empty_text_ids]
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.initializer_range = initializer_range
        super().__init__(**kwargs)
        if self.max_text_length < len(self.empty_text_ids):
            raise ValueError(
                f"an image of {self.vision_config.num_patches} tokens leaves no room for a text among the "
                f"{self.max_tokens} positions of the text encoder."
            )

    @property
    def max_text_length(self) -> int:
        """Tokens at which a text is cut, so that it still fits beside an image.

        The original cuts nothing and fails past its last position. XLM-RoBERTa starts a plain text at the position after
        its padding's.
        """
        return self.max_tokens - self.vision_config.num_patches

    @property
    def max_tokens(self) -> int:
        """Positions that a row of text and image tokens may take."""
        text = self.text_config
        offset = text.pad_token_id + 1 if text.model_type == "xlm-roberta" else 0
        return text.max_position_embeddings - offset

    @property
    def image_size(self) -> int:
        """Height and width of an image in pixels."""
        return self.vision_config.image_size

    @property
    def hidden_size(self) -> int:
        """Length of the vectors that come out."""
        return self.text_config.hidden_size

    @property
    def projection_dim(self) -> int:
        """Length of the vectors that come out, by the name that CLIP's models use."""
        return self.text_config.hidden_size


def _text_config(config: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    if isinstance(config, PretrainedConfig):
        resolved = config
    else:
        settings = dict(config or {})
        model_type = settings.pop("model_type", "bert")
        if model_type not in TEXT_TYPES:
            raise ValueError(f"text_config of type {model_type!r}; choose one of {', '.join(TEXT_TYPES)}.")
        resolved = AutoConfig.for_model(model_type, **settings)
    if resolved.model_type not in TEXT_TYPES:
        raise ValueError(f"text_config of type {resolved.model_type!r}; choose one of {', '.join(TEXT_TYPES)}.")
    return resolved
