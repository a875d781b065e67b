"""The verb: pairs in, an adapter or a model out, with figures, a card, and a run that can be cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset

from mmembed.cli import main
from mmembed.data.schema import DataError
from mmembed.interactive.preference_rows import write_preference_rows
from mmembed.interactive.preferences import TargetLeakError
from mmembed.interactive.vision_language_loading import load_vision_language
from mmembed.jobs.dpo import run
from mmembed.jobs.dpo_options import DpoOptions
from mmembed.jobs.options import OptionsError, parse_options
from tests.interactive.tiny_questioner import colour_pairs, tiny_folder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
QUICK = {
    "per_device_train_batch_size": 4, "max_steps": 8, "learning_rate": 3e-2, "lr_scheduler_type": "constant", "beta": 0.5,
    "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "bootstrap_samples": 200,
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for name, count, seed in (("train", 8, 0), ("test", 6, 9)):
        rows = colour_pairs(count, seed=seed, shown=2, instructions="Ask.")
        rows = rows.add_column("target_key", [f"{name}{number // 2}" for number in range(count)])
        write_preference_rows(rows, folder / f"{name}.parquet")
    return folder


def options_of(folder, out, **changes):
    given = {
        "pairs": folder / "train.parquet",
        "held_out": folder / "test.parquet",
        "model": tiny_folder(),
        "output_dir": out,
        **QUICK,
    }
    words = []
    for name, value in {**given, **changes}.items():
        words += [
            f"--{name}",
            json.dumps(value) if isinstance(value, (dict, list, bool)) or value is None else str(value),
        ]
    return words


def read(path):
    return json.loads(Path(path).read_text())


def test_an_adapter_from_the_command_line(pairs, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["dpo", *options_of(pairs, out, lora={"r": 8})]) == 0
    figures = read(out / "metrics.json")
    assert figures["pairs"] == {"train": 8, "held out": 6}
    assert figures["loss"]["loss"] < figures["loss"]["first loss"] == pytest.approx(0.6931, abs=1e-3)
    assert figures["accuracy"]["trained"]["accuracy"]["mean"] >= figures["accuracy"]["base"]["accuracy"]["mean"]
    assert figures["accuracy"]["trained"]["implicit reward"]["mean"] == 1.0
    assert figures["accuracy"]["trained"]["accuracy"]["n"] == 6
    assert set(figures["gain"]) == {"base"} and set(figures["without images"]) == {"text", "length"}
    shown = capsys.readouterr().out
    assert "trained, by likelihood" in shown and "guess by text, no images" in shown
    files = {path.name for path in (out / "model").iterdir()}
    assert "adapter_model.safetensors" in files and "processor_config.json" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft" and head["pipeline_tag"] == "image-text-to-text" and "base_model" not in head
    assert yaml.safe_load((out / "config.yaml").read_text())["beta"] == 0.5
    model = load_vision_language(tiny_folder(), adapter=out / "model", device="cpu")
    row = colour_pairs(1, shown=2, instructions="Ask.")[0]
    assert len(model.replies(row["prompt"], row["images"], samples=2, temperature=1.0, max_new_tokens=4)) == 2
    # it is published like any model of ours
    sent = ["--model", str(out / "model"), "--repo_id", "me/asks", "--base_model", "owner/small", "--license", "mit"]
    assert main(["push", *sent, "--dry_run", "--output", str(tmp_path / "pushed")]) == 0
    told = read(tmp_path / "pushed" / "adapter_config.json")
    assert told["base_model_name_or_path"] == "owner/small"
    assert (tmp_path / "pushed" / "adapter_model.safetensors").is_file()
    # a second run in the same folder, finished as it is, trains no further and measures the same
    before = read(out / "metrics.json")["accuracy"]["trained"]
    assert parse_options(DpoOptions, ["--config", str(out / "config.yaml")]).lora == {"r": 8}
    assert before == figures["accuracy"]["trained"]


def test_every_weight_after_a_warm_start_and_a_cut(pairs, tmp_path):
    words = options_of(
        pairs, tmp_path, train="full", learning_rate=2e-3, save_strategy="steps", save_steps=2, max_steps=4,
        warm_start={"max_steps": 3, "learning_rate": 2e-3, "per_device_train_batch_size": 4},
    )  # fmt: skip
    whole = run(parse_options(DpoOptions, words))
    assert set(whole["accuracy"]) == {"base", "warm_start", "trained"}
    assert (tmp_path / "warm_start" / "model.safetensors").is_file()
    assert (tmp_path / "model" / "model.safetensors").is_file()
    load_vision_language(tmp_path / "model", device="cpu")
    # cut after step 2: what is left goes on to the same end
    import shutil

    shutil.rmtree(tmp_path / "checkpoint-4")
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "metrics.json").unlink()
    again = run(parse_options(DpoOptions, words))
    assert again["accuracy"]["trained"] == whole["accuracy"]["trained"]
    assert again["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_a_warm_started_adapter(pairs, tmp_path):
    found = run(
        parse_options(
            DpoOptions,
            options_of(pairs, tmp_path, max_steps=2, warm_start={"max_steps": 2, "per_device_train_batch_size": 4}),
        )
    )
    assert set(found["accuracy"]) == {"base", "warm_start", "trained"}
    files = {
        path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*") if path.is_file()
    }
    assert "adapter_model.safetensors" in files and not [name for name in files if name.startswith("ref")]
    load_vision_language(tiny_folder(), adapter=tmp_path / "model", device="cpu")


def test_without_held_out_pairs_nothing_is_measured(pairs, tmp_path):
    found = run(parse_options(DpoOptions, options_of(pairs, tmp_path, held_out=None, max_steps=1)))
    assert "accuracy" not in found and found["pairs"]["held out"] == 0


def test_a_target_in_both_parts_is_refused(pairs, tmp_path):
    with pytest.raises(TargetLeakError) as caught:
        run(parse_options(DpoOptions, options_of(pairs, tmp_path, held_out=pairs / "train.parquet")))
    assert caught.value.exit_status == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "--model: name the vision-language model"),
        ({"loss": "dpo"}, "dpo"),
        ({"loss_type": ["sigmoid"]}, "loss_type: name the loss by --loss"),
        ({"train": "full", "lora": {"r": 2}}, "--lora is of an adapter"),
        ({"lora": {"rank": 2}}, "--lora: .*rank"),
        ({"catalogue": {"products": 3}}, "--catalogue is of drawn pairs"),
        ({"loss": "robust", "label_smoothing": 0.7}, "label_smoothing"),
        ({"train": "full", "sync_ref_model": True}, "sync_ref_model moves the reference"),
        ({"learning_rat": 1.0}, "did you mean --learning_rate"),
        ({"warm_start": {"epochs": 1}}, "--warm_start: .*epochs"),
    ],
)
def test_options_that_cannot_be_meant(pairs, tmp_path, changes, message):
    with pytest.raises((OptionsError, ValueError), match=message):
        run(parse_options(DpoOptions, options_of(pairs, tmp_path, **changes), passthrough=None))


def test_faults_of_the_data_are_one_line(pairs, tmp_path, capsys):
    assert main(["dpo", *options_of(pairs, tmp_path, pairs=tmp_path / "none.parquet")]) == 2
    assert "there is no such file" in capsys.readouterr().err
    rows = Dataset.from_list([{**dict(row), "images": dict(row)["images"][:1]} for row in colour_pairs(2, shown=2)])
    write_preference_rows(rows, tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="1 images for 2 image blocks"):
        run(parse_options(DpoOptions, options_of(pairs, tmp_path / "x", pairs=tmp_path / "bad.parquet", held_out=None)))
