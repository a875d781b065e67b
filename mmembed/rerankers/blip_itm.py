"""How well does a text match an image? BLIP's matching head (ITM) as a `CrossEncoder`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn
from transformers import AutoProcessor, BlipForImageTextRetrieval, BlipProcessor

from mmembed.images import load_image

FIRST_TOKENS = ("enc", "cls")
SCORES = ("odds", "match")
_ENCODE = "[ENC]"


class BlipImageTextMatching(InputModule):
    """The only module of a CrossEncoder that scores (text, image) pairs by reading both together.

    **The first token.** BLIP trains its matching head, and evaluates retrieval, with [ENC] in the place of [CLS].
    Salesforce's `blip_itm.py` demonstration and transformers' `BlipForImageTextRetrieval` leave [CLS] there, and so feed the
    head what it was not trained on. "enc" is therefore the default; "cls" gives the figures of those two.

    **The score.** The head has two logits, no match and match. "odds" is their difference: its sigmoid, which is the
    CrossEncoder's default activation, is the probability of a match, and BinaryCrossEntropyLoss on it is BLIP's ITM loss.
    "match" is the second logit alone, by which BLIP's retrieval evaluation ranks after adding the similarity of the ITC
    vectors.

    Args:
        model: The retrieval model; the very object is used.
        processor: Its processor; a text is cut at its tokenizer's `model_max_length`.
        first_token: "enc" or "cls".
        score: "odds" or "match".

    Raises:
        ValueError: If an option is unknown, or the tokenizer has no [ENC] that "enc" needs.
    """

    config_file_name = "blip_itm_config.json"
    config_keys = ["first_token", "score"]

    def __init__(
        self,
        model: BlipForImageTextRetrieval,
        processor: BlipProcessor,
        first_token: str = "enc",
        score: str = "odds",
    ) -> None:
        super().__init__()
        for name, value, allowed in (("first_token", first_token, FIRST_TOKENS), ("score", score, SCORES)):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}; choose one of {', '.join(allowed)}.")
        self.model: Any = model
        self.processor = processor
        self.first_token, self.score = first_token, score
        self._encode_id = self._id_of_encode() if first_token == "enc" else None

    def _id_of_encode(self) -> int:
        count = self.model.config.text_config.vocab_size
        if _ENCODE in self.tokenizer.get_vocab():
            return self.tokenizer.convert_tokens_to_ids(_ENCODE)
        if len(self.tokenizer) == count - 2:
            # The tokenizer of plain BERT: [DEC] and [ENC] follow its words in every BLIP.
            return count - 1
        raise ValueError(
            f"the tokenizer has {len(self.tokenizer)} tokens and no {_ENCODE}, and the model {count}; pass first_token='cls', "
            "or the tokenizer that the checkpoint was trained with."
        )

    @property
    def tokenizer(self) -> Any:  # type: ignore[override]
        return self.processor.tokenizer

    @property
    def modalities(self) -> list[Any]:
        return ["text", "image"]

    @property
    def max_seq_length(self) -> int:
        """Tokens at which a text is cut."""
        return min(self.tokenizer.model_max_length, self.model.config.text_config.max_position_embeddings)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.tokenizer.model_max_length = value

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Pairs → tensors.

        Args:
            inputs: Pairs of one text and one image, in either order. A string is always a text: nothing is opened. Texts
                alone are tokenised and no more; sentence-transformers counts the tokens of a data set's column so.
            prompt: Put before each text.
            **kwargs: `max_length`, tokens at which a text is cut; others are not read.

        Returns:
            input_ids, attention_mask int64 (pairs, length); pixel_values (images, 3, size, size), an image that stands in
            several pairs being there once, and image_rows int64 (pairs,), each pair's image.

        Raises:
            ValueError: If a pair is no text with an image, with its number.
        """
        if inputs and all(isinstance(text, str) for text in inputs):
            return self._tokens(list(inputs), prompt, **kwargs)
        pairs = [_text_and_image(pair, number) for number, pair in enumerate(inputs)]
        features = self._tokens([text for text, _ in pairs], prompt, **kwargs)
        places: dict[int, int] = {}
        rows = [places.setdefault(id(image), len(places)) for _, image in pairs]
        distinct = list({id(image): image for _, image in pairs}.values())
        pictures = [load_image(image) for image in distinct]
        features["pixel_values"] = self.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
        features["image_rows"] = torch.tensor(rows)
        return features

    def _tokens(self, texts: list[str], prompt: str | None, max_length: int | None = None, **_: Any) -> dict[str, Any]:
        tokens = self.tokenizer(
            [(prompt or "") + text for text in texts],
            padding=True,
            truncation=True,
            max_length=min(max_length or self.max_seq_length, self.max_seq_length),
            return_tensors="pt",
            split_special_tokens=True,  # a text that spells out [SEP] is read as text
        )
        if self._encode_id is not None:
            tokens["input_ids"][:, 0] = self._encode_id
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Scores of the pairs, under "scores".

        Args:
            features: What `preprocess` returns.
            **kwargs: Not read.

        Returns:
            The same dictionary with "itm_logits" (pairs, 2), no match and match, and "scores" (pairs, 1).

        Raises:
            ValueError: If there is no image.
        """
        logits = self._logits(features)
        features["itm_logits"] = logits
        features["scores"] = logits[:, 1:] - logits[:, :1] if self.score == "odds" else logits[:, 1:]
        return features

    def _logits(self, features: dict[str, Any]) -> Tensor:
        if "pixel_values" not in features:
            raise ValueError("texts alone have no score; pass pairs of one text and one image.")
        pixels = features["pixel_values"].to(self.model.dtype)
        size = self.model.config.vision_config.image_size
        resized = tuple(pixels.shape[-2:]) != (size, size)
        positions = self.model.vision_model(pixel_values=pixels, interpolate_pos_encoding=resized).last_hidden_state
        # Without a mask for the image, all of whose positions count: transformers makes one that is left on the CPU.
        hidden = self.model.text_encoder(
            input_ids=features["input_ids"],
            attention_mask=features["attention_mask"],
            encoder_hidden_states=positions[features["image_rows"]],
        ).last_hidden_state
        return self.model.itm_head(hidden[:, 0])

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the stock model, its processor and the two options.

        Args:
            output_path: Folder.
            *args: Not read.
            safe_serialization: Not read; always safetensors.
            **kwargs: Not read.
        """
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> BlipImageTextMatching:
        """Read a folder that `save` wrote, or one of `BlipForImageTextRetrieval` with its processor.

        Args:
            model_name_or_path: Folder or name on the Hub.
            subfolder: Folder in it.
            **kwargs: `first_token` and `score` in the place of what was saved; of what sentence-transformers passes on
                loading, `token`, `revision`, `cache_folder`, `local_files_only`, `model_kwargs` and `processor_kwargs`.

        Returns:
            The module.

        Raises:
            ValueError: If there is no processor with a tokenizer.
        """
        hub: dict[str, Any] = {
            name: kwargs[name] for name in ("token", "revision", "local_files_only") if kwargs.get(name)
        }
        saved = cls.load_config(model_name_or_path, subfolder=subfolder, cache_folder=kwargs.get("cache_folder"), **hub)
        options = {name: kwargs.get(name) or saved.get(name) for name in cls.config_keys}
        files = {**hub, "subfolder": subfolder, "cache_dir": kwargs.get("cache_folder")}
        model = BlipForImageTextRetrieval.from_pretrained(
            model_name_or_path, **{"use_safetensors": True, **files, **(kwargs.get("model_kwargs") or {})}
        )
        processor = AutoProcessor.from_pretrained(
            model_name_or_path, **{**files, **(kwargs.get("processor_kwargs") or {})}
        )
        if not isinstance(processor, BlipProcessor):
            raise ValueError(
                f"{model_name_or_path} has a {type(processor).__name__}, not a BlipProcessor with its tokenizer; convert the "
                "checkpoint with a tokenizer."
            )
        return cls(model, processor, **{name: value for name, value in options.items() if value is not None})


def load_blip_itm(
    name_or_path: str | os.PathLike[str],
    *,
    first_token: str | None = None,
    score: str | None = None,
    device: str | None = None,
    revision: str | None = None,
) -> CrossEncoder:
    """A CrossEncoder over (text, image) pairs from BLIP's retrieval model; see `BlipImageTextMatching`.

    `predict` takes pairs of one text and one image, `rank` a text with images or an image with texts. Trained by
    CrossEncoderTrainer and saved by `save_pretrained`, it is loaded again by this function, or by
    `CrossEncoder(folder, trust_remote_code=True)`: sentence-transformers asks for the flag for any module that is not its own.

    Args:
        name_or_path: A folder from `convert_checkpoint("blip", ...)` or its subfolder `itm`; a folder that `save_pretrained`
            wrote; or the name of a `BlipForImageTextRetrieval` on the Hub.
        first_token: "enc", as BLIP was trained, or "cls", as transformers does; what was saved, else "enc", when None.
        score: "odds" or "match"; what was saved, else "odds", when None.
        device: Where the model is put; chosen by sentence-transformers when None.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The scorer; its scores are probabilities of a match for "odds" and logits for "match".

    Raises:
        ValueError: If an option is unknown or the folder is of another model.

    Example:
        >>> scorer = load_blip_itm("blip-coco/itm")  # doctest: +SKIP
        >>> scorer.rank("a red mug", images)  # doctest: +SKIP
    """
    name = os.fspath(name_or_path)
    if (Path(name) / "itm" / "config.json").is_file():
        name = os.path.join(name, "itm")
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise ValueError(f"{name} does not exist, or is no folder.")
    module = BlipImageTextMatching.load(name, revision=revision, first_token=first_token, score=score)
    activation: nn.Module = nn.Sigmoid() if module.score == "odds" else nn.Identity()
    return CrossEncoder(modules=[module], device=device, activation_fn=activation).eval()


def _text_and_image(pair: Any, number: int) -> tuple[str, Any]:
    parts = [_content(part) for part in pair] if isinstance(pair, (tuple, list)) else [pair]
    texts = [part for part in parts if isinstance(part, str)]
    images = [part for part in parts if isinstance(part, (Image.Image, np.ndarray))]
    if len(parts) != 2 or len(texts) != 1 or len(images) != 1:
        names = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"pair {number} holds {names}; expected one text and one image (a PIL image or a uint8 array; paths and URLs are "
            "not opened here, load them with mmembed.images.load_image)."
        )
    return texts[0], images[0]


def _content(part: Any) -> Any:
    """{"text": str} and {"image": image}, the rows of an embedding model, as their content."""
    if isinstance(part, dict) and len(part) == 1 and next(iter(part)) in ("text", "image"):
        return next(iter(part.values()))
    return part
