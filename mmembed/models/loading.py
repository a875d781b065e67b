"""`load_model`: a SentenceTransformer from anything that can be named, and from a model of ours in memory."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin

from mmembed.models import OWN_MODELS, DualEncoderProcessor
from mmembed.models.flag_embedding import POOLINGS, recorded_pooling
from mmembed.models.folder_checks import ModelError, check_model_folder
from mmembed.models.multimodal_transformer import MultimodalTransformer, adopt

_FORWARD = {"method": "forward", "method_output_name": "pooler_output"}
_OWN_MODALITIES = {
    "text": _FORWARD,
    "image": _FORWARD,
    ("image", "text"): _FORWARD,
    "message": {**_FORWARD, "format": "structured"},
}


def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    pooling: str | None = None,
    model_kwargs: dict[str, Any] | None = None,
    processor_kwargs: dict[str, Any] | None = None,
) -> SentenceTransformer:
    """A `SentenceTransformer` that reads rows of text, image and both, from a folder or a name on the Hub.

    What sentence-transformers saved keeps its modules. A plain transformers folder of a two-tower model becomes
    [Transformer, Normalize]; of any other model [Transformer, Pooling, Normalize], pooled as FlagEmbedding trained it
    where the folder says so, else at the last token where the model is a decoder and at the mean where it is not.

    Args:
        name_or_path: CLIP, SigLIP, Chinese-CLIP, AltCLIP, MetaCLIP 2, BLIP, VisionTextDualEncoder, a vision-language
            model, mmembed's own dual encoder or a text embedder.
        device: Where the model is put; chosen by sentence-transformers when None.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Run the code that a model brings.
        pooling: Pooling of a plain transformers folder instead of the one above: "mean", "cls", "lasttoken" (or
            "last_token"), ...
        model_kwargs: Arguments of `AutoModel.from_pretrained`. Weights that are not safetensors are pickles, which run
            code when read; they are refused unless `use_safetensors` is False here.
        processor_kwargs: Arguments of `AutoProcessor.from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        ModelError: If it is no such model, or a folder that `check_model_folder` refuses.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> folder = str(getfixture("tmp_path"))
        >>> build_dual_encoder(["red mug"], image_size=32).save_pretrained(folder, create_model_card=False)
        >>> load_model(folder).encode([{"text": "a mug"}, "a red mug"]).shape
        (2, 128)
    """
    name = os.fspath(name_or_path)
    _check_folder(name, trust_remote_code)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    model_kwargs = {"use_safetensors": True, **(model_kwargs or {})}
    try:
        saved_by_st = _has_file(name, "modules.json", revision)
        if _has_file(name, "adapter_config.json", revision):
            raise ModelError(
                f"{name} holds a peft adapter, not a model; load its base model, put the adapter in with peft, call "
                "merge_and_unload and save the result."
            )
        if saved_by_st and pooling is not None:
            raise ModelError(f"{name} was saved with its modules, pooling among them; leave pooling={pooling!r} out.")
        if saved_by_st:
            model = SentenceTransformer(
                name, device=device, model_kwargs=model_kwargs, processor_kwargs=processor_kwargs, **hub
            )
        else:
            model = SentenceTransformer(
                modules=_modules(name, hub, pooling, model_kwargs, processor_kwargs), device=device
            )
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelError(f"{name} cannot be loaded: {_reason(error)}") from error
    return adopt(model).eval()


def sentence_transformer(model: PreTrainedModel, processor: DualEncoderProcessor) -> SentenceTransformer:
    """Wrap a model of ours that is in memory.

    Args:
        model: A dual encoder or another model of `mmembed.models`; the very object is used.
        processor: Its processor.

    Returns:
        [Transformer, Normalize]; its `save_pretrained` folder loads in plain sentence-transformers, with
        `import mmembed.models` before it or `trust_remote_code=True`.
    """
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        module = _transformer_around(model, folder)
    module.processor = processor
    module.input_formatter.processor = processor
    return SentenceTransformer(modules=[module, Normalize()], device=str(model.device))


def _transformer_around(model: PreTrainedModel, folder: str) -> MultimodalTransformer:
    """A module that holds this very model, the processor being read from the folder."""

    class Built(MultimodalTransformer):
        def _load_config(self, *args: Any, **kwargs: Any) -> tuple[PretrainedConfig, bool]:
            return model.config, False

        def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
            return model

    module = Built(folder, **_own_model_arguments(model))
    module.__class__ = MultimodalTransformer
    return module


def _own_model_arguments(model: Any) -> dict[str, Any]:
    """Arguments of sentence-transformers' module for a model of ours, or for its class."""
    only_images = model.input_modalities == ("image",)
    modalities = {"image": _FORWARD} if only_images else _OWN_MODALITIES
    return {
        "modality_config": {name: dict(entry) for name, entry in modalities.items()},
        "module_output_name": "sentence_embedding",
        # There is no template whose end a long text could lose.
        "processing_kwargs": {"chat_template": {"restore_suffix": False}},
    }


def _modules(
    name: str,
    hub: dict[str, Any],
    pooling: str | None,
    model_kwargs: dict[str, Any],
    processor_kwargs: dict[str, Any] | None,
) -> list[Any]:
    config = AutoConfig.from_pretrained(name, **hub)
    own_class = next((model for kind, model, _ in OWN_MODELS if kind.model_type == config.model_type), None)
    own = _own_model_arguments(own_class) if own_class is not None else {}
    module = MultimodalTransformer(
        name,
        model_kwargs={**hub, **model_kwargs},
        processor_kwargs={**hub, **(processor_kwargs or {})},
        config_kwargs=dict(hub),
        **own,
    )
    if hasattr(module.config, "vision_config") and not isinstance(module.processor, ProcessorMixin):
        raise ModelError(
            f"{name} reads texts and images but has no processor for both, only a {type(module.processor).__name__}; copy "
            "the tokenizer, preprocessor and processor files beside the weights."
        )
    if module.tokenizer is not None and len(module.tokenizer) <= len(module.tokenizer.all_special_tokens):
        # transformers makes up an empty one where the files are missing.
        raise ModelError(f"{name} has no vocabulary; copy the tokenizer's files beside the weights.")
    if module.module_output_name == "sentence_embedding":
        if pooling is not None:
            raise ModelError(f"{name}: {config.model_type} pools its rows itself; leave pooling out.")
        return [module, Normalize()]
    recorded = recorded_pooling(name) if os.path.isdir(name) else None
    mode = pooling or recorded or ("lasttoken" if _is_decoder(module.config, module.model) else "mean")
    return [module, Pooling(module.get_embedding_dimension(), pooling_mode=POOLINGS.get(mode, mode)), Normalize()]


def _is_decoder(config: PretrainedConfig, model: nn.Module) -> bool:
    """Whether a token sees only those before it, so that the last one alone has read the whole row."""
    names = config.architectures or []
    text = config.get_text_config()
    if getattr(config, "is_causal", True) is False or getattr(text, "is_causal", True) is False:
        return False
    if any(name.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")) for name in names):
        return True
    # Saved without its head, as FlagEmbedding does: then its attention tells.
    return not hasattr(config, "vision_config") and any(
        getattr(part, "is_causal", False) is True for part in model.modules()
    )


def _check_folder(name: str, trust_remote_code: bool) -> None:
    folder = Path(name)
    if folder.is_file():
        raise ModelError(f"{name} is a file; pass the folder that holds it.")
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise ModelError(f"{name} does not exist.")
        return
    names = {path.name for path in folder.iterdir()}
    if not names & {"config.json", "modules.json", "adapter_config.json"}:
        shown = ", ".join(sorted(names)[:5]) or "nothing"
        raise ModelError(f"{name} is not a model folder: it has neither config.json nor modules.json, but {shown}.")
    check_model_folder(folder, trust_remote_code=trust_remote_code)
    if "config.json" in names and "modules.json" not in names:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict) or "model_type" not in config:
            raise ModelError(f"{name}/config.json has no 'model_type'; it is not of a transformers model.")


def _has_file(name: str, file: str, revision: str | None) -> bool:
    if os.path.isdir(name):
        return (Path(name) / file).is_file()
    from sentence_transformers.util import load_file_path

    return load_file_path(name, file, revision=revision) is not None


def _reason(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    if "safetensors" in text:
        return f"{text} Only safetensors are read; pass model_kwargs={{'use_safetensors': False}} if you trust whoever made it."
    if "custom code" in text:
        return f"{text} Pass trust_remote_code=True if you trust whoever made it."
    if "model_type" in text or "model type" in text:
        return f"{text} Is it of a newer transformers, or is its own code needed (trust_remote_code=True)?"
    if "processing class" in text or "tokenizer" in text.lower() or "processor" in text:
        return (
            f"{text} Its processor is missing or broken: copy the tokenizer and preprocessor files beside the weights."
        )
    return f"{type(error).__name__}: {text}"
