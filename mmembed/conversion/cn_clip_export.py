"""A Chinese-CLIP of transformers, or our ResNet one → a checkpoint that cn_clip loads, in either of its two layouts."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, ChineseCLIPModel, PreTrainedModel

from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.conversion.key_table import Rule, map_keys, transposed
from mmembed.models import ChineseCLIPResNetModel

LAYOUTS = ("standard", "flash")
_VISION_LAYER = r"vision_model\.encoder\.layers\.(\d+)"
_BLOCK = r"visual.transformer.resblocks.\1"

_TEXT_RULES = [
    Rule(r"text_model\.(.*)", r"bert.\1"),
    Rule(r"text_projection\.weight", "text_projection", transposed),
    Rule(r"logit_scale", "logit_scale", lambda scale: scale.reshape(())),
]
_VIT_RULES = [
    Rule(r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    Rule(r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    Rule(r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    Rule(r"vision_model\.pre_layrnorm\.(.*)", r"visual.ln_pre.\1"),
    Rule(r"vision_model\.post_layernorm\.(.*)", r"visual.ln_post.\1"),
    Rule(r"visual_projection\.weight", "visual.proj", transposed),
    Rule(rf"{_VISION_LAYER}\.self_attn\.in_proj_(.*)", rf"{_BLOCK}.attn.in_proj_\2"),
    Rule(rf"{_VISION_LAYER}\.self_attn\.out_proj\.(.*)", rf"{_BLOCK}.attn.out_proj.\2"),
    Rule(rf"{_VISION_LAYER}\.layer_norm([12])\.(.*)", rf"{_BLOCK}.ln_\2.\3"),
    Rule(rf"{_VISION_LAYER}\.mlp\.fc1\.(.*)", rf"{_BLOCK}.mlp.c_fc.\2"),
    Rule(rf"{_VISION_LAYER}\.mlp\.fc2\.(.*)", rf"{_BLOCK}.mlp.c_proj.\2"),
    *_TEXT_RULES,
]
_RESNET_RULES = [
    Rule(r"vision_model\.(layer\d\.\d+)\.shortcut\.conv\.weight", r"visual.\1.downsample.0.weight"),
    Rule(r"vision_model\.(layer\d\.\d+)\.shortcut\.norm\.(.*)", r"visual.\1.downsample.1.\2"),
    Rule(r"vision_model\.(.*)", r"visual.\1"),
    *_TEXT_RULES,
]
# From cn_clip's standard layout to that of its flash attention; what no rule names keeps its name.
_FLASH_RULES = [
    Rule(r"(visual\.transformer\..*\.attn)\.in_proj_(weight|bias)", r"\1.Wqkv.\2"),
    Rule(
        r"(bert\.encoder\.layer\.\d+\.attention)\.output\.dense\.(weight|bias)",
        r"\1.self.out_proj.\2",
    ),
    Rule(r"(.*)", r"\1"),
]


def export_cn_clip(
    model: PreTrainedModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    layout: str = "standard",
    epoch: int = 0,
    step: int = 0,
    name: str = "mmembed",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a checkpoint as cn_clip publishes them: {epoch, step, name, state_dict: {module.…}}.

    A checkpoint that was converted and written again has the very bits it had, save for what cn_clip itself drops
    (`bert.pooler`).

    Args:
        model: The model, or the folder of a converted or fine-tuned one. Of a SentenceTransformer it is `model[0].model`.
        path: The file, which must not exist, such as `epoch_latest.pt`.
        layout: "standard", or "flash" for cn_clip's `--use-flash-attention`.
        epoch: Epochs that it was trained for.
        step: Steps that it was trained for.
        name: Of the run.
        dtype: Of floating-point tensors; the model's own when None.

    Returns:
        The path.

    Raises:
        ConversionError: If it is no such model, the layout is unknown, or the file exists.

    Example:
        >>> export_cn_clip("my-chinese-clip", "epoch_latest.pt", layout="flash")  # doctest: +SKIP
    """
    file = Path(path)
    if file.exists():
        raise ConversionError(f"{file} exists; choose another path.")
    tensors = cn_clip_state_dict(_loaded(model), layout=layout)
    if dtype is not None:
        tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
    state_dict = {f"module.{key}": value for key, value in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place and moved there whole.
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
        scratch = Path(folder, file.name)
        torch.save({"epoch": epoch, "step": step, "name": name, "state_dict": state_dict}, scratch)
        os.replace(scratch, file)
    return file


def cn_clip_state_dict(model: PreTrainedModel, *, layout: str = "standard") -> dict[str, torch.Tensor]:
    """The tensors under cn_clip's names, without "module.".

    Args:
        model: A `ChineseCLIPModel` or `ChineseCLIPResNetModel`.
        layout: "standard" or "flash".

    Returns:
        Name → tensor on the CPU.

    Raises:
        ConversionError: If it is no such model, or the layout is unknown.

    Example:
        >>> from transformers import ChineseCLIPConfig
        >>> tiny = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> config = ChineseCLIPConfig(text_config=tiny, vision_config=tiny, projection_dim=4)
        >>> tensors = cn_clip_state_dict(ChineseCLIPModel(config), layout="flash")
        >>> tensors["bert.encoder.layer.0.attention.self.Wqkv.weight"].shape
        torch.Size([12, 4])
    """
    if layout not in LAYOUTS:
        raise ConversionError(f"layout={layout!r}; choose one of {', '.join(LAYOUTS)}.")
    if not isinstance(model, (ChineseCLIPModel, ChineseCLIPResNetModel)):
        raise ConversionError(f"a {type(model).__name__} is no Chinese-CLIP; cn_clip has no place for its weights.")
    tensors = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    is_resnet = isinstance(model, ChineseCLIPResNetModel)
    if not is_resnet:
        names = tuple(f"{part}_proj" for part in "qkv")
        tensors = _joined(tensors, rf"({_VISION_LAYER}\.self_attn\.)", names, "in_proj_")
    tensors = map_keys(tensors, _RESNET_RULES if is_resnet else _VIT_RULES, family="cn_clip").tensors
    if layout == "flash":
        names = ("query", "key", "value")
        tensors = _joined(tensors, r"(bert\.encoder\.layer\.(\d+)\.attention\.self\.)", names, "Wqkv.")
        tensors = map_keys(tensors, _FLASH_RULES, family="cn_clip").tensors
    # Views would be saved with the whole of what they look at.
    return {key: value.clone() for key, value in tensors.items()}


def _joined(
    tensors: dict[str, torch.Tensor], prefix: str, names: tuple[str, ...], target: str
) -> dict[str, torch.Tensor]:
    """Put query, key and value, each (width, …), into one tensor (3 width, …), at the query's place."""
    first, *others = names
    joined = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(rf"{prefix}({'|'.join(names)})\.(weight|bias)", key)
        if match is None:
            joined[key] = tensor
        elif match.group(3) == first:
            kind = match.group(4)
            parts = [tensor, *(tensors[f"{match.group(1)}{other}.{kind}"] for other in others)]
            joined[f"{match.group(1)}{target}{kind}"] = torch.cat(parts)
    return joined


def _loaded(model: PreTrainedModel | str | os.PathLike[str]) -> PreTrainedModel:
    if not isinstance(model, (str, os.PathLike)):
        return model
    try:
        return AutoModel.from_pretrained(os.fspath(model), use_safetensors=True)
    except (OSError, ValueError) as error:
        said = str(error).strip().split("\n")[0]
        raise ConversionError(f"{model} cannot be loaded: {said}") from error
