"""The BLIP bi-encoder against transformers' `BlipForImageTextRetrieval`, row by row, and its way through a folder."""

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
from transformers import BlipConfig, BlipForImageTextRetrieval

from mmembed.models import BlipBiEncoderConfig, BlipBiEncoderModel, DualEncoderProcessor
from mmembed.models.loading import load_model, sentence_transformer

from ..tiny_models import tokenizer

SIZE, WORDS = 24, 60
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 2,
    "sep_token_id": 3,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": SIZE,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}


def spread(model: Any) -> Any:
    """Larger weights, so that a tiny model tells its inputs apart, and biases that are not zero."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
            elif parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * parameter[0].numel() ** -0.5)
    return model.eval()


def make(words: int = WORDS) -> BlipBiEncoderModel:
    return spread(BlipBiEncoderModel(BlipBiEncoderConfig({**TEXT, "vocab_size": words}, VISION, projection_dim=8)))


def stock(model: BlipBiEncoderModel) -> BlipForImageTextRetrieval:
    """transformers' model with the same weights; its cross-attention and matching head are not looked at."""
    names = {"text_model": "text_encoder", "text_projection": "text_proj", "visual_projection": "vision_proj"}
    state = {
        names.get(tower := name.split(".")[0], tower) + name.removeprefix(tower): tensor
        for name, tensor in model.state_dict().items()
        if name != "logit_scale"
    }
    config = BlipConfig(text_config=TEXT, vision_config=VISION, image_text_hidden_size=8)
    peer = BlipForImageTextRetrieval(config).eval()
    result = peer.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert all("crossattention" in name or "itm_head" in name for name in result.missing_keys)
    return peer


def pixels(count: int, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)


def batch() -> dict[str, torch.Tensor]:
    """Rows: text, image, both, both, text."""
    ids = torch.randint(5, WORDS, (5, 7), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    mask[1] = 0
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "pixel_values": pixels(3),
        "num_images_per_sample": torch.tensor([0, 1, 1, 1, 0]),
    }


def normalised(raw: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    return (raw.float() / 255 - mean) / std


@torch.no_grad()
def test_products_of_vectors_are_the_similarities_of_transformers() -> None:
    model, given = make(), batch()
    ids, mask, raw = given["input_ids"][[0, 2, 4]], given["attention_mask"][[0, 2, 4]], given["pixel_values"]
    wanted = stock(model)(ids, normalised(raw), use_itm_head=False, attention_mask=mask).itm_score
    text = model.get_text_features(ids, mask).pooler_output
    for given_pixels in (raw, normalised(raw)):  # raw ones are normalised by the model
        image = model.get_image_features(given_pixels).pooler_output
        torch.testing.assert_close(image @ text.T, wanted, atol=1e-5, rtol=0)
    assert wanted.std() > 0.05  # the inputs are told apart


@torch.no_grad()
def test_images_of_another_size_are_read_with_resized_positions() -> None:
    model, raw = make(), pixels(2, size=40)
    wanted = stock(model).vision_model(normalised(raw), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(model.get_image_features(raw).last_hidden_state, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_row_in_a_mixed_batch_has_the_vector_that_it_has_alone() -> None:
    model, given = make(), batch()
    vectors = model(**given).pooler_output
    ids, mask, raw = given["input_ids"], given["attention_mask"], given["pixel_values"]
    alone = [
        model(input_ids=ids[:1, :4]).pooler_output,
        model(pixel_values=raw[:1]).pooler_output,
        model(input_ids=ids[2:3], attention_mask=mask[2:3], pixel_values=raw[1:2]).pooler_output,
        model.get_fused_features(ids[3:4], raw[2:3], mask[3:4]).pooler_output,
        model.get_text_features(ids[4:5], mask[4:5]).pooler_output,
    ]
    torch.testing.assert_close(vectors, torch.cat(alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5), atol=1e-5, rtol=0)
    # A row with both is the mean of its two, without any parameter.
    text, image = model.get_text_features(ids[2:3]).pooler_output, model.get_image_features(raw[1:2]).pooler_output
    torch.testing.assert_close(vectors[2:3], F.normalize((text + image) / 2, dim=-1), atol=1e-5, rtol=0)


def test_what_cannot_be_a_row_is_refused() -> None:
    model, given = make(), batch()
    with pytest.raises(ValueError, match="input_ids, pixel_values or both"):
        model()
    with pytest.raises(ValueError, match=r"rows \[1\] have neither"):
        model(given["input_ids"], given["attention_mask"])
    with pytest.raises(ValueError, match="3 images for 2 of 5 rows"):
        model(**{**given, "num_images_per_sample": torch.tensor([0, 0, 1, 1, 0])})
    with pytest.raises(ValueError, match="more than one image"):
        model(**{**given, "num_images_per_sample": torch.tensor([0, 0, 2, 1, 0])})
    with pytest.raises(ValueError, match="5 texts and 3 images"):
        model.get_fused_features(given["input_ids"], given["pixel_values"])
    with pytest.raises(ValueError, match="40 tokens, and the text tower has 32 positions"):
        model.get_text_features(torch.ones(1, 40, dtype=torch.int64))


def test_every_weight_of_a_row_takes_part() -> None:
    model, given = make().train(), batch()
    model(**given).pooler_output.sum(dim=0)[0].backward()
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert still == ["logit_scale"]  # of losses, not of vectors


def test_adapters_train_under_activation_checkpointing() -> None:
    """Frozen word embeddings whose output is asked for gradients: transformers' own embeddings fail there."""
    model, given = make().train(), batch()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("query" in name or "qkv" in name)
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    model(**given).pooler_output.sum(dim=0)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    words = tokenizer()
    processor = DualEncoderProcessor(words, image_size=SIZE, resize="squash", max_text_length=32)
    sentence_transformer(make(len(words)), processor).save_pretrained(str(tmp_path / "m"), create_model_card=False)
    return tmp_path / "m"


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
rows = [{"text": "a red mug"}, {"image": picture}, {"text": "a red mug", "image": picture}]
np.save(sys.argv[3], np.concatenate([model.encode([row]) for row in rows]))
assert not [name for name in sys.modules if name.partition(".")[0] == "mmembed"]
"""


def test_the_folder_gives_the_same_vectors_where_mmembed_is_not_installed(saved: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(picture)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MMEMBED, str(saved), str(picture), str(tmp_path / "vectors.npy")],
        env={
            **os.environ,
            "PYTHONPATH": "",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_MODULES_CACHE": str(tmp_path / "code"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    image = Image.open(picture).convert("RGB")
    rows = [{"text": "a red mug"}, {"image": image}, {"text": "a red mug", "image": image}]
    model = load_model(saved, device="cpu")
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), model.encode(rows), atol=1e-5)
    assert len(np.unique(model.encode(rows).round(4), axis=0)) == 3
