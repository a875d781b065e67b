"""The recipe of three stages: what the prepare scripts write of the published layouts, and the chain in small."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import mmembed.jobs.training_data
from mmembed import read_items, read_pairs
from mmembed.cli import main
from mmembed.images import ImagePolicy, load_image
from mmembed.jobs.stage_file import read_stage_file
from mmembed.jobs.train_options import TrainOptions
from tests.jobs.tiny_jobs import MODEL
from tests.training.tiny_runs import png

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "chinese_clip"
TEXTS = ["红色连衣裙", "黑色皮鞋", "儿童书包", "蓝色杯子", "白色台灯", "灰色沙发"]


def run(script: str, *words: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(RECIPE / script), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=folder)


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(png(seed))).save(file, "JPEG")
    return file.getvalue()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_tsv(path: Path, images: dict[int, bytes], urlsafe: bool = False) -> None:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    path.write_text("".join(f"{id}\t{encode(data).decode()}\n" for id, data in images.items()))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def muge(folder: Path, rows: int = 12) -> Path:
    folder.mkdir(parents=True)
    for split, start in (("train", 100), ("valid", 500)):
        write_tsv(folder / f"MR_{split}_imgs.tsv", {start + n: jpeg(start + n) for n in range(rows)}, split == "valid")
        queries = [
            {
                "query_id": start + n,
                "query_text": f"{TEXTS[n % 6]} {start + n}",
                "item_ids": [start + n, start + (n + 1) % rows] if n % 2 else [start + n],
            }
            for n in range(rows)
        ]
        write_jsonl(folder / f"MR_{split}_queries.jsonl", queries)
    return folder


def flickr(folder: Path, rows: int = 8) -> Path:
    folder.mkdir(parents=True)
    for number, split in enumerate(("train", "valid", "test")):
        start = 1000 * (number + 1)
        write_tsv(folder / f"{split}_imgs.tsv", {start + n: jpeg(start + n) for n in range(rows)})
        texts = [
            {"text_id": start + 10 * n + k, "text": f"{TEXTS[n % 6]} {start + n} {k}", "image_ids": [start + n]}
            for n in range(rows)
            for k in range(2)
        ]
        write_jsonl(folder / f"{split}_texts.jsonl", texts)
    return folder


def private(folder: Path, rows: int = 20) -> Path:
    (folder / "deep").mkdir(parents=True)
    for n in range(rows):
        stem = folder / ("deep" if n % 2 else ".") / f"photo{n}"
        stem.with_suffix(".png").write_bytes(png(7000 + n))
        stem.with_suffix(".txt").write_text(f"{TEXTS[n % 6]} {n}\n第二行 {n}\n", encoding="utf-8")
    return folder


def test_muge_as_published(tmp_path: Path) -> None:
    source, out = muge(tmp_path / "MUGE"), tmp_path / "out"
    done = run(
        "prepare_muge.py", "--source", str(source), "--output_dir", str(out), "--validation", "40", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    queries, pairs = lines(out / "queries.jsonl"), lines(out / "pairs.jsonl")
    assert len(queries) == 24 and {row["split"] for row in queries} == {"train", "validation", "test"}
    assert [row["split"] for row in queries][12:] == ["test"] * 12  # valid is what figures are reported on
    assert pairs[1] == {"query_id": "q101", "positive_ids": ["101", "102"], "negative_ids": []}
    items = read_items(out / "images.jsonl", image_root=out)
    assert len(items) == 24 and len(read_pairs(out / "pairs.jsonl")) == 24
    for row in (0, 20):  # the very bytes, in both forms of base64
        id = int(items[row]["id"])
        assert Path(items[row]["image"]["path"]).read_bytes() == jpeg(id)
        load_image(items[row]["image"]["path"], policy=ImagePolicy(root=out))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    again = run("prepare_muge.py", "--source", str(source), "--output_dir", str(out), folder=tmp_path)
    assert again.returncode == 0 and {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")} == stamps


def test_muge_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    source = muge(tmp_path / "MUGE", 3)
    words = ("prepare_muge.py", "--source", str(source), "--output_dir", str(tmp_path / "out"))
    tsv = source / "MR_train_imgs.tsv"
    whole = tsv.read_text()
    tsv.write_text(whole.replace("\n", "", 1).replace("101\t", "\n101\t!", 1))
    done = run(*words, folder=tmp_path)
    assert done.returncode != 0 and "MR_train_imgs.tsv:2: the image of 101 is not base64" in done.stderr
    tsv.write_text(whole.splitlines()[0] + "\n")
    done = run(*words, folder=tmp_path)
    assert done.returncode != 0 and "MR_train_queries.jsonl:2: item_ids ['101', '102'] have no image" in done.stderr
    tsv.write_text("../evil\tAAAA\n")
    done = run(*words, folder=tmp_path)
    assert done.returncode != 0 and "expected an id" in done.stderr
    tsv.unlink()
    done = run(*words, folder=tmp_path)
    assert done.returncode == 2 and "MR_train_imgs.tsv" in done.stderr


def test_flickr30k_cn_as_published(tmp_path: Path) -> None:
    source, out = flickr(tmp_path / "F"), tmp_path / "out"
    done = run("prepare_flickr30k_cn.py", "--source", str(source), "--output_dir", str(out), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    captions = lines(out / "captions.jsonl")
    assert [row["split"] for row in captions] == ["train"] * 16 + ["validation"] * 16 + ["test"] * 16
    assert captions[0]["group"] == "1000" and lines(out / "pairs.jsonl")[0]["positive_ids"] == ["1000"]
    write_tsv(source / "test_imgs.tsv", {1000: jpeg(1000), **{3000 + n: jpeg(3000 + n) for n in range(8)}})
    done = run(
        "prepare_flickr30k_cn.py", "--source", str(source), "--output_dir", str(tmp_path / "o2"), folder=tmp_path
    )
    assert done.returncode != 0 and "image 1000 stands in train and in test" in done.stderr


def test_a_private_folder_by_text_files_and_by_table(tmp_path: Path) -> None:
    source = private(tmp_path / "photos")
    (source / "copy.png").write_bytes((source / "photo0.png").read_bytes())  # the same picture twice
    (source / "copy.txt").write_text("又一个", encoding="utf-8")
    (source / "broken.png").write_bytes(b"no picture")
    (source / "broken.txt").write_text("坏", encoding="utf-8")
    (source / "silent.png").write_bytes(png(1))
    (source / "alone.txt").write_text("没有图", encoding="utf-8")
    out = tmp_path / "out"
    done = run("prepare_private.py", "--source", str(source), "--output_dir", str(out), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    texts, images = lines(out / "texts.jsonl"), lines(out / "images.jsonl")
    assert len(texts) == 41 and len(images) == 20
    by_group: dict[str, set[str]] = {}
    for row in texts:
        by_group.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in by_group.values())
    left_out = (out / "left_out.txt").read_text()
    for name, why in (("silent.png", "no text"), ("alone.txt", "no such image"), ("broken.png", "not an image")):
        assert f"{name}: " in left_out and why in left_out
    read_items(out / "images.jsonl", image_root=source)
    table = tmp_path / "texts.csv"
    table.write_text("image,text\nphoto0.png,一\ndeep/photo1.png,二\n", encoding="utf-8")
    done = run(
        "prepare_private.py",
        "--source",
        str(source),
        "--table",
        str(table),
        "--output_dir",
        str(tmp_path / "o2"),
        folder=tmp_path,
    )
    assert done.returncode == 0 and [row["text"] for row in lines(tmp_path / "o2" / "texts.jsonl")] == ["二", "一"]


def prepared(folder: Path) -> Path:
    for script, source, out in (
        ("prepare_muge.py", muge(folder / "MUGE"), "muge"),
        ("prepare_flickr30k_cn.py", flickr(folder / "F"), "flickr30k_cn"),
        ("prepare_private.py", private(folder / "private"), "private"),
    ):
        words = ["--source", str(source), "--output_dir", str(folder / "data" / out)]
        if out == "muge":
            words += ["--validation", "40"]
        done = run(script, *words, folder=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_three_stages_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """small.yaml on the prepared layouts, with a smaller model still."""
    prepared(tmp_path)
    told = yaml.safe_load((RECIPE / "small.yaml").read_text(encoding="utf-8"))
    told["defaults"]["model_arguments"] = {**MODEL, "text_layers": 2}
    told["defaults"] |= {"num_train_epochs": 1, "per_device_train_batch_size": 8, "bootstrap_samples": 30}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(told))
    scan = mmembed.jobs.training_data.scan_images
    monkeypatch.setattr(mmembed.jobs.training_data, "scan_images", lambda *a, **k: scan(*a, **{**k, "num_workers": 0}))
    monkeypatch.chdir(tmp_path)
    words = [
        "--stages",
        "small.yaml",
        "--output_dir",
        "run",
        "--use_cpu",
        "--disable_tqdm",
        "true",
        "--report_to",
        "none",
    ]
    assert main(["train", *words]) == 0
    report = json.loads((tmp_path / "run" / "forgetting.json").read_text())
    assert report["models"] == ["base", "muge", "flickr30k_cn", "private"] and report["learnt"]["muge"] == "muge"
    cell = report["forward"]["cells"]["private"]["muge"]
    assert cell["documents"] == 12 and cell["success@1"]["n"] == 12  # the whole gallery of its own test part
    assert "model    run/03-private/model" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["three_stages.yaml", "small.yaml", "remedies.yaml"])
def test_the_recipes_files_say_nothing_unknown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is whole once its data is there."""
    for place in ("muge/queries", "muge/images", "muge/pairs", "private/texts", "private/images", "private/pairs"):
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / f"{place}.jsonl").touch()
    for table in ("captions", "images", "pairs"):
        (tmp_path / "data" / "flickr30k_cn").mkdir(exist_ok=True)
        (tmp_path / "data" / "flickr30k_cn" / f"{table}.jsonl").touch()
    for folder in ("my_photos", "private"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    options = TrainOptions(stages=str(RECIPE / name))
    options.sources = {"stages": "command line", "use_cpu": "command line", "bf16": "command line"}
    options.extra = {"use_cpu": "true", "bf16": "false"}
    plan = read_stage_file(options)
    assert len(plan.stages) >= 2


def test_flickr8k_can_be_dealt_to_the_three_layouts(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "data" / "flickr8k"
    if not source.is_dir():
        pytest.skip(f"no Flickr8k at {source}")
    done = run(
        "flickr8k_as_published.py",
        "--source",
        str(source),
        "--output_dir",
        str(tmp_path),
        "--limit",
        "5",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for script, name in (
        ("prepare_muge.py", "muge"),
        ("prepare_flickr30k_cn.py", "flickr30k_cn"),
        ("prepare_private.py", "private"),
    ):
        done = run(
            script, "--source", str(tmp_path / name), "--output_dir", str(tmp_path / "data" / name), folder=tmp_path
        )
        assert done.returncode == 0, done.stderr
        images = read_items(
            tmp_path / "data" / name / "images.jsonl",
            image_root=tmp_path / name if name == "private" else tmp_path / "data" / name,
        )
        assert len(images) == (15 if name == "flickr30k_cn" else 10)
