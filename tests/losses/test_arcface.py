"""ArcFace against the original's logits, losses and gradients, and against values worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn

from mmembed.data.keys import group_key
from mmembed.losses.arcface import ArcFaceLoss, MarginGrowth, adaptive_margins
from mmembed.losses.building import owned_parameters
from tests.training.tiny_runs import items, make_trainer, training_pairs

ORIGINALS = ["dm_nfnet_f0", "eca_nfnet_l0"]


@pytest.fixture(params=ORIGINALS)
def original(request: pytest.FixtureRequest, shared_data: Path) -> Any:
    """A recorded head of the original: its settings, inputs and outputs."""
    folder = shared_data / "parity" / "nfnet_arcface" / request.param
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs")}
    weights = load_file(folder / "original_state_dict.safetensors")
    return SimpleNamespace(**tensors, weights=weights, config=json.loads((folder / "config.json").read_text()))


def head(weight: torch.Tensor, **settings: Any) -> ArcFaceLoss:
    loss = ArcFaceLoss(nn.Identity(), num_classes=len(weight), dim=weight.shape[1], **settings)
    with torch.no_grad():
        loss.weight.copy_(weight)
    return loss


def test_the_heads_are_the_originals(original: Any) -> None:
    rows, labels = original.inputs["head_embeddings"], original.inputs["head_labels"]
    for scale, margin, easy in original.config["head_settings"]:
        loss = head(original.inputs["head_weight"], scale=scale, margin=margin, easy_margin=easy)
        name = f"s{scale:g}_m{margin:g}_{'easy' if easy else 'hard'}"
        wanted = original.outputs[f"head_logits_{name}"]
        found = loss.logits(rows, labels)
        torch.testing.assert_close(found[:6], wanted[:6], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(found[6:], wanted[6:], atol=0.05, rtol=0)  # rows at the poles
        first = loss.classify(rows[:6], labels[:6])
        torch.testing.assert_close(first, original.outputs[f"head_loss_rows0to5_{name}"], atol=1e-4, rtol=0)
        whole = loss.classify(rows, labels)
        torch.testing.assert_close(whole, original.outputs[f"head_loss_{name}"], atol=1e-2, rtol=0)


def test_smoothing_in_the_logits_is_the_originals(original: Any) -> None:
    settings = original.config["ls_eps_setting"]
    loss = head(
        original.inputs["head_weight"],
        scale=settings["s"],
        margin=settings["m"],
        logit_smoothing=settings["ls_eps"],
    )
    found = loss.logits(original.inputs["head_embeddings"], original.inputs["head_labels"])
    wanted = original.outputs["head_logits_ls_eps"]
    torch.testing.assert_close(found[:6], wanted[:6], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(found[6:], wanted[6:], atol=0.05, rtol=0)


def test_the_trained_heads_loss_and_gradient_are_the_originals(original: Any) -> None:
    config = original.config
    loss = head(
        original.weights["final.weight"],
        scale=config["scale"],
        margin=config["margin"],
        easy_margin=config["easy_margin"],
    )
    feature, labels = original.outputs["feature"], original.inputs["labels"]
    torch.testing.assert_close(loss.logits(feature, labels), original.outputs["arcface_logits"], atol=1e-4, rtol=1e-5)
    value = loss.classify(feature, labels)
    torch.testing.assert_close(value, original.outputs["arcface_loss"], atol=1e-4, rtol=0)
    value.backward()
    torch.testing.assert_close(loss.weight.grad, original.outputs["grad_final_weight"], atol=1e-4, rtol=1e-4)


def test_a_normalised_embedding_gives_the_same(original: Any) -> None:
    """What a model of ours hands over has length 1; the loss normalises anyway."""
    loss = head(original.weights["final.weight"])
    labels = original.inputs["labels"]
    one, two = (loss.logits(original.outputs[name], labels) for name in ("feature", "feature_normalized"))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-5)


def test_by_hand() -> None:
    angle, margin, scale = 1.0, 0.4, 8.0
    x = torch.tensor([[math.cos(angle), math.sin(angle)]])
    loss = head(torch.eye(2), scale=scale, margin=margin)
    target, other = math.cos(angle + margin), math.sin(angle)
    expected = -math.log(math.exp(scale * target) / (math.exp(scale * target) + math.exp(scale * other)))
    assert loss.classify(x, torch.tensor([0])).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("easy", "expected"), [(False, -0.96 - 0.5 * math.sin(math.pi - 0.5)), (True, -0.96)])
def test_beyond_the_margin(easy: bool, expected: float) -> None:
    x = torch.tensor([[-0.96, 0.28]])  # angle + margin > pi
    loss = head(torch.eye(2), scale=1.0, margin=0.5, easy_margin=easy)
    assert loss.logits(x, torch.tensor([0]))[0, 0].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("settings", [{}, {"easy_margin": True}, {"logit_smoothing": 0.1}, {"sub_centres": 2}])
def test_the_gradient_is_finite_at_the_poles(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    loss = ArcFaceLoss(nn.Identity(), num_classes=3, dim=4, **settings)
    with torch.no_grad():
        loss.weight.copy_(torch.eye(3, 4).repeat_interleave(loss.sub_centres, dim=0))
    rows = torch.stack([loss.weight[0], -loss.weight[0], loss.weight[-1], -loss.weight[-1]]).detach().requires_grad_()
    value = loss.classify(rows, torch.tensor([0, 0, 1, 2]))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(rows.grad).all() and torch.isfinite(loss.weight.grad).all()


def test_the_gradient_is_finite_where_the_originals_was_not(original: Any) -> None:
    rows = original.inputs["head_embeddings"].clone().requires_grad_()
    loss = head(original.inputs["head_weight"])
    loss.classify(rows, original.inputs["head_labels"]).backward()
    assert torch.isfinite(rows.grad).all() and torch.isfinite(loss.weight.grad).all()


def test_the_nearest_sub_centre_counts() -> None:
    loss = ArcFaceLoss(nn.Identity(), num_classes=2, dim=3, sub_centres=2, scale=1.0, margin=0.0)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]]))
    x = torch.tensor([[0.6, 0.8, 0.0]])
    assert loss.logits(x, torch.tensor([0]))[0].tolist() == pytest.approx([0.8, 0.0])


def test_label_smoothing_is_cross_entropys() -> None:
    torch.manual_seed(0)
    weight, rows, labels = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    loss = head(weight, scale=4.0, margin=0.0, label_smoothing=0.1)
    log = F.log_softmax(4.0 * F.normalize(rows) @ F.normalize(weight).T, dim=1).numpy()
    expected = [-(0.9 * row[label] + 0.1 * row.mean()) for row, label in zip(log, labels)]
    assert loss.classify(rows, labels).item() == pytest.approx(float(np.mean(expected)), abs=1e-5)


def test_margins_fall_with_the_size_of_a_class() -> None:
    margins = adaptive_margins(torch.tensor([1, 16, 81]), 0.05, 0.5)
    # n ** -1/4 is 1, 1/2, 1/3; (1/2 - 1/3) / (1 - 1/3) = 1/4
    assert margins.tolist() == pytest.approx([0.5, 0.05 + 0.45 / 4, 0.05])
    assert adaptive_margins(torch.tensor([3, 3]), 0.05, 0.5).tolist() == pytest.approx([0.5, 0.5])
    loss = head(torch.eye(3), scale=1.0, class_counts=[1, 16, 81])
    x = F.normalize(torch.ones(3, 3))
    own = loss.logits(x, torch.arange(3)).diagonal()
    wanted = [math.cos(math.acos(1 / math.sqrt(3)) + float(m)) for m in margins]
    assert own.tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_margin_grows_with_the_steps() -> None:
    loss = head(torch.eye(2), scale=1.0, margin=0.4, start=0.25, growth=0.5)
    x = torch.tensor([[math.cos(1.0), math.sin(1.0)]])
    callback, found = MarginGrowth(loss), []
    for step in (0, 25, 50, 100):
        callback.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=100), None)
        found.append(math.acos(loss.logits(x, torch.tensor([0]))[0, 0].item()) - 1.0)
    assert found == pytest.approx([0.1, 0.25, 0.4, 0.4], abs=1e-5)


def test_under_autocast_it_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    weight, rows, labels = torch.randn(6, 16), torch.randn(8, 16), torch.arange(8) % 6
    plain = head(weight).classify(rows, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head(weight).classify(rows, labels)
        logits = head(weight).logits(rows.bfloat16(), labels)
    assert mixed.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, atol=1e-6, rtol=1e-6)


def test_the_centres_are_the_losss_own_and_seeded() -> None:
    body = nn.Linear(2, 2)
    torch.manual_seed(1)
    one = ArcFaceLoss(body, num_classes=3, dim=2)
    torch.manual_seed(2)
    two = ArcFaceLoss(body, num_classes=3, dim=2)
    assert list(owned_parameters(one, body)) == ["weight"] and torch.equal(one.weight, two.weight)


def test_keys_become_classes() -> None:
    groups = ["red", "green", "blue"]
    keys = [group_key(group) for group in groups]
    loss = ArcFaceLoss(nn.Identity(), num_classes=3, dim=4, class_keys=keys)
    labels = torch.zeros(2, 2, 3, dtype=torch.int64)
    labels[0, :, 0], labels[1, 0, 0], labels[1, 1, 0] = keys[2], keys[0], keys[1]
    columns = [torch.randn(2, 4), torch.randn(2, 4)]
    value = loss.compute_loss_from_embeddings(columns, labels)
    torch.testing.assert_close(value, loss.classify(torch.cat(columns), torch.tensor([2, 0, 2, 1])))
    labels[1, 1, 0] = group_key("grey")
    with pytest.raises(ValueError, match="1 of 2 rows of column 2 are of no class"):
        loss.compute_loss_from_embeddings(columns, labels)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_classes": 1}, "at least 2"),
        ({"margin": 4.0}, "margin=4.0; an angle"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"start": 2.0}, "start=2.0"),
        ({"class_counts": [1, 2]}, "each of 3 classes"),
        ({"class_counts": [1, 0, 2]}, "class 1 has no row"),
        ({"class_counts": [1, 1, 2], "least_margin": 0.6}, "least_margin=0.6 is above margin=0.5"),
        ({"class_keys": [5, 5, 6]}, "a key twice"),
    ],
)
def test_wrong_arguments(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ArcFaceLoss(nn.Identity(), **{"num_classes": 3, "dim": 2, **settings})


def test_wrong_labels() -> None:
    loss = ArcFaceLoss(nn.Identity(), num_classes=3, dim=2)
    with pytest.raises(ValueError, match="label 3 is not in 0..2"):
        loss.compute_loss_from_embeddings([torch.ones(1, 2)], torch.tensor([3]))
    with pytest.raises(ValueError, match="give class_keys"):
        loss.compute_loss_from_embeddings([torch.ones(1, 2)], torch.ones(1, 1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="mask_false_negatives"):
        loss.compute_loss_from_embeddings([torch.ones(1, 2)], None)


def photos(rows: int) -> Any:
    table = items(rows, group=[f"g{row // 3}" for row in range(rows)])
    ids = table["id"][:]
    pairs = {"query_id": ids, "positive_ids": [[ids[(row // 3) * 3 + (row + 1) % 3]] for row in range(rows)]}
    pairs["negative_ids"] = [[]] * rows
    data = training_pairs(4)
    return type(data)(table, table, Dataset.from_dict(pairs), "image", "image", show_progress_bar=False)


def test_the_trainer_moves_and_keeps_the_centres(tmp_path: Path) -> None:
    data = photos(12)

    def make(model: Any) -> ArcFaceLoss:
        return ArcFaceLoss(model, num_classes=4, class_keys=[group_key(f"g{i}") for i in range(4)], start=0.5)

    trainer = make_trainer(tmp_path, data, loss_module=make, max_steps=4, save_strategy="steps", save_steps=2)
    trainer.add_callback(MarginGrowth(trainer.loss))
    before = trainer.loss.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, trainer.loss.weight) and trainer.loss.progress == 0.75
    kept = load_file(tmp_path / "checkpoint-4" / "loss_parameters.safetensors")
    torch.testing.assert_close(kept["weight"], trainer.loss.weight.detach())

    again = make_trainer(tmp_path, data, loss_module=make, max_steps=4, save_strategy="steps", save_steps=2)
    again.add_callback(MarginGrowth(again.loss))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(again.loss.weight, trainer.loss.weight, atol=0, rtol=0)
