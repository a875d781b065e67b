"""`mmembed push` from words to the Hub's stand-in: what it tells, and what stays here in a dry run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmembed.cli import main as cli
from mmembed.jobs.options import OptionsError
from mmembed.jobs.push import main
from tests.export.hub_stand_in import Hub
from tests.tiny_models import tiny_clip, tiny_dual_encoder

TOKEN = "hf_" + "SECRET123" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("model") / "dual"
    tiny_dual_encoder().save_pretrained(str(place), create_model_card=False)
    (place / "training_args.bin").write_bytes(b"x")
    return place


def test_a_dry_run_tells_files_reasons_servers_and_notes(folder: Path, tmp_path: Path, capsys) -> None:
    words = ["--model", str(folder), "--repo_id", "me/shoes", "--dry_run", "--license", "mit", "--language", "en", "zh"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    for part in (
        "modeling_dual_encoder.py",
        "training_args.bin  a format that can carry code",
        'SentenceTransformer("me/shoes", trust_remote_code=True)',
        "it serves texts alone, and this model reads images",
        "note            the card names no base model of the Hub",
        "dry run         nothing was sent to me/shoes",
    ):
        assert part in told, told
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "- zh" in card and 'SentenceTransformer("me/shoes"' in card


@pytest.mark.security
def test_the_real_command_reaches_the_stand_in_and_nothing_tells_the_token(tmp_path: Path) -> None:
    """A process of its own, as a person runs it: the token comes from the environment, and no output holds it."""
    folder = tmp_path / "clip"
    tiny_clip().save_pretrained(str(folder), create_model_card=False)
    hub = Hub(TOKEN)
    try:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {
            "HF_TOKEN": TOKEN,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf"),
        }
        words = [sys.executable, "-m", "mmembed", "push", "--model", str(folder), "--repo_id", "me/clip", "--private"]
        run = subprocess.run([*words, "--license", "mit"], env=env, capture_output=True, text=True, timeout=500)
        assert run.returncode == 0, run.stderr[-2000:]
        commit, files = hub.repositories["me/clip"].commits[-1]
        assert f'revision="{commit}"' in run.stdout and hub.repositories["me/clip"].private
        assert {"model.safetensors", "README.md", "modules.json"} <= set(files)
        asked = [headers for method, _, headers in hub.asked if method == "POST"]
        assert asked and all(TOKEN in json.dumps(headers) for headers in asked)
        assert TOKEN not in run.stdout + run.stderr
        for path in [*folder.rglob("*"), *(tmp_path / "hf").rglob("*")]:
            if path.is_file():
                assert TOKEN.encode() not in path.read_bytes(), path
    finally:
        hub.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repo_id", "me/x"], "--model: name the folder"),
        (["--model", "x"], "--repo_id: name the repository"),
        (["--model", "x", "--repo_id", "me/x", "--token", "hf_x"], "token"),
        (["--model", "x", "--repo_id", "me/x", "--licence", "mit"], "did you mean --license"),
    ],
)
def test_wrong_options_are_said(words: list[str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repo_id", "noowner"], "names no owner"),
        (["--repo_id", "me/x", "--license", "Apache 2"], "the Hub does not take 'Apache 2'"),
        (["--repo_id", "me/x", "--base_model", "/home/anna/clip"], "no name of the Hub"),
    ],
)
def test_the_command_line_says_it_in_a_line(folder: Path, capsys, words: list[str], message: str) -> None:
    assert cli(["push", "--model", str(folder), "--dry_run", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_a_hostile_folder_is_a_line(folder: Path, tmp_path: Path, capsys) -> None:
    hostile = Path(shutil.copytree(folder, tmp_path / "model"))
    (hostile / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a"}}')
    assert cli(["push", "--model", str(hostile), "--repo_id", "me/x", "--dry_run"]) == 2
    assert "which is not beside it" in capsys.readouterr().err
