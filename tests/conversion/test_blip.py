"""BLIP and ChatIR: the original's vectors, similarities, matching logits and losses, from its own checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BlipForImageTextRetrieval, BlipProcessor

from mmembed.conversion import blip
from mmembed.conversion.checkpoint_reading import Checkpoint, ConversionError, read_checkpoint
from mmembed.conversion.converting import convert_checkpoint
from mmembed.models import BlipBiEncoderModel
from mmembed.models.blip_bi_encoder.dialogue_text import encode_dialogues
from mmembed.models.loading import load_model
from tests.conversion import tiny_blip

FILES = {
    "itm": "original_checkpoint.pth",
    "chatir": "chatir_weights.ckpt",
    "retrieval_train": "original_state_dict.safetensors",
}
PUBLISHED_VOCABULARY = 30524


def write_vocabulary(words: list[str], folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fixture(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a golden fixture → its configuration, its tensors, and what its checkpoint converts to."""
    made: dict[str, SimpleNamespace] = {}

    def read(name: str) -> SimpleNamespace:
        if name not in made:
            folder = shared_data / "parity" / "blip" / name
            config = json.loads((folder / "config.json").read_text())
            root = tmp_path_factory.mktemp(name)
            words = write_vocabulary(config["vocab"], root)
            report = convert_checkpoint("blip", folder / FILES[name], root / "out", config=config, tokenizer=words)
            whole = blip.convert(read_checkpoint(folder / FILES[name]), config, words)
            made[name] = SimpleNamespace(
                config=config,
                source=folder / FILES[name],
                words=words,
                out=root / "out",
                report=report,
                itm=whole.beside["itm"][0],
                given=load_file(folder / "inputs.safetensors"),
                wanted=load_file(folder / "outputs.safetensors"),
            )
        return made[name]

    return read


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    """Writes a tiny checkpoint and returns (its path, its tokenizer)."""

    def write(state: dict[str, torch.Tensor] | None = None, **nesting: Any) -> tuple[Path, Path]:
        state = tiny_blip.original_state_dict() if state is None else state
        torch.save({"model": state, **nesting}, tmp_path / "tiny.pth")
        return tmp_path / "tiny.pth", tiny_blip.write_tokenizer(tmp_path)

    return write


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.detach(), wanted, atol=tolerance, rtol=0)


# --- golden fixtures ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_vectors_and_similarities_are_the_originals(fixture: Any) -> None:
    golden = fixture("itm")
    model = AutoModel.from_pretrained(golden.out).eval()
    assert type(model) is BlipBiEncoderModel
    text = model.get_text_features(golden.given["input_ids"], golden.given["attention_mask"])
    image = model.get_image_features(golden.given["pixel_values"])
    close(text.last_hidden_state, golden.wanted["text_last_hidden_mode_text"])
    close(text.pooler_output, golden.wanted["text_feat"])
    close(image.last_hidden_state, golden.wanted["image_embeds"])
    close(image.pooler_output, golden.wanted["image_feat"])
    close(image.pooler_output @ text.pooler_output.T, golden.wanted["itc_sim"], 1e-4)
    block = []
    model.vision_model.encoder.layers[0].register_forward_hook(lambda *seen: block.append(seen[2]))
    model.get_image_features(golden.given["pixel_values"])
    close(block[0], golden.wanted["vision_block0"])


@torch.no_grad()
def test_matching_logits_are_the_originals_with_either_first_token(fixture: Any) -> None:
    golden = fixture("itm")
    ids, given = golden.given["input_ids"], {"attention_mask": golden.given["attention_mask"]}
    given["pixel_values"] = golden.given["pixel_values"]
    assert type(golden.itm) is BlipForImageTextRetrieval
    close(golden.itm(ids, **given).itm_score, golden.wanted["itm_logits_blip_itm_cls_first_token"], 1e-4)
    ids = ids.clone()
    ids[:, 0] = golden.config["enc_token_id"]
    output = golden.itm(ids, **given)
    close(output.itm_score, golden.wanted["itm_logits_retrieval_eval_enc_first_token"], 1e-4)
    close(output.itm_score[:, 1], golden.wanted["itm_score_enc"], 1e-4)
    close(output.question_embeds, golden.wanted["multimodal_last_hidden_enc_first_token"])
    close(golden.itm(golden.given["input_ids"], use_itm_head=False, **given).itm_score, golden.wanted["itc_sim"], 1e-4)


@torch.no_grad()
def test_another_image_size_resizes_the_positions_as_the_original(fixture: Any) -> None:
    golden = fixture("itm")
    size = golden.config["interp_image_size"]
    config = {**golden.config, "vision": {**golden.config["vision"], "image_size": size}}
    made = blip.convert(read_checkpoint(golden.source), config, golden.words)
    for model in (made.model, made.beside["itm"][0]):
        close(model.vision_model.embeddings.position_embedding, golden.wanted["interp_pos_embed"])
    pixels = golden.given["pixel_values_interp"]
    close(made.model.get_image_features(pixels).last_hidden_state, golden.wanted["image_embeds_interp"])
    assert made.model.config.image_size == size and made.processor.image_size == size
    # And without converting anew: images of that size are read as they come.
    model = AutoModel.from_pretrained(golden.out).eval()
    close(model.get_image_features(pixels).last_hidden_state, golden.wanted["image_embeds_interp"])


def test_chatir_dialogues_and_images_rank_as_in_the_original(fixture: Any) -> None:
    golden = fixture("chatir")
    model = load_model(golden.out, device="cpu")
    assert model.max_seq_length == golden.config["max_length"]
    dialogues = golden.config["dialogs"]
    features = model.preprocess([{"text": golden.config["sep_token"].join(rounds)} for rounds in dialogues])
    assert torch.equal(features["input_ids"], golden.given["input_ids"])
    assert torch.equal(features["attention_mask"], golden.given["attention_mask"])

    images = [Image.fromarray(golden.given[f"raw{k}_uint8_hwc"].numpy()) for k in range(3)]
    pixels = model[0].model._normalized(model.preprocess([{"image": image} for image in images])["pixel_values"])
    close(pixels.mean(dim=(2, 3)), golden.wanted["preprocessed_channel_mean"])
    close(pixels[:, :, :8, :8], golden.wanted["preprocessed_first_8x8"])

    queries = encode_dialogues(model, dialogues, convert_to_tensor=True)
    documents = model.encode([{"image": image} for image in images], convert_to_tensor=True)
    close(queries, golden.wanted["dialog_vectors"])
    close(documents, golden.wanted["image_vectors"])
    so_far = [dialogues[0][: count + 1] for count in range(len(dialogues[0]))]
    close(encode_dialogues(model, so_far, convert_to_tensor=True), golden.wanted["dialog0_per_round"])
    scores = queries @ documents.T
    close(scores, golden.wanted["scores"], 1e-4)
    assert torch.equal(scores.argsort(dim=1, descending=True), golden.wanted["ranks"])


def test_a_training_checkpoint_gives_the_losses_of_its_training(fixture: Any) -> None:
    """BLIP_Retrieval's forward in plain PyTorch over the converted models: nothing of the checkpoint went astray."""
    golden = fixture("retrieval_train")
    state, given, wanted, config = load_file(golden.source), golden.given, golden.wanted, golden.config
    bi, itm = AutoModel.from_pretrained(golden.out).eval(), golden.itm
    temp = state["temp"].clone().requires_grad_()
    close(bi.logit_scale.exp(), 1 / temp.detach().reshape(1), 1e-4)

    decay = config["momentum"]
    averaged = {
        name: decay * state[twin] + (1 - decay) * tensor if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if (twin := name.replace(".", "_m.", 1)) in state
    }
    averaged.update({name: tensor for name, tensor in state.items() if name.startswith("itm_head")})
    close(averaged["vision_proj.weight"], wanted["vision_proj_m_weight_after"])
    teacher = blip.convert(Checkpoint(golden.source, averaged), config, None).model
    with torch.no_grad():
        image_m = teacher.get_image_features(given["pixel_values"]).pooler_output
        text_m = teacher.get_text_features(given["input_ids"], given["attention_mask"]).pooler_output
    start = int(state["ptr_queue"])
    for queue, vectors, name in ((state["image_queue"], image_m, "image"), (state["text_queue"], text_m, "text")):
        after = queue.clone()
        after[:, start : start + len(vectors)] = vectors.T
        close(after, wanted[f"queue_{name}_after"])

    # Contrast (ITC), towards the momentum model's softened targets.
    image = bi.get_image_features(given["pixel_values"]).pooler_output
    text = bi.get_text_features(given["input_ids"], given["attention_mask"]).pooler_output
    images = torch.cat([image_m.T, state["image_queue"]], dim=1)
    texts = torch.cat([text_m.T, state["text_queue"]], dim=1)
    same = (given["idx"][:, None] == torch.cat([given["idx"][None], state["idx_queue"]], dim=1)).float()
    same = same / same.sum(dim=1, keepdim=True)
    losses = []
    for query, query_m, keys in ((image, image_m, texts), (text, text_m, images)):
        soft = (query_m @ keys / temp).detach().softmax(dim=1)
        target = config["alpha"] * soft + (1 - config["alpha"]) * same
        losses.append(-(F.log_softmax(query @ keys / temp, dim=1) * target).sum(dim=1).mean())
    contrast = (losses[0] + losses[1]) / 2
    close(contrast, wanted["loss_ita"], 1e-4)

    # Matching (ITM), with [ENC] first; of two rows the hard negative is always the other one.
    ids, mask, pixels = given["input_ids"].clone(), given["attention_mask"], given["pixel_values"]
    ids[:, 0] = config["enc_token_id"]
    other = [1, 0]
    logits = itm(
        torch.cat([ids, ids, ids[other]]),
        torch.cat([pixels, pixels[other], pixels]),
        attention_mask=torch.cat([mask, mask, mask[other]]),
    ).itm_score
    matching = F.cross_entropy(logits, torch.tensor([1, 1, 0, 0, 0, 0]))
    close(matching, wanted["loss_itm"], 1e-4)

    (contrast + matching).backward()
    close(itm.itm_head.weight.grad, wanted["grad_itm_head_weight"], 1e-4)
    close(bi.text_projection.weight.grad, wanted["grad_text_proj_weight"], 1e-4)
    close(temp.grad, wanted["grad_temp"], 1e-3)
    itm.zero_grad()


@pytest.mark.parametrize("name", list(FILES))
def test_its_own_fixtures_are_recognised_and_others_are_not(name: str, shared_data: Path) -> None:
    for path in sorted((shared_data / "parity").rglob("*")):
        if path.suffix in (".pth", ".pt", ".ckpt", ".bin") or path.name == "original_state_dict.safetensors":
            ours = path.parent.parent.name == "blip"
            if ours and path.parent.name != name:
                continue
            try:
                checkpoint = read_checkpoint(path)
            except ConversionError:
                assert not ours, path
                continue
            assert blip.recognises(checkpoint) == ours, path


# --- tiny checkpoints, made here ------------------------------------------------------------------------------------


def test_each_key_is_reported_and_each_drop_has_its_reason(tiny: Any, tmp_path: Path) -> None:
    state = tiny_blip.original_state_dict(training=True)
    path, words = tiny(state, optimizer={}, epoch=5)
    report = convert_checkpoint("blip", path, tmp_path / "out", config=tiny_blip.CONFIG, tokenizer=words)
    assert set(report["mapped"]) | set(report["dropped"]) == set(state)
    assert not set(report["mapped"]) & set(report["dropped"])
    twins = [name for name in state if name.split(".")[0].endswith("_m")]
    training = {"image_queue", "text_queue", "idx_queue", "ptr_queue", "text_encoder.embeddings.position_ids", *twins}
    assert set(report["dropped"]) == training and all(report["dropped"].values())
    assert report["mapped"]["temp"] == ["logit_scale"]
    assert report["mapped"]["text_proj.bias"] == ["text_projection.bias", "itm/text_proj.bias"]
    cross = "text_encoder.encoder.layer.1.crossattention.self.key.weight"
    assert report["mapped"][cross] == [f"itm/{cross}"]
    assert not report["missing"] and any("itm" in note for note in report["notes"])
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert model.logit_scale.shape == (1,)
    close(model.logit_scale, torch.tensor([math.log(20)]))


def test_half_precision_is_read_into_single(tiny: Any, tmp_path: Path) -> None:
    state = tiny_blip.original_state_dict()
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    path, words = tiny(half)
    convert_checkpoint("blip", path, tmp_path / "out", config=tiny_blip.CONFIG, tokenizer=words)
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.text_projection.weight, half["text_proj.weight"].float())


@torch.no_grad()
def test_the_folder_holds_the_retrieval_model_as_stock_transformers(tiny: Any, tmp_path: Path) -> None:
    path, words = tiny()
    convert_checkpoint("blip", path, tmp_path / "out", config=tiny_blip.CONFIG, tokenizer=words)
    stock = BlipForImageTextRetrieval.from_pretrained(tmp_path / "out" / "itm").eval()
    processor = BlipProcessor.from_pretrained(tmp_path / "out" / "itm")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))
    inputs = processor(images=picture, text="a red mug", return_tensors="pt")
    similarity = stock(**inputs, use_itm_head=False).itm_score[0, 0]
    vectors = load_model(tmp_path / "out", device="cpu").encode([{"text": "a red mug"}, {"image": picture}])
    assert float(similarity) == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)


def test_without_a_tokenizer_the_model_is_converted_all_the_same(tiny: Any, tmp_path: Path) -> None:
    path, _ = tiny()
    report = convert_checkpoint("blip", path, tmp_path / "out", config=tiny_blip.CONFIG)
    assert "tokenizer" in report["missing"][0]
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert torch.equal(model.text_projection.bias, tiny_blip.original_state_dict()["text_proj.bias"])
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    size = tiny_blip.GRID * tiny_blip.PATCH
    assert settings["size"] == {"height": size, "width": size} and settings["resample"] == 3


@pytest.mark.parametrize("form", ["vocabulary", "folder", "json", "plain BERT"])
def test_a_tokenizer_comes_in_any_form(form: str, tiny: Any, tmp_path: Path) -> None:
    path, words = tiny()
    made = blip.convert(read_checkpoint(path), tiny_blip.CONFIG, words)
    expected = made.processor(["A red, mug [SEP]?"])["input_ids"]
    source: Path = words
    if form == "folder":
        made.processor.tokenizer.save_pretrained(tmp_path / "words")
        source = tmp_path / "words"
    elif form == "json":
        made.processor.tokenizer.save_pretrained(tmp_path / "words")
        source = tmp_path / "words" / "tokenizer.json"
    elif form == "plain BERT":  # [DEC] and [ENC] are added, as the original adds them
        (tmp_path / "plain").mkdir()
        source = write_vocabulary(tiny_blip.VOCABULARY[:-2], tmp_path / "plain")
    tokenizer = blip.convert(read_checkpoint(path), tiny_blip.CONFIG, source).processor.tokenizer
    size = len(tiny_blip.VOCABULARY)
    assert tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [size - 2, size - 1]
    cut = tokenizer(["A red, mug [SEP]?"], return_tensors="pt", split_special_tokens=True)["input_ids"]
    assert torch.equal(cut, expected) and int(cut[0, 0]) == tiny_blip.VOCABULARY.index("[CLS]")


def test_a_tokenizer_of_another_size_is_refused(tiny: Any, tmp_path: Path) -> None:
    path, _ = tiny()
    other = write_vocabulary([*tiny_blip.SPECIAL, "mug"], tmp_path)
    with pytest.raises(ConversionError, match=rf"has 8 tokens with \[DEC\] and \[ENC\].*{len(tiny_blip.VOCABULARY)}"):
        convert_checkpoint("blip", path, tmp_path / "out", config=tiny_blip.CONFIG, tokenizer=other)
    with pytest.raises(ConversionError, match="cannot be read"):
        convert_checkpoint("blip", path, tmp_path / "out", config=tiny_blip.CONFIG, tokenizer=tmp_path / "absent")
    assert not (tmp_path / "out").exists()


def test_head_counts_of_no_published_size_must_be_given(tiny: Any, tmp_path: Path) -> None:
    path, words = tiny()
    with pytest.raises(ConversionError, match=r"24 wide.*vision\.heads"):
        convert_checkpoint("blip", path, tmp_path / "out", tokenizer=words)
    wrong = {**tiny_blip.CONFIG, "vision": {"heads": 5}}
    with pytest.raises(ConversionError, match=r"vision\.heads=5 does not divide"):
        convert_checkpoint("blip", path, tmp_path / "out", config=wrong, tokenizer=words)
    with pytest.raises(ConversionError, match="no multiple of the patches of 8"):
        config = {**tiny_blip.CONFIG, "image_size": 30}
        convert_checkpoint("blip", path, tmp_path / "out", config=config, tokenizer=words)


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16)])
def test_published_sizes_need_no_configuration(width: int, heads: int) -> None:
    with torch.device("meta"):
        tensors = {
            "visual_encoder.patch_embed.proj.weight": torch.empty(width, 3, 16, 16),
            "visual_encoder.pos_embed": torch.empty(1, 577, width),
            "visual_encoder.blocks.0.mlp.fc1.weight": torch.empty(4 * width, width),
            "text_encoder.embeddings.word_embeddings.weight": torch.empty(PUBLISHED_VOCABULARY, 768),
            "text_encoder.embeddings.position_embeddings.weight": torch.empty(512, 768),
            "text_encoder.encoder.layer.0.intermediate.dense.weight": torch.empty(3072, 768),
            "text_encoder.encoder.layer.11.output.dense.weight": torch.empty(768, 3072),
            "vision_proj.weight": torch.empty(256, width),
        }
    settings = blip._settings(tensors, {})
    vision, text = settings["vision_config"], settings["text_config"]
    assert (vision["num_attention_heads"], vision["image_size"], vision["layer_norm_eps"]) == (heads, 384, 1e-6)
    assert (text["num_attention_heads"], text["num_hidden_layers"], text["layer_norm_eps"]) == (12, 12, 1e-12)
    assert (text["encoder_hidden_size"], text["bos_token_id"], settings["projection_dim"]) == (width, 30522, 256)
    # BLIP's own files: a top-level image_size, or the settings of the text tower alone
    assert blip._settings(tensors, {"image_size": 224})["vision_config"]["image_size"] == 224
    assert blip._settings(tensors, {"num_attention_heads": 8})["text_config"]["num_attention_heads"] == 8


@pytest.mark.parametrize("damage", ["missing", "left over", "misshapen"])
def test_keys_that_do_not_fit_are_named(damage: str, tiny: Any, tmp_path: Path) -> None:
    state = tiny_blip.original_state_dict()
    if damage == "missing":
        del state["itm_head.weight"]
        named = "1 missing: itm_head.weight"
    elif damage == "left over":
        state["text_encoder.pooler.dense.weight"] = torch.zeros(2, 2)
        named = "text_encoder.pooler.dense.weight"
    else:
        state["vision_proj.bias"] = torch.zeros(3)
        named = r"visual_projection.bias \(3,\) instead of \(12,\)"
    path, words = tiny(state)
    with pytest.raises(ConversionError, match=named):
        convert_checkpoint("blip", path, tmp_path / "out", config=tiny_blip.CONFIG, tokenizer=words)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_towers_names_what_it_lacks(tmp_path: Path) -> None:
    save_file({"itm_head.bias": torch.zeros(2)}, tmp_path / "part.safetensors")
    with pytest.raises(ConversionError, match="visual_encoder"):
        convert_checkpoint("blip", tmp_path / "part.safetensors", tmp_path / "out", config=tiny_blip.CONFIG)


def test_the_limit_of_tokens_is_the_configurations(tiny: Any, tmp_path: Path) -> None:
    path, words = tiny()
    for given, limit in (({}, 35), ({"max_length": 50}, 50), ({"max_length": 200}, tiny_blip.POSITIONS)):
        out = tmp_path / f"out{limit}"
        convert_checkpoint("blip", path, out, config={**tiny_blip.CONFIG, **given}, tokenizer=words)
        model = load_model(out, device="cpu")
        assert model.max_seq_length == limit
        assert model.preprocess([{"text": "mug " * 300}])["input_ids"].shape == (1, limit)
