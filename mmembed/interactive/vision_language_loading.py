"""A folder or a name → a vision-language model that runs here, with an adapter on top where one is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmembed.interactive.vision_language_model import VisionLanguageModel, check_processor, needs_torchvision
from mmembed.models.folder_checks import ModelError, check_model_folder


def load_vision_language(
    name_or_path: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str = "auto",
    processor_kwargs: Mapping[str, Any] | None = None,
    batch_size: int = 4,
) -> VisionLanguageModel:
    """A vision-language model with its processor; code of a repository is never run, and only safetensors are read.

    Args:
        name_or_path: a model of transformers' image-text-to-text kind: Idefics3, SmolVLM, LLaVA, Gemma 3, Qwen-VL, …
        adapter: folder of an adapter of peft for it, such as `mmembed dpo` writes.
        revision: branch, tag or commit on the Hub.
        device: where the model is put; sentence-transformers' choice when None.
        dtype: of the weights, such as "bfloat16"; "auto": the saved one.
        processor_kwargs: of `AutoProcessor.from_pretrained`, such as `size` or `do_image_splitting`, which say how many tokens
            an image takes.
        batch_size: prompts a forward pass when replies are weighed.

    Returns:
        The model, in evaluation mode.

    Raises:
        ModelError: it is no such model, is damaged or hostile, or needs torchvision.
        ImportError: an adapter without peft.

    Example:
        >>> from mmembed.interactive.small_vision_language import build_small_vision_language
        >>> folder = build_small_vision_language(getfixture("tmp_path"), ["Is it red?"])
        >>> load_vision_language(folder, device="cpu").record["adapter"] is None
        True
    """
    from sentence_transformers.util import get_device_name
    from transformers import AutoModelForImageTextToText, AutoProcessor

    name = os.fspath(name_or_path)
    _check_folder(
        name, "adapter_config.json", "is an adapter; load the model that it is for, with the folder as adapter="
    )
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(name, **shared, **(processor_kwargs or {}))
        check_processor(processor, name)
        model: Any = AutoModelForImageTextToText.from_pretrained(name, use_safetensors=True, dtype=dtype, **shared)
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(needs_torchvision(name, error)) from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        if "video processor" in reason.lower():
            raise ModelError(needs_torchvision(name, error)) from None
        raise ModelError(f"{name} cannot be loaded as a vision-language model: {reason}") from error
    if adapter is not None:
        model = _with_adapter(model, os.fspath(adapter))
    model = model.to(device or get_device_name())
    return VisionLanguageModel(
        model,
        processor,
        name=name,
        revision=revision,
        adapter=None if adapter is None else os.fspath(adapter),
        batch_size=batch_size,
    )


def _with_adapter(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise ImportError('an adapter needs peft: pip install "mmembed[lora]"') from None
    if not Path(adapter, "adapter_model.safetensors").is_file() or not Path(adapter, "adapter_config.json").is_file():
        raise ModelError(
            f"{adapter} holds no adapter_config.json with adapter_model.safetensors; give the folder that peft saved"
        )
    check_model_folder(adapter)
    try:
        return PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{adapter} is no adapter for this model: {reason}") from error


def _check_folder(name: str, unwanted: str, reason: str) -> None:
    path = Path(name)
    if path.is_dir():
        if (path / unwanted).exists():
            raise ModelError(f"{name} {reason}")
        check_model_folder(path)
    elif path.is_file() or os.path.isabs(name) or name.startswith((".", "~")):
        raise ModelError(f"{name} is no folder; give the folder that holds the model")
