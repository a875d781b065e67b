"""What turns a published data set into ITEMS and PAIRS: its split, its text, its errors."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmembed import read_items, read_pairs

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def run(script: str, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(RECIPES / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=RECIPES.parent)


def bucket(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 10, 10)).save(path)


def write_fashion(folder: Path, titles: dict[int, str]) -> None:
    rows = []
    for id, title in titles.items():
        write_image(folder / "images" / f"{id}.jpg")
        rows.append(
            {"id": id, "productDisplayName": title, "style_group": id, "image": f"images/{id}.jpg", "price": 10.5}
        )
    (folder / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_fashion_splits_by_the_hash_of_the_group_and_keeps_one_test_product_a_title(tmp_path: Path) -> None:
    test_ids = [id for id in range(1, 400) if bucket(f"split-{id}") < 20][:3]
    train_id = next(id for id in range(1, 400) if bucket(f"split-{id}") >= 20)
    titles = {test_ids[2]: "Red Shirt", test_ids[0]: "Red Shirt", test_ids[1]: "Blue Mug", train_id: "Red Shirt"}
    write_fashion(tmp_path / "data", titles)
    done = run("fashion/prepare.py", "--source", tmp_path / "data", "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    items = read_items(tmp_path / "out" / "products.jsonl", image_root=tmp_path / "data")
    split = dict(zip(items["id"][:], items["split"][:]))
    assert split[str(test_ids[0])] == "test" and split[str(test_ids[1])] == "test" and split[str(train_id)] == "train"
    assert not split[str(test_ids[2])]  # the title of a lower id


def test_fashion_reads_the_layout_of_kaggle(tmp_path: Path) -> None:
    data = {"id": 7, "productDisplayName": "Nike Tee", "colours": {"5": {}, "9": {}}, "articleType": {"typeName": "Tshirts"},
            "productDescriptors": {"description": {"value": "soft"}}, "baseColour": "Red"}  # fmt: skip
    write_image(tmp_path / "data" / "images" / "7.jpg")
    (tmp_path / "data" / "styles").mkdir()
    (tmp_path / "data" / "styles" / "7.json").write_text(json.dumps({"data": data}), encoding="utf-8")
    (tmp_path / "data" / "styles" / "8.json").write_text(json.dumps({"data": {**data, "id": 8}}), encoding="utf-8")
    done = run("fashion/prepare.py", "--source", tmp_path / "data", "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    [row] = map(json.loads, (tmp_path / "out" / "products.jsonl").read_text(encoding="utf-8").splitlines())
    # 8 has no photo; the group is the lowest id among the colours of a style
    assert (row["id"], row["text"], row["group"], row["articleType"]) == ("7", "Nike Tee", "5", "Tshirts")
    assert (row["description"], row["baseColour"]) == ("soft", "Red")


def test_fashion_of_a_wrong_folder_says_what_is_missing(tmp_path: Path) -> None:
    done = run("fashion/prepare.py", "--source", tmp_path, "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and "neither products.jsonl nor a folder styles/" in done.stderr


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    """Forty train and six test images with two captions in each language, prepared."""
    rows = []
    for number in range(46):
        write_image(tmp_path / "data" / "images" / f"{number}.jpg")
        rows.append({"image": f"images/{number}.jpg", "split": "test" if number >= 40 else "train",
                     "en": [f"a dog {number}", f"dog number {number}"], "zh_human": [f"狗 {number}", f"一只狗 {number}"]})  # fmt: skip
    (tmp_path / "data" / "captions.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    done = run(
        "flickr8k/prepare.py", "--source", tmp_path / "data", "--language", "zh", "en", "--output_dir", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_flickr8k_captions_find_their_images_and_every_tenth_training_image_is_validation(flickr: Path) -> None:
    captions = read_items(flickr / "out" / "captions.jsonl")
    images = read_items(flickr / "out" / "images.jsonl", image_root=flickr / "data")
    pairs = read_pairs(flickr / "out" / "pairs.jsonl")
    assert (len(captions), len(images), len(pairs)) == (184, 46, 184)
    assert captions["text"][:2] == ["狗 0", "一只狗 0"]
    positive = dict(zip(pairs["query_id"], pairs["positive_ids"]))
    for id, group, split in zip(captions["id"], captions["group"], captions["split"]):
        assert positive[id] == [group]
        number = int(group)
        wanted = "test" if number >= 40 else "validation" if bucket(f"validation-{number}") < 10 else "train"
        assert split == wanted


def test_flickr8k_is_measured_by_language(flickr: Path) -> None:
    from mmembed.models.dual_encoder.building import build_dual_encoder

    model = build_dual_encoder(["a dog", "狗"], image_size=32, text_layers=1, text_hidden_size=32)
    model.save_pretrained(str(flickr / "model"), create_model_card=False)
    done = run(
        "flickr8k/measure.py", "--model", flickr / "model", "--data", flickr / "out", "--image_root", flickr / "data"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| en", "| zh"))]
    assert [(line[0], line[1]) for line in lines] == [
        (f"| {language}", what)
        for language in ("en", "zh")
        for what in ("text_to_image", "image_to_text", "mean recall")
    ]
    assert lines[0][-1].startswith("12") and lines[1][-1].startswith("6")
    assert lines[0][4].startswith("1.000")  # all six images fit into the top ten
