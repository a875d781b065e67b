"""How the towers of OpenAI's CLIP, which cn_clip and ruCLIP took over name by name, are called in transformers."""

from __future__ import annotations

from mmembed.conversion.key_table import Rule, split_in_three, transposed


def block_rules(source: str, target: str) -> list[Rule]:
    """The residual blocks of a transformer.

    Args:
        source: Regular expression before "resblocks", such as `visual\\.transformer`.
        target: Name before "layers", such as `vision_model.encoder`.

    Returns:
        Rules for `map_keys`.

    Example:
        >>> from mmembed.conversion.key_table import map_keys
        >>> import torch
        >>> rules = block_rules(r"visual\\.transformer", "vision_model.encoder")
        >>> list(map_keys({"visual.transformer.resblocks.0.ln_1.bias": torch.zeros(2)}, rules, family="clip").tensors)
        ['vision_model.encoder.layers.0.layer_norm1.bias']
    """
    block, layer = rf"{source}\.resblocks\.(\d+)", rf"{target}.layers.\1"
    attention = tuple(rf"{layer}.self_attn.{name}_proj" for name in "qkv")
    return [
        Rule(rf"{block}\.attn\.in_proj_(weight|bias)", tuple(rf"{name}.\2" for name in attention), split_in_three),
        Rule(rf"{block}\.attn\.out_proj\.(weight|bias)", rf"{layer}.self_attn.out_proj.\2"),
        Rule(rf"{block}\.ln_([12])\.(weight|bias)", rf"{layer}.layer_norm\2.\3"),
        Rule(rf"{block}\.mlp\.c_fc\.(weight|bias)", rf"{layer}.mlp.fc1.\2"),
        Rule(rf"{block}\.mlp\.c_proj\.(weight|bias)", rf"{layer}.mlp.fc2.\2"),
    ]


# The vision transformer and its projection.
VISION_RULES = [
    Rule(r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    Rule(r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    Rule(r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    Rule(r"visual\.ln_pre\.(weight|bias)", r"vision_model.pre_layrnorm.\1"),
    Rule(r"visual\.ln_post\.(weight|bias)", r"vision_model.post_layernorm.\1"),
    Rule(r"visual\.proj", "visual_projection.weight", transposed),
    *block_rules(r"visual\.transformer", "vision_model.encoder"),
]
