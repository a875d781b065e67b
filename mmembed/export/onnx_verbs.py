"""What of a model becomes a graph: its text tower, its image tower, both fused, or a reranker; with which inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from mmembed.models import OWN_MODELS

VERBS = ("text", "image", "fused", "reranker")
#: What a graph may take, in this order.
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
#: What a graph gives. ("embedding" would make an invalid model: the exporter has a function of that name.)
OUTPUTS = {"reranker": ("scores", "logits")}
_VECTOR = ("sentence_embedding",)

_OWN = tuple(model for _, model, _ in OWN_MODELS)


class ExportError(ValueError):
    """A model, a folder or an option with which an export cannot be made or used, with what to do."""


def outputs_of(verb: str) -> tuple[str, ...]:
    """The names of a graph's outputs, the one that counts first.

    Example:
        >>> outputs_of("text"), outputs_of("reranker")
        (('sentence_embedding',), ('scores', 'logits'))
    """
    return OUTPUTS.get(verb, _VECTOR)


def verbs_of(model: SentenceTransformer | CrossEncoder) -> list[str]:
    """What can be exported of a model.

    Args:
        model: A `SentenceTransformer`, or a `CrossEncoder` that reads two texts.

    Returns:
        "reranker" for a CrossEncoder; else "text", "image" and "fused", as far as the model has them.

    Raises:
        ExportError: If the model is of a kind of which no graph can be made.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> verbs_of(build_dual_encoder(["red mug"], image_size=32))
        ['text', 'image', 'fused']
    """
    module = model[0]
    if not isinstance(module, Transformer):
        raise ExportError(
            f"the model's first module is {type(module).__name__}; what is exported starts with a Transformer of "
            "sentence-transformers."
        )
    if isinstance(model, CrossEncoder):
        if module.transformer_task != "sequence-classification" or len(model) != 1:
            kinds = ", ".join(type(part).__name__ for part in model)
            raise ExportError(
                f"the reranker is [{kinds}] for {module.transformer_task}; only classifiers of two texts are exported."
            )
        return ["reranker"]
    for part in model:
        if isinstance(part, Pooling) and not part.include_prompt:
            raise ExportError(
                "the model's pooling leaves its prompt out, whose length a graph cannot know; set "
                "model.set_pooling_include_prompt(True) if its vectors may hold the prompt."
            )
    if isinstance(module.model, _OWN):
        modalities = module.model.input_modalities
        fuses = set(modalities) >= {"text", "image"} and getattr(module.model.config, "fusion", None) != "none"
        return [verb for verb in ("text", "image") if verb in modalities] + (["fused"] if fuses else [])
    if getattr(module, "is_dual_encoder", False):
        return ["text", "image", "fused"]
    if "message" in module.modality_config:
        raise ExportError(
            f"{type(module.model).__name__} reads chat messages; graphs are made of text embedders, of two towers and of "
            "mmembed's own models."
        )
    return [verb for verb in ("text", "image") if verb in module.modality_config]


class VerbGraph(nn.Module):
    """One verb of a model as a function of tensors: towers, pooling, projection and normalisation, all that `encode` does.

    Args:
        model: The model; its modules are shared, not copied.
        verb: One of `verbs_of(model)`.
    """

    def __init__(self, model: SentenceTransformer | CrossEncoder, verb: str) -> None:
        super().__init__()
        self.model = model
        self.verb = verb
        self.activation = model.activation_fn if isinstance(model, CrossEncoder) else None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
    ) -> Any:
        """The outputs named by `outputs_of`.

        Args:
            input_ids: int64 (rows, length).
            attention_mask: int64 (rows, length).
            token_type_ids: int64 (rows, length).
            pixel_values: uint8 or float32 (rows, 3, height, width).

        Returns:
            (rows, dim); for a reranker the scores (pairs,) or (pairs, labels) and the logits (pairs, labels).
        """
        given = zip(INPUTS, (input_ids, attention_mask, token_type_ids, pixel_values))
        inputs = {name: value for name, value in given if value is not None}
        if self.verb == "reranker":
            logits = self.model[0]({**inputs, "modality": "text"})["scores"]
            scores = self.activation(logits) if self.activation is not None else logits
            return (scores[:, 0] if scores.shape[1] == 1 else scores), logits
        features: dict[str, Any] = {**inputs, **self._first(inputs)}
        for part in list(self.model)[1:]:
            features = part(features)
        return features["sentence_embedding"]

    def _first(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """What the first module adds to the features."""
        module: Any = self.model[0]
        if isinstance(module.model, _OWN):
            method = getattr(module.model, f"get_{self.verb}_features")
            return {"sentence_embedding": method(**inputs).pooler_output}
        if not getattr(module, "is_dual_encoder", False):
            return module({**inputs, "modality": self.verb})
        vectors = []
        if self.verb != "image":
            vectors.append(module._vectors("text", {name: inputs[name] for name in inputs if name != "pixel_values"}))
        if self.verb != "text":
            pixels = module._normalized(inputs["pixel_values"], inputs["pixel_values"].device)
            vectors.append(module._vectors("image", {"pixel_values": pixels}))
        if len(vectors) == 1:
            return {"sentence_embedding": vectors[0]}
        return {"sentence_embedding": (F.normalize(vectors[0], dim=-1) + F.normalize(vectors[1], dim=-1)) / 2}


def verb_features(
    model: SentenceTransformer | CrossEncoder, verb: str, rows: Sequence[Any], prompt: str | None = None
) -> dict[str, Tensor]:
    """Rows → the inputs of a verb's graph, by the model's own preprocessing.

    Args:
        model: The model.
        verb: What the rows are: texts for "text", PIL images for "image", {"text": …, "image": …} for "fused", pairs of
            texts for "reranker".
        rows: At least one.
        prompt: Put before each text.

    Returns:
        input_ids, attention_mask and token_type_ids int64 (rows, length), pixel_values (rows, 3, height, width); those of
        them that the verb takes.

    Raises:
        ExportError: If the model needs an input of another name.
    """
    features = model.preprocess(list(rows), prompt=prompt)
    wanted = input_names(model, verb)
    unknown = sorted(
        name
        for name, value in features.items()
        if isinstance(value, Tensor) and name not in (*INPUTS, "num_images_per_sample")
    )
    if unknown:
        raise ExportError(
            f"{type(model[0].model).__name__} takes {', '.join(unknown)}; a graph takes {', '.join(INPUTS)}."
        )
    return {name: features[name] for name in wanted if name in features}


def input_names(model: SentenceTransformer | CrossEncoder, verb: str) -> tuple[str, ...]:
    """Which of `INPUTS` a verb's rows are made of."""
    module: Any = model[0]
    names: tuple[str, ...] = ("pixel_values",) if verb == "image" else INPUTS if verb == "fused" else INPUTS[:3]
    if getattr(module, "is_dual_encoder", False) and verb != "image":
        arguments = set(module._text_arguments)
        masked = "attention_mask" in arguments and not is_fixed_width(model)
        names = tuple(name for name in names if name != "attention_mask" or masked)
        names = tuple(name for name in names if name != "token_type_ids" or name in arguments)
    return names


def is_fixed_width(model: SentenceTransformer | CrossEncoder) -> bool:
    """Whether every text is padded to the same length and read without a mask, as SigLIP's are."""
    module: Any = model[0]
    padding = module.processing_kwargs.get("text", {}).get("padding")
    return getattr(module, "is_dual_encoder", False) and padding == "max_length"


@contextmanager
def exportable(model: SentenceTransformer | CrossEncoder) -> Iterator[Any]:
    """The model as it can be traced: in evaluation mode, with attention written out; it is given back unchanged."""
    first: Any = model[0]
    modes = [(module, module.training) for module in model.modules()]
    # Parents before children: what is set on one goes on to those below it.
    configs: list[Any] = [getattr(module, "config", None) for module in first.model.modules()]
    attention = [(one, one._attn_implementation) for one in configs if hasattr(one, "_attn_implementation")]
    try:
        model.eval()
        for config, _ in attention:
            # Fewer nodes, and no guard against rows that see nothing: each row has a first token.
            config._attn_implementation = "eager"
        with torch.no_grad():
            yield model
    finally:
        for config, before in attention:
            config._attn_implementation = before
        for module, training in modes:
            module.training = training


def image_of(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture of coloured blocks, drawn from a seed: (height, width) → an image that towers tell from others.

    Example:
        >>> image_of(3).size
        (48, 64)
    """
    draw = np.random.default_rng([seed, 6364])
    blocks = draw.integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((size[1], size[0]), Image.Resampling.BICUBIC)
