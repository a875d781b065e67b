"""Where an evaluation's vectors come from: a model that encodes once, or embeddings that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from mmembed.data.keys import content_id
from mmembed.embeddings import MANIFEST, Embeddings
from mmembed.images import ImageReader
from mmembed.jobs.option_errors import as_option_errors
from mmembed.jobs.options import OptionsError

USES = ("text", "image", "fused")


class EvaluationVectors:
    """Vectors of tables under one model, each table and use encoded once and kept in a folder.

    Args:
        name: A model, or a folder of embeddings, or a folder of such folders called text, image and fused.
        cache: Where vectors are kept; the next run with the same model and rows takes them from there.
        reader: Reads images.
        batch_size: Rows a forward pass.
        show_progress_bar: Show one while encoding.
    """

    def __init__(
        self, name: str, cache: Path, reader: ImageReader, *, batch_size: int = 64, show_progress_bar: bool = True
    ) -> None:
        self.name = name
        self.cache = cache
        self.reader = reader
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.stored = _stored(Path(name))
        self._model: Any = None
        self._encoded: dict[tuple[int, str], tuple[Dataset, Embeddings]] = {}

    @property
    def model(self) -> Any:
        """The model, loaded when it is first needed.

        Raises:
            OptionsError: There are only embeddings.
        """
        if self.stored:
            raise OptionsError(
                f"--model: {self.name} holds embeddings; what is to be encoded anew needs the model itself"
            )
        if self._model is None:
            from mmembed.jobs.model_choice import load_encoder

            self._model = load_encoder(self.name)
        return self._model

    def uses(self, items: Dataset) -> list[str]:
        """What all of the rows can be looked at as: text, image or fused."""
        if self.stored:
            return [use for use in USES if use in self.stored]
        return uses_of(items, self.model)

    def of(self, items: Dataset, use: str) -> Embeddings:
        """The vectors of a table, or of more rows than it has where they were there already.

        Args:
            items: ITEMS.
            use: "text", "image" or "fused".

        Returns:
            Embeddings whose ids hold those of the items.

        Raises:
            OptionsError: The folder has no embeddings of this use, or a row has nothing to encode.
            DataError: An item has no vector in the folder.
        """
        if self.stored:
            found = self.stored.get(use)
            if found is None:
                raise OptionsError(
                    f"--model: {self.name} holds embeddings of {', '.join(self.stored)}, and {use} is needed; encode it too"
                )
            found.rows(items["id"][:])
            return found
        key = (id(items), use)
        if key not in self._encoded:
            from mmembed.dataset_encoding import encode_dataset, items_fingerprint, model_fingerprint

            given: Any = use
            with as_option_errors():
                prints = model_fingerprint(self.model), items_fingerprint(items, given)
                found = encode_dataset(
                    self.model,
                    items,
                    self.cache / f"{use}-{content_id(*prints)[:16]}",
                    use=given,
                    batch_size=self.batch_size,
                    reader=self.reader,
                    model_name=self.name,
                    show_progress_bar=self.show_progress_bar,
                )
            self._encoded[key] = items, found  # with the table, so that its id() is given to no other
        return self._encoded[key][1]

    def array(self, items: Dataset, use: str) -> NDArray[np.float32]:
        """(n, dim) vectors in the order of the items."""
        found = self.of(items, use)
        return np.asarray(found.vectors[found.rows(items["id"][:])], dtype=np.float32)

    def by_use(self, items: Dataset, uses: Sequence[str] | None = None) -> dict[str, Embeddings]:
        """Embeddings by use, for evaluations that look at several; None is all that the rows allow."""
        return {use: self.of(items, use) for use in (self.uses(items) if uses is None else uses)}


def _stored(folder: Path) -> dict[str, Embeddings]:
    """Embeddings by use, of one folder or of several in it; nothing where there is a model."""
    if (folder / MANIFEST).is_file():
        found = Embeddings.load(folder)
        use = str(found.manifest.get("use", folder.name))
        if use not in USES:
            raise OptionsError(
                f"{folder}: its manifest does not say what was encoded; call the folder text, image or fused"
            )
        return {use: found}
    return {use: Embeddings.load(folder / use) for use in USES if (folder / use / MANIFEST).is_file()}


def uses_of(items: Dataset, model: Any) -> list[str]:
    """What a model can look at all of the rows as.

    Args:
        items: ITEMS.
        model: Any `SentenceTransformer`.

    Returns:
        Those of text and image that the model reads and every row has, and fused where it is both.
    """
    modalities = getattr(model, "modalities", ("text",))
    whole = [use for use in ("text", "image") if use in modalities and _is_whole(items, use)]
    return whole + (["fused"] if len(whole) == 2 else [])


def _is_whole(items: Dataset, name: str) -> bool:
    # in Arrow, so that no image is read for the question whether there is one
    if name not in items.column_names:
        return False
    tables = items.select_columns([name]).with_format("arrow").iter(1000)
    return not any(table.column(name).null_count for table in tables)
