"""The recipe as a user runs it: processes of their own, and a model folder that needs nothing of mmembed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.jobs.tiny_jobs import catalogue_words, tiny_words, write_shop

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "ft_embedding.py")

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
picture = Image.open(sys.argv[2]).convert("RGB")
rows = [{"text": "red mug"}, {"image": picture}, {"text": "red mug", "image": picture}]
np.save(sys.argv[3], np.concatenate([model.encode([row]) for row in rows]))
assert not [name for name in sys.modules if name.partition(".")[0] == "mmembed"]
"""


def start(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=300, cwd=folder)


def check_run(out: Path, done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((out / "metrics.json").read_text())
    for stage in ("before", "after"):
        for direction in ("text_to_image", "image_to_text"):
            assert set(metrics[stage][direction]["recall@1"]) == {"mean", "low", "high"}
    for name in ("config.yaml", "metrics.jsonl", "model/contact_sheet.png", "model/modules.json", "model/README.md"):
        assert (out / name).stat().st_size, name
    assert "text → image" in done.stdout and "before" in done.stdout and str(out / "model") in done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe in a process of its own, in a folder that is not the repository."""
    folder = tmp_path_factory.mktemp("work")
    out = folder / "run"
    check_run(out, start([sys.executable, RECIPE, *catalogue_words(out, folder / "cache")], folder))
    return out


def test_the_model_folder_gives_the_same_vectors_where_mmembed_is_not_installed(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(picture)
    arguments = [str(run / "model"), str(picture), str(tmp_path / "vectors.npy")]
    done = start(
        [sys.executable, "-c", WITHOUT_MMEMBED, *arguments],
        tmp_path,
        HF_MODULES_CACHE=str(tmp_path / "code"),
        PYTHONPATH="",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    from mmembed.models.loading import load_model

    model = load_model(run / "model", device="cpu")
    image = Image.open(picture).convert("RGB")
    rows = [{"text": "red mug"}, {"image": image}, {"text": "red mug", "image": image}]
    wanted = np.concatenate([model.encode([row]) for row in rows])
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), wanted, atol=1e-6)


def test_a_saved_configuration_and_accelerate_launch_give_the_same_model(run: Path, tmp_path: Path) -> None:
    """One process under accelerate is the same run as none."""
    out = tmp_path / "again"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "accelerate_configs" / "cpu.yaml"),
    ]
    done = start([*launch, RECIPE, "--config", str(run / "config.yaml"), "--output_dir", str(out)], tmp_path)
    check_run(out, done)
    assert json.loads((out / "metrics.json").read_text()) == json.loads((run / "metrics.json").read_text())
    assert (out / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


def test_an_unknown_option_ends_with_status_2_and_the_nearest_name(tmp_path: Path) -> None:
    done = start([sys.executable, RECIPE, "--learning_rat", "1e-3"], tmp_path)
    assert done.returncode == 2 and "did you mean --learning_rate" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


def test_help_is_quick_and_says_where_to_start(tmp_path: Path) -> None:
    done = start([sys.executable, "-X", "importtime", RECIPE, "--help"], tmp_path)
    assert done.returncode == 0 and "--items" in done.stdout and "--store_image_features" in done.stdout
    assert " torch\n" not in done.stderr and " mmembed.jobs.train_options\n" in done.stderr


NAN = """
import sys
from mmembed.losses.ranking import MaskedRankingLoss
MaskedRankingLoss.compute_loss_from_embeddings = lambda self, rows, labels: rows[0].sum() * float("nan")
from mmembed.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_nan_ends_the_process_with_a_status_that_schedulers_see(tmp_path: Path) -> None:
    file = write_shop(tmp_path / "shop", 8)
    done = start([sys.executable, "-c", NAN, *tiny_words(tmp_path / "run", items=str(file))], tmp_path)
    assert done.returncode == 1 and "NonFiniteError: the loss is nan at step 1, on the batch of 's" in done.stderr
    assert not (tmp_path / "run" / "model").exists()
