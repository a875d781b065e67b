"""The image tower against complex numbers, single patches and what its draws must be."""

from __future__ import annotations

import pytest
import torch

from mmembed.models.visualized_bge.configuration_visualized_bge import EvaVisionConfig
from mmembed.models.visualized_bge.eva_tower import EvaVisionModel, rotary_tables, rotate


def tower(**changes: object) -> EvaVisionModel:
    torch.manual_seed(3)
    settings = {"image_size": 32, "patch_size": 8, **changes}
    model = EvaVisionModel(EvaVisionConfig(24, 2, 2, 40, **settings))
    torch.nn.init.normal_(model.position_embedding)
    torch.nn.init.normal_(model.class_token)
    return model.eval()


def test_a_pair_of_channels_turns_as_a_complex_number() -> None:
    """Row r and column c of a 4 x 4 grid lie at r / 4 * 16 and c / 4 * 16; pair k turns by 10000**(-2k / half)."""
    cos, sin = rotary_tables(EvaVisionConfig(24, 1, 2, image_size=32, patch_size=8))
    x = torch.randn(1, 2, 16, 12)
    turned = rotate(x, cos, sin)
    for row, column in ((0, 0), (1, 3), (3, 2)):
        patch = 4 * row + column
        for half, place in enumerate((row, column)):
            for pair in range(3):
                channel = 6 * half + 2 * pair
                angle = torch.tensor(place / 4 * 16 * 10000 ** (-2 * pair / 6))
                number = torch.complex(x[0, :, patch, channel], x[0, :, patch, channel + 1])
                wanted = number * torch.polar(torch.ones(()), angle)
                torch.testing.assert_close(turned[0, :, patch, channel], wanted.real, atol=1e-5, rtol=0)
                torch.testing.assert_close(turned[0, :, patch, channel + 1], wanted.imag, atol=1e-5, rtol=0)


def test_the_score_of_two_patches_depends_on_their_distance_alone() -> None:
    cos, sin = rotary_tables(EvaVisionConfig(24, 1, 2, image_size=32, patch_size=8))
    query, key = (torch.randn(1, 1, 1, 12).expand(1, 1, 16, 12) for _ in range(2))
    scores = (rotate(query, cos, sin) @ rotate(key, cos, sin).transpose(-1, -2))[0, 0]
    torch.testing.assert_close(scores[0, 5], scores[10, 15], atol=1e-4, rtol=0)  # one down, one right
    assert (scores[0, 5] - scores[0, 6]).abs() > 1e-3


def test_kept_patches_stand_in_the_order_asked_for() -> None:
    """All patches in another order are the same tokens in that order: nothing but a patch's place tells it apart."""
    model, pixels = tower(), torch.randn(2, 3, 32, 32)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    tokens, shuffled = model(pixels), model(pixels, order)
    torch.testing.assert_close(shuffled[:, 0], tokens[:, 0], atol=1e-5, rtol=0)
    for row in range(2):
        torch.testing.assert_close(shuffled[row, 1:], tokens[row, 1 + order[row]], atol=1e-5, rtol=0)


def test_training_drops_patches_and_evaluation_none() -> None:
    model, pixels = tower(patch_dropout=0.5), torch.randn(3, 3, 32, 32)
    assert model(pixels).shape == (3, 17, 24)
    model.train()
    torch.manual_seed(0)
    first, second = model(pixels), model(pixels)
    assert first.shape == (3, 9, 24) and not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(model(pixels), first)  # drawn by the generator of dropout, which cached losses replay
    torch.manual_seed(0)
    kept = torch.rand(3, 16).topk(8).indices
    assert torch.equal(model(pixels, kept), first) and len(set(kept[0].tolist())) == 8
    assert tower(patch_dropout=0.0).train()(pixels).shape == (3, 17, 24)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 24, 32\); expected \(images, 3, 32, 32\)"):
        tower()(torch.zeros(2, 3, 24, 32))
