"""What every family keeps to, once its checkpoint is converted and loaded: the rows of the README's table, one by one."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, BertConfig, BertModel

from mmembed.conversion.converting import convert_checkpoint
from mmembed.data.training_pairs import TrainingPairs
from mmembed.models.dual_encoder.building import train_tokenizer
from mmembed.models.image_tower.building import build_image_tower
from mmembed.models.loading import load_model
from tests.tiny_models import tiny_dual_encoder
from tests.training.tiny_runs import items, make_trainer, training_pairs


@dataclass(frozen=True)
class Family:
    """One row of the table: where its tiny original comes from, and what it can read."""

    name: str
    variant: str | None = None  # suffix of the functions in tests/conversion/tiny_<name>.py
    text: bool = True
    image: bool = True
    stock: bool = False  # of transformers: loads where mmembed is not installed, without trust_remote_code

    def __str__(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


FAMILIES = [
    Family("visualized_bge"),
    Family("visualized_bge", "m3"),
    Family("chinese_clip", stock=True),
    Family("chinese_clip", "resnet"),
    Family("ruclip", stock=True),
    Family("open_clip", stock=True),
    Family("open_clip", "siglip", stock=True),
    Family("blip"),
    # These are not converted here: Shopee's need timm (tests/conversion/test_image_tower.py), the others no conversion.
    Family("image_tower", text=False),
    Family("dual_encoder"),
    Family("text_embedder", image=False, stock=True),
]
STOCK = [family for family in FAMILIES if family.stock]
TEXTS = ["a red mug", "green hat", "the quick brown fox jumps over a lazy dog", "dog"]


def picture(seed: int, size: tuple[int, int] = (40, 29)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def write_image_tower(folder: Path) -> None:
    model = build_image_tower(image_size=32, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], embedding_dim=12)
    model.save_pretrained(str(folder), create_model_card=False)


def write_dual_encoder(folder: Path) -> None:
    tiny_dual_encoder(fusion="gated", text_layers=2).save_pretrained(str(folder), create_model_card=False)


def write_text_embedder(folder: Path) -> None:
    words = train_tokenizer(TEXTS, vocab_size=120, max_length=32)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = BertConfig(**small, vocab_size=len(words), max_position_embeddings=32, initializer_range=0.2)
    plain = folder.with_name("plain")
    BertModel(config, add_pooling_layer=False).save_pretrained(plain)
    words.save_pretrained(plain)
    load_model(plain, device="cpu", pooling="cls").save_pretrained(str(folder), create_model_card=False)


BUILT = {
    "image_tower": write_image_tower,
    "dual_encoder": write_dual_encoder,
    "text_embedder": write_text_embedder,
}


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Family → folder of its converted tiny original, made once."""
    folders: dict[str, Path] = {}

    def convert(family: Family) -> Path:
        if family.name in BUILT and str(family) not in folders:
            folders[str(family)] = tmp_path_factory.mktemp(family.name) / "model"
            BUILT[family.name](folders[str(family)])
        if str(family) not in folders:
            tiny = importlib.import_module(f"tests.conversion.tiny_{family.name}")
            suffix = f"_{family.variant}" if family.variant else ""
            root = tmp_path_factory.mktemp(str(family))
            state = getattr(tiny, f"original_state_dict{suffix}")()
            save_file(
                {name: tensor.contiguous().clone() for name, tensor in state.items()}, root / "weights.safetensors"
            )
            tokenizer = getattr(tiny, f"write_tokenizer{suffix}", None) or tiny.write_tokenizer
            convert_checkpoint(
                family.name,
                root / "weights.safetensors",
                root / "model",
                config=getattr(tiny, f"CONFIG{suffix.upper()}"),
                tokenizer=tokenizer(root),
            )
            folders[str(family)] = root / "model"
        return folders[str(family)]

    return convert


def rows_of(family: Family) -> list[dict[str, Any]]:
    """Rows of every kind the family reads, mixed."""
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(TEXTS):
        rows += [{"text": text}] if family.text else []
        rows += [{"image": picture(number, (30 + number, 40))}] if family.image else []
        rows += [{"text": text, "image": picture(number + 10)}] if family.text and family.image else []
    return rows


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_row_has_the_vector_that_it_has_alone(family: Family, converted: Any) -> None:
    model = load_model(converted(family), device="cpu")
    rows = rows_of(family) * 6
    rows = rows[:64]
    together = model.encode(rows, batch_size=64)
    alone = model.encode(rows, batch_size=1)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    distinct = np.unique(np.round(together, 4), axis=0)
    assert len(distinct) == len(rows_of(family)), "different rows have one vector"
    strings = model.encode(TEXTS) if family.text else None
    if strings is not None:
        np.testing.assert_allclose(strings, model.encode([{"text": text} for text in TEXTS]), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_saved_and_loaded_it_is_the_same(family: Family, converted: Any, tmp_path: Path) -> None:
    model, rows = load_model(converted(family), device="cpu"), rows_of(family)
    model.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    np.testing.assert_array_equal(load_model(tmp_path / "again", device="cpu").encode(rows), model.encode(rows))
    plain = AutoModel.from_pretrained(converted(family))
    assert type(plain).__name__ == type(model[0].model).__name__
    for name, tensor in model[0].model.state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor), name
    text_rows = [row for row in rows if set(row) == {"text"}]
    peer = SentenceTransformer(str(converted(family)), device="cpu")
    if family.text:
        np.testing.assert_allclose(peer.encode([row["text"] for row in text_rows]), model.encode(text_rows), atol=1e-5)
    if family.image:
        images = [row["image"] for row in rows if set(row) == {"image"}]
        np.testing.assert_allclose(peer.encode(images), model.encode([{"image": one} for one in images]), atol=1e-5)


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
picture = Image.open(sys.argv[1]).convert("RGB")
for spec in sys.argv[2:]:
    folder, remote = spec.rsplit(":", 1)
    model = SentenceTransformer(folder, device="cpu", trust_remote_code=remote == "True")
    np.save(folder + "/alone.npy", np.concatenate([model.encode(["a red mug"]), model.encode([picture])]))
assert not [name for name in sys.modules if name.partition(".")[0] == "mmembed"]
"""


def test_all_load_where_mmembed_is_not_installed(converted: Any, tmp_path: Path) -> None:
    """Those of transformers without further ado, those of ours with trust_remote_code."""
    families = [family for family in FAMILIES if family.text and family.image]
    picture(5).save(tmp_path / "picture.png")
    specs = [f"{converted(family)}:{not family.stock}" for family in families]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MMEMBED, str(tmp_path / "picture.png"), *specs],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={
            **os.environ,
            "HF_MODULES_CACHE": str(tmp_path / "code"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": "",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for family in families:
        model = load_model(converted(family), device="cpu")
        image = Image.open(tmp_path / "picture.png").convert("RGB")
        wanted = np.concatenate([model.encode(["a red mug"]), model.encode([{"image": image}])])
        np.testing.assert_allclose(np.load(converted(family) / "alone.npy"), wanted, atol=1e-5, err_msg=str(family))


def data_for(family: Family) -> Any:
    if family.text and family.image:
        return training_pairs(query_use="text", document_use="fused")
    # of the other kind there is none: each row finds the next
    use = "text" if family.text else "image"
    table = items(12)
    shifted = {"query_id": table["id"][:], "positive_ids": [[f"i{(row + 1) % 12}"] for row in range(12)]}
    pairs = Dataset.from_dict({**shifted, "negative_ids": [[] for _ in range(12)]})
    return TrainingPairs(table, table, pairs, query_use=use, document_use=use, show_progress_bar=False)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_two_steps_move_all_that_should_move(family: Family, converted: Any, tmp_path: Path) -> None:
    model = load_model(converted(family), device="cpu")
    trainer = make_trainer(tmp_path, data_for(family), model, max_steps=2, learning_rate=1e-2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer.train()
    still = [n for n, p in model.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert not still, still[:10]
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert all("logit" in name or ".pooler." in name for name in frozen), frozen


@pytest.mark.parametrize("tower", ["text", "image"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family.text and family.image], ids=str)
def test_a_tower_is_frozen_by_its_name(family: Family, tower: str, converted: Any, tmp_path: Path) -> None:
    model = load_model(converted(family), device="cpu")
    uses = {"query_use": "text", "document_use": "image"}
    trainer = make_trainer(tmp_path, training_pairs(**uses), model, max_steps=1, freeze=[tower])
    row = [{"text": "a red mug"}] if tower == "text" else [{"image": picture(3)}]
    other = [{"image": picture(3)}] if tower == "text" else [{"text": "a red mug"}]
    before = model.encode(row), model.encode(other)
    trainer.train()
    # visualized BGE reads its images with the text encoder as well, so a locked image tower still moves with it
    if family.name != "visualized_bge" or tower == "text":
        np.testing.assert_allclose(model.encode(row), before[0], atol=1e-6)
    if family.name != "visualized_bge":
        assert not np.allclose(model.encode(other), before[1], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_low_rank_adapters_train_and_fold_in(family: Family, converted: Any, tmp_path: Path) -> None:
    from mmembed.training.lora import merge_lora

    model, rows = load_model(converted(family), device="cpu"), rows_of(family)
    before = model.encode(rows)
    names = list(model.state_dict())
    make_trainer(tmp_path, data_for(family), model, lora={"r": 2, "target_modules": "all-linear"}).train()
    trained = model.encode(rows)
    assert np.abs(trained - before).max() > 1e-4
    merge_lora(model)
    assert list(model.state_dict()) == names
    np.testing.assert_allclose(model.encode(rows), trained, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_gradient_checkpointing_changes_no_weight(family: Family, converted: Any, tmp_path: Path) -> None:
    results = []
    for checkpointing in (False, True):
        model = load_model(converted(family), device="cpu")
        settings = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "gradient_checkpointing": checkpointing}
        make_trainer(tmp_path / str(checkpointing), data_for(family), model, **settings).train()
        results.append({name: value.detach() for name, value in model.named_parameters()})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_bfloat16_encodes_and_trains(family: Family, converted: Any, tmp_path: Path) -> None:
    rows = rows_of(family)
    full = load_model(converted(family), device="cpu")
    half = load_model(converted(family), device="cpu", model_kwargs={"dtype": torch.bfloat16})
    cosines = (full.encode(rows) * half.encode(rows).astype(np.float32)).sum(axis=1)
    assert half.dtype == torch.bfloat16 and cosines.min() > 0.98
    result = make_trainer(tmp_path, data_for(family), full, bf16=True, max_steps=2).train()
    assert np.isfinite(result.training_loss)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.text], ids=str)
def test_the_length_limit_is_kept(family: Family, converted: Any) -> None:
    model = load_model(converted(family), device="cpu")
    head = "red mug green hat dog "
    if family.variant == "siglip":  # its texts have one length, always
        head *= model.max_seq_length
    else:
        model.max_seq_length = 6
    cut = model.encode([head + "fox jumps over a lazy", head + " hat" * 30])
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-6)
    whole = load_model(converted(family), device="cpu")
    whole.encode(["mug " * 3000])  # far beyond every limit: cut, not a crash


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.image], ids=str)
def test_pixels_that_were_never_scaled_are_refused(family: Family, converted: Any) -> None:
    """Values of 0..255 as floats give a vector, but none of the image: training saw normalised ones."""
    model = load_model(converted(family), device="cpu")
    features = model.preprocess([{"image": picture(1)}, {"image": picture(2)}])
    assert features["pixel_values"].dtype == torch.uint8
    with torch.no_grad():
        wanted = model(dict(features))["sentence_embedding"]
        unscaled = {**features, "pixel_values": features["pixel_values"].float()}
        if family.name == "dual_encoder":  # its floats are what a frozen tower gave, and this one has none frozen
            with pytest.raises(ValueError, match="pass pixels as uint8"):
                model(unscaled)
            return
        with pytest.raises(ValueError, match="never scaled; pass uint8 pixels, or normalised ones"):
            model(unscaled)
        config = model[0].model.config
        scaling = model[0]._scaling() if family.stock else (1 / 255, config.image_mean, config.image_std)
        factor, mean, std = scaling
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        normalised = (features["pixel_values"].float() * factor - mean) / std
        found = model({**features, "pixel_values": normalised})["sentence_embedding"]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
