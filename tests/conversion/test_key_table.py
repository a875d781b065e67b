"""Key tables: every key goes somewhere, by the first rule, and what does not fit is named as the checkpoint calls it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmembed.conversion import chinese_clip, open_clip, ruclip
from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.conversion.key_table import Rule, load_exactly, map_keys, shown, source_name, split_in_three, transposed

from . import tiny_chinese_clip, tiny_open_clip, tiny_ruclip

RULES = [
    Rule(r"(?:net\.)?blocks\.(\d+)\.fc\.(weight|bias)", r"layers.\1.linear.\2"),
    Rule(r"head", "out.weight", transposed),
    Rule(r"queue", reason="of training"),
    Rule(r"qkv", ("q", "k", "v"), split_in_three),
]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"linear": nn.Linear(2, 3)}) for _ in range(2)])
        self.out = nn.Linear(3, 4, bias=False)
        self.register_buffer("positions", torch.arange(5))


def tensors() -> dict[str, torch.Tensor]:
    return {
        "blocks.0.fc.weight": torch.full((3, 2), 1.0),
        "blocks.0.fc.bias": torch.full((3,), 2.0),
        "net.blocks.1.fc.weight": torch.full((3, 2), 3.0, dtype=torch.float16),
        "blocks.1.fc.bias": torch.full((3,), 4.0),
        "head": torch.arange(12.0).reshape(3, 4),
        "queue": torch.zeros(9),
    }


def test_each_key_is_renamed_changed_or_dropped_and_listed() -> None:
    mapped = map_keys(tensors(), RULES, family="small")
    assert dict(mapped.renamed) == {
        "blocks.0.fc.weight": ("layers.0.linear.weight",),
        "blocks.0.fc.bias": ("layers.0.linear.bias",),
        "net.blocks.1.fc.weight": ("layers.1.linear.weight",),
        "blocks.1.fc.bias": ("layers.1.linear.bias",),
        "head": ("out.weight",),
    }
    assert mapped.dropped == [("queue", "of training")]
    model = Small()
    load_exactly(model, mapped, family="small", made=("positions",))
    assert torch.equal(model.out.weight, torch.arange(12.0).reshape(3, 4).t())
    assert model.layers[1]["linear"].weight.dtype == torch.float32 and model.layers[1]["linear"].weight.eq(3).all()
    assert torch.equal(model.positions, torch.arange(5))


def test_one_tensor_becomes_three() -> None:
    mapped = map_keys({"qkv": torch.arange(6).reshape(6, 1)}, RULES, family="small")
    assert [mapped.tensors[name].flatten().tolist() for name in "qkv"] == [[0, 1], [2, 3], [4, 5]]


def test_the_first_rule_that_matches_the_whole_name_counts() -> None:
    rules = [Rule(r"a", "first"), Rule(r"a.*", "second")]
    assert list(map_keys({"ab": torch.ones(1)}, rules, family="small").tensors) == ["second"]
    assert list(map_keys({"a": torch.ones(1)}, rules, family="small").tensors) == ["first"]


def test_unknown_keys_are_named_together() -> None:
    with pytest.raises(ConversionError, match="2 keys are not of the family small: x, blocks.0.fc.gamma"):
        map_keys({"x": torch.ones(1), **tensors(), "blocks.0.fc.gamma": torch.ones(1)}, RULES, family="small")


def test_keys_that_overwrite_each_other_are_named() -> None:
    twice = {**tensors(), "net.blocks.0.fc.bias": torch.ones(3)}
    with pytest.raises(ConversionError, match="net.blocks.0.fc.bias would overwrite layers.0.linear.bias"):
        map_keys(twice, RULES, family="small")


@pytest.mark.parametrize("shape", [(4,), (), (5, 2)])
def test_a_shape_that_cannot_be_changed_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConversionError, match="qkv has the shape"):
        map_keys({"qkv": torch.zeros(shape)}, RULES, family="small")


def test_missing_left_over_and_misshapen_keys_are_one_error_in_the_checkpoints_names() -> None:
    given = tensors()
    del given["blocks.0.fc.bias"], given["head"]
    given |= {"blocks.7.fc.bias": torch.ones(3), "blocks.1.fc.bias": torch.ones(9)}
    model = Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConversionError) as caught:
        load_exactly(model, map_keys(given, RULES, family="small"), family="small", made=("positions",))
    message = str(caught.value)
    assert "2 missing: blocks.0.fc.bias, head" in message
    assert "1 left over: blocks.7.fc.bias" in message
    assert "1 of another shape: blocks.1.fc.bias as layers.1.linear.bias (9,) instead of (3,)" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_the_model_makes_itself_may_be_missing_but_nothing_else() -> None:
    with pytest.raises(ConversionError, match="1 missing: positions"):
        load_exactly(Small(), map_keys(tensors(), RULES, family="small"), family="small")
    load_exactly(Small(), map_keys(tensors(), RULES, family="small"), family="small", made=(r"pos.*",))


@pytest.mark.parametrize(
    ("rules", "state"),
    [
        (open_clip.CLIP_RULES, tiny_open_clip.original_state_dict()),
        (open_clip.SIGLIP_RULES, tiny_open_clip.original_state_dict_siglip()),
        (ruclip.RULES, tiny_ruclip.original_state_dict()),
        (chinese_clip.VIT_RULES, tiny_chinese_clip.original_state_dict()),
    ],
    ids=["open_clip", "siglip", "ruclip", "chinese_clip"],
)
def test_every_target_is_read_back_to_its_own_source(rules: list[Rule], state: dict[str, torch.Tensor]) -> None:
    for source, targets in map_keys(state, rules, family="any").renamed:
        for target in targets:
            assert source_name(target, rules) == source


def test_a_pattern_that_cannot_be_read_backwards_gives_none() -> None:
    assert source_name("b.3", [Rule(r"a\d+(x)?", r"b.3")]) is None
    assert source_name("nothing", RULES) is None
    assert source_name("x.1.y.1", [Rule(r"a\.(\d+)", r"x.\1.y.\1")]) == "a.1"
    assert source_name("x.1.y.2", [Rule(r"a\.(\d+)", r"x.\1.y.\1")]) is None


def test_long_lists_are_cut() -> None:
    assert shown([str(number) for number in range(12)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 4 more"
    assert shown(["a"]) == "a"
