"""Images → an image tower's tensor: pixels as 8-bit integers, scaled by Pillow or as OpenCV does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ImageProcessingMixin
from transformers.processing_utils import ImagesKwargs

RESIZES = ("crop", "squash")
_BILINEAR = 2
_UNIT = 2048  # OpenCV's weights are integers of 11 bits


class ImageTowerProcessor(ImageProcessingMixin):
    """Scales images; the model itself normalises the pixels.

    Args:
        image_size: Height and width of the output, in pixels.
        resize: "crop" scales the short side and cuts out the centre, "squash" ignores the aspect ratio.
        shortest_edge: Length in pixels to which "crop" scales the short side; `image_size` when None.
        resample: Pillow's number of the filter; 3 is bicubic, 2 bilinear.
        antialias: False reads the four nearest pixels and no more, bit for bit as `cv2.resize` with INTER_LINEAR, with
            which many published towers were trained; needs resample 2.
        **kwargs: What a saved file holds besides.

    Raises:
        ValueError: If a setting is not one that there is.

    Example:
        >>> processor = ImageTowerProcessor(image_size=8)
        >>> processor(images=[Image.new("RGB", (20, 10))])["pixel_values"].shape
        torch.Size([1, 3, 8, 8])
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = ImagesKwargs

    def __init__(
        self,
        image_size: int = 224,
        resize: str = "crop",
        shortest_edge: int | None = None,
        resample: int = 3,
        antialias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if resize not in RESIZES:
            raise ValueError(f"resize={resize!r}; choose one of {', '.join(RESIZES)}.")
        if shortest_edge is not None and shortest_edge < image_size:
            raise ValueError(f"shortest_edge={shortest_edge} is less than image_size={image_size}.")
        if not antialias and resample != _BILINEAR:
            raise ValueError(f"antialias=False is bilinear, resample={_BILINEAR}; got resample={resample}.")
        self.image_size, self.resize, self.shortest_edge = image_size, resize, shortest_edge
        self.resample, self.antialias = resample, antialias

    def to_dict(self) -> dict[str, Any]:
        # By this AutoProcessor finds the class in a folder without a model.
        return {**super().to_dict(), "processor_class": type(self).__name__}

    def __call__(
        self,
        images: Image.Image | Sequence[Image.Image] | None = None,
        text: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """The tensor of rows.

        Args:
            images: A PIL image or uint8 (height, width, 3) array a row.
            text: Refused: an image tower reads no text.
            **kwargs: Arguments of other processors; not read.

        Returns:
            pixel_values uint8 (rows, 3, size, size).

        Raises:
            ValueError: If there is a text, or something is no image.
        """
        texts = [text] if isinstance(text, str) else list(text) if text is not None else []
        said = [row for row, one in enumerate(texts) if one is not None]
        if said:
            raise ValueError(f"row {said[0]}: an image tower reads images, got the text {texts[said[0]]!r}.")
        if images is None:
            raise ValueError("pass images; an image tower reads nothing else.")
        rows = [images] if isinstance(images, (Image.Image, np.ndarray)) else list(images)
        return BatchFeature({"pixel_values": torch.stack([self._pixels(image, row) for row, image in enumerate(rows)])})

    def apply_chat_template(
        self, conversation: Sequence[Any], chat_template: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """The tensor of chat messages, each conversation being one image.

        Args:
            conversation: Conversations, or one.
            chat_template: Not supported.
            **kwargs: Not read.

        Returns:
            What `__call__` returns.

        Raises:
            ValueError: If a conversation is anything but one image.
        """
        if chat_template is not None:
            raise ValueError("an image tower has no chat template.")
        one = bool(conversation) and isinstance(conversation[0], Mapping)
        rows = [conversation] if one else conversation
        return self([_only_image(messages, row) for row, messages in enumerate(rows)])

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
        if self.resize == "squash":
            pixels = self._scaled(image, size, size)
        else:
            edge = self.shortest_edge or size
            scale = edge / min(image.size)
            width, height = (max(edge, round(side * scale)) for side in image.size)
            left, top = (width - size) // 2, (height - size) // 2
            pixels = self._scaled(image, width, height)[top : top + size, left : left + size]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def _scaled(self, image: Image.Image, width: int, height: int) -> np.ndarray:
        """uint8 (height, width, 3)."""
        if self.antialias:
            return np.array(image.resize((width, height), self.resample))
        return _nearest_four(np.array(image), width, height)


def _nearest_four(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear between the four nearest pixels, in the fixed-point arithmetic of `cv2.resize` for 8-bit images."""
    rows, columns = pixels.shape[:2]
    x, along = _positions(columns, width)
    along = np.where((x < 0) | (x >= columns - 1), np.float32(0), along)
    x = x.clip(0, columns - 1)
    y, down = _positions(rows, height)
    (left, right), (above, below) = _weights(along), _weights(down)
    values = pixels.astype(np.int64)
    across = values[:, x] * left[:, None] + values[:, (x + 1).clip(max=columns - 1)] * right[:, None]
    across >>= 4  # (rows, width, 3)
    upper = (across[y.clip(0, rows - 1)] * above[:, None, None]) >> 16
    lower = (across[(y + 1).clip(0, rows - 1)] * below[:, None, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _positions(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """For each target pixel the source pixel at or before its centre, and how far behind that the centre lies."""
    centres = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    before = np.floor(centres)
    return before.astype(np.int64), centres - before


def _weights(behind: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unit = np.float32(_UNIT)
    return np.rint((1 - behind) * unit).astype(np.int64), np.rint(behind * unit).astype(np.int64)


def _only_image(messages: Any, row: int) -> Any:
    images = []
    for message in [messages] if isinstance(messages, Mapping) else messages:
        content = message.get("content")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
            if part.get("type") != "image":
                shown = repr(part["text"]) if isinstance(part.get("text"), str) else part.get("type")
                raise ValueError(f"row {row}: an image tower reads images, got {shown}.")
            images.append(part.get("image"))
    if len(images) != 1:
        raise ValueError(f"row {row}: {len(images)} images; each row of an image tower is one image.")
    return images[0]
