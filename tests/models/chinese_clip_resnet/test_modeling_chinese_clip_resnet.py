"""Chinese-CLIP's ResNet: rows of every kind, and its parts against plain torch. The original's outputs: tests/conversion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, BertConfig

from mmembed.models import ChineseCLIPResNetConfig, ChineseCLIPResNetModel
from mmembed.models.chinese_clip_resnet.modeling_chinese_clip_resnet import AttentionPool, Bottleneck

TEXT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES = {"vision_width": 4, "vision_layers": [1, 2, 1, 1], "vision_heads": 4, "image_size": 64}


def model(seed: int = 0) -> ChineseCLIPResNetModel:
    torch.manual_seed(seed)
    return ChineseCLIPResNetModel(ChineseCLIPResNetConfig(BertConfig(**TEXT), 8, **SIZES)).eval()


def batch() -> dict[str, torch.Tensor]:
    """Text, image, both, text, in this order; texts of two lengths."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (4, 6), generator=generator)
    mask = torch.tensor([[1] * 6, [0] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3])
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    counts = torch.tensor([0, 1, 1, 0])
    return {"input_ids": ids * mask, "attention_mask": mask, "pixel_values": pixels, "num_images_per_sample": counts}


@torch.no_grad()
def test_a_row_of_a_mixed_batch_has_the_vector_it_has_alone() -> None:
    made, given = model(), batch()
    vectors = made(**given).pooler_output
    ids, mask, pixels = given["input_ids"], given["attention_mask"], given["pixel_values"]
    texts = [made.get_text_features(ids[row : row + 1, : int(mask[row].sum())]).pooler_output[0] for row in (0, 2, 3)]
    images = made.get_image_features(pixels).pooler_output
    both = (F.normalize(texts[1], dim=-1) + F.normalize(images[1], dim=-1)) / 2
    torch.testing.assert_close(vectors, torch.stack([texts[0], images[0], both, texts[2]]), atol=1e-5, rtol=0)
    fused = made.get_fused_features(ids[2:3], pixels[1:], mask[2:3]).pooler_output
    torch.testing.assert_close(vectors[2:3], fused, atol=1e-6, rtol=0)
    torch.testing.assert_close(made(pixel_values=pixels).pooler_output, images)


@torch.no_grad()
def test_pixels_are_normalised_once() -> None:
    made = model()
    pixels = batch()["pixel_values"]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    by_hand = made.get_image_features((pixels / 255 - mean) / std)
    raw = made.get_image_features(pixels)
    torch.testing.assert_close(raw.pooler_output, by_hand.pooler_output)
    assert raw.last_hidden_state.shape == (2, 128, 2, 2)


@torch.no_grad()
def test_attention_pooling_is_torchs_attention_of_the_mean() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(6, 8, 2, 5)
    torch.nn.init.normal_(pool.positional_embedding)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    attention.in_proj_weight.copy_(torch.cat([pool.q_proj.weight, pool.k_proj.weight, pool.v_proj.weight]))
    attention.in_proj_bias.copy_(torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]))
    attention.out_proj.weight.copy_(torch.eye(8))
    attention.out_proj.bias.zero_()
    hidden = torch.randn(3, 8, 2, 3)
    positions = torch.cat([hidden.mean(dim=(2, 3))[:, None], hidden.flatten(2).transpose(1, 2)], dim=1)
    positions = positions + pool.positional_embedding
    wanted = pool.c_proj(attention(positions[:, :1], positions, positions)[0][:, 0])
    torch.testing.assert_close(pool(hidden), wanted, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_stride_is_an_average_of_both_paths() -> None:
    torch.manual_seed(0)
    block = Bottleneck(4, 2, stride=2).eval()
    hidden = torch.rand(1, 4, 6, 6)
    inner = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(hidden))))))
    inner = block.bn3(block.conv3(F.avg_pool2d(inner, 2)))
    wanted = F.relu(inner + block.shortcut.norm(block.shortcut.conv(F.avg_pool2d(hidden, 2))))
    torch.testing.assert_close(block(hidden), wanted)
    assert Bottleneck(8, 2, stride=1).shortcut is None


def test_every_parameter_learns_and_the_scale_is_a_vector() -> None:
    made, given = model().train(), batch()
    vectors = F.normalize(made(**given).pooler_output, dim=-1)
    (vectors @ torch.randn(8, 3) * made.logit_scale.exp()).square().sum().backward()
    without = [name for name, value in made.named_parameters() if value.grad is None]
    assert not without
    assert made.logit_scale.shape == (1,)
    assert torch.isfinite(torch.cat([value.grad.flatten() for value in made.parameters()])).all()


def test_it_is_saved_and_read(tmp_path: Path) -> None:
    made, given = model(), batch()
    made.vision_model.bn1.running_mean += 0.3
    made.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in made.state_dict().items())
    with torch.no_grad():
        assert torch.equal(made(**given).pooler_output, again(**given).pooler_output)


def test_new_weights_keep_images_apart() -> None:
    with torch.no_grad():
        vectors = F.normalize(model(3).get_image_features(batch()["pixel_values"]).pooler_output, dim=-1)
    assert torch.isfinite(vectors).all() and (vectors[0] - vectors[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images_per_sample": torch.tensor([0, 2, 0, 0])}, "more than one image"),
        ({"num_images_per_sample": torch.tensor([0, 1, 0, 0])}, "2 images for 1 of 4 rows"),
        ({"num_images_per_sample": torch.tensor([1, 0, 1, 0])}, r"rows \[1\] have neither"),
        ({"num_images_per_sample": None}, "2 images for 4 of 4 rows"),
        ({"pixel_values": torch.zeros(2, 3, 32, 32)}, r"\(2, 3, 32, 32\), expected \(images, 3, 64, 64\)"),
        ({"input_ids": None, "pixel_values": None}, "pass input_ids, pixel_values or both"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model()(**{**batch(), **change})
    with pytest.raises(ValueError, match="1 texts and 2 images"):
        model().get_fused_features(torch.ones(1, 2, dtype=torch.int64), batch()["pixel_values"])
