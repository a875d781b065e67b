"""open_clip's CLIP and SigLIP: the original's hidden states, vectors, logits, losses and ids, from its own layouts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import normalizers
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel, SiglipModel

from mmembed.conversion import open_clip
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint
from mmembed.conversion.converting import convert_checkpoint
from mmembed.conversion.open_clip_tokenizer import cleaning, read_tokenizer
from mmembed.models.loading import load_model

from . import tiny_open_clip as tiny

CLIPS = ["clip_vit_gelu", "clip_vit_quickgelu"]
TEXTS = ["a red mug", "GREEN hat!", "the quick brown fox jumps over a lazy dog", "dog"]
# A CLIP's and a SigLIP's: state_dict, configuration, tokenizer, the original's forward.
CLIP = (tiny.original_state_dict, tiny.CONFIG, tiny.write_tokenizer, tiny.clip_vectors)
SIGLIP = (tiny.original_state_dict_siglip, tiny.CONFIG_SIGLIP, tiny.write_tokenizer_siglip, tiny.siglip_vectors)


@pytest.fixture(scope="session")
def fixture(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a golden fixture → its configuration, its tensors and the converted model."""
    made: dict[str, SimpleNamespace] = {}

    def read(name: str) -> SimpleNamespace:
        if name not in made:
            folder = shared_data / "parity" / "open_clip" / name
            file = folder / "original_checkpoint.pt"
            file = file if file.exists() else folder / "original_state_dict.safetensors"
            out = tmp_path_factory.mktemp(name) / "out"
            report = convert_checkpoint("open_clip", file, out, config=folder / "config.json")
            made[name] = SimpleNamespace(
                folder=folder,
                source=file,
                config=json.loads((folder / "config.json").read_text()),
                report=report,
                out=out,
                model=AutoModel.from_pretrained(out).eval(),
                original=load_file(folder / "original_state_dict.safetensors"),
                given=load_file(folder / "inputs.safetensors"),
                wanted=load_file(folder / "outputs.safetensors"),
            )
        return made[name]

    return read


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ "clip" or "siglip" → the folder of the converted tiny original, with its tokenizer."""
    made: dict[str, Path] = {}

    def convert(name: str) -> Path:
        if name not in made:
            state, config, write_tokenizer, _ = CLIP if name == "clip" else SIGLIP
            root = tmp_path_factory.mktemp(name)
            save_file(state(), root / "open_clip_model.safetensors")
            convert_checkpoint("open_clip", root, root / "out", config=config, tokenizer=write_tokenizer(root))
            made[name] = root / "out"
        return made[name]

    return convert


def checkpoint(tensors: dict[str, torch.Tensor], config: Any = None, nesting: tuple[str, ...] = ()) -> Checkpoint:
    return Checkpoint(Path("weights.pt"), tensors, nesting, {}, config)


def close(got: torch.Tensor, wanted: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(got, wanted, atol=atol, rtol=0)


def picture(seed: int, size: tuple[int, int] = (40, 29)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


# --- the golden fixtures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIPS)
def test_clip_has_the_hidden_states_and_vectors_of_the_original(fixture: Any, name: str) -> None:
    one = fixture(name)
    assert isinstance(one.model, CLIPModel)
    with torch.no_grad():
        text = one.model.get_text_features(one.given["input_ids"])
        image = one.model.get_image_features(one.given["pixel_values"])
    close(text.last_hidden_state, one.wanted["text_last_hidden_after_ln_final"])
    close(image.last_hidden_state, one.wanted["vision_last_hidden_before_ln_post"])
    close(text.pooler_output, one.wanted["text_features"])
    close(image.pooler_output, one.wanted["image_features"])


@pytest.mark.parametrize("name", CLIPS)
def test_clip_has_the_logits_loss_and_gradients_of_the_original(fixture: Any, name: str) -> None:
    one = fixture(name)
    one.model.zero_grad()
    out = one.model(**{key: one.given[key] for key in ("input_ids", "pixel_values")})
    close(out.text_embeds, one.wanted["text_embeds_normalized"])
    close(out.image_embeds, one.wanted["image_embeds_normalized"])
    close(one.model.logit_scale.exp(), one.wanted["logit_scale_exp"], 1e-4)
    close(out.logits_per_image, one.wanted["logits_per_image"], 1e-4)
    close(out.logits_per_text, one.wanted["logits_per_text"], 1e-4)
    labels = torch.arange(len(out.logits_per_image))
    loss = (F.cross_entropy(out.logits_per_image, labels) + F.cross_entropy(out.logits_per_text, labels)) / 2
    close(loss, one.wanted["clip_loss"], 1e-4)
    loss.backward()
    close(one.model.logit_scale.grad, one.wanted["grad_logit_scale"], 1e-4)
    close(one.model.text_projection.weight.grad.t(), one.wanted["grad_text_projection"], 1e-4)


@pytest.mark.parametrize("name", CLIPS)
def test_position_embeddings_are_resized_as_the_original_does(fixture: Any, name: str) -> None:
    one = fixture(name)
    size = one.config["resized_model_image_size"]
    config = {**one.config, "vision_cfg": {**one.config["vision_cfg"], "image_size": size}}
    conversion = open_clip.convert(read_checkpoint(one.source), config, None)
    table = conversion.model.vision_model.embeddings.position_embedding.weight
    close(table.detach(), one.wanted["resized_positional_embedding"], 1e-6)
    with torch.no_grad():
        image = conversion.model.get_image_features(one.given["pixel_values_resized_model"]).pooler_output
    close(image, one.wanted["image_features_resized_model"])
    assert "resized" in conversion.notes[0] and conversion.image_processor.crop_size["height"] == size


def test_siglip_has_the_hidden_states_vectors_logits_loss_and_gradients_of_the_original(fixture: Any) -> None:
    one = fixture("siglip")
    assert isinstance(one.model, SiglipModel)
    one.model.zero_grad()
    text = one.model.get_text_features(one.given["input_ids"])
    image = one.model.get_image_features(one.given["pixel_values"], output_hidden_states=True)
    close(text.last_hidden_state, one.wanted["text_last_hidden_after_norm"])
    close(image.last_hidden_state, one.wanted["vision_last_hidden_after_norm"])
    close(image.hidden_states[1], one.wanted["vision_block0_out"])
    close(text.pooler_output, one.wanted["text_features"])
    close(image.pooler_output, one.wanted["image_features"])

    texts, images = (F.normalize(output.pooler_output, dim=-1) for output in (text, image))
    close(texts, one.wanted["text_embeds_normalized"])
    close(images, one.wanted["image_embeds_normalized"])
    close(one.model.logit_scale.exp(), one.wanted["logit_scale_exp"].reshape(1), 1e-4)
    close(one.model.logit_bias, one.wanted["logit_bias"].reshape(1), 1e-4)
    logits = images @ texts.t() * one.model.logit_scale.exp() + one.model.logit_bias
    close(logits, one.wanted["logits_per_image"], 1e-4)
    close(logits.t(), one.wanted["logits_per_text"], 1e-4)
    loss = -F.logsigmoid((2 * torch.eye(len(logits)) - 1) * logits).sum() / len(logits)
    close(loss, one.wanted["siglip_loss"], 1e-4)
    out = one.model(**{key: one.given[key] for key in ("input_ids", "pixel_values")}, return_loss=True)
    close(out.loss, one.wanted["siglip_loss"], 1e-4)

    loss.backward()
    close(one.model.vision_model.head.probe.grad, one.wanted["grad_attn_pool_latent"], 1e-4)
    close(one.model.text_model.head.weight.grad, one.wanted["grad_text_projection_weight"], 1e-4)
    norm = one.model.vision_model.embeddings.patch_embedding.weight.grad.norm()
    torch.testing.assert_close(norm, one.wanted["grad_patch_embed_norm"], atol=0, rtol=1e-6)


@pytest.mark.parametrize("name", [*CLIPS, "siglip"])
def test_images_are_prepared_as_the_original_does(fixture: Any, name: str) -> None:
    one = fixture(name)
    raw = Image.fromarray(one.given["raw_image_uint8_hwc"].numpy())
    pixels = AutoImageProcessor.from_pretrained(one.out)(raw, return_tensors="pt")["pixel_values"][0]
    close(pixels, one.wanted["preprocessed"])


@pytest.mark.parametrize("name", [*CLIPS, "siglip"])
def test_every_key_of_the_original_is_mapped(fixture: Any, name: str) -> None:
    one = fixture(name)
    assert set(one.report["mapped"]) == set(one.original) and not one.report["dropped"]
    assert json.loads((one.out / "conversion_report.json").read_text())["mapped"] == one.report["mapped"]
    mapped = {target for targets in one.report["mapped"].values() for target in targets}
    assert mapped == set(one.model.state_dict())
    assert "tokenizer" in one.report["missing"][0]


def test_texts_are_cleaned_as_the_original_does(shared_data: Path) -> None:
    golden = json.loads((shared_data / "parity/open_clip/tokenize_golden.json").read_text())
    canonical = normalizers.Sequence(cleaning("canonicalize"))
    for case in golden["canonicalize_clean_fn"]:
        assert canonical.normalize_str(case["text"]) == case["out"]


def test_texts_get_the_ids_of_the_original(shared_data: Path) -> None:
    """With OpenAI's merges, which are in the environment variable's file where somebody has them."""
    if "CLIP_MERGES" not in os.environ:
        pytest.skip("CLIP_MERGES does not name a bpe_simple_vocab_16e6.txt.gz")
    words = read_tokenizer(
        os.environ["CLIP_MERGES"], clean="lower", length=77, vocab_size=49408, pad_id=None, end_id=49407
    )
    golden = json.loads((shared_data / "parity/open_clip/tokenize_golden.json").read_text())["simple_tokenizer"]
    for case in golden["cases"]:
        kept = case["ids"][: case["ids"].index(golden["eot"]) + 1]
        assert words(case["text"], truncation=True)["input_ids"] == kept


# --- other sizes, against the original's arithmetic in plain torch ------------------------------------------------------


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("head_width", [8, 12])
def test_a_clip_of_any_size_computes_what_the_original_computes(quick: bool, head_width: int) -> None:
    config = {**tiny.CONFIG, "quick_gelu": quick, "vision_cfg": {**tiny.CONFIG["vision_cfg"], "head_width": head_width}}
    state = tiny.original_state_dict(3, config)
    model = open_clip.convert(checkpoint(state), config, None).model
    ids = torch.randint(0, 500, (3, 20))
    ids[torch.arange(3), torch.tensor([4, 9, 19])] = config["text_cfg"]["vocab_size"] - 1
    pixels = torch.randn(3, 3, 32, 32)
    text, image = tiny.clip_vectors(state, config, ids, pixels)
    with torch.no_grad():
        close(model.get_text_features(ids).pooler_output, text)
        close(model.get_image_features(pixels).pooler_output, image)


def test_a_siglip_computes_what_the_original_computes() -> None:
    state, config = tiny.original_state_dict_siglip(4), tiny.CONFIG_SIGLIP
    model = open_clip.convert(checkpoint(state), config, None).model
    ids, pixels = torch.randint(0, 30, (3, 16)), torch.randn(3, 3, 32, 32)
    text, image = tiny.siglip_vectors(state, config, ids, pixels)
    with torch.no_grad():
        close(model.get_text_features(ids).pooler_output, text)
        close(model.get_image_features(pixels).pooler_output, image)
    assert (model.config.text_config.hidden_act, model.config.vision_config.hidden_act) == ("gelu", "gelu")
    assert model.config.vision_config.layer_norm_eps == model.config.text_config.layer_norm_eps == 1e-6


def test_half_precision_becomes_float32() -> None:
    state = {name: tensor.half() for name, tensor in tiny.original_state_dict().items()}
    model = open_clip.convert(checkpoint(state), tiny.CONFIG, None).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    close(model.visual_projection.weight.detach(), state["visual.proj"].float().t(), 0)


# --- layouts ------------------------------------------------------------------------------------------------------------


def custom_text(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layout of open_clip's CustomTextCLIP."""
    return {name if name.startswith(("visual.", "logit_")) else f"text.{name}": t for name, t in state.items()}


def training_checkpoint(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}


def marqo(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"model.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("kind", [CLIP, SIGLIP], ids=["clip", "siglip"])
@pytest.mark.parametrize("layout", [custom_text, training_checkpoint, marqo])
def test_every_layout_gives_the_same_model(kind: Any, layout: Any, tmp_path: Path) -> None:
    state, config = kind[0](), kind[1]
    if layout is custom_text and kind is SIGLIP:
        pytest.skip("SigLIP has no other")
    torch.save(layout(state), tmp_path / "weights.pt")
    read = read_checkpoint(tmp_path / "weights.pt")
    assert open_clip.recognises(read)
    plain = open_clip.convert(checkpoint(state), config, None)
    conversion = open_clip.convert(read, config, None)
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(conversion.model.state_dict()[name], tensor), name
    assert len(conversion.mapped.renamed) == len(plain.mapped.renamed)
    assert bool(conversion.notes) == (layout is marqo)


@pytest.mark.parametrize("half", [False, True])
def test_openais_archive_gives_the_same_model_with_the_quick_gelu(half: bool, tmp_path: Path) -> None:
    state = tiny.original_state_dict(config={**tiny.CONFIG, "vision_cfg": {**tiny.CONFIG["vision_cfg"], "width": 64}})
    state = {name: tensor.half() if half else tensor for name, tensor in state.items()}
    sizes = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(20), "vocab_size": torch.tensor(9)}
    tiny.script_module({**state, **sizes}, attn_mask=torch.zeros(20, 20)).save(tmp_path / "ViT.pt")
    read = read_checkpoint(tmp_path / "ViT.pt")
    assert open_clip.recognises(read) and read.nesting == ("TorchScript",)
    text_cfg = tiny.CONFIG["text_cfg"]
    conversion = open_clip.convert(read, {"text_cfg": text_cfg}, None)
    assert (
        conversion.model.config.vision_config.hidden_act
        == conversion.model.config.text_config.hidden_act
        == "quick_gelu"
    )
    assert conversion.model.config.vision_config.num_attention_heads == 1  # 64 wide
    assert {name for name, _ in conversion.mapped.dropped} == {*sizes, "attn_mask"}
    assert all(reason for _, reason in conversion.mapped.dropped)
    assert "OpenAI" in conversion.notes[0]
    plain = open_clip.convert(checkpoint(state), {"text_cfg": text_cfg, "quick_gelu": True}, None).model.state_dict()
    assert all(torch.equal(conversion.model.state_dict()[name], tensor) for name, tensor in plain.items())


# --- settings -----------------------------------------------------------------------------------------------------------


def test_the_configuration_and_tokenizer_beside_the_weights_are_read(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(
        tiny.write_tokenizer(tmp_path),
        clean="lower",
        length=20,
        vocab_size=tiny.CONFIG["text_cfg"]["vocab_size"],
        pad_id=None,
        end_id=None,
    )
    tokenizer.save_pretrained(tmp_path)
    save_file(tiny.original_state_dict(), tmp_path / "open_clip_model.safetensors")
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "resize_mode": "squash"}
    whole = {"model_cfg": tiny.CONFIG, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(whole))
    conversion = open_clip.convert(read_checkpoint(tmp_path), None, None)
    assert conversion.model.config.vision_config.hidden_act == "quick_gelu" and not conversion.notes
    images = conversion.processor.image_processor
    assert list(images.image_mean) == [0.1, 0.2, 0.3] and list(images.image_std) == [0.4, 0.5, 0.6]
    assert int(images.resample) == 2 and not images.do_center_crop
    assert images(picture(1, (50, 80)), return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)


def published(width: int, heads_of: str = "vision", vocab: int = 32) -> dict[str, torch.Tensor]:
    """One layer of a CLIP, tensors without memory, as wide as a published one."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 28, "layers": 1, "width": width, "patch_size": 14},
        "text_cfg": {"context_length": 7, "vocab_size": vocab, "width": 128, "layers": 1},
    }
    return tiny.original_state_dict(config=config)


@pytest.mark.parametrize(("width", "heads"), [(128, 2), (768, 12), (1280, 16), (1408, 16), (1664, 16)])
def test_without_a_configuration_the_published_sizes_have_their_heads(width: int, heads: int) -> None:
    conversion = open_clip.convert(checkpoint(published(width)), None, None)
    vision, text = conversion.model.config.vision_config, conversion.model.config.text_config
    assert (vision.num_attention_heads, text.num_attention_heads) == (heads, 2)
    assert vision.hidden_act == text.hidden_act == "gelu" and "quick_gelu" in conversion.notes[0]
    assert (vision.image_size, vision.patch_size, text.eos_token_id, text.bos_token_id) == (28, 14, 31, 30)


@pytest.mark.parametrize(
    ("width", "patch", "heads", "activation"), [(768, 16, 12, "gelu"), (1152, 14, 16, "gelu"), (1152, 16, 16, "tanh")]
)
def test_without_a_configuration_siglip_has_its_heads_and_activation(
    width: int, patch: int, heads: int, activation: str
) -> None:
    text = {"context_length": 4, "vocab_size": 40, "width": 128, "layers": 1}
    config = {"embed_dim": width, "vision_cfg": {"image_size": 2 * patch}, "text_cfg": text}
    state = tiny.original_state_dict_siglip(config=config, patch=patch, layers=1)
    model = open_clip.convert(checkpoint(state), None, None).model
    vision, words = model.config.vision_config, model.config.text_config
    assert (vision.num_attention_heads, words.num_attention_heads, words.pad_token_id) == (heads, 2, 1)
    assert (vision.hidden_act, words.hidden_act) == ("gelu_pytorch_tanh" if activation == "tanh" else "gelu", "gelu")
    assert words.layer_norm_eps == 1e-6


def test_an_approximate_gelu_and_another_epsilon_are_kept() -> None:
    other = {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}}
    config = {**tiny.CONFIG_SIGLIP, "text_cfg": {**tiny.CONFIG_SIGLIP["text_cfg"], **other}}
    model = open_clip.convert(checkpoint(tiny.original_state_dict_siglip()), config, None).model
    assert (model.config.text_config.hidden_act, model.config.vision_config.hidden_act) == ("gelu_pytorch_tanh", "gelu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_cfg": {"head_width": 48}}, "0 heads do not fit the image tower's width of 24.*head_width"),
        ({"text_cfg": {"heads": 5}}, "5 heads do not fit the text tower's width of 16.*text_cfg.heads"),
        (
            {"text_cfg": {"width": 32, "layers": 9}},
            "text_cfg.width is 32 where token_embedding.weight has 16, text_cfg.layers is 9 where .* 3",
        ),
        ({"embed_dim": 99}, "embed_dim is 99 where visual.proj has 12"),
        ({"vision_cfg": {"image_size": [32, 48]}}, "only squares"),
        ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg.pool_type='avg'"),
        ({"vision_cfg": {"no_ln_pre": True}}, "no_ln_pre"),
        ({"text_cfg": {"no_causal_mask": True}}, "no_causal_mask"),
        ({"text_cfg": {"pool_type": "last"}}, "pool_type='last'"),
        ({"text_cfg": {"pool_type": "eos", "eos_id": 2}}, "pool_type='eos'"),
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode='longest'"),
        ({"preprocess_cfg": {"interpolation": "lanczos"}}, "interpolation='lanczos'"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    config = {k: {**v, **change.get(k, {})} if isinstance(v, dict) else v for k, v in tiny.CONFIG.items()}
    config |= {key: value for key, value in change.items() if key not in ("vision_cfg", "text_cfg")}
    with pytest.raises(ConversionError, match=said):
        open_clip.convert(checkpoint(tiny.original_state_dict()), config, None)


def test_a_configuration_of_another_family_is_not_passed_over() -> None:
    with pytest.raises(ConversionError, match="none of preprocess_cfg, quick_gelu, text_cfg, vision_cfg.*ruCLIP"):
        open_clip.convert(checkpoint(tiny.original_state_dict()), {"embed_dim": 12, "vision_layers": 2}, None)


def test_siglip_needs_its_own_settings_of_the_text_tower() -> None:
    config = {**tiny.CONFIG_SIGLIP, "text_cfg": {**tiny.CONFIG_SIGLIP["text_cfg"], "pool_type": "argmax"}}
    with pytest.raises(ConversionError, match="pool_type='argmax'"):
        open_clip.convert(checkpoint(tiny.original_state_dict_siglip()), config, None)


# --- keys ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_every_single_key_is_missed_by_its_name(kind: Any) -> None:
    state, config = kind[0](), kind[1]
    for name in state:
        rest = {key: tensor for key, tensor in state.items() if key != name}
        with pytest.raises(ConversionError) as caught:
            open_clip.convert(checkpoint(rest), config, None)
        assert name in str(caught.value), name


@pytest.mark.parametrize("kind", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_every_misshapen_key_is_named(kind: Any) -> None:
    state, config = kind[0](), kind[1]
    for name, tensor in state.items():
        changed = torch.zeros(tensor.shape[0] + 3, *tensor.shape[1:]) if tensor.ndim else torch.zeros(3)
        with pytest.raises(ConversionError) as caught:
            open_clip.convert(checkpoint({**state, name: changed}), config, None)
        assert name in str(caught.value), (name, str(caught.value))


def test_missing_extra_and_misshapen_keys_are_one_error() -> None:
    state = tiny.original_state_dict()
    with pytest.raises(ConversionError, match="2 keys are not of the family open_clip: ema.decay, visual.proj2"):
        open_clip.convert(checkpoint({**state, "ema.decay": torch.ones(1), "visual.proj2": torch.ones(1)}), None, None)
    state["visual.transformer.resblocks.1.ln_1.bias"] = torch.zeros(5)
    del state["visual.ln_post.weight"], state["transformer.resblocks.0.attn.in_proj_bias"]
    with pytest.raises(ConversionError) as caught:
        open_clip.convert(checkpoint(state), tiny.CONFIG, None)
    message = str(caught.value)
    assert "2 missing" in message and "visual.ln_post.weight" in message
    assert "transformer.resblocks.0.attn.in_proj_bias" in message
    assert (
        "1 of another shape: visual.transformer.resblocks.1.ln_1.bias" in message and "(5,) instead of (24,)" in message
    )


def test_another_tower_is_named() -> None:
    state = tiny.original_state_dict()
    text = {name: tensor for name, tensor in state.items() if not name.startswith("visual.")}
    with pytest.raises(ConversionError, match="ResNet"):
        open_clip.convert(checkpoint({**text, "visual.layer1.0.conv1.weight": torch.ones(1)}), None, None)
    with pytest.raises(ConversionError, match="timm"):
        open_clip.convert(checkpoint({**text, "visual.trunk.stem.weight": torch.ones(1)}), None, None)
    with pytest.raises(ConversionError, match="no text transformer"):
        vision = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
        open_clip.convert(checkpoint({**vision, "text.transformer.layer.0.weight": torch.ones(1)}), None, None)


def test_the_bias_of_a_clip_trained_with_the_sigmoid_loss_is_dropped_with_a_reason() -> None:
    state = {**tiny.original_state_dict(), "logit_bias": torch.tensor(-8.0)}
    conversion = open_clip.convert(checkpoint(state), tiny.CONFIG, None)
    assert [name for name, reason in conversion.mapped.dropped if "sigmoid" in reason] == ["logit_bias"]


# --- the converted folder -----------------------------------------------------------------------------------------------


def vectors_of_the_original(name: str, folder: Path, texts: list[str], images: list[Image.Image]) -> Any:
    state, config, _, forward = CLIP if name == "clip" else SIGLIP
    words, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    ids = words(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    return [F.normalize(vectors, dim=-1).numpy() for vectors in forward(state(), config, ids, pixels)]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_load_model_and_plain_sentence_transformers_give_the_vectors_of_the_original(name: str, converted: Any) -> None:
    folder, images = converted(name), [picture(seed) for seed in range(3)]
    text, image = vectors_of_the_original(name, folder, TEXTS, images)
    for model in (load_model(folder, device="cpu"), SentenceTransformer(str(folder), device="cpu")):
        np.testing.assert_allclose(model.encode(TEXTS, normalize_embeddings=True), text, atol=1e-5)
        np.testing.assert_allclose(model.encode(images, normalize_embeddings=True), image, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_text_has_one_vector_in_every_batch(name: str, converted: Any, tmp_path: Path) -> None:
    """In what was converted, and in what was loaded, saved and loaded again by plain sentence-transformers."""
    load_model(converted(name), device="cpu").save_pretrained(str(tmp_path / "again"), create_model_card=False)
    for folder in (converted(name), tmp_path / "again"):
        model = SentenceTransformer(str(folder), device="cpu")
        alone = np.concatenate([model.encode([text]) for text in TEXTS])
        np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)
        np.testing.assert_allclose(load_model(folder, device="cpu").encode(TEXTS), alone, atol=1e-5)
    if name == "siglip":
        saved = json.loads((tmp_path / "again" / "sentence_bert_config.json").read_text())
        assert saved["processing_kwargs"]["text"]["padding"] == "max_length"


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_texts_are_cleaned_by_the_saved_tokenizer_itself(name: str, converted: Any) -> None:
    words = AutoTokenizer.from_pretrained(converted(name))
    clean = words("a red mug")["input_ids"]
    assert words("  A &amp;amp; red “mug”\n" if name == "siglip" else "  A  RED\tmug\n")["input_ids"] == clean
    model = SentenceTransformer(str(converted(name)), device="cpu")
    dirty = "A  Red,\tMUG!" if name == "siglip" else "A  Red\tMUG"
    np.testing.assert_allclose(model.encode([dirty]), model.encode(["a red mug"]), atol=1e-6)
    if name == "siglip":
        assert words.pad_token_id == 1 and words("a red </s> mug")["input_ids"] == words("a red s mug")["input_ids"]
        ids = words("a mug", padding="max_length", max_length=16)["input_ids"]
        assert ids[-1] == 1 and len(ids) == 16
    else:
        # "&" and "amp;" are no words of the tiny vocabulary, and letters of their own where they are not resolved.
        assert words("red &amp; mug")["input_ids"] == words("red & mug")["input_ids"]
        assert words("ﬁrst ＭＵＧ ‘a’")["input_ids"] == words("first mug 'a'")["input_ids"]


WITHOUT_MMEMBED = """
import sys
sys.modules["mmembed"] = None
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
np.save(sys.argv[3], np.concatenate([model.encode(["a red mug"]), model.encode([Image.open(sys.argv[2])])]))
"""


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_folder_loads_where_mmembed_is_absent(name: str, converted: Any, tmp_path: Path) -> None:
    picture(5).save(tmp_path / "picture.png")
    arguments = [str(converted(name)), str(tmp_path / "picture.png"), str(tmp_path / "vectors.npy")]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_MMEMBED, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=200
    )
    assert run.returncode == 0, run.stderr[-2000:]
    model = load_model(converted(name), device="cpu")
    wanted = model.encode([{"text": "a red mug"}, {"image": picture(5)}])
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_without_a_tokenizer_the_report_says_so_and_images_still_work(name: str, tmp_path: Path) -> None:
    state, config, _, _ = CLIP if name == "clip" else SIGLIP
    save_file(state(), tmp_path / "weights.safetensors")
    report = convert_checkpoint("open_clip", tmp_path / "weights.safetensors", tmp_path / "out", config=config)
    assert "pass --tokenizer" in report["missing"][0]
    images = AutoImageProcessor.from_pretrained(tmp_path / "out")
    pixels = images(picture(1), return_tensors="pt")["pixel_values"]
    assert AutoModel.from_pretrained(tmp_path / "out").get_image_features(pixels).pooler_output.shape[0] == 1


# --- tokenizers ---------------------------------------------------------------------------------------------------------


def test_merges_give_the_ids_of_openais_tokenizer(tmp_path: Path) -> None:
    """256 bytes, 256 at the end of a word, merges in their order, start and end."""
    size = tiny.CONFIG["text_cfg"]["vocab_size"]
    words = read_tokenizer(
        tiny.write_tokenizer(tmp_path), clean="lower", length=8, vocab_size=size, pad_id=None, end_id=size - 1
    )
    red = 512 + tiny.merges().index("re d</w>")
    # "!" is the first printable byte, "x" the 88th; 256 further on they end a word.
    assert words("red x!")["input_ids"] == [size - 2, red, 256 + ord("x") - ord("!"), 256, size - 1]
    assert words("red " * 20, truncation=True)["input_ids"] == [size - 2, *[red] * 6, size - 1]


@pytest.mark.parametrize("suffix", [".txt", ".gz"])
def test_a_file_that_is_no_list_of_merges_is_an_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"merges{suffix}"
    path.write_bytes(b"#version\na b\n" if suffix == ".txt" else b"no gzip")
    with pytest.raises(ConversionError, match="merges"):
        read_tokenizer(path, clean="lower", length=8, vocab_size=600, pad_id=None, end_id=None)


def test_a_tokenizer_of_another_model_is_an_error(tmp_path: Path) -> None:
    merges, siglip = tiny.write_tokenizer(tmp_path), tiny.write_tokenizer_siglip(tmp_path)
    size = 514 + len(tiny.merges())
    common = {"clean": "lower", "length": 8}
    with pytest.raises(ConversionError, match="another model's"):
        read_tokenizer(siglip, vocab_size=10, pad_id=None, end_id=None, **common)
    with pytest.raises(ConversionError, match="ends a text with token 1, the model reads it at 77"):
        read_tokenizer(siglip, vocab_size=size, pad_id=None, end_id=77, **common)
    with pytest.raises(ConversionError, match="has no token 9999"):
        read_tokenizer(merges, vocab_size=size, pad_id=9999, end_id=None, **common)
    with pytest.raises(ConversionError, match="no tokenizer can be read"):
        read_tokenizer(tmp_path / "nowhere", vocab_size=size, pad_id=None, end_id=None, **common)
    with pytest.raises(ConversionError, match="cleaning 'upper' is not known"):
        read_tokenizer(merges, vocab_size=size, pad_id=None, end_id=None, clean="upper", length=8)


def test_a_bare_tokenizer_file_finds_its_special_tokens(tmp_path: Path) -> None:
    folder = tiny.write_tokenizer_siglip(tmp_path)
    words = read_tokenizer(
        folder / "tokenizer.json", clean="canonicalize", length=16, vocab_size=60, pad_id=1, end_id=None
    )
    assert (words.eos_token, words.pad_token, words.unk_token) == ("</s>", "</s>", "<unk>")
    assert words("A Red, mug!")["input_ids"] == words("a red mug")["input_ids"]
