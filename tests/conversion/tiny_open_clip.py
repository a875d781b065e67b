"""Tiny CLIPs and SigLIPs in open_clip's own layout, and what the original computes with them, in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

WORDS = "a the red blue green mug lamp hat desk wool dog fox quick brown jumps over lazy".split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def merges() -> list[str]:
    """Lines that spell each word from left to right, the last letter carrying the end of the word."""
    lines: dict[str, None] = {}
    for word in WORDS:
        letters = [*word[:-1], f"{word[-1]}</w>"]
        left = letters[0]
        for letter in letters[1:]:
            lines[f"{left} {letter}"] = None
            left += letter
    return list(lines)


def siglip_pieces() -> list[str]:
    return ["<pad>", "</s>", "<unk>", "▁", *_LETTERS, *(f"▁{word}" for word in WORDS)]


CONFIG: dict[str, Any] = {
    "embed_dim": 12,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 24, "patch_size": 8, "head_width": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 514 + len(merges()), "width": 16, "heads": 2, "layers": 3},
}
CONFIG_SIGLIP: dict[str, Any] = {
    "embed_dim": 24,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_pool": "map",
        "timm_proj": "none",
        "head_width": 8,  # timm's name tells it for the published sizes
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": len(siglip_pieces()),
        "width": 16,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
    "pad_id": 1,
}


def write_tokenizer(folder: Path) -> Path:
    """Merges in the form of OpenAI's bpe_simple_vocab_16e6.txt."""
    path = Path(folder) / "bpe.txt"
    path.write_text("\n".join(["#version: 0.2", *merges()]) + "\n", encoding="utf-8")
    return path


def write_tokenizer_siglip(folder: Path) -> Path:
    """A unigram tokenizer of the kind of T5's, which keeps case and punctuation and pads with token 0."""
    scores = [(piece, -float(len(_LETTERS)) / len(piece)) for piece in siglip_pieces()]
    words = Tokenizer(models.Unigram(scores, unk_id=2))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path = Path(folder) / "siglip_tokenizer"
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


def _draw(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, std: float | None = None) -> Tensor:
        inputs = torch.Size(shape[1:]).numel()
        return torch.randn(*shape, generator=generator) * (std if std is not None else inputs**-0.5)

    return draw


def _linear(draw: Callable[..., Tensor], name: str, outputs: int, inputs: int) -> dict[str, Tensor]:
    return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs, std=0.1)}


def _norm(draw: Callable[..., Tensor], name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": 1 + draw(width, std=0.1), f"{name}.bias": draw(width, std=0.1)}


def _openai_blocks(draw: Callable[..., Tensor], prefix: str, layers: int, width: int) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer in range(layers):
        block = f"{prefix}.resblocks.{layer}"
        tensors[f"{block}.attn.in_proj_weight"] = draw(3 * width, width)
        tensors[f"{block}.attn.in_proj_bias"] = draw(3 * width, std=0.1)
        tensors |= _linear(draw, f"{block}.attn.out_proj", width, width)
        tensors |= _norm(draw, f"{block}.ln_1", width) | _norm(draw, f"{block}.ln_2", width)
        tensors |= _linear(draw, f"{block}.mlp.c_fc", 4 * width, width)
        tensors |= _linear(draw, f"{block}.mlp.c_proj", width, 4 * width)
    return tensors


def _text(draw: Callable[..., Tensor], prefix: str, cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        f"{prefix}positional_embedding": draw(cfg["context_length"], cfg["width"], std=0.3),
        f"{prefix}token_embedding.weight": draw(cfg["vocab_size"], cfg["width"], std=1.0),
        **_openai_blocks(draw, f"{prefix}transformer", cfg["layers"], cfg["width"]),
        **_norm(draw, f"{prefix}ln_final", cfg["width"]),
    }


def original_state_dict(seed: int = 0, config: Mapping[str, Any] = CONFIG) -> dict[str, Tensor]:
    """CLIP in the flat layout."""
    draw, vision = _draw(seed), config["vision_cfg"]
    width, patch = vision["width"], vision["patch_size"]
    return {
        **_text(draw, "", config["text_cfg"]),
        "text_projection": draw(config["text_cfg"]["width"], config["embed_dim"], std=0.3),
        "logit_scale": torch.tensor(2.7),
        "visual.class_embedding": draw(width, std=0.3),
        "visual.positional_embedding": draw((vision["image_size"] // patch) ** 2 + 1, width, std=0.3),
        "visual.proj": draw(width, config["embed_dim"], std=0.3),
        "visual.conv1.weight": draw(width, 3, patch, patch),
        **_norm(draw, "visual.ln_pre", width),
        **_openai_blocks(draw, "visual.transformer", vision["layers"], width),
        **_norm(draw, "visual.ln_post", width),
    }


def original_state_dict_siglip(
    seed: int = 0, config: Mapping[str, Any] = CONFIG_SIGLIP, patch: int = 8, layers: int = 2
) -> dict[str, Tensor]:
    """SigLIP: timm's tower, and the text tower under `text`."""
    draw, width, text = _draw(seed), config["embed_dim"], config["text_cfg"]
    pool = "visual.trunk.attn_pool"
    tensors = {
        "logit_scale": torch.tensor(2.2),
        "logit_bias": torch.tensor(-9.5),
        "visual.trunk.pos_embed": draw(1, (config["vision_cfg"]["image_size"] // patch) ** 2, width, std=0.3),
        "visual.trunk.patch_embed.proj.weight": draw(width, 3, patch, patch),
        "visual.trunk.patch_embed.proj.bias": draw(width, std=0.1),
        **_norm(draw, "visual.trunk.norm", width),
        f"{pool}.latent": draw(1, 1, width, std=1.0),
        **_linear(draw, f"{pool}.q", width, width),
        **_linear(draw, f"{pool}.kv", 2 * width, width),
        **_linear(draw, f"{pool}.proj", width, width),
        **_norm(draw, f"{pool}.norm", width),
        **_linear(draw, f"{pool}.mlp.fc1", 4 * width, width),
        **_linear(draw, f"{pool}.mlp.fc2", width, 4 * width),
        **_text(draw, "text.", text),
        **_linear(draw, "text.text_projection", width, text["width"]),
    }
    for layer in range(layers):
        block = f"visual.trunk.blocks.{layer}"
        tensors |= _norm(draw, f"{block}.norm1", width) | _norm(draw, f"{block}.norm2", width)
        tensors |= _linear(draw, f"{block}.attn.qkv", 3 * width, width)
        tensors |= _linear(draw, f"{block}.attn.proj", width, width)
        tensors |= _linear(draw, f"{block}.mlp.fc1", 4 * width, width)
        tensors |= _linear(draw, f"{block}.mlp.fc2", width, 4 * width)
    return tensors


# --- what the originals compute ---------------------------------------------------------------------------------------


def _apply(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].t() + state[f"{name}.bias"]


def _normed(state: Mapping[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, causal: bool = False) -> Tensor:
    """(rows, length, width) each."""
    rows, length, width = query.shape
    parts = [x.reshape(rows, -1, heads, width // heads).transpose(1, 2) for x in (query, key, value)]
    scores = parts[0] @ parts[1].transpose(-1, -2) / (width // heads) ** 0.5
    if causal:
        scores = scores + torch.full((length, length), float("-inf")).triu(1)
    return (scores.softmax(-1) @ parts[2]).transpose(1, 2).reshape(rows, length, width)


def _blocks(
    state: Mapping[str, Tensor],
    prefix: str,
    x: Tensor,
    *,
    heads: int,
    act: Callable[[Tensor], Tensor],
    eps: float,
    causal: bool = False,
    timm: bool = False,
) -> Tensor:
    layer = 0
    while any(name.startswith(f"{prefix}.{layer}.") for name in state):
        block = f"{prefix}.{layer}"
        norm, out, first, second = (
            ("norm", "attn.proj", "mlp.fc1", "mlp.fc2") if timm else ("ln_", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
        )
        qkv = f"{block}.attn.qkv." if timm else f"{block}.attn.in_proj_"
        y = _normed(state, f"{block}.{norm}1", x, eps) @ state[f"{qkv}weight"].t() + state[f"{qkv}bias"]
        x = x + _apply(state, f"{block}.{out}", _attend(*y.chunk(3, dim=-1), heads=heads, causal=causal))
        y = act(_apply(state, f"{block}.{first}", _normed(state, f"{block}.{norm}2", x, eps)))
        x = x + _apply(state, f"{block}.{second}", y)
        layer += 1
    return x


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def clip_vectors(
    state: Mapping[str, Tensor], config: Mapping[str, Any], ids: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors (rows, dim) of texts and images, not normalised."""
    act = quick_gelu if config["quick_gelu"] else F.gelu
    x = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    heads = config["text_cfg"]["heads"]
    x = _blocks(state, "transformer.resblocks", x, heads=heads, act=act, eps=1e-5, causal=True)
    x = _normed(state, "ln_final", x, 1e-5)
    text = x[torch.arange(len(ids)), ids.argmax(-1)] @ state["text_projection"]

    weight = state["visual.conv1.weight"]
    patches = F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(pixels), 1, -1), patches], dim=1)
    x = _normed(state, "visual.ln_pre", x + state["visual.positional_embedding"], 1e-5)
    heads = config["vision_cfg"]["width"] // config["vision_cfg"]["head_width"]
    x = _blocks(state, "visual.transformer.resblocks", x, heads=heads, act=act, eps=1e-5)
    return text, _normed(state, "visual.ln_post", x[:, 0], 1e-5) @ state["visual.proj"]


def siglip_vectors(
    state: Mapping[str, Tensor], config: Mapping[str, Any], ids: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors (rows, dim) of texts and images, not normalised."""
    x = state["text.token_embedding.weight"][ids] + state["text.positional_embedding"]
    heads = config["text_cfg"]["heads"]
    x = _blocks(state, "text.transformer.resblocks", x, heads=heads, act=F.gelu, eps=1e-6)
    text = _apply(state, "text.text_projection", _normed(state, "text.ln_final", x, 1e-6)[:, -1])

    trunk, pool = "visual.trunk", "visual.trunk.attn_pool"
    weight, bias = (state[f"{trunk}.patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    x = F.conv2d(pixels, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    heads = x.shape[-1] // config["vision_cfg"]["head_width"]
    x = x + state[f"{trunk}.pos_embed"]
    x = _blocks(state, f"{trunk}.blocks", x, heads=heads, act=F.gelu, eps=1e-6, timm=True)
    x = _normed(state, f"{trunk}.norm", x, 1e-6)
    query = _apply(state, f"{pool}.q", state[f"{pool}.latent"].expand(len(x), -1, -1))
    x = _apply(state, f"{pool}.proj", _attend(query, *_apply(state, f"{pool}.kv", x).chunk(2, dim=-1), heads=heads))
    y = _normed(state, f"{pool}.norm", x, 1e-6)
    return text, (x + _apply(state, f"{pool}.mlp.fc2", F.gelu(_apply(state, f"{pool}.mlp.fc1", y))))[:, 0]


class _Node(nn.Module):
    """A module that has what it is given and computes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def script_module(state: Mapping[str, Tensor], **attributes: Tensor) -> torch.jit.ScriptModule:
    """A TorchScript module whose state_dict is `state`, with sizes as buffers, as in OpenAI's archives.

    Args:
        state: Dotted name → tensor.
        **attributes: Tensors of the root that are neither parameters nor buffers.

    Returns:
        The module; `save` writes the archive.
    """
    root = _Node()
    for name, tensor in state.items():
        node, *path = root, *name.split(".")
        for part in path[:-1]:
            if part not in dict(node.named_children()):
                node.add_module(part, _Node())
            node = getattr(node, part)
        if tensor.ndim or name == "logit_scale":
            node.register_parameter(path[-1], nn.Parameter(tensor.clone(), requires_grad=False))
        else:
            node.register_buffer(path[-1], tensor.clone())
    for name, tensor in attributes.items():
        setattr(root, name, tensor)
    return torch.jit.script(root)
