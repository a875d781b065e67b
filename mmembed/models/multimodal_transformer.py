"""sentence-transformers' Transformer plus rows that mix text and image, 8-bit pixels and inputs that are never guessed at."""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmembed.distributed import world_size
from mmembed.images import load_image
from mmembed.prompt_safety import control_tokens

# Their text towers were trained on rows padded to the full width and without a mask, and pool the last position.
_FIXED_WIDTH = ("siglip", "siglip2")
# Arguments of an image processor that say how its output is scaled.
_SCALING = frozenset({"do_rescale", "do_normalize", "rescale_factor", "image_mean", "image_std"})


class MultimodalTransformer(Transformer):
    """The first module of a `SentenceTransformer`: any row may have a text, an image or both.

    A string is always a text. Nothing is opened: an image is a PIL image or a uint8 array, never a path, URL or data URI.
    A row is {"text": str}, {"image": image} or {"text": str, "image": image}; chat messages go to the model's template.

    A two-tower model of transformers (CLIP, SigLIP, Chinese-CLIP, AltCLIP, MetaCLIP 2, BLIP, VisionTextDualEncoder) gets
    row-aligned tokens and the images as uint8, which are normalised on the device, and runs each tower on the rows that
    have something for it. A row with both becomes the mean of the two L2-normalised vectors, without any parameter; a row
    with one has the very vector that the stock module gives it. Other models work as in sentence-transformers.

    It is saved as sentence-transformers' own module: the folder loads without mmembed and gives the same vectors.

    Args:
        model_name_or_path: Folder or name of the model.
        **kwargs: Arguments of sentence-transformers' `Transformer`.
    """

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self._settle()

    def _settle(self) -> None:
        """What holds for a stock module that has just become one of these."""
        text_config = getattr(self.config, "text_config", None)
        limit = getattr(text_config, "max_position_embeddings", None)
        if self.config.model_type in _FIXED_WIDTH:
            # Saved with the module, so that plain sentence-transformers pads, and masks, in the same way.
            fixed = {"padding": "max_length", "max_length": limit, "return_attention_mask": False}
            self.processing_kwargs = {
                **self.processing_kwargs,
                "text": {**self.processing_kwargs.get("text", {}), **fixed},
            }
        if self.tokenizer is not None and limit is None:
            limit = getattr(self.config, "max_position_embeddings", None)
        if self.tokenizer is not None and limit is not None and limit > 0:
            # A longer text would be looked up beyond the last position. RoBERTa's positions start after the padding's.
            embeddings = (getattr(module, "position_embeddings", None) for module in self.model.modules())
            offset = max(
                (e.padding_idx + 1 for e in embeddings if getattr(e, "padding_idx", None) is not None), default=0
            )
            # Rotary positions have no table that ends; there sentence-transformers' own limit holds.
            if self.is_dual_encoder or offset:
                self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, limit - offset)

    @property
    def is_dual_encoder(self) -> bool:
        """Whether the model has one method for texts, one for images of a fixed size, and no chat template."""
        text, image = (self.modality_config.get(name, {}).get("method") for name in ("text", "image"))
        return (
            text not in (None, "forward")
            and image not in (None, "forward")
            and "message" not in self.modality_config
            and self.module_output_name == "sentence_embedding"
            and self.config.model_type != "siglip2"  # images of any aspect ratio, as ragged patches
        )

    @property
    def modalities(self) -> list[Any]:
        names = super().modalities
        # Else the model refuses a batch that mixes rows before this module sees it.
        return [*names, "message"] if self.is_dual_encoder else names

    # --- inputs → tensors ---------------------------------------------------------------------------------------

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Rows → tensors.

        Args:
            inputs: Rows; a string is a text row, a PIL image an image row. Chat messages are passed on as they are.
            prompt: Put before each text.
            processing_kwargs: Arguments for the processor in this call, as sentence-transformers takes them.
            **kwargs: `task`, `max_length`.

        Returns:
            For a two-tower model: input_ids and attention_mask int64 (rows, length), all zero masks where a row has no
            text; token_type_ids where the text tower takes them; pixel_values uint8 (images, 3, height, width) and
            num_images_per_sample int64 (rows,) when there is an image; modality "message". Otherwise what
            sentence-transformers makes.

        Raises:
            ValueError: If a row is neither, with its number.
        """
        rows = [_explicit(row, number) for number, row in enumerate(inputs)]
        if rows and self.is_dual_encoder and all(isinstance(row, dict) and "role" not in row for row in rows):
            return self._preprocess_rows(rows, prompt, processing_kwargs, **kwargs)
        if getattr(self.processor, "chat_template", None) is not None and "message" in self.modality_config:
            rows = [self._with_plain_text(row) for row in rows]
        return super().preprocess(rows, prompt=prompt, processing_kwargs=processing_kwargs, **kwargs)

    def _preprocess_rows(
        self, rows: list[dict[str, Any]], prompt: str | None, processing_kwargs: Any, **kwargs: Any
    ) -> dict[str, Any]:
        features: dict[str, Any] = {}
        with_text = [number for number, row in enumerate(rows) if "text" in row]
        with_image = [number for number, row in enumerate(rows) if "image" in row]
        if with_text:
            if self.config.model_type in _FIXED_WIDTH:
                width = self.processing_kwargs["text"]["max_length"]
                if kwargs.get("max_length") not in (None, width):
                    raise ValueError(
                        f"max_length={kwargs['max_length']}: texts of this model have {width} tokens, always."
                    )
            texts = [{"text": rows[number]["text"]} for number in with_text]
            tokens = super().preprocess(texts, prompt=prompt, processing_kwargs=processing_kwargs, **kwargs)
            features.update(self._row_aligned(tokens, with_text, len(rows)))
            silent = [number for number in with_text if not bool(features["attention_mask"][number].any())]
            if silent:
                raise ValueError(f"row {silent[0]}: no token is left of the text {rows[silent[0]]['text']!r}.")
        else:
            features["input_ids"] = torch.full((len(rows), 1), self._padding_id, dtype=torch.int64)
            features["attention_mask"] = torch.zeros(len(rows), 1, dtype=torch.int64)
        if with_image:
            images = [{"image": rows[number]["image"]} for number in with_image]
            features["pixel_values"] = self._pixels(images, processing_kwargs)
            features["num_images_per_sample"] = torch.tensor([int("image" in row) for row in rows])
        features["modality"] = "message"
        return features

    @property
    def _padding_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def _row_aligned(self, tokens: dict[str, Any], with_text: list[int], count: int) -> dict[str, Tensor]:
        """(texts, length) → (rows, length)."""
        # Without a mask every position is read, padding included.
        given = {"attention_mask": torch.ones_like(tokens["input_ids"]), **tokens}
        taken = {"input_ids", "attention_mask"} | (self._text_arguments & {"token_type_ids"})
        aligned = {}
        for name in sorted(taken & set(given)):
            empty = self._padding_id if name == "input_ids" else 0
            aligned[name] = given[name].new_full((count, given[name].shape[1]), empty)
            aligned[name][with_text] = given[name]
        return aligned

    def _pixels(self, images: list[dict[str, Any]], processing_kwargs: Any) -> Tensor:
        """uint8 (images, 3, height, width) where the processor allows it, else its own normalised output."""
        if self._scaling(processing_kwargs) is not None:
            per_call = dict((processing_kwargs or {}).get("image", {}))
            raw = {**(processing_kwargs or {}), "image": {**per_call, "do_rescale": False, "do_normalize": False}}
            pixels = super().preprocess(images, processing_kwargs=raw)["pixel_values"]
            if pixels.dtype == torch.uint8:
                return pixels
        return super().preprocess(images, processing_kwargs=processing_kwargs)["pixel_values"]

    def _scaling(self, processing_kwargs: Any = None) -> tuple[float, list[float], list[float]] | None:
        """Factor, mean and deviation by which the processor would scale its pixels; None if that cannot be told."""
        image_processor = getattr(self.processor, "image_processor", None)
        arguments = self._merge_processing_kwargs(processing_kwargs).get("image", {})
        if not all(hasattr(image_processor, name) for name in _SCALING) or _SCALING & set(arguments):
            return None
        factor = image_processor.rescale_factor if image_processor.do_rescale else 1.0
        normalize = image_processor.do_normalize
        mean = list(image_processor.image_mean) if normalize else [0.0]
        std = list(image_processor.image_std) if normalize else [1.0]
        return factor, mean, std

    def _with_plain_text(self, row: Any) -> Any:
        """A text that spells out control tokens, such as an image's placeholder, gets a space into each of them.

        Read as a token it would stand for an image that is not there, or end the turn.
        """
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            return row
        return {**row, "text": plain_text(row["text"], control_tokens(self.processor))}

    # --- tensors → vectors --------------------------------------------------------------------------------------

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Vectors of the rows, under `module_output_name`.

        Args:
            features: What `preprocess` returns. Pixels may still be on the CPU.
            **kwargs: Further arguments of the model's method.

        Returns:
            The same dictionary with the vectors added.
        """
        together = self.training and torch.is_grad_enabled() and world_size() > 1
        sharded = together and any(map(_is_shard, self.parameters()))
        blank = 0
        if sharded and self._skips_towers:
            features, blank = self._with_blank_rows(features)
        if self.is_dual_encoder and features.get("modality") == "message":
            features["sentence_embedding"] = self._encode_rows(features)
        else:
            features = super().forward(features, **kwargs)
        if blank:
            vectors = features[self.module_output_name]
            features[self.module_output_name] = vectors[:-blank] + vectors[-blank:].sum() * 0.0
        elif together and not sharded:
            features[self.module_output_name] = features[self.module_output_name] + self._nothing_from_every_parameter()
        return features

    @cached_property
    def _row_features(self) -> dict[str, Any]:
        """What a text and a black image become."""
        return self.preprocess([{"text": "a"}, {"image": Image.new("RGB", (32, 32))}])

    @property
    def _skips_towers(self) -> bool:
        """Whether a tower is run only on rows that have something for it, as in two-tower models and our own."""
        if self.is_dual_encoder or not {"text", "image"} <= set(self.modality_config):
            return self.is_dual_encoder
        return self._row_features["pixel_values"].dtype == torch.uint8

    def _with_blank_rows(self, features: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The rows, and one of each modality that they lack.

        Sharded parameters are gathered by all processes when a tower runs: where one process has no image and skips its
        vision tower, the others would wait for ever.
        """
        mask, blank = features["attention_mask"], self._row_features
        lacks_text, lacks_image = not bool(mask.any()), "pixel_values" not in features
        rows = [row for row, lacking in enumerate((lacks_text, lacks_image)) if lacking]
        if not rows:
            return features, 0
        features = dict(features)
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            if name in features:
                width = max(features[name].shape[1], blank[name].shape[1])
                fill = self._padding_id if name == "input_ids" else 0
                both = (features[name], blank[name][rows].to(features[name].device))
                features[name] = torch.cat([F.pad(part, (0, width - part.shape[1]), value=fill) for part in both])
        if lacks_image:
            features["pixel_values"] = blank["pixel_values"]
        counts = features.get("num_images_per_sample", torch.zeros(len(mask), dtype=torch.int64))
        features["num_images_per_sample"] = torch.cat([counts, blank["num_images_per_sample"][rows].to(counts.device)])
        return features, len(rows)

    def _nothing_from_every_parameter(self) -> Tensor:
        """Zero, of which every trainable parameter is a part.

        DistributedDataParallel waits for the gradient of each parameter in each forward, and one rank's rows may have no
        image, or a cached loss's mini-batch no text.
        """
        return sum(p.flatten()[:1].sum() for p in self.parameters() if p.requires_grad) * 0.0  # type: ignore[return-value]

    def _encode_rows(self, features: dict[str, Any]) -> Tensor:
        """(rows, dim)."""
        device = self.model.device
        has_text = features["attention_mask"].bool().any(dim=1)  # (rows,)
        has_image = torch.zeros_like(has_text)
        if "pixel_values" in features:
            has_image = features["num_images_per_sample"].to(has_text.device).bool()
            if int(has_image.sum()) != len(features["pixel_values"]):
                raise ValueError(
                    f"{len(features['pixel_values'])} images for {int(has_image.sum())} rows with an image."
                )
        parts, rows = [], []
        text = image = None
        if bool(has_text.any()):
            names = self._text_arguments & {"input_ids", "attention_mask", "token_type_ids"}
            if self.config.model_type in _FIXED_WIDTH:
                names -= {"attention_mask"}
            inputs = {name: features[name][has_text].to(device) for name in names if name in features}
            text = self._vectors("text", inputs)
            parts.append(text[~has_image[has_text]])
            rows.append((has_text & ~has_image).nonzero().flatten())
        if bool(has_image.any()):
            image = self._vectors("image", {"pixel_values": self._normalized(features["pixel_values"], device)})
            parts.append(image[~has_text[has_image]])
            rows.append((has_image & ~has_text).nonzero().flatten())
        both = has_text & has_image
        if bool(both.any()):
            pair = text[has_image[has_text]], image[has_text[has_image]]
            parts.append(sum(F.normalize(vectors, dim=-1) for vectors in pair) / 2)
            rows.append(both.nonzero().flatten())
        return torch.cat(parts)[torch.cat(rows).argsort().to(device)]

    @property
    def _text_arguments(self) -> set[str]:
        method = self.modality_config["text"]["method"]
        if method not in self._method_signature_cache:
            self._method_signature_cache[method] = set(inspect.signature(getattr(self.model, method)).parameters)
        return self._method_signature_cache[method]

    def _vectors(self, modality: str, inputs: dict[str, Tensor]) -> Tensor:
        method = self.modality_config[modality]
        output = getattr(self.model, method["method"])(**inputs)
        name = method["method_output_name"]
        return output if name is None else getattr(output, name)

    def _normalized(self, pixels: Tensor, device: torch.device) -> Tensor:
        pixels = pixels.to(device, non_blocking=True)
        if pixels.dtype == torch.uint8:
            factor, mean, std = self._scaling()  # type: ignore[misc]
            shape = (1, -1, 1, 1)
            mean, std = (torch.tensor(values, device=device).view(shape) for values in (mean, std))
            # In place: the pixels of a batch are its largest tensor, and were a copy for each of three steps.
            pixels = pixels.to(torch.float32).mul_(factor).sub_(mean).div_(std)
        elif not torch.compiler.is_compiling() and pixels.numel() and (top := float(pixels.detach().abs().amax())) > 20:
            # Training saw normalised ones, a few units around 0; what a model makes of others is no vector of the image.
            raise ValueError(
                f"floating point pixel_values of up to {top:.6g} were never scaled; pass uint8 pixels, or normalised ones."
            )
        return pixels.to(self.model.dtype)

    # --- being saved, copied and sent to other processes as the stock module --------------------------------------

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # By its name alone pickle would find the stock class.
        return _empty_module, (), self.__dict__

    @property
    def max_seq_length(self) -> int | None:
        """Tokens at which a text is cut."""
        if self.is_dual_encoder and self.config.model_type in _FIXED_WIDTH:
            return self.processing_kwargs["text"]["max_length"]
        return Transformer.max_seq_length.fget(self)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if self.is_dual_encoder and self.config.model_type in _FIXED_WIDTH and value != self.max_seq_length:
            raise ValueError(f"max_seq_length={value}: texts of this model have {self.max_seq_length} tokens, always.")
        Transformer.max_seq_length.fset(self, value)


# sentence-transformers writes the class's name into modules.json, and loads code of no other package unasked.
MultimodalTransformer.__module__ = Transformer.__module__
MultimodalTransformer.__name__ = Transformer.__name__
MultimodalTransformer.__qualname__ = Transformer.__qualname__


def _is_shard(parameter: Tensor) -> bool:
    """Whether other processes hold the rest of it, as under FSDP and DeepSpeed's third stage."""
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")


def _empty_module() -> MultimodalTransformer:
    return MultimodalTransformer.__new__(MultimodalTransformer)


def adopt(model: SentenceTransformer) -> SentenceTransformer:
    """Turn the model's first module into a `MultimodalTransformer`, in place.

    Args:
        model: Any `SentenceTransformer`. One whose first module is of another kind (StaticEmbedding, Router, a class from
            the Hub) is left as it is.

    Returns:
        The same model.
    """
    module = model[0]
    if type(module) is Transformer:
        module.__class__ = MultimodalTransformer
        module._settle()
    return model


def plain_text(text: str, control_tokens: Sequence[str]) -> str:
    """The text with a space after the first character of each control token that it spells out.

    A space, as no tokenizer's normalisation takes it out of the middle of a word. Compatibility characters that spell a
    token only after Unicode's NFKC are replaced by what they stand for.

    Args:
        text: Any text.
        control_tokens: Tokens that a text may not contain, longest first.

    Returns:
        The text, unchanged unless it contains one.

    Example:
        >>> plain_text("a <image> of <b>", ["<image>"])
        'a < image> of <b>'
    """
    if any(token in unicodedata.normalize("NFKC", text) and token not in text for token in control_tokens):
        text = unicodedata.normalize("NFKC", text)
    for token in control_tokens:
        if len(token) > 1:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _explicit(row: Any, number: int) -> Any:
    """A row as {"text": str}, {"image": PIL.Image} or both; chat messages and pairs of strings as they are."""
    if isinstance(row, str):
        return {"text": row}
    if isinstance(row, (Image.Image, np.ndarray)):
        return {"image": _picture(row, number)}
    if isinstance(row, dict) and "role" not in row:
        unknown = set(row) - {"text", "image"}
        if unknown:
            raise ValueError(
                f"row {number}: unknown keys {sorted(map(str, unknown))}; a row has 'text', 'image' or both."
            )
        kept = {name: row[name] for name in ("text", "image") if row.get(name) is not None}
        if not kept:
            raise ValueError(f"row {number} has neither a text nor an image.")
        if "text" in kept and not isinstance(kept["text"], str):
            raise ValueError(f"row {number}: a text is a string, got {type(kept['text']).__name__}.")
        if "image" in kept:
            kept["image"] = _picture(kept["image"], number)
        return kept
    if isinstance(row, (dict, list)) or (isinstance(row, tuple) and all(isinstance(part, str) for part in row)):
        return row
    raise ValueError(
        f"row {number}: {type(row).__name__} is not a row; pass a string, a PIL image, or a dict with 'text', 'image' or both."
    )


def _picture(image: Any, number: int) -> Image.Image:
    if isinstance(image, Image.Image) and image.mode == "RGB":
        return image
    if isinstance(image, (Image.Image, np.ndarray)):
        return load_image(image)
    raise ValueError(
        f"row {number}: an image is a PIL image or a uint8 array (height, width, 3), got {type(image).__name__}; load it "
        "with mmembed.images.load_image."
    )
