"""New image towers: seeded, and with the image settings of the backbone they stand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, ConvNextImageProcessorPil, ViTImageProcessorPil

from mmembed.models.image_tower.building import build_image_tower, image_tower_from_backbone
from tests.conversion import tiny_image_tower as tiny
from tests.models.tiny_models import image

from .tiny_backbones import BACKBONES

SMALL = {"image_size": 32, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


def test_the_weights_follow_from_the_seed() -> None:
    torch.manual_seed(1)
    one, two, other = build_image_tower(**SMALL), build_image_tower(**SMALL), build_image_tower(**SMALL, seed=1)
    rows = [image(1), image(2)]
    np.testing.assert_array_equal(one.encode(rows), two.encode(rows))
    assert not np.allclose(one.encode(rows), other.encode(rows)) and one.encode(rows).shape == (2, 128)


def test_a_backbones_image_settings_are_taken_over(tmp_path: Path) -> None:
    AutoModel.from_config(BACKBONES["vit"][0]).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    ViTImageProcessorPil(size=size, resample=2, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
    model = image_tower_from_backbone(str(tmp_path), pooling="cls", embedding_dim=8)
    config, processor = model[0].model.config, model[0].processor
    assert (config.image_size, config.image_mean, config.image_std) == (32, [0.5] * 3, [0.25] * 3)
    assert (processor.image_size, processor.resize, processor.resample) == (32, "squash", 2)
    assert model.encode([image(1)]).shape == (1, 8)


def test_convnext_crops_what_it_scaled_larger(tmp_path: Path) -> None:
    AutoModel.from_config(BACKBONES["convnext"][0]).save_pretrained(tmp_path)
    ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.8).save_pretrained(tmp_path)
    processor = image_tower_from_backbone(str(tmp_path), pooling="pooler")[0].processor
    assert (processor.image_size, processor.resize, processor.shortest_edge) == (64, "crop", 80)
    small = image_tower_from_backbone(str(tmp_path), pooling="pooler", image_size=32)[0].processor
    assert (small.image_size, small.shortest_edge) == (32, 40)


TIMM = """
import json
import timm
from pathlib import Path
from safetensors.torch import save_file
from mmembed.models.image_tower.building import image_tower_from_backbone
from tests.models.tiny_models import image

folder = Path(sys.argv[1])
plain = timm.create_model("test_resnet", num_classes=0).eval()
save_file(plain.state_dict(), folder / "model.safetensors")
cfg = {"input_size": [3, 48, 48], "crop_pct": 0.75, "interpolation": "bilinear", "mean": [0.4] * 3, "std": [0.3] * 3}
given = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": {**cfg, "num_classes": 1000}}
(folder / "config.json").write_text(json.dumps(given))
model = image_tower_from_backbone(str(folder), embedding_dim=8)
config, processor = model[0].model.config, model[0].processor
assert (config.image_size, config.image_mean, config.image_std) == (48, [0.4] * 3, [0.3] * 3)
assert (processor.resize, processor.shortest_edge, processor.resample) == ("crop", 64, 2), vars(processor)
pixels = torch.randn(2, 3, 48, 48)
torch.testing.assert_close(model[0].model(pixels).last_hidden_state, plain.forward_features(pixels))
assert model.encode([image(1)]).shape == (1, 8)
"""


def test_a_folder_of_timms(tmp_path: Path) -> None:
    tiny.run_with_timm(TIMM, tmp_path)
