"""Low-rank adapters on a model's towers: put in before training, merged into the weights after."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn


def add_lora(model: SentenceTransformer, arguments: dict[str, Any]) -> list[str]:
    """Freeze the weights and put trainable low-rank adapters beside the chosen layers (Hu et al. 2021,
    https://huggingface.co/papers/2106.09685).

    Args:
        model: The model in training; it is changed in place.
        arguments: Arguments of peft's `LoraConfig`: `r`, `lora_alpha`, `target_modules`, `modules_to_save`, …

    Returns:
        Names of the trainable parameters.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If an argument is unknown to peft or no layer matches.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError("lora needs peft: pip install 'mmembed[lora]'") from None
    try:
        config = LoraConfig(**arguments)
    except TypeError as error:
        raise ValueError(f"lora: {error}; arguments are those of peft.LoraConfig.") from None
    model.requires_grad_(False)
    inject_adapter_in_model(config, model.transformers_model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not names:
        raise ValueError(f"lora: target_modules={config.target_modules!r} matches no layer of the model.")
    return names


def merge_lora(model: nn.Module) -> nn.Module:
    """Fold every adapter into its layer's weights and take it out, so that the model is stock again.

    Args:
        model: A model that `add_lora` changed; any other is returned as it is.

    Returns:
        The same model.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if not isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
        else:
            setattr(parent, name.rpartition(".")[2], module.modules_to_save[module.active_adapter])
    return model
