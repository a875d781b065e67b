"""Which servers run what: each reason against one is the one thing that is changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmembed.export.serving_fit import serving_fit


def bert() -> dict[str, Any]:
    """What a text model has."""
    return {
        "config.json": {
            "model_type": "bert", "architectures": ["BertModel"], "max_position_embeddings": 512, "hidden_act": "gelu"
        },
        "modules.json": [
            {"type": "sentence_transformers.models.Transformer"},
            {"type": "sentence_transformers.models.Pooling"},
        ],
        "1_Pooling/config.json": {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 256},
        "tokenizer.json": {},
        "model.safetensors": {},
    }  # fmt: skip


def fits(files: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    found = serving_fit({path: json.dumps(content).encode() for path, content in files.items()})
    for fit in found:
        assert fit.fits == (not fit.against) == bool(fit.command)
    return {fit.server: fit.against for fit in found}


def test_a_text_model_fits_everywhere_but_onnx() -> None:
    found = fits(bert())
    assert found.pop("ONNX Runtime") == ("there is no .onnx file: `mmembed export` writes one",)
    assert set(found.values()) == {()}


def without(path: str):
    return lambda files: files.pop(path)


def put(path: str, **entries: Any):
    return lambda files: files[path].update(entries)


@pytest.mark.parametrize(
    ("change", "server", "reason"),
    [
        (without("tokenizer.json"), "text-embeddings-inference", "there is no tokenizer.json"),
        (without("tokenizer.json"), "vLLM", "there is no tokenizer"),
        (without("1_Pooling/config.json"), "text-embeddings-inference", "there is no 1_Pooling/config.json"),
        (without("model.safetensors"), "text-embeddings-inference", "there is no model.safetensors"),
        (without("model.safetensors"), "vLLM", "there is no model.safetensors"),
        (without("model.safetensors"), "transformers", "there is no model.safetensors beside it"),
        (without("model.safetensors"), "sentence-transformers", "there are no weights as safetensors"),
        (put("config.json", model_type="mobilebert"), "text-embeddings-inference", "the architecture of mobilebert"),
        (put("config.json", architectures=["MPNetModel"]), "vLLM", "MPNetModel is not among its pooling models"),
        (put("config.json", architectures=None), "vLLM", "config.json has no architectures"),
        (put("config.json", hidden_act="quick_gelu"), "text-embeddings-inference", "the activation 'quick_gelu'"),
        (put("config.json", vision_config={}), "text-embeddings-inference", "it serves texts alone"),
        (put("config.json", max_position_embeddings=None), "text-embeddings-inference", "no max_position_embeddings"),
        (put("1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True),
         "text-embeddings-inference", "it pools by one of cls, mean and the last token"),
        (put("1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True),
         "vLLM", "not by max"),
        (put("1_Pooling/config.json", pooling_mode_cls_token=True), "vLLM", "not by several"),
    ],
)  # fmt: skip
def test_each_reason_is_said(change, server: str, reason: str) -> None:
    files = bert()
    change(files)
    against = fits(files)[server]
    assert len([one for one in against if reason in one]) == 1, against


def test_a_reranker_needs_labels_and_no_pooling() -> None:
    files = bert()
    files["config.json"] |= {"architectures": ["XLMRobertaForSequenceClassification"], "model_type": "xlm-roberta"}
    files.pop("1_Pooling/config.json")
    files["modules.json"] = files["modules.json"][:1]
    assert fits(files)["text-embeddings-inference"] == ("config.json has no id2label",)
    files["config.json"]["id2label"] = {"0": "LABEL_0"}
    assert fits(files)["text-embeddings-inference"] == () and fits(files)["vLLM"] == ()
    (scorer,) = [fit for fit in serving_fit({k: json.dumps(v).encode() for k, v in files.items()})
                 if fit.server == "sentence-transformers"]  # fmt: skip
    assert scorer.command == 'CrossEncoder("MODEL")'


def test_a_graph_alone_runs_in_onnx_runtime() -> None:
    found = fits({"model.onnx": {}, "tokenizer.json": {}})
    assert found["ONNX Runtime"] == () and found["sentence-transformers"] and found["vLLM"]


def test_nothing_fits_nowhere() -> None:
    assert all(fits({}).values())
