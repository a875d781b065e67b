"""`convert_checkpoint`: the family is found, the report is whole, and what fails leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, BertConfig, BertModel, CLIPModel

from mmembed.conversion import converting
from mmembed.conversion.checkpoint_reading import ConversionError, read_checkpoint
from mmembed.conversion.converting import FAMILIES, convert_checkpoint, recognise

from . import tiny_open_clip as tiny

PARITY = {
    "visualized_bge": ["base_en/original_checkpoint.pth", "m3/original_checkpoint.pth"],
    "chinese_clip": ["vit_b_16_rbt_base/original_checkpoint.pt", "rn50_rbt3/original_checkpoint.pt"],
    "ruclip": ["pytorch_model.bin"],
    "open_clip": [
        "clip_vit_gelu/original_checkpoint.pt",
        "clip_vit_quickgelu/original_checkpoint.pt",
        "siglip/original_state_dict.safetensors",
    ],
    "blip": [
        "itm/original_checkpoint.pth",
        "chatir/chatir_weights.ckpt",
        "retrieval_train/original_state_dict.safetensors",
    ],
    "nfnet_arcface": ["eca_nfnet_l0/original_state_dict.safetensors", "dm_nfnet_f0/original_state_dict.safetensors"],
}
FILES = [(family, file) for family, files in PARITY.items() for file in files]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny CLIP, in a folder of its own."""
    path = tmp_path / "original" / "weights.safetensors"
    path.parent.mkdir()
    save_file(tiny.original_state_dict(), path)
    return path


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "original" not in path.parts)


# --- families -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "file"), FILES, ids=[f"{family}-{file.split('/')[0]}" for family, file in FILES])
def test_each_original_is_known_for_what_it_is(shared_data: Path, family: str, file: str) -> None:
    found = recognise(read_checkpoint(shared_data / "parity" / family / file))
    assert found == ("image_tower" if family == "nfnet_arcface" else family)


@pytest.mark.parametrize(("family", "file"), FILES, ids=[f"{family}-{file.split('/')[0]}" for family, file in FILES])
def test_another_family_is_one_error_and_writes_nothing(
    shared_data: Path, family: str, file: str, tmp_path: Path
) -> None:
    for other in FAMILIES:
        # A backbone of any kind may be an image tower; ruCLIP's keys are those of CLIP.
        if other in (family, "image_tower") or {family, other} == {"ruclip", "open_clip"}:
            continue
        with pytest.raises(ConversionError):
            convert_checkpoint(other, shared_data / "parity" / family / file, tmp_path / "out")
        assert left(tmp_path) == []


def test_a_family_is_named_or_found(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="unknown family 'clip'; the families are visualized_bge"):
        convert_checkpoint("clip", weights, tmp_path / "out")
    save_file({"strange.weight": torch.ones(1)}, tmp_path / "original" / "strange.safetensors")
    with pytest.raises(ConversionError, match="no family has keys such as strange.weight"):
        convert_checkpoint(None, tmp_path / "original" / "strange.safetensors", tmp_path / "out")
    assert left(tmp_path) == []


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("family", [None, "open_clip"])
def test_a_folder_of_transformers_needs_no_conversion(safe: bool, family: str | None, tmp_path: Path) -> None:
    """As FashionCLIP is, whether its weights are safetensors or a pickle."""
    model = (
        converting._module("open_clip")
        .convert(converting.Checkpoint(Path("weights.pt"), tiny.original_state_dict()), tiny.CONFIG, None)
        .model
    )
    model.save_pretrained(tmp_path / "original")
    if not safe:
        (tmp_path / "original" / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "original" / "pytorch_model.bin")
    with pytest.raises(ConversionError) as caught:
        convert_checkpoint(family, tmp_path / "original", tmp_path / "out")
    message = str(caught.value)
    assert "transformers' own format already (clip)" in message and "load_model(" in message
    assert ("use_safetensors" in message) == (not safe)
    assert left(tmp_path) == []


def test_a_folder_of_another_model_of_transformers_says_so_too(tmp_path: Path) -> None:
    BertModel(
        BertConfig(vocab_size=9, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path / "original")
    with pytest.raises(ConversionError, match=r"own format already \(bert\)"):
        convert_checkpoint(None, tmp_path / "original", tmp_path / "out")


# --- what is written ----------------------------------------------------------------------------------------------------


def test_the_report_tells_all_and_lies_in_the_folder(weights: Path, tmp_path: Path) -> None:
    state = {**tiny.original_state_dict(), "logit_bias": torch.tensor(-8.0)}
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in state.items()}}, weights.with_suffix(".pt")
    )
    report = convert_checkpoint(None, weights.with_suffix(".pt"), tmp_path / "deep" / "er" / "out", config=tiny.CONFIG)
    assert report["family"] == "open_clip" and report["model"] == "CLIPModel"
    assert report["source"]["file"] == "weights.pt" and report["source"]["nesting"] == ("state_dict", "module.")
    assert report["source"]["sha256"] == hashlib.sha256(weights.with_suffix(".pt").read_bytes()).hexdigest()
    assert report["mapped"]["visual.proj"] == ["visual_projection.weight"]
    assert len(report["mapped"]["visual.transformer.resblocks.0.attn.in_proj_bias"]) == 3
    assert set(report["mapped"]) | set(report["dropped"]) == set(state) and list(report["dropped"]) == ["logit_bias"]
    assert report["parameters"] == sum(tensor.numel() for tensor in state.values()) - 1
    assert any("tokenizer" in sentence for sentence in report["missing"])
    out = tmp_path / "deep" / "er" / "out"
    assert json.loads((out / "conversion_report.json").read_text()) == json.loads(json.dumps(report))
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert isinstance(AutoModel.from_pretrained(out), CLIPModel)


@pytest.mark.parametrize("as_file", [False, True])
def test_the_configuration_may_be_a_dict_or_a_file(weights: Path, as_file: bool, tmp_path: Path) -> None:
    config: Any = tiny.CONFIG
    if as_file:
        config = tmp_path / "original" / "model.json"
        config.write_text(json.dumps(tiny.CONFIG))
    (tmp_path / "out").mkdir()  # empty: as good as none
    tokenizer = tiny.write_tokenizer(tmp_path / "original")
    convert_checkpoint("open_clip", weights, tmp_path / "out", config=config, tokenizer=tokenizer)
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(["red mug"]).shape == (1, 12)
    assert (tmp_path / "out" / "modules.json").is_file()


def test_nothing_is_overwritten(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    (tmp_path / "file").write_text("y")
    for name in ("out", "file"):
        with pytest.raises(ConversionError, match="not an empty folder"):
            convert_checkpoint("open_clip", weights, tmp_path / name, config=tiny.CONFIG)
    with pytest.raises(ConversionError, match="could not be written"):
        convert_checkpoint("open_clip", weights, tmp_path / "file" / "out", config=tiny.CONFIG)
    assert left(tmp_path) == ["file", "out", "out/mine.txt"]


# --- what fails leaves nothing ------------------------------------------------------------------------------------------


@pytest.mark.security
@pytest.mark.parametrize("part", [0.0005, 0.3, 0.99])
def test_a_truncated_checkpoint_leaves_nothing(weights: Path, part: float, tmp_path: Path) -> None:
    for path in (weights, weights.with_suffix(".pt")):
        if path.suffix == ".pt":
            torch.save(tiny.original_state_dict(), path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ConversionError, match="truncated"):
            convert_checkpoint(None, path, tmp_path / "new" / "out", config=tiny.CONFIG)
    assert left(tmp_path) == []


def test_keys_that_do_not_fit_leave_nothing(weights: Path, tmp_path: Path) -> None:
    state = tiny.original_state_dict()
    del state["visual.ln_post.weight"]
    state["ln_final.bias"] = torch.zeros(3)
    save_file(state, weights)
    with pytest.raises(ConversionError) as caught:
        convert_checkpoint(None, weights, tmp_path / "new" / "out", config=tiny.CONFIG)
    assert "visual.ln_post.weight" in str(caught.value) and "ln_final.bias" in str(caught.value)
    assert left(tmp_path) == []


@pytest.mark.parametrize("at", ["the model", "the processor", "loading", "the move"])
def test_a_disk_that_is_full_leaves_nothing(
    weights: Path, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    target = {
        "the model": "transformers.CLIPModel.save_pretrained",
        "the processor": "transformers.CLIPProcessor.save_pretrained",
        "loading": "mmembed.models.loading.load_model",
        "the move": "mmembed.conversion.converting.os.replace",
    }[at]
    tokenizer = tiny.write_tokenizer(tmp_path / "original")
    monkeypatch.setattr(target, full)
    with pytest.raises(ConversionError, match="could not be written, and was not: .*No space left"):
        convert_checkpoint("open_clip", weights, tmp_path / "new" / "out", config=tiny.CONFIG, tokenizer=tokenizer)
    assert left(tmp_path) == []


def test_an_interrupted_conversion_leaves_nothing(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmembed.conversion.converting.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint("open_clip", weights, tmp_path / "new" / "out", config=tiny.CONFIG)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "config", [{"vision_cfg": 7}, {"text_cfg": ["x"]}, {"vision_cfg": {"image_size": "big"}}, {"embed_dim": {}}]
)
def test_a_senseless_configuration_is_one_error(weights: Path, config: Any, tmp_path: Path) -> None:
    with pytest.raises(ConversionError):
        convert_checkpoint("open_clip", weights, tmp_path / "out", config={**tiny.CONFIG, **config})
    assert left(tmp_path) == []
