"""Rows of pairs → one batch of tensors: draw, read, decode, augment, tokenise; run in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from datasets import Dataset
from PIL import Image

from mmembed.data.augment import Augmentation
from mmembed.data.keys import pick, uniform
from mmembed.data.training_pairs import TrainingPairs, Use
from mmembed.images import ImageReader


class ImageFeatures(Protocol):
    """Activations of a vision tower's frozen part, kept on disk."""

    def load(self, ids: Sequence[str], views: Sequence[int]) -> torch.Tensor:
        """Float activations of shape (len(ids), ...) for the given images, each in one of its `num_views` views."""

    num_views: int


class TextFeatures(Protocol):
    """Pooled features of a frozen text tower, kept on disk."""

    def load(self, texts: Sequence[str | None]) -> torch.Tensor:
        """Float features of shape (len(texts), 1, width), zeros where there is no text."""


class PairCollator:
    """Turns row numbers of `TrainingPairs` into a batch that sentence-transformers' losses read.

    Every random choice (positive, negatives, use, part of the text, augmentation) is a function of (seed, epoch, id).

    Args:
        data: The pairs.
        preprocess: `model.preprocess`: a list of {"text", "image"} rows → tensors.
        reader: Reads an item's image.
        seed: The run's seed.
        epoch: int64 tensor of shape (1,) in shared memory with the number of the running epoch.
        augmentation: Applied to each image; None in evaluation.
        prompts: Column name → text put before that column's texts ("positive" also serves the negatives).
        labels: What the loss reads as labels: "keys", "score", "scores" (one a document) or None.
        image_features: Stored activations to hand to the model instead of pixels.
        text_features: Stored features to hand to the model beside the tokens, so that its text tower is not run.

    Returns (on call): `{column}_{feature}` tensors, `label` (int64 (batch, columns, 3) keys, float (batch,) or (batch, documents)
    scores) and `rows`, int64 (batch,), the row numbers.

    Example:
        >>> items = Dataset.from_dict({"id": ["a"], "text": ["red"], "image": [None], "group": ["1"]})
        >>> pairs = Dataset.from_dict({"query_id": ["a"], "positive_ids": [["a"]], "negative_ids": [[]]})
        >>> data = TrainingPairs(items, items, pairs, document_use="text")
        >>> tokenise = lambda rows, prompt=None: {"input_ids": torch.tensor([[len(row["text"])] for row in rows])}
        >>> batch = PairCollator(data, tokenise, labels="keys")([{"row": 0}])
        >>> batch["query_input_ids"], batch["positive_input_ids"], batch["label"].shape
        (tensor([[3]]), tensor([[3]]), torch.Size([1, 2, 3]))
    """

    valid_label_columns = ["label"]

    def __init__(
        self,
        data: TrainingPairs,
        preprocess: Callable[..., dict[str, Any]],
        *,
        reader: ImageReader | None = None,
        seed: int = 0,
        epoch: torch.Tensor | None = None,
        augmentation: Augmentation | None = None,
        prompts: dict[str, str] | None = None,
        labels: str | None = "keys",
        image_features: ImageFeatures | None = None,
        text_features: TextFeatures | None = None,
    ) -> None:
        self.data, self.preprocess, self.reader, self.seed = data, preprocess, reader, seed
        self.epoch = epoch if epoch is not None else torch.zeros(1, dtype=torch.int64)
        self.augmentation, self.prompts, self.labels = augmentation, dict(prompts or {}), labels
        self.image_features, self.text_features = image_features, text_features
        if text_features is not None and (self.prompts or data.prompts):
            raise ValueError("stored text features and prompts do not go together: they are stored of the bare texts.")
        unknown = set(self.prompts) - set(data.columns)
        if unknown:
            raise ValueError(f"prompts for {sorted(unknown)}; a batch has the columns {data.columns}.")
        self._queries, self._documents = _input_columns(data.queries), _input_columns(data.documents)

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        numbers = [row["row"] for row in rows]
        epoch = int(self.epoch.item())
        drawn = [self.data.draw(number, seed=self.seed, epoch=epoch) for number in numbers]
        batch: dict[str, Any] = {"rows": torch.tensor(numbers, dtype=torch.int64)}
        for position, column in enumerate(self.data.columns):
            if column == "query":
                picked, items = [query for query, _, _ in drawn], self._queries
            else:
                picked, items = [documents[position - 1] for _, documents, _ in drawn], self._documents
            uses = [self.data.draw_use(column, row, seed=self.seed, epoch=epoch) for row in picked]
            features = self._features(column, items[picked], uses, numbers, epoch)
            batch.update({f"{column}_{name}": value for name, value in features.items()})
        if self.labels == "keys":
            keys = [self.data.row_keys(number, seed=self.seed, epoch=epoch) for number in numbers]
            batch["label"] = torch.stack([torch.from_numpy(key) for key in keys])
        elif self.labels in ("score", "scores"):
            batch["label"] = torch.tensor([score for _, _, score in drawn], dtype=torch.float32)
        return batch

    def _features(
        self, column: str, items: dict[str, list], uses: list[Use], numbers: list[int], epoch: int
    ) -> dict[str, Any]:
        prompt = self.prompts.get(column, self.prompts.get("positive") if column.startswith("negative") else None)
        images = items.get("image", [None] * len(uses))
        shown = [image is not None and use != "text" for image, use in zip(images, uses)]
        inputs: list[dict[str, Any]] = []
        for i, use in enumerate(uses):
            row: dict[str, Any] = {}
            text = self._text(items, i, epoch) if use != "image" else None
            if text is not None:
                own = self.data.prompts[numbers[i]] if column == "query" and self.data.prompts else None
                row["text"] = f"{own}{text}" if own else text
            if shown[i] and self.image_features is None:
                row["image"] = self._image(images[i], items["id"][i], column, epoch)
            inputs.append(row)
        if self.image_features is None:
            features = self.preprocess(inputs, prompt=prompt)
        else:
            features = self._with_stored_activations(column, inputs, items["id"], shown, prompt, epoch)
        if self.text_features is not None:
            features["text_features"] = self.text_features.load([row.get("text") for row in inputs])
        return features

    def _text(self, items: dict[str, list], i: int, epoch: int) -> str | None:
        parts = items["text_parts"][i] if "text_parts" in items else None
        if not parts:
            return items["text"][i] if "text" in items else None
        # One part an epoch, as often as it weighs: the expectation of the gradient is that of the weighted parts.
        point = uniform(self.seed, epoch, items["id"][i], "part")
        for part in parts:
            point -= part["weight"]
            if point < 0:
                return part["text"]
        return parts[-1]["text"]

    def _image(self, source: Any, id: str, column: str, epoch: int) -> Image.Image:
        if self.reader is None:
            raise ValueError(f"item {id!r} has an image, but no reader was given to read it.")
        image = self.reader.read(source, id=id)
        if image is None:
            raise ValueError(f"the image of item {id!r} cannot be read; scan the images before training.")
        if self.augmentation is None:
            return image
        return self.augmentation(image, seed=self.seed, epoch=epoch, id=f"{column}/{id}")

    def _with_stored_activations(
        self,
        column: str,
        inputs: list[dict[str, Any]],
        ids: list[str],
        shown: list[bool],
        prompt: str | None,
        epoch: int,
    ) -> dict[str, Any]:
        """Where an image is shown, its stored activations stand in for its pixels."""
        stored = self.image_features
        assert stored is not None
        with_image = [i for i, show in enumerate(shown) if show]
        if with_image:
            picked = [ids[i] for i in with_image]
            views = [0] * len(picked)
            if self.augmentation is not None:
                views = [
                    pick(stored.num_views, seed=self.seed, epoch=epoch, id=f"{column}/{id}", salt="view")
                    for id in picked
                ]
            for i, activations in zip(with_image, stored.load(picked, views)):
                inputs[i]["image"] = activations
        return with_activations(inputs, partial(self.preprocess, prompt=prompt))


def with_activations(rows: list[dict[str, Any]], preprocess: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A batch whose images are stored activations: texts are tokenised as ever, activations take the place of pixels.

    Args:
        rows: Dicts with "text", "image" (a float tensor) or both.
        preprocess: `model.preprocess`, for the rows that have a text.

    Returns:
        What `model.preprocess` gives, with float `pixel_values`.

    Example:
        >>> rows = [{"image": torch.zeros(4)}, {"text": "red"}]
        >>> tokenise = lambda rows: {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 2)}
        >>> features = with_activations(rows, tokenise)
        >>> features["attention_mask"].tolist(), features["num_images_per_sample"].tolist()
        ([[0.0, 0.0], [1.0, 1.0]], [1, 0])
    """
    texts = [i for i, row in enumerate(rows) if "text" in row]
    features: dict[str, Any] = {"modality": "message"}
    if texts:
        for name, value in preprocess([{"text": rows[i]["text"]} for i in texts]).items():
            if isinstance(value, torch.Tensor) and len(value) == len(texts):
                features[name] = value.new_zeros((len(rows), *value.shape[1:]))
                features[name][texts] = value
    else:
        features["input_ids"] = torch.zeros(len(rows), 1, dtype=torch.int64)
        features["attention_mask"] = torch.zeros(len(rows), 1, dtype=torch.int64)
    shown = [row["image"] for row in rows if "image" in row]
    if shown:
        features["pixel_values"] = torch.stack(shown)
        features["num_images_per_sample"] = torch.tensor([int("image" in row) for row in rows])
    return features


def _input_columns(items: Dataset) -> Dataset:
    names = [name for name in ("id", "text", "text_parts", "image") if name in items.column_names]
    return items.select_columns(names)
