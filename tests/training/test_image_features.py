"""Stored activations are those of a direct pass, of the very images and weights, and train the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import BertConfig, MobileNetV2Config, MobileNetV2Model, ResNetConfig

import mmembed.training.image_features as image_features
from mmembed.data.training_pairs import TrainingPairs
from mmembed.images import ImageError, ImagePolicy, ImageReader
from mmembed.models import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor
from mmembed.models.dual_encoder.building import train_tokenizer
from mmembed.models.loading import sentence_transformer
from mmembed.training.image_features import StoredImageFeatures, store_image_features
from tests.tiny_models import WORDS, tiny_dual_encoder
from tests.training.tiny_runs import items, make_trainer, png, state


def mobile_dual_encoder(seed: int = 0, resize: str = "squash", **config: Any) -> SentenceTransformer:
    """A dual encoder around a small MobileNetV2 whose batch norms have statistics as a trained one's."""
    tokenizer = train_tokenizer(WORDS, vocab_size=200, max_length=16)
    text = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    vision = MobileNetV2Config(image_size=32, depth_multiplier=0.35)
    torch.manual_seed(seed)
    settings = {"projection_dim": 8, "image_size": 32, "frozen_image_layers": -1, **config}
    model = DualEncoderModel(DualEncoderConfig(text, vision, **settings))
    torch.manual_seed(seed)
    tower = model.vision_model.train()
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        tower(torch.randn(16, 3, 32, 32))  # fits the statistics, so that the output depends on the input
    processor = DualEncoderProcessor(tokenizer, image_size=32, resize=resize, max_text_length=16)
    return sentence_transformer(model.eval(), processor)


def store(model: SentenceTransformer, table: Dataset, folder: Path, **arguments: Any) -> StoredImageFeatures:
    arguments = {"reader": ImageReader(), "show_progress_bar": False, **arguments}
    return store_image_features(model, table, folder, **arguments)


def direct(model: SentenceTransformer, table: Dataset, mirrored: bool = False) -> torch.Tensor:
    """Pixels through the tower itself, image by image."""
    rows = []
    for row in table:
        picture = ImageReader().read(row["image"], id=row["id"])
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture
        pixels = model.preprocess([{"image": picture}])["pixel_values"]
        rows.append(model.transformers_model.eval().encode_frozen_layers(pixels)[0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"frozen_image_layers": 5},
        {"frozen_image_layers": 1},
        {"image_levels": [2, [5, 2]]},
        {"image_pooling": "gem"},
    ],
    ids=str,
)
def test_stored_values_are_those_of_a_direct_pass_to_half_precision(tmp_path: Path, config: dict) -> None:
    model, table = mobile_dual_encoder(**config), items(11)
    stored = store(model, table, tmp_path, num_views=2, batch_size=4)
    assert stored.num_views == 2
    for view in (0, 1):
        values, wanted = stored.load(table["id"][:], [view] * 11), direct(model, table, mirrored=bool(view))
        assert values.dtype == torch.float16 and values.shape == wanted.shape
        torch.testing.assert_close(values.float(), wanted, rtol=2e-3, atol=2e-3 * float(wanted.abs().max()))
    assert not torch.equal(stored.load(["i0"], [0]), stored.load(["i0"], [1]))


def test_folding_batch_norms_changes_rounding_alone_and_leaves_the_model_alone() -> None:
    for model in (mobile_dual_encoder(), tiny_dual_encoder(frozen_image_layers=-1)):
        encoder = model.transformers_model
        before = state_of(encoder)
        fused = image_features._fused(encoder)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
        assert any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
        pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            one, two = encoder.encode_frozen_layers(pixels), fused.encode_frozen_layers(pixels)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
        after = state_of(encoder)
        assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_and_unchanged(tmp_path: Path, training: bool) -> None:
    model = mobile_dual_encoder().train(training)
    before, modes = state_of(model), [module.training for module in model.modules()]
    store(model, items(3), tmp_path)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch) -> None:
    model, table = mobile_dual_encoder(), items(12)
    monkeypatch.setattr(image_features, "_NOTE_EVERY", 4)
    whole = store(model, table, tmp_path / "whole", batch_size=2)
    original, calls = image_features._activations, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(image_features, "_activations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store(model, table, tmp_path / "cut", batch_size=2)
    (folder,) = (tmp_path / "cut").iterdir()
    with pytest.raises(ValueError, match="holds no stored image features"):
        StoredImageFeatures(folder)
    resumed = store(model, table, tmp_path / "cut", batch_size=2)
    assert len(calls) == 4 + 4  # four images were noted as done, eight were not
    ids = table["id"][:]
    assert torch.equal(whole.load(ids, [0] * 12), resumed.load(ids, [0] * 12))
    store(model, table, tmp_path / "cut", batch_size=2)
    assert len(calls) == 8  # read back, not computed again


def folder_of(model: SentenceTransformer, table: Dataset, place: Path, **arguments: Any) -> str:
    return store(model, table, place, **arguments).folder.name


def test_what_shapes_the_activations_makes_another_folder_and_nothing_else_does(tmp_path: Path) -> None:
    table = items(2)
    one = folder_of(mobile_dual_encoder(), table, tmp_path)
    other_image = items(2, image=[{"bytes": png(k), "path": None} for k in (0, 9)])
    statistics = mobile_dual_encoder()
    statistics.transformers_model.vision_model.conv_stem.first_conv.normalization.running_mean += 0.01
    weight = mobile_dual_encoder()
    with torch.no_grad():
        next(p for n, p in weight.named_parameters() if "vision_model" in n).view(-1)[0] += 0.01
    exponent = mobile_dual_encoder(image_pooling="gem")
    with torch.no_grad():
        exponent.transformers_model.image_pool.exponent += 1.0
    white, black = (ImageReader(ImagePolicy(background=colour)) for colour in ((255,) * 3, (0,) * 3))
    others = [
        folder_of(mobile_dual_encoder(), other_image, tmp_path),
        folder_of(mobile_dual_encoder(), items(2, id=["i0", "x"]), tmp_path),
        folder_of(mobile_dual_encoder(), table, tmp_path, num_views=2),
        folder_of(mobile_dual_encoder(), table, tmp_path, reader=black),
        folder_of(mobile_dual_encoder(resize="crop"), table, tmp_path),
        folder_of(mobile_dual_encoder(frozen_image_layers=3), table, tmp_path),
        folder_of(mobile_dual_encoder(image_levels=[2]), table, tmp_path),
        folder_of(mobile_dual_encoder(image_mean=[0.1] * 3), table, tmp_path),
        folder_of(mobile_dual_encoder(image_pooling="gem"), table, tmp_path),
        folder_of(exponent, table, tmp_path),
        folder_of(statistics, table, tmp_path),
        folder_of(weight, table, tmp_path),
    ]
    assert len({one, *others}) == 1 + len(others)
    text = items(2, text=["other", "texts"])
    assert folder_of(mobile_dual_encoder(), text, tmp_path, reader=white, batch_size=1) == one
    for same in ({"projection_dim": 4}, {"image_projection": "mlp"}, {"fusion": "gated"}, {"projection_dropout": 0.5}):
        assert folder_of(mobile_dual_encoder(**same), table, tmp_path) == one


@pytest.mark.parametrize("config", [{}, {"frozen_image_layers": 12}])
@pytest.mark.parametrize("loss", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
def test_training_on_stored_features_is_training_on_pixels(tmp_path: Path, config: dict, loss: str) -> None:
    ends = []
    for with_features in (False, True):
        model = mobile_dual_encoder(**config)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # above the frozen part; its statistics are of noise here
                module.eval().train = lambda mode=True, module=module: module  # type: ignore[method-assign]
        data = TrainingPairs(items(8), items(8), show_progress_bar=False)
        stored = store(model, data.documents, tmp_path, num_views=2) if with_features else None
        trainer = make_trainer(
            tmp_path / str(with_features),
            data,
            model,
            loss=loss,
            image_features=stored,
            optim="sgd",
            learning_rate=0.1 if not config else 0.02,
            max_steps=4,
        )
        before = state(trainer)
        trainer.train()
        ends.append(state(trainer))
    names = [name for name, value in before.items() if value.is_floating_point()]
    apart = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in names)
    moved = torch.cat([(ends[0][name] - before[name]).flatten() for name in names]).norm()
    differing = torch.cat([(ends[0][name] - ends[1][name]).flatten() for name in names]).norm()
    assert apart < 1e-3 and moved > 1e-3 and differing < 0.05 * moved


def test_a_batch_of_stored_features_holds_one_of_both_views(tmp_path: Path) -> None:
    model = mobile_dual_encoder()
    data = TrainingPairs(items(8), items(8), show_progress_bar=False)
    stored = store(model, data.documents, tmp_path, num_views=2)
    trainer = make_trainer(tmp_path / "run", data, model, image_features=stored, augmentation={})
    collate, ids = trainer._collators["train"], [f"i{row}" for row in range(8)]
    both = [stored.load(ids, [view] * 8) for view in (0, 1)]
    views = set()
    for epoch in range(4):
        trainer._epoch.fill_(epoch)
        pixels = collate([{"row": row} for row in range(8)])["positive_pixel_values"]
        for row in range(8):
            (view,) = [v for v in (0, 1) if torch.equal(pixels[row], both[v][row])]
            views.add((row, view))
    assert len(views) > 12  # of 16


def test_what_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen_image_layers"):
        store(tiny_dual_encoder(), items(2), tmp_path)
    with pytest.raises(ValueError, match="num_views=3"):
        store(mobile_dual_encoder(), items(2), tmp_path, num_views=3)
    with pytest.raises(ValueError, match="no item has an image"):
        store(mobile_dual_encoder(), items(2, image=[None, None]), tmp_path)
    with pytest.raises(ImageError):
        store(mobile_dual_encoder(), items(2, image=[{"bytes": b"x", "path": None}] * 2), tmp_path)
    huge = mobile_dual_encoder()
    with torch.no_grad():
        huge.transformers_model.vision_model.conv_1x1.normalization.weight.fill_(1e9)
    huge.transformers_model.vision_model.conv_1x1.activation = nn.Identity()
    with pytest.raises(ValueError, match="image 'i0' does not fit into float16"):
        store(huge, items(2), tmp_path)


def test_rows_without_an_image_are_left_out_and_asking_for_them_is_an_error(tmp_path: Path) -> None:
    table = items(3, image=[{"bytes": png(0), "path": None}, None, {"bytes": png(2), "path": None}])
    stored = store(mobile_dual_encoder(), table, tmp_path)
    assert "i0" in stored and "i1" not in stored
    with pytest.raises(KeyError, match="1 ids have no stored image features .* first 'i1'"):
        stored.load(["i0", "i1"], [0, 0])


def test_towers_of_both_kinds_have_norms_to_fold() -> None:
    """The names that are looked for are transformers' own."""
    towers = (MobileNetV2Model(MobileNetV2Config(image_size=32, depth_multiplier=0.35)),)
    assert all(hasattr(towers[0].conv_stem.first_conv, name) for name in ("convolution", "normalization", "activation"))
    assert ResNetConfig().model_type == "resnet"
    assert np.float16(65504) == np.finfo(np.float16).max
