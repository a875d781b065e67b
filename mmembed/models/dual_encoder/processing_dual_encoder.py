"""Rows of text and images → a dual encoder's tensors: tokens, and pixels as 8-bit integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

RESIZES = ("crop", "squash")


class DualEncoderProcessor(ProcessorMixin):
    """Tokenises texts and scales images; the model itself normalises the pixels.

    Args:
        tokenizer: The text tower's tokenizer.
        image_size: Height and width of the output, in pixels.
        resize: "crop" scales the short side and cuts out the centre, "squash" ignores the aspect ratio.
        shortest_edge: Length in pixels to which "crop" scales the short side; `image_size` when None.
        resample: Pillow's number of the filter; 3 is bicubic, 2 bilinear.
        max_text_length: Tokens at which a text is cut; the tokenizer's own limit when None.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({"[PAD]": 0, "red": 1}, unk_token="[PAD]"))
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]")
        >>> processor = DualEncoderProcessor(tokenizer, image_size=8)
        >>> processor(images=[Image.new("RGB", (20, 10))])["pixel_values"].shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        tokenizer: Any,
        image_size: int = 224,
        resize: str = "crop",
        shortest_edge: int | None = None,
        resample: int = 3,
        max_text_length: int | None = None,
    ) -> None:
        super().__init__(tokenizer)
        if resize not in RESIZES:
            raise ValueError(f"resize={resize!r}; choose one of {', '.join(RESIZES)}.")
        if shortest_edge is not None and shortest_edge < image_size:
            raise ValueError(f"shortest_edge={shortest_edge} is less than image_size={image_size}.")
        self.image_size, self.resize, self.shortest_edge = image_size, resize, shortest_edge
        self.resample = resample
        self.max_text_length = max_text_length
        if max_text_length is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, max_text_length)

    @property
    def model_input_names(self) -> list[str]:
        return [*self.tokenizer.model_input_names, "pixel_values", "num_images_per_sample"]

    def to_dict(self) -> dict[str, Any]:
        # The limit may have been changed on the tokenizer since, which is where it is read.
        limit = self.tokenizer.model_max_length
        return {**super().to_dict(), "max_text_length": limit if limit < 10**9 else None}

    def __call__(
        self,
        text: str | Sequence[str | None] | None = None,
        images: Image.Image | Sequence[Image.Image | None] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """The tensors of rows.

        Args:
            text: A text a row, None where there is none.
            images: A PIL image or uint8 (height, width, 3) array a row, None where there is none.
            **kwargs: `text_kwargs`, or single arguments of the tokenizer; others of a processor are ignored.

        Returns:
            input_ids, attention_mask (rows, length), a row without text being all zero; pixel_values uint8 (images, 3,
            size, size) and num_images_per_sample (rows,) when there is an image.

        Raises:
            ValueError: If a row has neither, or texts and images differ in number.
        """
        texts = [text] if isinstance(text, str) else list(text) if text is not None else None
        single = isinstance(images, (Image.Image, np.ndarray))
        pictures = [images] if single else list(images) if images is not None else None
        if texts is None and pictures is None:
            raise ValueError("pass text, images or both.")
        texts = texts if texts is not None else [None] * len(pictures)
        pictures = pictures if pictures is not None else [None] * len(texts)
        if len(texts) != len(pictures):
            raise ValueError(f"{len(texts)} texts and {len(pictures)} images; pass None where a row has none.")
        options = {**kwargs.get("common_kwargs", {}), **kwargs.get("text_kwargs", {})}
        names = ("padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side")
        options.update({name: kwargs[name] for name in names if name in kwargs})
        return self._features(texts, pictures, options)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        tokenize: bool = True,
        return_dict: bool = True,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature | list[str]:
        """The tensors of chat messages, each conversation being one row; this is what sentence-transformers calls.

        Args:
            conversation: Conversations, or one. The text of a "system" message is put before the row's text.
            chat_template: Not supported.
            tokenize: False returns the texts alone.
            return_dict: Not read; tensors always come in a dictionary.
            processor_kwargs: `text_kwargs` and `common_kwargs`.
            **kwargs: Not read.

        Returns:
            What `__call__` returns.

        Raises:
            ValueError: If a message cannot be a row.
        """
        if chat_template is not None:
            raise ValueError("a dual encoder has no chat template.")
        one = bool(conversation) and isinstance(conversation[0], Mapping)
        rows = [_row(messages, number) for number, messages in enumerate([conversation] if one else conversation)]
        if not tokenize:
            return [text or "" for text, _ in rows]
        return self([text for text, _ in rows], [image for _, image in rows], **(processor_kwargs or {}))

    def _features(self, texts: list[str | None], images: list[Any], options: dict[str, Any]) -> BatchFeature:
        for row, (text, image) in enumerate(zip(texts, images, strict=True)):
            if text is None and image is None:
                raise ValueError(f"row {row} has neither a text nor an image.")
            if text is not None and not isinstance(text, str):
                raise ValueError(f"row {row}: a text is a string, got {type(text).__name__}.")
        rows = [row for row, text in enumerate(texts) if text is not None]
        features: dict[str, torch.Tensor] = {}
        if rows:
            options = {"padding": True, "truncation": True, **options}
            if options["truncation"] == "longest_first":
                options["truncation"] = True
            options.pop("return_tensors", None)
            # A text that spells out a control token such as [SEP] is read as text.
            tokens = self.tokenizer(
                [texts[row] for row in rows], return_tensors="pt", split_special_tokens=True, **options
            )
            for name, value in tokens.items():
                empty = self.tokenizer.pad_token_id or 0 if name == "input_ids" else 0
                features[name] = value.new_full((len(texts), value.shape[1]), empty)
                features[name][rows] = value
            silent = [row for row in rows if not bool(features["attention_mask"][row].any())]
            if silent:
                raise ValueError(f"row {silent[0]}: no token is left of the text {texts[silent[0]]!r}.")
        else:
            shape = (len(texts), 1)
            features["input_ids"] = torch.full(shape, self.tokenizer.pad_token_id or 0, dtype=torch.int64)
            features["attention_mask"] = torch.zeros(shape, dtype=torch.int64)
        shown = [row for row, image in enumerate(images) if image is not None]
        if shown:
            features["pixel_values"] = torch.stack([self._pixels(images[row], row) for row in shown])
            features["num_images_per_sample"] = torch.tensor([int(image is not None) for image in images])
        return BatchFeature(features)

    def _pixels(self, image: Any, row: int) -> torch.Tensor:
        """uint8 (3, size, size)."""
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
            image = Image.fromarray(np.ascontiguousarray(image))
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"row {row}: an image is a PIL image or a uint8 array (height, width, 3), got {type(image).__name__}; "
                "paths, URLs and encoded files are not opened here."
            )
        size = self.image_size
        image = image.convert("RGB")
        width, height = image.size
        if self.resize == "squash":
            image = image.resize((size, size), self.resample)
        else:
            edge = self.shortest_edge or size
            # To the pixel as torchvision, with which the towers were trained: the long side is cut off, the corner rounded.
            image = image.resize([edge * side // min(width, height) for side in (width, height)], self.resample)
            left, top = round((image.width - size) / 2), round((image.height - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def _row(messages: Sequence[Mapping[str, Any]], number: int) -> tuple[str | None, Any]:
    """One conversation → (text, image), either of them None."""
    prompt, texts, images = "", [], []
    for message in [messages] if isinstance(messages, Mapping) else messages:
        role, content = message.get("role"), message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts or []:
            if part.get("type") == "text" and role == "system":
                prompt += part["text"]
            elif part.get("type") == "text" and part.get("text") is not None:
                texts.append(part["text"])
            elif part.get("type") == "image" and part.get("image") is not None:
                images.append(part["image"])
            elif part.get("type") not in ("text", "image"):
                raise ValueError(f"row {number}: a dual encoder reads text and image, got {part.get('type')!r}.")
    if len(texts) > 1 or len(images) > 1:
        raise ValueError(f"row {number}: {len(texts)} texts and {len(images)} images; a row has one of each at most.")
    return prompt + texts[0] if texts else None, images[0] if images else None
