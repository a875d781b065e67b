"""A `CLIPModel` or `SiglipModel` of transformers → the folder that open_clip loads: its flat layout and its configuration."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, CLIPModel, PreTrainedModel, SiglipModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.conversion.key_table import Rule, map_keys, transposed

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"


def _layer_rules(source: str, target: str, names: dict[str, str]) -> list[Rule]:
    """Of a tower's layers, `names` being what each part is called; query, key and value are one already."""
    layer, block = rf"{source}\.encoder\.layers\.(\d+)", rf"{target}.\1"
    return [
        Rule(rf"{layer}\.self_attn\.in_proj_(weight|bias)", rf"{block}.{names['in_proj']}\2"),
        Rule(rf"{layer}\.self_attn\.out_proj\.(weight|bias)", rf"{block}.{names['out_proj']}.\2"),
        Rule(rf"{layer}\.layer_norm([12])\.(weight|bias)", rf"{block}.{names['norm']}\2.\3"),
        Rule(rf"{layer}\.mlp\.fc1\.(weight|bias)", rf"{block}.{names['fc1']}.\2"),
        Rule(rf"{layer}\.mlp\.fc2\.(weight|bias)", rf"{block}.{names['fc2']}.\2"),
    ]


_OPENAI = {
    "in_proj": "attn.in_proj_",
    "out_proj": "attn.out_proj",
    "norm": "ln_",
    "fc1": "mlp.c_fc",
    "fc2": "mlp.c_proj",
}
_TIMM = {"in_proj": "attn.qkv.", "out_proj": "attn.proj", "norm": "norm", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def _text_rules(prefix: str) -> list[Rule]:
    return [
        Rule(r"text_model\.embeddings\.token_embedding\.weight", f"{prefix}token_embedding.weight"),
        Rule(r"text_model\.embeddings\.position_embedding\.weight", f"{prefix}positional_embedding"),
        Rule(r"text_model\.final_layer_norm\.(weight|bias)", rf"{prefix}ln_final.\1"),
        *_layer_rules("text_model", f"{prefix}transformer.resblocks", _OPENAI),
        Rule(r"(logit_scale|logit_bias)", r"\1", lambda scalar: scalar.reshape(())),
    ]


_CLIP_RULES = [
    Rule(r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    Rule(r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    Rule(r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
    Rule(r"vision_model\.pre_layrnorm\.(weight|bias)", r"visual.ln_pre.\1"),
    Rule(r"vision_model\.post_layernorm\.(weight|bias)", r"visual.ln_post.\1"),
    Rule(r"visual_projection\.weight", "visual.proj", transposed),
    *_layer_rules("vision_model", "visual.transformer.resblocks", _OPENAI),
    Rule(r"text_projection\.weight", "text_projection", transposed),
    *_text_rules(""),
]

_HEAD, _POOL = r"vision_model\.head", "visual.trunk.attn_pool"
_SIGLIP_RULES = [
    Rule(
        r"vision_model\.embeddings\.position_embedding\.weight",
        "visual.trunk.pos_embed",
        lambda table: table.unsqueeze(0),
    ),
    Rule(r"vision_model\.embeddings\.patch_embedding\.(weight|bias)", r"visual.trunk.patch_embed.proj.\1"),
    Rule(r"vision_model\.post_layernorm\.(weight|bias)", r"visual.trunk.norm.\1"),
    *_layer_rules("vision_model", "visual.trunk.blocks", _TIMM),
    Rule(rf"{_HEAD}\.probe", f"{_POOL}.latent"),
    Rule(
        rf"{_HEAD}\.attention\.in_proj_(weight|bias)",
        (rf"{_POOL}.q.\1", rf"{_POOL}.kv.\1"),
        lambda three: three.split([len(three) // 3, 2 * len(three) // 3]),
    ),
    Rule(rf"{_HEAD}\.attention\.out_proj\.(weight|bias)", rf"{_POOL}.proj.\1"),
    Rule(rf"{_HEAD}\.layernorm\.(weight|bias)", rf"{_POOL}.norm.\1"),
    Rule(rf"{_HEAD}\.mlp\.(fc[12])\.(weight|bias)", rf"{_POOL}.mlp.\1.\2"),
    Rule(r"text_model\.head\.(weight|bias)", r"text.text_projection.\1"),
    *_text_rules("text."),
]

# timm's SigLIP towers by what they are made of: (width, layers, heads, inner width, patch, activation). The image size is
# set beside the name.
_TOWERS = {
    (768, 12, 12, 3072, 16, "gelu"): "vit_base_patch16_siglip_224",
    (768, 12, 12, 3072, 32, "gelu_pytorch_tanh"): "vit_base_patch32_siglip_256",
    (1024, 24, 16, 4096, 16, "gelu"): "vit_large_patch16_siglip_256",
    (1024, 24, 16, 4096, 16, "gelu_pytorch_tanh"): "vit_large_patch16_siglip_512",
    (1152, 27, 16, 4304, 14, "gelu"): "vit_so400m_patch14_siglip_224",
    (1152, 27, 16, 4304, 16, "gelu_pytorch_tanh"): "vit_so400m_patch16_siglip_256",
    (1536, 40, 16, 6144, 16, "gelu_pytorch_tanh"): "vit_giantopt_patch16_siglip_256",
}
# Vocabulary → the tokenizer that open_clip reads for it.
_TOKENIZERS = {
    32_000: "timm/ViT-B-16-SigLIP",
    250_000: "timm/ViT-B-16-SigLIP-i18n-256",
    256_000: "timm/ViT-B-16-SigLIP2",
}


def export_open_clip(
    model: PreTrainedModel | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write `open_clip_model.safetensors` and `open_clip_config.json`, as open_clip's folders on the Hub have them.

    A checkpoint that was converted and written again has the very bits it had. `open_clip.create_model("local-dir:PATH")`
    loads the folder.

    Args:
        model: The model, or the folder of a converted or fine-tuned one, whose image settings are kept then. Of a
            SentenceTransformer it is `model[0].model`.
        output_dir: A folder that does not exist, or is empty.
        dtype: Of the tensors; the model's own when None.

    Returns:
        The folder.

    Raises:
        ConversionError: If it is no such model, or open_clip has no setting for something in it; nothing is written then.

    Example:
        >>> export_open_clip("my-fashion-clip", "my-fashion-clip-open-clip")  # doctest: +SKIP
    """
    out = Path(output_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError(f"{out} exists and is not an empty folder; choose another output_dir.")
    loaded = _loaded(model)
    config = {"model_cfg": open_clip_config(loaded), "preprocess_cfg": _preprocess_cfg(model, loaded)}
    tensors = open_clip_state_dict(loaded)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place and moved there whole.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        whole = Path(folder, "whole")
        whole.mkdir()
        save_file(tensors, whole / WEIGHTS, metadata={"format": "pt"})
        (whole / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(whole, out)
    return out


def open_clip_state_dict(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors under open_clip's names: CLIP's flat layout, or SigLIP's, whose text tower is called `text`.

    Args:
        model: A `CLIPModel` or `SiglipModel`.

    Returns:
        Name → tensor on the CPU.

    Raises:
        ConversionError: If it is no such model.

    Example:
        >>> from transformers import CLIPConfig
        >>> tiny = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> tensors = open_clip_state_dict(CLIPModel(CLIPConfig(text_config=tiny, vision_config=tiny, projection_dim=2)))
        >>> tensors["visual.proj"].shape, tensors["transformer.resblocks.0.attn.in_proj_weight"].shape
        (torch.Size([4, 2]), torch.Size([12, 4]))
    """
    rules = _rules(model)
    tensors = {}
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        match = re.fullmatch(r"(.*\.self_attn\.)([qkv])_proj\.(weight|bias)", name)
        if match is None:
            tensors[name] = tensor
        elif match[2] == "q":
            tensors[f"{match[1]}in_proj_{match[3]}"] = torch.cat(
                [state[f"{match[1]}{n}_proj.{match[3]}"] for n in "qkv"]
            )
    # Views would be saved with the whole of what they look at.
    mapped = map_keys(tensors, rules, family="open_clip").tensors
    return {name: tensor.contiguous().clone() for name, tensor in mapped.items()}


def open_clip_config(model: PreTrainedModel) -> dict[str, Any]:
    """The `model_cfg` that open_clip builds the same model from.

    Args:
        model: A `CLIPModel` or `SiglipModel`.

    Returns:
        Its `embed_dim`, `vision_cfg`, `text_cfg`, ...

    Raises:
        ConversionError: If open_clip has no setting for something in it, such as an image tower of SigLIP of no published
            size, which open_clip knows by timm's names alone.
    """
    _rules(model)
    text, vision = model.config.text_config, model.config.vision_config
    siglip = isinstance(model, SiglipModel)
    text_cfg: dict[str, Any] = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        **_mlp_ratio(text),
    }
    if siglip:
        made_of = (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size)
        tower = _TOWERS.get((*made_of, vision.patch_size, vision.hidden_act))
        if tower is None or vision.layer_norm_eps != 1e-6:
            raise ConversionError(
                f"the image tower (width, layers, heads, inner width {made_of}, patch {vision.patch_size}, "
                f"{vision.hidden_act}) is none that timm has a name for, and open_clip knows SigLIP's towers by those; "
                "its tensors alone are in open_clip_state_dict(model)."
            )
        text_cfg |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", **_activation(text)[1]}
        text_cfg |= {"norm_kwargs": {"eps": text.layer_norm_eps}, "tokenizer_kwargs": {"clean": "canonicalize"}}
        if text.vocab_size in _TOKENIZERS:
            text_cfg["hf_tokenizer_name"] = _TOKENIZERS[text.vocab_size]
        named = {"timm_model_name": tower, "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"}
        return {
            "embed_dim": text.projection_size,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": {"image_size": vision.image_size, **named},
            "text_cfg": text_cfg,
        }
    (quick, vision_act), (quick_text, text_act) = _activation(vision), _activation(text)
    if quick != quick_text:
        raise ConversionError(
            f"hidden_act is {vision.hidden_act} and {text.hidden_act}; open_clip has one for both towers."
        )
    if text.eos_token_id not in (2, text.vocab_size - 1):
        text_cfg |= {"pool_type": "eos", "eos_id": text.eos_token_id}
    vision_cfg = {
        "image_size": vision.image_size,
        "layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "head_width": vision.hidden_size // vision.num_attention_heads,
        "patch_size": vision.patch_size,
        **_mlp_ratio(vision),
    }
    return {
        "embed_dim": model.config.projection_dim,
        "quick_gelu": quick,
        "vision_cfg": {**vision_cfg, **vision_act, **_norm(vision)},
        "text_cfg": {**text_cfg, **text_act, **_norm(text)},
    }


def _rules(model: PreTrainedModel) -> list[Rule]:
    if isinstance(model, CLIPModel):
        return _CLIP_RULES
    if isinstance(model, SiglipModel):
        return _SIGLIP_RULES
    raise ConversionError(
        f"a {type(model).__name__} is neither CLIPModel nor SiglipModel; open_clip's layout is theirs."
    )


def _activation(tower: Any) -> tuple[bool, dict[str, Any]]:
    """Whether it is the quick GELU, and the setting of another one."""
    if tower.hidden_act not in ("gelu", "quick_gelu", "gelu_pytorch_tanh"):
        raise ConversionError(f"hidden_act={tower.hidden_act!r}: open_clip has gelu, quick_gelu and gelu_pytorch_tanh.")
    tanh = tower.hidden_act == "gelu_pytorch_tanh"
    return tower.hidden_act == "quick_gelu", {"act_kwargs": {"approximate": "tanh"}} if tanh else {}


def _mlp_ratio(tower: Any) -> dict[str, float]:
    """Such that open_clip's int(width * ratio) is the inner width."""
    if tower.intermediate_size == 4 * tower.hidden_size:
        return {}
    return {"mlp_ratio": (tower.intermediate_size + 0.5) / tower.hidden_size}


def _norm(tower: Any) -> dict[str, Any]:
    return {} if tower.layer_norm_eps == 1e-5 else {"norm_kwargs": {"eps": tower.layer_norm_eps}}


def _preprocess_cfg(source: PreTrainedModel | str | os.PathLike[str], model: PreTrainedModel) -> dict[str, Any]:
    siglip = isinstance(model, SiglipModel)
    given = {
        "mean": [0.5] * 3 if siglip else list(OPENAI_CLIP_MEAN),
        "std": [0.5] * 3 if siglip else list(OPENAI_CLIP_STD),
        "interpolation": "bicubic",
        "resize_mode": "squash" if siglip else "shortest",
    }
    if not isinstance(source, (str, os.PathLike)):
        return given
    try:
        images = AutoImageProcessor.from_pretrained(os.fspath(source))
    except (OSError, ValueError, KeyError):
        return given  # a folder of weights alone: what the published models have
    resample = {2: "bilinear", 3: "bicubic"}.get(int(images.resample))
    if resample is None:
        raise ConversionError(
            f"images are resized by PIL's filter {images.resample}; open_clip has bilinear and bicubic."
        )
    crop = bool(getattr(images, "do_center_crop", False))
    return {
        "mean": list(images.image_mean),
        "std": list(images.image_std),
        "interpolation": resample,
        "resize_mode": "shortest" if crop else "squash",
    }


def _loaded(model: PreTrainedModel | str | os.PathLike[str]) -> PreTrainedModel:
    if not isinstance(model, (str, os.PathLike)):
        return model
    try:
        return AutoModel.from_pretrained(os.fspath(model), use_safetensors=True)
    except (OSError, ValueError) as error:
        said = str(error).strip().split("\n")[0]
        raise ConversionError(f"{model} cannot be loaded: {said}") from error
