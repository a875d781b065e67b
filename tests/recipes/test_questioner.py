"""The recipe as a user runs it, its configurations of four families, and what is said where torchvision is missing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmembed.interactive.preference_rows import write_preference_rows
from mmembed.interactive.vision_language_loading import load_vision_language
from mmembed.jobs.dpo import _adapter, _training_arguments
from mmembed.jobs.dpo_options import DpoOptions
from mmembed.jobs.options import parse_options
from mmembed.models.folder_checks import ModelError
from tests.interactive.tiny_questioner import colour_pairs, tiny_folder, tiny_processor

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "recipes" / "questioner").glob("*.yaml"))
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def test_there_is_a_configuration_of_each_family():
    assert [path.stem for path in CONFIGS] == ["llava", "pllava", "qwen2_5_vl", "smolvlm"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_options_of_the_verb(path, tmp_path):
    options = parse_options(DpoOptions, ["--config", str(path), "--pairs", "p.parquet", "--output_dir", str(tmp_path), "--bf16", "false",
                                         "--use_cpu", "true"])  # fmt: skip
    args = _training_arguments(options)
    adapter = _adapter(options)
    assert args.max_length is None and adapter.r >= 16
    # the language model alone, whatever a family calls it: never the vision tower, never the head
    names = ["model.language_model.layers.0.self_attn.q_proj", "model.text_model.layers.0.self_attn.q_proj"]
    outside = ["model.visual.blocks.0.attn.qkv", "model.vision_model.encoder.layers.0.self_attn.q_proj", "lm_head",
               "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"]  # fmt: skip
    assert any(re.fullmatch(adapter.target_modules, name) for name in names)
    assert not any(re.fullmatch(adapter.target_modules, name) for name in outside)
    assert options.warm_start == {} or set(options.warm_start) & {"num_train_epochs", "max_steps"}


def test_a_family_that_needs_torchvision_says_so(tmp_path):
    """A Qwen2.5-VL folder as its makers publish one; its processor has a video processor, which torchvision makes."""
    from transformers import Qwen2_5_VLConfig

    folder = tmp_path / "qwen"
    tiny_processor().tokenizer.save_pretrained(folder)
    Qwen2_5_VLConfig().save_pretrained(folder)
    told = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 3136,
        "max_pixels": 12544,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "processor_class": "Qwen2_5_VLProcessor"}))
    options = parse_options(DpoOptions, ["--config", str(ROOT / "recipes" / "questioner" / "qwen2_5_vl.yaml")])
    with pytest.raises(ModelError, match="torchvision"):
        load_vision_language(folder, processor_kwargs=options.processor_kwargs)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for name, seed in (("train", 0), ("test", 5)):
        write_preference_rows(colour_pairs(8, seed=seed, shown=2, instructions="Ask."), folder / f"{name}.parquet")
    return folder


def launched(words, *, launcher=()):
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, *launcher, str(ROOT / "recipes" / "dpo_questioner.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def words_of(pairs, out):
    return ["--pairs", str(pairs / "train.parquet"), "--held_out", str(pairs / "test.parquet"), "--model", tiny_folder(), "--output_dir", str(out),
            "--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-2",
            "--bootstrap_samples", "50", "--logging_steps", "1"]  # fmt: skip


@pytest.mark.slow
def test_the_recipe_in_a_process_of_its_own(pairs, tmp_path):
    done = launched(words_of(pairs, tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "trained, by likelihood" in done.stdout
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["train"] == "lora" and config["learning_rate"] == 0.01


@pytest.mark.slow
def test_two_processes_train_one_model(pairs, tmp_path):
    """accelerate launches two; both see half of each batch, and the adapter is that of one process with twice the batch."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no", "--num_machines", "1",
                "--dynamo_backend", "no"]  # fmt: skip
    two = launched(words_of(pairs, tmp_path / "two"), launcher=launcher)
    assert two.returncode == 0, two.stderr[-3000:]
    one = launched([*words_of(pairs, tmp_path / "one"), "--per_device_train_batch_size", "4"])
    assert one.returncode == 0, one.stderr[-2000:]
    figures = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert figures[0]["steps"] == figures[1]["steps"] == 2
    assert figures[0]["loss"]["first loss"] == pytest.approx(figures[1]["loss"]["first loss"], abs=1e-4)
    from safetensors.torch import load_file

    first, second = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-2
