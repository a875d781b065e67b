"""What the frozen part of a vision tower makes of each image: computed once, kept on disk, read by row."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from mmembed.data.keys import items_keys
from mmembed.images import ImageReader

_ACTIVATIONS, _MANIFEST, _PROGRESS = "activations.npy", "manifest.json", "progress.json"


class StoredImageFeatures:
    """Activations by image id, memory-mapped: reading a batch touches that batch alone.

    Args:
        folder: A folder that `store_image_features` wrote.

    Raises:
        ValueError: If the folder is not whole.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            manifest = json.loads((self.folder / _MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{self.folder} holds no stored image features: {_MANIFEST} is missing.") from None
        self.num_views: int = manifest["num_views"]
        self._row = {id: row for row, id in enumerate(manifest["ids"])}
        self._activations = np.load(self.folder / _ACTIVATIONS, mmap_mode="r")  # (images, views, ...)

    def __contains__(self, id: str) -> bool:
        return id in self._row

    def load(self, ids: Sequence[str], views: Sequence[int]) -> torch.Tensor:
        """The activations of images, each in one of its views.

        Args:
            ids: Item ids.
            views: 0 for the image as it is, 1 for its mirror image.

        Returns:
            float16 tensor of shape (len(ids), ...).

        Raises:
            KeyError: If an id is not stored.
        """
        missing = [id for id in ids if id not in self._row]
        if missing:
            raise KeyError(f"{len(missing)} ids have no stored image features in {self.folder}, first {missing[0]!r}.")
        rows = [self._row[id] for id in ids]
        return torch.from_numpy(np.stack([self._activations[row, view] for row, view in zip(rows, views)]))


def store_image_features(
    model: SentenceTransformer,
    items: Dataset,
    folder: str | os.PathLike[str],
    *,
    reader: ImageReader,
    num_views: int = 1,
    batch_size: int = 32,
    show_progress_bar: bool = True,
) -> StoredImageFeatures:
    """Run the frozen part of a dual encoder's vision tower over all images, once, and keep what comes out.

    The folder's name ends in a fingerprint of the weights, the settings, the ids and the images' bytes: other images or
    weights make another folder, the same ones are read back. An interrupted run goes on where it stopped.

    Args:
        model: A dual encoder with frozen image layers (`frozen_image_layers` of its configuration).
        items: ITEMS; rows without an image are left out.
        folder: Where the folder is made.
        reader: Reads an item's image.
        num_views: 1 stores each image, 2 also its mirror image.
        batch_size: Images a forward pass.
        show_progress_bar: Show one.

    Returns:
        The stored features.

    Raises:
        ValueError: If the model has no frozen image layers, or num_views is neither 1 nor 2.
    """
    encoder = model.transformers_model
    if not getattr(getattr(encoder, "config", None), "frozen_image_layers", 0):
        raise ValueError(
            "storing image features needs a dual encoder with frozen_image_layers set in its configuration."
        )
    if num_views not in (1, 2):
        raise ValueError(f"num_views={num_views}; 1 is the image, 2 adds its mirror image.")
    keys = items_keys(items, show_progress_bar=show_progress_bar)[:, 2]
    rows = np.flatnonzero(keys).tolist()
    ids = [items[row]["id"] for row in rows]
    place = Path(folder) / _fingerprint(encoder, ids, keys[rows], num_views)
    if (place / _MANIFEST).is_file():
        return StoredImageFeatures(place)
    place.mkdir(parents=True, exist_ok=True)
    images = items.select_columns(["id", "image"])
    was_training = encoder.training
    encoder.eval()
    try:
        done = _progress(place)
        bar = tqdm(total=len(rows), initial=done, desc="image features", unit="image", disable=not show_progress_bar)
        stored: np.ndarray | None = np.load(place / _ACTIVATIONS, mmap_mode="r+") if done else None
        while done < len(rows):
            batch = images[rows[done : done + batch_size]]
            activations = _activations(model, batch, reader, num_views)
            if stored is None:
                shape = (len(rows), num_views, *activations.shape[2:])
                stored = np.lib.format.open_memmap(place / _ACTIVATIONS, mode="w+", dtype=np.float16, shape=shape)
            stored[done : done + len(activations)] = activations
            done += len(activations)
            bar.update(len(activations))
            if done % (batch_size * 16) < batch_size or done == len(rows):
                stored.flush()
                _write(place / _PROGRESS, {"done": done})
        bar.close()
    finally:
        encoder.train(was_training)
    _write(place / _MANIFEST, {"num_views": num_views, "ids": ids})
    return StoredImageFeatures(place)


@torch.inference_mode()
def _activations(model: SentenceTransformer, batch: dict[str, list], reader: ImageReader, num_views: int) -> np.ndarray:
    """float16 (batch, views, ...)."""
    pictures = [reader.read(source, id=id) for id, source in zip(batch["id"], batch["image"])]
    views = [pictures, [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in pictures]][:num_views]
    outputs = []
    for view in views:
        pixels = model.preprocess([{"image": picture} for picture in view])["pixel_values"]
        outputs.append(model.transformers_model.encode_frozen_layers(pixels.to(model.device)).cpu())
    return torch.stack(outputs, dim=1).to(torch.float16).numpy()


def _fingerprint(encoder: Any, ids: list[str], keys: np.ndarray, num_views: int) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([encoder.config.to_dict(), ids, num_views], sort_keys=True, default=str).encode())
    digest.update(keys.tobytes())
    for name, parameter in sorted(encoder.named_parameters()):
        if "vision" in name and not parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    return f"image-features-{digest.hexdigest()[:16]}"


def _progress(place: Path) -> int:
    try:
        return int(json.loads((place / _PROGRESS).read_text(encoding="utf-8"))["done"])
    except (FileNotFoundError, ValueError, KeyError):
        return 0


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)
