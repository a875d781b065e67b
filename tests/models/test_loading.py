"""`load_model` over families is tested with them; here: poolings, and what is refused with which words."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoModel,
    AutoProcessor,
    BertConfig,
    BertModel,
    Qwen2Config,
    Qwen2Model,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mmembed.models import DualEncoderConfig, DualEncoderModel, DualEncoderProcessor
from mmembed.models.loading import ModelError, load_model, sentence_transformer
from mmembed.models.multimodal_transformer import MultimodalTransformer

from .tiny_models import BERT, VISION, image, rows, tokenizer


@pytest.fixture
def text_folder(tmp_path):
    torch.manual_seed(0)
    words = tokenizer()
    BertModel(BertConfig(**BERT, vocab_size=len(words))).save_pretrained(tmp_path / "bert")
    words.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def names(model: SentenceTransformer) -> list[str]:
    return [type(module).__name__ for module in model]


def test_what_a_plain_folder_becomes(model_folders, text_folder) -> None:
    clip = load_model(model_folders["clip"], device="cpu")
    assert names(clip) == ["Transformer", "Normalize"] and not clip.training
    text = load_model(str(text_folder), device="cpu")
    assert names(text) == ["Transformer", "Pooling", "Normalize"] and text[1].pooling_mode == "mean"
    assert load_model(text_folder, device="cpu", pooling="cls")[1].pooling_mode == "cls"
    vlm = load_model(model_folders["vlm"], device="cpu")
    assert vlm[1].pooling_mode == "lasttoken"
    assert all(type(model[0]) is MultimodalTransformer for model in (clip, text, vlm))


def test_a_text_folder_is_pooled_as_its_training_or_its_attention_says(text_folder, tmp_path) -> None:
    small = {**BERT, "num_key_value_heads": 1, "vocab_size": len(tokenizer()), "pad_token_id": 0}
    Qwen2Model(Qwen2Config(**small)).save_pretrained(tmp_path / "decoder")
    tokenizer().save_pretrained(tmp_path / "decoder")
    assert load_model(tmp_path / "decoder", device="cpu")[1].pooling_mode == "lasttoken"
    assert load_model(text_folder, device="cpu", pooling="last_token")[1].pooling_mode == "lasttoken"
    torch.save({"sentence_pooling_method": "cls"}, text_folder / "training_args.bin")  # of FlagEmbedding
    assert load_model(text_folder, device="cpu")[1].pooling_mode == "cls"
    assert load_model(text_folder, device="cpu", pooling="mean")[1].pooling_mode == "mean"


def test_a_long_text_of_a_roberta_is_cut_where_its_positions_end(tmp_path) -> None:
    words = tokenizer(10**30)
    small = {**BERT, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    XLMRobertaModel(XLMRobertaConfig(**small)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu", pooling="cls")
    assert model.max_seq_length == 31  # of 32, the first is the padding's
    assert np.array_equal(model.encode(["mug " * 99]), model.encode(["mug " * 29]))


@torch.no_grad()
def test_a_decoder_is_pooled_at_its_last_token(model_folders) -> None:
    vlm = load_model(model_folders["vlm"], device="cpu")
    model = AutoModel.from_pretrained(model_folders["vlm"]).eval()
    processor = AutoProcessor.from_pretrained(model_folders["vlm"])
    message = [{"role": "user", "content": [{"type": "text", "text": "a red mug"}]}]
    tokens = processor.apply_chat_template(message, tokenize=True, return_dict=True, return_tensors="pt")
    expected = F.normalize(model(**tokens).last_hidden_state[0, -1], dim=-1).numpy()
    # beside a longer row, so that one of both is padded
    assert np.allclose(vlm.encode(["a red mug", "the quick brown fox jumps over a lazy dog"])[0], expected, atol=1e-5)


def test_what_sentence_transformers_saved_keeps_its_modules(text_folder, tmp_path) -> None:
    stock = SentenceTransformer(str(text_folder), device="cpu", prompts={"query": "find: "})
    stock.save_pretrained(str(tmp_path / "saved"))
    model = load_model(tmp_path / "saved", device="cpu")
    assert names(model) == ["Transformer", "Pooling"] and model.prompts["query"] == "find: "
    assert np.allclose(model.encode(["mug"]), stock.encode(["mug"]))
    with pytest.raises(ModelError, match="leave pooling='cls' out"):
        load_model(tmp_path / "saved", pooling="cls")


def test_an_image_tower_alone(tmp_path) -> None:
    ViTModel(ViTConfig(**VISION)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert model.encode([{"image": image(1)}, image(2)]).shape == (2, 16)


def test_arguments_reach_model_and_processor(text_folder) -> None:
    model = load_model(
        text_folder, device="cpu", model_kwargs={"dtype": torch.bfloat16}, processor_kwargs={"model_max_length": 5}
    )
    assert model.dtype == torch.bfloat16 and model.max_seq_length == 5


def test_a_plain_folder_of_our_own_model(tmp_path) -> None:
    torch.manual_seed(0)
    words = tokenizer()
    config = DualEncoderConfig(
        BertConfig(**BERT, vocab_size=len(words)), ViTConfig(**VISION), projection_dim=8, image_size=16
    )
    dual, processor = DualEncoderModel(config).eval(), DualEncoderProcessor(words, image_size=16)
    dual.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    wrapped = sentence_transformer(dual, processor)
    assert wrapped.transformers_model is dual and wrapped.processor is processor
    assert names(load_model(tmp_path, device="cpu")) == names(wrapped) == ["Transformer", "Normalize"]
    assert np.allclose(load_model(tmp_path, device="cpu").encode(rows()), wrapped.encode(rows()), atol=1e-6)


@pytest.mark.security
def test_pickled_weights_are_refused(text_folder) -> None:
    weights = AutoModel.from_pretrained(text_folder).state_dict()
    (text_folder / "model.safetensors").unlink()
    torch.save(weights, text_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="Only safetensors are read"):
        load_model(text_folder, device="cpu")
    assert load_model(text_folder, device="cpu", model_kwargs={"use_safetensors": False}).encode(["mug"]).shape == (
        1,
        16,
    )


@pytest.mark.security
def test_a_folders_own_code_is_not_run(text_folder) -> None:
    config = json.loads((text_folder / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (text_folder / "config.json").write_text(json.dumps(config))
    (text_folder / "evil.py").write_text(f"open({str(text_folder / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_model(text_folder, device="cpu")
    assert not (text_folder / "ran").exists()


def test_what_is_no_model_is_refused_with_reasons(text_folder, tmp_path, model_folders) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match="is a file; pass the folder"):
        load_model(text_folder / "config.json")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(ModelError, match="neither config.json nor modules.json, but a.jpg"):
        load_model(tmp_path / "photos")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds a peft adapter.*merge_and_unload"):
        load_model(tmp_path / "adapter")
    for config, message in (
        ({"model_type": "stranger"}, "'?stranger'?.*newer transformers"),
        ({"a": 1}, "has no 'model_type'"),
        ([], "has no 'model_type'"),
    ):
        (tmp_path / "photos" / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / "photos")
    with pytest.raises(ModelError, match="nobody/nothing cannot be loaded"):
        load_model("nobody/nothing")
    with pytest.raises(ModelError, match="clip pools its rows itself"):
        load_model(model_folders["clip"], pooling="mean")


@pytest.mark.parametrize("kept", ["tokenizer", "processor", "nothing"])
def test_a_missing_processor_is_named(kept, model_folders, tmp_path) -> None:
    folder = shutil.copytree(model_folders["clip"], tmp_path / "clip")
    for path in folder.iterdir():
        of_tokenizer = "token" in path.name
        if path.name not in ("config.json", "model.safetensors") and not (
            (kept == "tokenizer" and of_tokenizer) or (kept == "processor" and not of_tokenizer)
        ):
            path.unlink()
    with pytest.raises(ModelError, match="processor|tokenizer"):
        load_model(folder, device="cpu")
