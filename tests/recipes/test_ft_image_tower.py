"""The recipe of image towers as a user runs it, and its job in this process."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from mmembed.cli import main
from mmembed.jobs.train_image_tower_options import ImageTowerOptions
from mmembed.losses.arcface import ArcFaceLoss
from mmembed.training.arguments import EmbeddingTrainingArguments
from tests.models.tiny_models import image
from tests.recipes.test_ft_embedding import ROOT, start
from tests.training.tiny_runs import png

RECIPE = str(ROOT / "recipes" / "ft_image_tower.py")
MODEL = {"image_size": 32, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_dim": 8}


def words(output_dir: Path, **options: Any) -> list[str]:
    settings = {
        "output_dir": str(output_dir),
        "model_arguments": MODEL,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "bootstrap_samples": 50,
        **options,
    }
    listed = []
    for name, value in settings.items():
        listed += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return listed


def catalogue(output_dir: Path, cache: Path, **options: Any) -> list[str]:
    drawn = {"products": 40, "size": 40, "photos": 3, "cache_dir": str(cache), "num_workers": 0}
    return words(output_dir, catalogue=drawn, **options)


def write_photos(folder: Path, groups: int = 10, photos: int = 3, **changes: dict[int, Any]) -> Path:
    """photos.jsonl and images/; `changes` maps a field to row → value. Every fourth group is for the test."""
    (folder / "images").mkdir(parents=True)
    file = folder / "photos.jsonl"
    with open(file, "w", encoding="utf-8") as lines:
        for row in range(groups * photos):
            group = row // photos
            (folder / "images" / f"{row}.png").write_bytes(png(row))
            item = {"id": f"p{row}", "image": f"images/{row}.png", "group": f"g{group}"}
            item["split"] = "test" if group % 4 == 0 else "train"
            item.update({name: values[row] for name, values in changes.items() if row in values})
            lines.write(json.dumps({name: value for name, value in item.items() if value is not None}) + "\n")
    return file


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The recipe in a process of its own, in a folder that is not the repository."""
    folder = tmp_path_factory.mktemp("work")
    done = start([sys.executable, RECIPE, *catalogue(folder / "run", cache)], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "image → image" in done.stdout and str(folder / "run" / "model") in done.stdout
    return folder / "run"


def test_the_drawn_catalogue_end_to_end(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for stage in ("before", "after"):
        figures = metrics[stage]["image_to_image"]
        assert figures["n"] == figures["documents"] == metrics["data"]["test photos"]
        assert 0 <= figures["recall@1"]["low"] <= figures["recall@1"]["mean"] <= figures["recall@1"]["high"] <= 1
        # a photo has two others of its product: one of them on top is half of the recall that is possible
        assert figures["success@1"]["mean"] == pytest.approx(2 * figures["recall@1"]["mean"])
    assert metrics["gain_metric"] == "success@1"
    after, before = (metrics[stage]["image_to_image"]["success@1"]["mean"] for stage in ("after", "before"))
    gain = after - before
    assert metrics["gain"]["image_to_image"]["mean"] == pytest.approx(gain)
    assert (run / "metrics.jsonl").read_text() and "recall@1" in (run / "model" / "README.md").read_text()
    model = SentenceTransformer(str(run / "model"), device="cpu")
    assert model.encode([image(1), image(2)]).shape == (2, 8)


def test_its_progress_is_shown_by_status(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmembed.cli import main

    assert main(["status", str(run)]) == 0
    assert re.search(r"finished +(\d+)/\1 \(100 %\)", capsys.readouterr().out)


def test_the_head_names_its_groups(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    with safe_open(run / "model" / "arcface_head.safetensors", "pt") as file:
        groups = json.loads(file.metadata()["settings"])["groups"]
        assert file.get_tensor("weight").shape == (len(groups), 8)
    assert len(groups) == metrics["data"]["training groups"] and groups == sorted(groups)


def test_the_saved_configuration_repeats_the_run(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["loss"] == "ArcFaceLoss" and config["num_train_epochs"] == 1
    assert (
        main(["train-image-tower", "--config", str(run / "config.yaml"), "--output_dir", str(tmp_path / "again")]) == 0
    )
    for file in ("model.safetensors", "arcface_head.safetensors"):
        one, two = (load_file(folder / "model" / file) for folder in (run, tmp_path / "again"))
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert json.loads((run / "metrics.json").read_text()) == json.loads(
        (tmp_path / "again" / "metrics.json").read_text()
    )


def test_files_every_option_of_the_head_and_a_resumed_run(tmp_path: Path) -> None:
    settings = {
        "items": str(write_photos(tmp_path / "shop", split={3: "validation", 4: "validation", 5: "validation"})),
        "adaptive_margin": True,
        "loss_arguments": {"scale": 10.0, "margin": 0.4, "sub_centres": 2, "start": 0.1, "label_smoothing": 0.1},
        "augmentation": {"flip": 0.5},
        "learning_rate_mapping": {"^weight$": 1e-2},
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
    }
    assert main(["train-image-tower", *words(tmp_path / "run", **settings)]) == 0
    logged = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert logged.count("eval_validation_mean_recall") == 2
    whole = load_file(tmp_path / "run" / "model" / "arcface_head.safetensors")["weight"]
    kept = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in [*kept[1:], tmp_path / "run" / "metrics.json"]:  # as if it had been killed in the second epoch
        path.rename(tmp_path / path.name)
    assert main(["train-image-tower", *words(tmp_path / "run", **settings)]) == 0
    resumed = load_file(tmp_path / "run" / "model" / "arcface_head.safetensors")["weight"]
    torch.testing.assert_close(resumed, whole, atol=0, rtol=0)


def test_a_tower_is_trained_on_with_another_loss(run: Path, tmp_path: Path) -> None:
    """A ranking loss in which photos of one group are no negatives of each other."""
    settings = {"items": str(write_photos(tmp_path / "shop")), "model": str(run / "model"), "model_arguments": {}}
    settings |= {"loss": "MultipleNegativesRankingLoss", "loss_arguments": {"temperature": 0.1}}
    assert main(["train-image-tower", *words(tmp_path / "run", **settings, per_device_train_batch_size=4)]) == 0
    assert not (tmp_path / "run" / "model" / "arcface_head.safetensors").exists()
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (run, tmp_path / "run"))
    assert any(not torch.equal(value, two[name]) for name, value in one.items())


def test_a_row_shows_two_photos_of_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[int]]] = []
    classify = ArcFaceLoss.classify

    def watched(self: ArcFaceLoss, embeddings: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen.append((len(embeddings), classes.tolist()))
        return classify(self, embeddings, classes)

    monkeypatch.setattr(ArcFaceLoss, "classify", watched)
    file = write_photos(tmp_path / "shop")
    assert main(["train-image-tower", *words(tmp_path / "run", items=str(file), per_device_train_batch_size=7)]) == 0
    for rows, classes in seen:
        assert rows == len(classes) and classes[: rows // 2] == classes[rows // 2 :]
    # 7 of 10 groups train, three photos each
    counted = np.bincount([number for rows, classes in seen for number in classes[: rows // 2]])
    assert counted.tolist() == [3] * 7


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rat": 1e-3}, "did you mean --learning_rate"),
        ({"loss_arguments": {"margins": 0.3}}, "did you mean 'margin'"),
        ({"loss_arguments": {"num_classes": 3}}, "loss_arguments has 'num_classes', which the data tells"),
        ({"loss_arguments": {"margin": 9.0}}, "margin=9.0"),
        ({"loss": "ArcLoss"}, "loss 'ArcLoss' is not known"),
        ({"model_arguments": {"poolling": "gem"}}, "did you mean 'pooling'"),
        ({"model_arguments": {"pooling": "cls"}}, "has no first token"),
        ({"mask_false_negatives": False}, "mask_false_negatives=False"),
        ({"model": "somewhere"}, "not both"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(
    options: dict[str, Any], said: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-image-tower", *catalogue(tmp_path / "run", cache, **options)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": {4: None}}, "1 rows have no group"),
        ({"image": {4: None}}, "photos.jsonl:5: field 'image'"),
        ({"split": {4: "tset"}}, "found 'tset'"),
        ({"split": {4: "test"}}, "stand in two parts of the split"),
        ({"split": dict.fromkeys(range(30), "train")}, "no group of the test part has two photos"),
        ({"split": dict.fromkeys(range(30), "test")}, "no photo falls into the training part"),
    ],
)
def test_data_that_does_not_train(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_photos(tmp_path / "shop", **changes)
    assert main(["train-image-tower", *words(tmp_path / "run", items=str(file))]) == 2
    assert said in capsys.readouterr().err


def test_evaluation_needs_a_part_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_photos(tmp_path / "shop")
    assert main(["train-image-tower", *words(tmp_path / "run", items=str(file), eval_strategy="epoch")]) == 2
    assert "no validation part" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "image_tower").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_configuration_is_one_that_can_be_meant(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train-image-tower", "--config", str(file), "--print_config"])
    assert stopped.value.code == 0
    known = set(ImageTowerOptions.__dataclass_fields__) | set(EmbeddingTrainingArguments.__dataclass_fields__)
    config = yaml.safe_load(file.read_text())
    assert set(config) <= known and "backbone" in capsys.readouterr().out
    ArcFaceLoss(torch.nn.Identity(), num_classes=3, dim=2, **config["loss_arguments"])
