"""The settings of a dual encoder: its towers, how they are pooled and projected, and how text and image are fused."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

TEXT_POOLINGS = ("mean", "cls", "last", "pooler")
IMAGE_POOLINGS = ("mean", "cls", "pooler", "gem")
PROJECTIONS = ("linear", "mlp")
FUSIONS = ("none", "weighted_sum", "concat", "mlp", "gated")


class DualEncoderConfig(PretrainedConfig):
    r"""Settings of a `DualEncoderModel`.

    Args:
        text_config: Configuration of the text tower, of any type `AutoModel` knows; a dict needs `model_type`.
        vision_config: Configuration of the vision tower.
        joint_config: Configuration of one CLIP-like model that has both towers, instead of the two above.
        projection_dim: Dimension to which each modality is projected. With `fusion="concat"` vectors are twice as long,
            and the attribute `projection_dim` says that length.
        text_pooling: "mean" of the tokens, "cls" (the first), "last", or the tower's own "pooler".
        image_pooling: "mean" of the positions, "cls" (the first), the tower's own "pooler", or "gem", the generalised
            mean with a learnt exponent.
        image_levels: Inner hidden states of the vision tower that are appended to the pooled vector: an index, whose mean
            over all positions is taken, or [index, grid], whose mean over each cell of a grid x grid raster is taken. Early
            layers know colours and textures, and a raster where they are, that the last layer has forgotten.
        image_standardise: Standardise the pooled image features, each by itself, with the statistics that
            `DualEncoderModel.fit_image_statistics` set.
        text_projection: "linear", or "mlp", with one hidden layer.
        image_projection: The same for the image.
        projection_hidden_dim: Width of the hidden layer of an "mlp" projection.
        projection_dropout: Dropout probability before each layer of the projections.
        text_projection_dropout: The same for the text's, where it differs.
        fusion: What makes one vector of a row with text and image: "none" refuses such rows, "weighted_sum" learns one
            weight, "concat" keeps both in two halves, "mlp" adds a learnt residual to the mean, "gated" learns a weight
            for each dimension from both.
        logit_scale_init_value: Logarithm of the initial inverse temperature.
        image_size: Height and width in pixels.
        image_mean: Mean of each channel, of values in 0..1.
        image_std: Standard deviation of each channel, of values in 0..1.
        max_text_length: Tokens at which a text is cut.
        frozen_image_layers: Units of the vision tower, from the input on, that never learn; -1 freezes all.
        frozen_text_tower: Whether the text tower never learns.
        text_standardise: Standardise the pooled text features, as `image_standardise` the image's.
        text_levels: Inner hidden states of the text tower whose means over the tokens are appended to the pooled vector;
            0 is the embeddings, which know words that the last layer has blended.
        text_width: Length of the text tower's pooled vector; found by a trial run when None.
        image_width: The same of the vision tower, appended levels included.
        modality_dim: `projection_dim` as a saved file names it.
        initializer_range: Standard deviation of new weights.

    Example:
        >>> from transformers import BertConfig, ResNetConfig
        >>> config = DualEncoderConfig(BertConfig(), ResNetConfig(), projection_dim=64, fusion="concat")
        >>> config.projection_dim
        128
    """

    model_type = "mmembed_dual_encoder"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig, "joint_config": AutoConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: PretrainedConfig | dict[str, Any] | None = None,
        joint_config: PretrainedConfig | dict[str, Any] | None = None,
        projection_dim: int = 256,
        text_pooling: str = "mean",
        image_pooling: str = "mean",
        image_levels: list[int | list[int]] | None = None,
        image_standardise: bool = False,
        text_projection: str = "linear",
        image_projection: str = "linear",
        projection_hidden_dim: int = 1024,
        projection_dropout: float = 0.0,
        text_projection_dropout: float | None = None,
        fusion: str = "weighted_sum",
        logit_scale_init_value: float = 2.6592,
        image_size: int = 224,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        max_text_length: int = 64,
        frozen_image_layers: int = 0,
        frozen_text_tower: bool = False,
        text_standardise: bool = False,
        text_levels: list[int] | None = None,
        text_width: int | None = None,
        image_width: int | None = None,
        modality_dim: int | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        for name, value, allowed in (
            ("text_pooling", text_pooling, TEXT_POOLINGS),
            ("image_pooling", image_pooling, IMAGE_POOLINGS),
            ("text_projection", text_projection, PROJECTIONS),
            ("image_projection", image_projection, PROJECTIONS),
            ("fusion", fusion, FUSIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}; choose one of {', '.join(allowed)}.")
        self.text_config = _resolved("text_config", text_config)
        self.vision_config = _resolved("vision_config", vision_config)
        self.joint_config = _resolved("joint_config", joint_config)
        if self.joint_config is not None and (self.text_config is not None or self.vision_config is not None):
            raise ValueError("give joint_config, or text_config and vision_config, not both.")
        if self.joint_config is not None and image_levels:
            raise ValueError("image_levels needs a vision tower of its own, not joint_config.")
        self.modality_dim = projection_dim if modality_dim is None else modality_dim
        self.text_pooling, self.image_pooling = text_pooling, image_pooling
        self.image_levels = [_level(level) for level in image_levels] if image_levels else None
        self.image_standardise = image_standardise
        self.text_projection, self.image_projection = text_projection, image_projection
        self.projection_hidden_dim, self.projection_dropout = projection_hidden_dim, projection_dropout
        self.text_projection_dropout = (
            projection_dropout if text_projection_dropout is None else text_projection_dropout
        )
        self.fusion = fusion
        self.logit_scale_init_value = logit_scale_init_value
        self.image_size = image_size
        self.image_mean = list(image_mean) if image_mean is not None else [0.5, 0.5, 0.5]
        self.image_std = list(image_std) if image_std is not None else [0.5, 0.5, 0.5]
        self.max_text_length = max_text_length
        self.frozen_image_layers = frozen_image_layers
        self.frozen_text_tower, self.text_standardise = frozen_text_tower, text_standardise
        self.text_levels = list(text_levels) if text_levels else None
        self.text_width, self.image_width = text_width, image_width
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    @property
    def projection_dim(self) -> int:
        """Length of the vectors that come out."""
        return 2 * self.modality_dim if self.fusion == "concat" else self.modality_dim

    @property
    def hidden_size(self) -> int:
        """Length of the vectors that come out, by the name that other libraries read."""
        return self.projection_dim


def _level(level: int | list[int]) -> list[int]:
    pair = [level, 1] if isinstance(level, int) else list(level)
    if len(pair) != 2 or not all(isinstance(value, int) for value in pair) or pair[1] < 1:
        raise ValueError(
            f"image_levels holds {level!r}; expected an index, or [index, grid] with a grid of at least 1."
        )
    return pair


def _resolved(name: str, config: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig | None:
    if config is None or isinstance(config, PretrainedConfig):
        return config
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"{name} needs 'model_type', for example 'bert'; it has {sorted(settings)[:5]}.")
    return AutoConfig.for_model(model_type, **settings)
