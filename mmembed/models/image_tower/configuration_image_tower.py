"""The settings of an image tower: its backbone, how that is pooled, and the neck that makes the vector."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

POOLINGS = ("avg", "gem", "cls", "pooler")


class ImageTowerConfig(PretrainedConfig):
    """Settings of an `ImageTowerModel`.

    Args:
        backbone_config: Configuration of the backbone, of any vision model that `AutoModel` knows; a dict needs `model_type`.
            `TimmWrapperConfig(architecture="eca_nfnet_l0")` is timm's model of that name, which needs timm installed.
        pooling: "avg", the mean of the positions; "gem", their generalised mean with a learnt exponent; "cls", the first
            token; "pooler", the backbone's own, as ConvNeXt and models with a learnt pooler expect.
        embedding_dim: Dimension to which the neck's linear layer projects; None leaves that layer out.
        dropout: Dropout probability before the linear layer.
        neck_norm: Whether batch normalisation ends the neck.
        gem_exponent: Where the exponent of "gem" starts.
        image_size: Height and width in pixels.
        image_mean: Mean of each channel, of values in 0..1.
        image_std: Standard deviation of each channel, of values in 0..1.
        feature_width: Length of the pooled vector; found by a trial run when None.

    Raises:
        ValueError: If a setting is not one that there is.

    Example:
        >>> from transformers import ResNetConfig
        >>> config = ImageTowerConfig(ResNetConfig(), pooling="gem", embedding_dim=64)
        >>> config.projection_dim
        64
    """

    model_type = "mmembed_image_tower"
    sub_configs = {"backbone_config": AutoConfig}
    has_no_defaults_at_init = True

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        pooling: str = "avg",
        embedding_dim: int | None = 512,
        dropout: float = 0.0,
        neck_norm: bool = True,
        gem_exponent: float = 3.0,
        image_size: int = 224,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        feature_width: int | None = None,
        **kwargs: Any,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r}; choose one of {', '.join(POOLINGS)}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}; it must lie in [0, 1).")
        if embedding_dim is not None and embedding_dim < 1:
            raise ValueError(f"embedding_dim={embedding_dim}; give at least 1, or None for no linear layer.")
        self.backbone_config = _resolved(backbone_config)
        self.pooling, self.gem_exponent = pooling, gem_exponent
        self.embedding_dim, self.dropout, self.neck_norm = embedding_dim, dropout, neck_norm
        self.image_size = image_size
        # ImageNet's, which nearly every backbone was trained with
        self.image_mean = list(image_mean) if image_mean is not None else [0.485, 0.456, 0.406]
        self.image_std = list(image_std) if image_std is not None else [0.229, 0.224, 0.225]
        self.feature_width = feature_width
        super().__init__(**kwargs)

    @property
    def projection_dim(self) -> int:
        """Length of the vectors that come out."""
        return self.embedding_dim if self.embedding_dim is not None else self.feature_width

    @property
    def hidden_size(self) -> int:
        """Length of the vectors that come out, by the name that other libraries read."""
        return self.projection_dim


def _resolved(config: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig | None:
    if config is None or isinstance(config, PretrainedConfig):
        return config
    settings = dict(config)
    model_type = settings.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"backbone_config needs 'model_type', for example 'resnet'; it has {sorted(settings)[:5]}.")
    return AutoConfig.for_model(model_type, **settings)
