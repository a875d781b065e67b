"""Which servers can run a model's folder, and what stands against the others?

The rules are those of the servers' own loaders, as of text-embeddings-inference 1.9.3 and vLLM of summer 2026: which files
they open, which keys they cannot do without, and which architectures they have written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmembed.export.portable_layout import content_of
from mmembed.export.published_files import Source

_TEI_TYPES = frozenset(
    "bert camembert deberta-v2 distilbert gemma3_text gte llama mistral modernbert mpnet new nomic_bert qwen2 qwen3 roberta "
    "xlm-roberta".split()
)
_TEI_GPU_TYPES = frozenset({"llama", "mistral", "qwen2"})
_TEI_ACTIVATIONS = frozenset({"gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swiglu", "tanh"})
_TEI_POOLING = ("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_lasttoken")
_VLLM_EMBEDDERS = frozenset(
    "BertModel CLIPModel Gemma2Model Gemma3TextModel GteModel GteNewModel LlamaModel MistralModel ModernBertModel "
    "NomicBertModel Qwen2Model Qwen2VLForConditionalGeneration RobertaForMaskedLM RobertaModel SiglipModel "
    "XLMRobertaModel".split()
)
_VLLM_RERANKERS = frozenset(
    "BertForSequenceClassification GteNewForSequenceClassification ModernBertForSequenceClassification "
    "RobertaForSequenceClassification XLMRobertaForSequenceClassification".split()
)
_VLLM_POOLING = frozenset({"cls", "mean", "lasttoken"})
_TWO_TOWERS = frozenset({"CLIPModel", "SiglipModel"})


@dataclass(frozen=True)
class ServerFit:
    """Whether a server can run a folder.

    Args:
        server: Its name.
        against: What stands against it; empty where it fits.
        command: How it is started, with MODEL for the repository or folder; "" where it does not fit.
        note: What to know where it fits.
    """

    server: str
    against: tuple[str, ...]
    command: str = ""
    note: str = ""

    @property
    def fits(self) -> bool:
        """Whether nothing stands against it."""
        return not self.against


def serving_fit(files: Mapping[str, Source]) -> list[ServerFit]:
    """Which servers can run a model.

    Args:
        files: Of its folder by path, see `choose_files` and `portable_layout`.

    Returns:
        One entry a server: sentence-transformers, transformers, text-embeddings-inference, vLLM, ONNX Runtime.

    Example:
        >>> fits = serving_fit({"config.json": b'{"model_type": "clip", "vision_config": {}}'})
        >>> {fit.server: fit.against for fit in fits}["text-embeddings-inference"]
        ('it serves texts alone, and this model reads images',)
    """
    config = content_of(files, "config.json")
    config = config if isinstance(config, dict) else {}
    architectures = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    onnx = [path for path in files if path.endswith(".onnx")]
    return [
        _sentence_transformers(files, config, architectures),
        _transformers(files, config),
        _tei(files, config, architectures),
        _vllm(files, config, architectures),
        ServerFit(
            "ONNX Runtime",
            () if onnx else ("there is no .onnx file: `mmembed export` writes one",),
            f'onnxruntime.InferenceSession("MODEL/{onnx[0]}")' if onnx else "",
        ),
    ]


def _has_weights(files: Mapping[str, Source]) -> bool:
    return "model.safetensors" in files or "model.safetensors.index.json" in files


def _own_code(config: Mapping[str, Any]) -> bool:
    return bool(config.get("auto_map"))


def _is_reranker(architectures: list[str]) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in architectures)


def _sentence_transformers(
    files: Mapping[str, Source], config: Mapping[str, Any], architectures: list[str]
) -> ServerFit:
    against = []
    if "modules.json" not in files and not config.get("model_type"):
        against.append("there is neither modules.json nor a config.json with a model_type")
    if not any(path.endswith(".safetensors") for path in files):
        against.append("there are no weights as safetensors")
    kind = content_of(files, "config_sentence_transformers.json") or {}
    scorer = _is_reranker(architectures) or kind.get("model_type") == "CrossEncoder"
    leave = ", trust_remote_code=True" if _own_code(config) else ""
    note = "or load_model of mmembed, which needs no leave for its own code" if leave else ""
    name = "CrossEncoder" if scorer else "SentenceTransformer"
    return ServerFit("sentence-transformers", tuple(against), "" if against else f'{name}("MODEL"{leave})', note)


def _transformers(files: Mapping[str, Source], config: Mapping[str, Any]) -> ServerFit:
    against = []
    if not config.get("model_type"):
        against.append("there is no config.json with a model_type")
    if not _has_weights(files):
        against.append("there is no model.safetensors beside it")
    leave = ", trust_remote_code=True" if _own_code(config) else ""
    command = "" if against else f'AutoModel.from_pretrained("MODEL"{leave})'
    return ServerFit("transformers", tuple(against), command)


def _tei(files: Mapping[str, Source], config: Mapping[str, Any], architectures: list[str]) -> ServerFit:
    against = []
    kind = str(config.get("model_type"))
    if config.get("vision_config") is not None or "processor_config.json" in files:
        return ServerFit("text-embeddings-inference", ("it serves texts alone, and this model reads images",))
    if kind not in _TEI_TYPES:
        against.append(f"it has not written out the architecture of {kind}")
    if not architectures:
        against.append("config.json has no architectures")
    if not isinstance(config.get("max_position_embeddings"), int):
        against.append("config.json has no max_position_embeddings")
    if config.get("hidden_act", "gelu") not in _TEI_ACTIVATIONS:
        against.append(f"it does not know the activation {config['hidden_act']!r}")
    if "tokenizer.json" not in files:
        against.append("there is no tokenizer.json")
    if not _has_weights(files):
        against.append("there is no model.safetensors")
    lengths = content_of(files, "sentence_bert_config.json")
    if lengths is not None and not isinstance(lengths.get("max_seq_length"), int):
        against.append("sentence_bert_config.json has no max_seq_length")
    if _is_reranker(architectures):
        if not config.get("id2label"):
            against.append("config.json has no id2label")
    else:
        against += _tei_pooling(files, kind)
    note = "needs a GPU there" if kind in _TEI_GPU_TYPES else ""
    command = "" if against else "text-embeddings-router --model-id MODEL --dtype float32"
    return ServerFit("text-embeddings-inference", tuple(against), command, note)


def _tei_pooling(files: Mapping[str, Source], kind: str) -> list[str]:
    pooling = content_of(files, "1_Pooling/config.json")
    if pooling is None:
        return ["there is no 1_Pooling/config.json"]
    missing = [key for key in _TEI_POOLING[:2] if not isinstance(pooling.get(key), bool)]
    if missing:
        return [f"1_Pooling/config.json has no {missing[0]}"]
    if sum(pooling.get(key, False) for key in _TEI_POOLING) != 1 or any(
        value is True for key, value in pooling.items() if key.startswith("pooling_mode") and key not in _TEI_POOLING
    ):
        return ["it pools by one of cls, mean and the last token"]
    return []


def _vllm(files: Mapping[str, Source], config: Mapping[str, Any], architectures: list[str]) -> ServerFit:
    against = []
    known = _VLLM_EMBEDDERS | _VLLM_RERANKERS
    if not architectures:
        against.append("config.json has no architectures")
    elif not set(architectures) & known:
        against.append(f"{architectures[0]} is not among its pooling models")
    if not _has_weights(files):
        against.append("there is no model.safetensors")
    if "tokenizer.json" not in files and "tokenizer_config.json" not in files:
        against.append("there is no tokenizer")
    modules = content_of(files, "modules.json")
    pools = any(str(module.get("type")).endswith(".Pooling") for module in modules or [])
    if pools and not against:
        mode = _pooling_mode(content_of(files, "1_Pooling/config.json") or {})
        if mode not in _VLLM_POOLING:
            against.append(f"it pools by one of cls, mean and the last token, not by {mode}")
    note = "a text and an image are two vectors there; it fuses nothing" if set(architectures) & _TWO_TOWERS else ""
    return ServerFit("vLLM", tuple(against), "" if against else "vllm serve MODEL --runner pooling", note)


def _pooling_mode(config: Mapping[str, Any]) -> str:
    if isinstance(config.get("pooling_mode"), str):
        return config["pooling_mode"]
    on = [key.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens") for key in config
          if key.startswith("pooling_mode_") and config[key] is True]  # fmt: skip
    return on[0] if len(on) == 1 else "several"
