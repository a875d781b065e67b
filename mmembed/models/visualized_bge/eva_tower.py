"""The image tower of EVA02-CLIP: a vision transformer with rotary positions, gated layers and a norm before each output.

Fang et al. 2023, https://huggingface.co/papers/2303.11331; Sun et al. 2023, https://huggingface.co/papers/2303.15389.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_visualized_bge import EvaVisionConfig


def rotary_tables(config: EvaVisionConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each patch's angles: half of a head's width turns with the row, half with the column.

    Args:
        config: `image_size`, `patch_size`, `head_dim`, `rope_theta` and `rope_grid` are read.

    Returns:
        Two float32 (patches, head_dim), patches row by row, two equal values for each pair of channels.

    Example:
        >>> cos, sin = rotary_tables(EvaVisionConfig(16, 1, 2, image_size=16, patch_size=8))  # 2 x 2 patches
        >>> cos.shape, sin[0].abs().max().item()  # the first patch is not turned
        (torch.Size([4, 8]), 0.0)
    """
    side, width = config.image_size // config.patch_size, config.head_dim // 2
    frequencies = config.rope_theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    places = torch.arange(side, dtype=torch.float32) / side * config.rope_grid
    angles = (places[:, None] * frequencies).repeat_interleave(2, dim=-1)  # (side, width)
    rows, columns = angles[:, None].expand(side, side, width), angles[None].expand(side, side, width)
    both = torch.cat([rows, columns], dim=-1).reshape(side * side, 2 * width)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels by its angle.

    Args:
        x: (rows, heads, patches, head_dim).
        cos: (patches, head_dim), or (rows, 1, patches, head_dim) where each row has patches of its own.
        sin: The same.

    Returns:
        What `x` becomes, of its shape.

    Example:
        >>> quarter = torch.zeros(1, 2), torch.ones(1, 2)
        >>> rotate(torch.tensor([[[[1.0, 0.0]]]]), *quarter)
        tensor([[[[0., 1.]]]])
    """
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cos + turned * sin


class EvaAttention(nn.Module):
    """Self-attention whose queries and keys turn with their patch's place; the first token stands nowhere."""

    def __init__(self, config: EvaVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_dim = config.head_dim
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = (*hidden.shape[:-1], -1, self.head_dim)
        query, key, value = (
            project(hidden).view(shape).transpose(1, 2) for project in (self.query, self.key, self.value)
        )  # (images, heads, tokens, head_dim)
        query, key = (torch.cat([x[:, :, :1], rotate(x[:, :, 1:], cos, sin).to(x.dtype)], dim=2) for x in (query, key))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.output(self.norm(mixed.transpose(1, 2).flatten(2)))


class EvaGatedLayer(nn.Module):
    """silu(gate(x)) * up(x), normalised, and down to the width of x again."""

    def __init__(self, config: EvaVisionConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.norm = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(self.norm(F.silu(self.gate(hidden)) * self.up(hidden)))


class EvaBlock(GradientCheckpointingLayer):
    """Attention and gated layer, each with a norm before it and a way past it."""

    def __init__(self, config: EvaVisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = EvaAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = EvaGatedLayer(config)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.norm1(hidden), cos, sin)
        return hidden + self.mlp(self.norm2(hidden))


class EvaVisionModel(nn.Module):
    """Images → tokens: the last block's output, which Visualized-BGE reads without CLIP's final norm and head.

    The rotary tables are saved and loaded with the weights: published ones are rounded to 16 bits, and fresh ones would
    move the tokens by 5e-5.

    Args:
        config: The settings.

    Example:
        >>> tower = EvaVisionModel(EvaVisionConfig(16, 1, 2, 24, image_size=16, patch_size=8)).eval()
        >>> tower(torch.zeros(3, 3, 16, 16)).shape
        torch.Size([3, 5, 16])
    """

    def __init__(self, config: EvaVisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + config.num_patches, width))
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        cos, sin = rotary_tables(config)
        self.register_buffer("rope_cos", cos)
        self.register_buffer("rope_sin", sin)
        self.blocks = nn.ModuleList([EvaBlock(config) for _ in range(config.num_hidden_layers)])

    def forward(self, pixel_values: Tensor, patch_indices: Tensor | None = None) -> Tensor:
        """The tokens of images.

        Args:
            pixel_values: Floating point (images, 3, height, width), normalised.
            patch_indices: int64 (images, kept), the patches to keep, in this order. When None all are kept, but in training
                a share of `patch_dropout` is left out.

        Returns:
            (images, 1 + patches kept, hidden_size), the class token first.

        Raises:
            ValueError: If the images have another size.
        """
        size = self.config.image_size
        if pixel_values.shape[1:] != (3, size, size):
            raise ValueError(
                f"pixel_values of shape {tuple(pixel_values.shape)}; expected (images, 3, {size}, {size})."
            )
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)  # (images, patches, width)
        tokens = (
            torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.position_embedding
        )
        if patch_indices is None and self.training and self.config.patch_dropout > 0:
            patch_indices = self._drawn_patches(len(tokens), tokens.device)
        cos, sin = self.rope_cos, self.rope_sin
        if patch_indices is not None:
            every = torch.arange(len(tokens), device=tokens.device)[:, None]
            tokens = torch.cat([tokens[:, :1], tokens[every, 1 + patch_indices]], dim=1)
            cos, sin = cos[patch_indices][:, None], sin[patch_indices][:, None]  # (images, 1, kept, head_dim)
        for block in self.blocks:
            tokens = block(tokens, cos, sin)
        return tokens

    def _drawn_patches(self, images: int, device: torch.device) -> Tensor:
        # The generator of dropout, so that checkpointed and cached gradients meet the same draw again.
        count = self.config.num_patches
        kept = max(1, int(count * (1 - self.config.patch_dropout)))
        return torch.rand(images, count, device=device).topk(kept, dim=-1).indices
