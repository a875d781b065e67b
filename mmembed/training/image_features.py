"""What the frozen part of a vision tower makes of each image: computed once, kept on disk, read by row."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm.auto import tqdm

from mmembed.data.keys import items_keys
from mmembed.images import ImageReader

_ACTIVATIONS, _MANIFEST, _PROGRESS = "activations.npy", "manifest.json", "progress.json"
_NOTE_EVERY = 512  # images after which an interrupted run can go on
# What of a configuration shapes the frozen part's output.
_SETTINGS = (
    "vision_config",
    "joint_config",
    "image_size",
    "image_mean",
    "image_std",
    "image_pooling",
    "image_levels",
    "frozen_image_layers",
)
_NO_SETTINGS = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")


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
    batch_size: int | None = None,
    show_progress_bar: bool = True,
) -> StoredImageFeatures:
    """Run the frozen part of a dual encoder's vision tower over all images, once, and keep what comes out.

    The folder's name ends in a fingerprint of the frozen weights, the settings that shape their output, the ids and the
    images' bytes: other images or weights make another folder, the same ones are read back. An interrupted run goes on
    where it stopped.

    Args:
        model: A dual encoder with frozen image layers (`frozen_image_layers` of its configuration).
        items: ITEMS; rows without an image are left out.
        folder: Where the folder is made.
        reader: Reads an item's image.
        num_views: 1 stores each image, 2 also its mirror image.
        batch_size: Images a forward pass; None is 8 on a CPU, whose caches hold the activations of no more, else 64.
        show_progress_bar: Show one.

    Returns:
        The stored features.

    Raises:
        ValueError: If the model has no frozen image layers, num_views is neither 1 nor 2, or an activation does not fit
            into float16.
    """
    encoder = model.transformers_model
    if not getattr(getattr(encoder, "config", None), "frozen_image_layers", 0):
        raise ValueError(
            "storing image features needs a dual encoder with frozen_image_layers set in its configuration."
        )
    if num_views not in (1, 2):
        raise ValueError(f"num_views={num_views}; 1 is the image, 2 adds its mirror image.")
    if batch_size is None:
        batch_size = 8 if model.device.type == "cpu" else 64
    keys = items_keys(items, show_progress_bar=show_progress_bar)[:, 2]
    rows = np.flatnonzero(keys).tolist()
    if not rows:
        raise ValueError("storing image features: no item has an image.")
    ids = [items[row]["id"] for row in rows]
    place = Path(folder) / _fingerprint(model, reader, ids, keys[rows], num_views)
    if (place / _MANIFEST).is_file():
        return StoredImageFeatures(place)
    place.mkdir(parents=True, exist_ok=True)
    done = _progress(place)
    stored: np.ndarray | None = np.load(place / _ACTIVATIONS, mmap_mode="r+") if done else None
    fused = _fused(encoder)
    bar = tqdm(total=len(rows), initial=done, desc="image features", unit="image", disable=not show_progress_bar)
    noted = done
    for batch, pixels in _batches(
        model, items.select_columns(["id", "image"]), rows[done:], batch_size, reader, num_views
    ):
        activations = _activations(fused, pixels.to(model.device), num_views)
        if not np.isfinite(activations).all():
            bad = batch["id"][int(np.argmin(np.isfinite(activations).reshape(len(activations), -1).all(axis=1)))]
            raise ValueError(f"storing image features: an activation of image {bad!r} does not fit into float16.")
        if stored is None:
            shape = (len(rows), num_views, *activations.shape[2:])
            stored = np.lib.format.open_memmap(place / _ACTIVATIONS, mode="w+", dtype=np.float16, shape=shape)
        stored[done : done + len(activations)] = activations
        done += len(activations)
        bar.update(len(activations))
        if done - noted >= _NOTE_EVERY or done == len(rows):
            stored.flush()
            _write(place / _PROGRESS, {"done": done})
            noted = done
    bar.close()
    _write(place / _MANIFEST, {"num_views": num_views, "ids": ids})
    return StoredImageFeatures(place)


def _batches(
    model: SentenceTransformer, images: Dataset, rows: list[int], size: int, reader: ImageReader, num_views: int
) -> Iterator[tuple[dict[str, list], torch.Tensor]]:
    """Each batch and its pixels, uint8 (views * batch, 3, H, W); the next one is read while this one is encoded."""

    def read(start: int) -> tuple[dict[str, list], torch.Tensor]:
        batch = images[rows[start : start + size]]
        pictures = [reader.read(source, id=id) for id, source in zip(batch["id"], batch["image"])]
        lost = [id for id, picture in zip(batch["id"], pictures) if picture is None]
        if lost:
            raise ValueError(f"the image of item {lost[0]!r} cannot be read; scan the images before storing features.")
        if num_views == 2:
            pictures += [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
        return batch, model.preprocess([{"image": picture} for picture in pictures])["pixel_values"]

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, 0) if rows else None
        for start in range(size, len(rows) + size, size):
            ready = coming.result()
            if start < len(rows):
                coming = pool.submit(read, start)
            yield ready


@torch.inference_mode()
def _activations(encoder: Any, pixels: torch.Tensor, num_views: int) -> np.ndarray:
    """uint8 (views * batch, 3, H, W) → float16 (batch, views, ...)."""
    views = [encoder.encode_frozen_layers(view) for view in pixels.chunk(num_views)]
    return torch.stack(views, dim=1).to(torch.float16).cpu().numpy()


def _fused(encoder: Any) -> Any:
    """A copy in evaluation mode whose convolutions have their batch norms folded in: equal but for rounding, and faster."""
    text = getattr(encoder, "text_model", None)
    fused = copy.deepcopy(encoder, {id(text): nn.Identity()} if text is not None else {}).eval()  # no text is encoded
    for module in fused.modules():
        convolution, norm = getattr(module, "convolution", None), getattr(module, "normalization", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            module.convolution = fuse_conv_bn_eval(convolution, norm)
            module.normalization = nn.Identity()
            if isinstance(getattr(module, "activation", None), (nn.ReLU, nn.ReLU6)):
                module.activation.inplace = True
    return fused


def _fingerprint(
    model: SentenceTransformer, reader: ImageReader, ids: list[str], keys: np.ndarray, num_views: int
) -> str:
    encoder, processor = model.transformers_model, model.processor
    config = encoder.config.to_dict()
    settings = {name: config[name] for name in _SETTINGS if name in config}
    for tower in ("vision_config", "joint_config"):
        if settings.get(tower):
            settings[tower] = {k: v for k, v in settings[tower].items() if k not in _NO_SETTINGS}
    shown = {name: getattr(processor, name, None) for name in ("image_size", "resize", "shortest_edge", "resample")}
    digest = hashlib.sha256()
    described = [settings, shown, list(reader.policy.background), str(encoder.dtype), ids, num_views]
    digest.update(json.dumps(described, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    digest.update(keys.tobytes())
    for module in encoder._frozen_modules(encoder.config.frozen_image_layers):
        for name, tensor in sorted(module.state_dict().items()):  # statistics of batch norms as well
            if not name.endswith("num_batches_tracked"):
                digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
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
