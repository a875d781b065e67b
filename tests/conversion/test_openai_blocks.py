"""The names of OpenAI's blocks: every one of them finds its place in transformers' CLIP, with torch's own attention as oracle."""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPVisionConfig

from mmembed.conversion.key_table import map_keys
from mmembed.conversion.openai_blocks import VISION_RULES, block_rules


def test_attention_is_split_into_query_key_and_value() -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    prefix = "visual.transformer.resblocks.1.attn"
    tensors = {f"{prefix}.{name}": value.detach() for name, value in theirs.state_dict().items()}
    mapped = map_keys(tensors, VISION_RULES, family="clip").tensors
    ours = CLIPAttention(CLIPVisionConfig(hidden_size=8, num_attention_heads=2, attn_implementation="eager"))
    target = "vision_model.encoder.layers.1.self_attn."
    ours.load_state_dict({name.removeprefix(target): value for name, value in mapped.items()})
    hidden = torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(hidden)[0], theirs(hidden, hidden, hidden)[0], atol=1e-6, rtol=0)


def test_a_prefix_is_matched_whole() -> None:
    rules = block_rules("transformer", "text_model.encoder")
    (name,) = map_keys({"transformer.resblocks.11.mlp.c_fc.bias": torch.zeros(1)}, rules, family="clip").tensors
    assert name == "text_model.encoder.layers.11.mlp.fc1.bias"
