"""What a frozen text tower makes of each text: computed once, kept on disk, looked up by the text itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

_BATCH = 128


class StoredTextFeatures:
    """Pooled text features by text.

    Args:
        texts: The texts.
        features: float16 (texts, width), in their order.

    Example:
        >>> stored = StoredTextFeatures(["red", "blue"], np.eye(2, dtype=np.float16))
        >>> stored.load(["blue", None]).shape
        torch.Size([2, 1, 2])
    """

    def __init__(self, texts: Sequence[str], features: np.ndarray) -> None:
        self._row = {text: row for row, text in enumerate(texts)}
        self._features = features

    def load(self, texts: Sequence[str | None]) -> torch.Tensor:
        """The features of texts; zeros where there is none.

        Args:
            texts: A text or None a row, as the model is given them.

        Returns:
            float16 (rows, 1, width).

        Raises:
            KeyError: If a text is not stored.
        """
        loaded = np.zeros((len(texts), 1, self._features.shape[1]), dtype=np.float16)
        for row, text in enumerate(texts):
            if text is not None:
                if text not in self._row:
                    raise KeyError(f"no features are stored of the text {text[:60]!r}.")
                loaded[row, 0] = self._features[self._row[text]]
        return torch.from_numpy(loaded)


@torch.inference_mode()
def store_text_features(
    model: SentenceTransformer,
    texts: Iterable[str],
    folder: str | os.PathLike[str],
    *,
    show_progress_bar: bool = True,
) -> StoredTextFeatures:
    """Run a dual encoder's frozen text tower over all texts, once, and keep what comes out.

    Args:
        model: A dual encoder with `frozen_text_tower` set in its configuration.
        texts: The texts; each distinct one is encoded once.
        folder: Where a file is kept, named by a fingerprint of the texts and the tower's weights.
        show_progress_bar: Show one.

    Returns:
        The stored features.

    Raises:
        ValueError: If the text tower is not frozen, or there is no text.
    """
    encoder: Any = model.transformers_model
    distinct = sorted(set(texts))
    if not distinct:
        raise ValueError("there is no text to store the features of.")
    path = Path(folder) / f"text-features-{_fingerprint(encoder, distinct)}.npy"
    if path.is_file():
        return StoredTextFeatures(distinct, np.load(path, mmap_mode="r"))
    order = sorted(range(len(distinct)), key=lambda row: len(distinct[row]))
    features = np.zeros((0, 0), dtype=np.float16)
    was_training = encoder.training
    encoder.eval()
    bar = tqdm(total=len(distinct), desc="text features", unit="text", disable=not show_progress_bar)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        tokens = model.preprocess([{"text": distinct[row]} for row in rows])
        inputs = [tokens[name].to(model.device) for name in ("input_ids", "attention_mask")]
        pooled = encoder.encode_frozen_text(*inputs).to(torch.float16).cpu().numpy()
        if not len(features):
            features = np.zeros((len(distinct), pooled.shape[1]), dtype=np.float16)
        features[rows] = pooled
        bar.update(len(rows))
    bar.close()
    encoder.train(was_training)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.save(file, features)
    os.replace(temporary, path)
    return StoredTextFeatures(distinct, features)


def _fingerprint(encoder: Any, texts: list[str]) -> str:
    config = encoder.config
    settings = [config.text_pooling, config.text_levels, config.max_text_length, texts]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, parameter in sorted(encoder.text_model.named_parameters()):
        digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
