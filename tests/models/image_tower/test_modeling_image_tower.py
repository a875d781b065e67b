"""Image towers over each kind of backbone, against the backbone, pooling and neck written out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, BertConfig, CLIPConfig

from mmembed.models import ImageTowerConfig, ImageTowerModel, ImageTowerProcessor
from mmembed.models.image_tower.building import build_image_tower
from mmembed.models.loading import ModelError, load_model, sentence_transformer
from tests.models.tiny_models import image, spread
from tests.training.tiny_runs import make_trainer, training_pairs

from .tiny_backbones import BACKBONES, CASES


def tower(name: str = "resnet", pooling: str = "avg", **settings: Any) -> ImageTowerModel:
    torch.manual_seed(0)
    config = ImageTowerConfig(
        BACKBONES[name][0].to_dict(), pooling=pooling, image_size=32, **{"embedding_dim": 6, **settings}
    )
    model = spread(ImageTowerModel(config))
    if model.neck.norm is not None:  # as if it had been trained
        model.neck.norm.running_mean.normal_(std=0.1)
        model.neck.norm.running_var.uniform_(0.5, 2)
    return model.eval()


def pixels(rows: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_it_is_backbone_pooling_and_neck(name: str, pooling: str) -> None:
    model = tower(name, pooling)
    assert model.config.feature_width == BACKBONES[name][1]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.config.image_mean, model.config.image_std))
    normal = (pixels() / 255 - mean) / std
    output = model.backbone(pixel_values=normal)
    last = output.last_hidden_state
    if pooling == "pooler":
        pooled = output.pooler_output.flatten(1)
    elif pooling == "cls":
        pooled = last[:, 0]
    elif last.ndim == 4:
        pooled = last.mean(dim=(2, 3)) if pooling == "avg" else last.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    else:
        pooled = last.mean(dim=1) if pooling == "avg" else last.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3)
    linear, norm = model.neck.linear, model.neck.norm
    vector = pooled @ linear.weight.T + linear.bias
    vector = (vector - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    wanted = F.normalize(vector)
    found = model(pixel_values=pixels())
    torch.testing.assert_close(found.pooler_output, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.last_hidden_state, last, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.get_image_features(normal).pooler_output, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dim", "norm", "width"), [(None, False, 16), (None, True, 16), (6, False, 6), (6, True, 6)])
def test_parts_of_the_neck_may_be_absent(dim: int | None, norm: bool, width: int) -> None:
    model = tower(embedding_dim=dim, neck_norm=norm)
    assert model(pixels()).pooler_output.shape == (4, width) and model.config.projection_dim == width
    names = {name.split(".")[1] for name in model.state_dict() if name.startswith("neck.")}
    assert names == ({"linear"} if dim else set()) | ({"norm"} if norm else set())


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_saved_and_loaded_it_is_the_same(name: str, pooling: str, tmp_path: Path) -> None:
    model = tower(name, pooling)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    torch.testing.assert_close(again(pixels()).pooler_output, model(pixels()).pooler_output, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_a_row_has_the_vector_that_it_has_alone(name: str, pooling: str) -> None:
    model = sentence_transformer(tower(name, pooling), ImageTowerProcessor(32, "squash"))
    rows = [{"image": image(seed)} for seed in range(5)]
    together = model.encode(rows)
    np.testing.assert_allclose(together, model.encode(rows, batch_size=1), atol=1e-5)
    np.testing.assert_allclose(together, model.encode([row["image"] for row in rows]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert len(np.unique(np.round(together, 3), axis=0)) == 5


def test_its_rows_are_images() -> None:
    model = tower()
    with pytest.raises(ValueError, match="pass pixel_values"):
        model()
    ids = torch.ones(4, 2, dtype=torch.int64)
    for given in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": ids}):
        with pytest.raises(ValueError, match="reads images; leave the texts out"):
            model(pixels(), **given)
    with pytest.raises(ValueError, match="3 rows, rows \\[\\] without exactly one"):
        model(pixels(), num_images_per_sample=torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"rows \[1\] without exactly one"):
        model(pixels(), num_images_per_sample=torch.tensor([1, 0, 1, 1]))
    blank = {"input_ids": ids, "attention_mask": torch.zeros_like(ids), "num_images_per_sample": torch.ones(4)}
    torch.testing.assert_close(model(pixels(), **blank).pooler_output, model(pixels()).pooler_output)
    loaded = sentence_transformer(model, ImageTowerProcessor(32))
    with pytest.raises(ValueError, match="text|reads images"):
        loaded.encode(["a red mug"])
    with pytest.raises(ValueError, match="text|reads images"):
        loaded.encode([{"text": "a red mug", "image": image(1)}])


@pytest.mark.parametrize(
    ("config", "pooling", "said"),
    [
        (BACKBONES["resnet"][0], "cls", "ResNetModel has no first token; choose avg or gem"),
        (BACKBONES["clip"][0], "avg", None),
        (
            BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8),
            "avg",
            "BertModel",
        ),
        (CLIPConfig(), "avg", "CLIPModel reads input_ids"),
        (None, "avg", "needs backbone_config"),
    ],
)
def test_a_backbone_that_does_not_fit(config: Any, pooling: str, said: str | None) -> None:
    settings = ImageTowerConfig(config, pooling=pooling, image_size=32)
    if said is None:
        ImageTowerModel(settings)
        return
    with pytest.raises(ValueError, match=said):
        ImageTowerModel(settings)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_trained_backbone_keeps_its_weights(name: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    backbone = spread(AutoModel.from_config(BACKBONES[name][0])).eval()
    backbone.save_pretrained(tmp_path)
    for source in (backbone, str(tmp_path)):
        model = ImageTowerModel.from_backbone(source, image_size=32, embedding_dim=4)
        normal = torch.randn(2, 3, 32, 32)
        wanted = backbone(pixel_values=normal).last_hidden_state
        torch.testing.assert_close(model(normal).last_hidden_state, wanted, atol=1e-5, rtol=1e-5)
    assert not [key for key in model.state_dict() if "pooler" in key and "weight" in key]


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_two_steps_move_every_parameter(name: str, tmp_path: Path) -> None:
    model = sentence_transformer(tower(name, "gem"), ImageTowerProcessor(32, "squash"))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    data = training_pairs(query_use="image", document_use="image")
    make_trainer(tmp_path, data, model, max_steps=2).train()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert not still, still


def test_gradient_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    data, results = training_pairs(query_use="image", document_use="image"), []
    for checkpointing in (False, True):
        model = sentence_transformer(tower("vit", "cls"), ImageTowerProcessor(32, "squash"))
        settings = {"optim": "sgd", "learning_rate": 0.1, "gradient_checkpointing": checkpointing}
        make_trainer(tmp_path / str(checkpointing), data, model, max_steps=2, **settings).train()
        results.append(dict(model.named_parameters()))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, atol=1e-5, rtol=1e-4)
    assert not tower("resnet").supports_gradient_checkpointing  # of its backbone neither


def test_bfloat16_and_adapters(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    sentence_transformer(tower("vit", "cls"), ImageTowerProcessor(32)).save_pretrained(
        str(folder), create_model_card=False
    )
    full, half = (
        load_model(folder, device="cpu"),
        load_model(folder, device="cpu", model_kwargs={"dtype": torch.bfloat16}),
    )
    rows = [image(seed) for seed in range(4)]
    assert (full.encode(rows) * half.encode(rows).astype(np.float32)).sum(axis=1).min() > 0.98
    before = full.encode(rows)
    data = training_pairs(query_use="image", document_use="image")
    make_trainer(tmp_path / "lora", data, full, lora={"r": 2, "target_modules": "all-linear"}).train()
    assert np.abs(full.encode(rows) - before).max() > 1e-4


WITHOUT_MMEMBED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mmembed":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True)
np.save(sys.argv[3], model.encode([Image.open(sys.argv[2]).convert("RGB")]))
assert not [name for name in sys.modules if name.partition(".")[0] == "mmembed"]
"""


def test_it_loads_where_mmembed_is_not_installed(tmp_path: Path) -> None:
    model = build_image_tower(image_size=32, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], pooling="gem")
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    image(1).save(tmp_path / "picture.png")
    arguments = [str(tmp_path / name) for name in ("model", "picture.png", "vectors.npy")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "code"), "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MMEMBED, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    picture = Image.open(tmp_path / "picture.png").convert("RGB")
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), model.encode([picture]), atol=1e-6)
    stock = SentenceTransformer(
        str(tmp_path / "model"), device="cpu"
    )  # without the flag, mmembed.models being imported
    np.testing.assert_allclose(stock.encode([picture]), model.encode([picture]), atol=1e-6)


def test_a_folder_without_timm_says_so(tmp_path: Path) -> None:
    from transformers import TimmWrapperConfig
    from transformers.utils import is_timm_available

    if is_timm_available():
        pytest.skip("timm is installed")
    model = tower()
    model.save_pretrained(tmp_path)
    ImageTowerProcessor(32).save_pretrained(tmp_path)
    ImageTowerConfig(TimmWrapperConfig(architecture="resnet18"), feature_width=16).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="timm"):
        load_model(tmp_path)
