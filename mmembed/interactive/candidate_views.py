"""What is seen of a candidate: its picture, and what it is called."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from datasets import Dataset
from datasets import Image as ImageColumn
from PIL import Image

from mmembed.data.schema import DataError
from mmembed.images import ImageError, ImagePolicy, load_image
from mmembed.interactive.questions import DialogueState

_POLICY = ImagePolicy()


class CandidateViews:
    """Pictures and captions of candidates, read when they are asked for.

    Args:
        items: ITEMS with the candidates; their `image` is what is seen of them.
        policy: what may be read as an image; with paths, its `root`.
        caption_column: the column of what a candidate is called, such as "text"; None: nothing is said of them.
        max_pixels: a larger picture is made smaller, in its own proportions.

    Raises:
        DataError: no column `id`, an id that stands twice, a caption column that is not there, or neither pictures nor
            captions.

    Example:
        >>> items = Dataset.from_dict({"id": ["a", "b"], "text": ["a mug", None]})
        >>> views = CandidateViews(items, caption_column="text")
        >>> views.image("a"), views.caption("a"), views.caption("b")
        (None, 'a mug', None)
    """

    def __init__(
        self,
        items: Dataset,
        *,
        policy: ImagePolicy = _POLICY,
        caption_column: str | None = None,
        max_pixels: int = 512 * 512,
    ) -> None:
        names = items.column_names
        wanted = ["id", *([caption_column] if caption_column is not None else [])]
        for name in wanted:
            if name not in names:
                raise DataError(f"no such column; there are {names}", file="items", field=name)
        if "image" not in names and caption_column is None:
            raise DataError("neither images nor a caption column; nothing of a candidate would be seen", file="items")
        if max_pixels < 1:
            raise ValueError(f"max_pixels={max_pixels}; a picture has at least one")
        self._items = items.with_format(None).select_columns(
            list(dict.fromkeys([*wanted, *(["image"] if "image" in names else [])]))
        )
        if "image" in names and isinstance(items.features["image"], ImageColumn):
            self._items = self._items.cast_column("image", ImageColumn(decode=False))
        ids = [str(id) for id in self._items["id"]]
        self._rows = {id: row for row, id in enumerate(ids)}
        if len(self._rows) < len(ids):
            raise DataError("an id stands twice; each candidate is named once", file="items", field="id")
        self._policy, self._caption_column, self._max_pixels = policy, caption_column, max_pixels
        self._has_images = "image" in names

    def image(self, id: str) -> Image.Image | None:
        """A candidate's picture, RGB; None where it has none.

        Raises:
            DataError: an id that is none of the candidates.
            ImageError: the picture may not or cannot be read; names the candidate.
        """
        found = self._row(id).get("image") if self._has_images else None
        if found is None or (isinstance(found, dict) and found.get("bytes") is None and found.get("path") is None):
            return None
        try:
            picture = load_image(found, policy=self._policy)
        except ImageError as error:
            raise ImageError(f"candidate {id!r}: {error}") from None
        width, height = picture.size
        if width * height > self._max_pixels:
            share = (self._max_pixels / (width * height)) ** 0.5
            picture = picture.resize((max(int(width * share), 1), max(int(height * share), 1)))
        return picture

    def caption(self, id: str) -> str | None:
        """What a candidate is called; None where nothing is said.

        Raises:
            DataError: an id that is none of the candidates, or a caption that is no text.
        """
        found = None if self._caption_column is None else self._row(id)[self._caption_column]
        if found is not None and not isinstance(found, str):
            message = f"candidate {id!r} is called {type(found).__name__}; captions are texts"
            raise DataError(message, file="items", field=self._caption_column)
        return found or None

    def shown(self, state: DialogueState, most: int) -> tuple[DialogueState, list[Image.Image], dict[str, str]]:
        """What a model sees with its next question.

        Args:
            state: the dialogue; where it shows no candidates, the best ones are.
            most: how many candidates at most.

        Returns:
            The state whose `shown` are the candidates that are seen or called something, those with pictures first; the
            pictures, of the first of them; and by id what they are called.
        """
        ids = list(state.shown or state.ids)[:most]
        pictures = {id: picture for id in ids if (picture := self.image(id)) is not None}
        called = {id: caption for id in ids if (caption := self.caption(id)) is not None}
        ordered = [*pictures, *(id for id in called if id not in pictures)]
        return dataclasses.replace(state, shown=tuple(ordered)), list(pictures.values()), called

    def _row(self, id: str) -> dict:
        row = self._rows.get(id)
        if row is None:
            raise DataError(f"{id!r} is none of the {len(self._rows)} candidates", file="items", field="id")
        return self._items[row]


def without_blocks(content: Sequence[dict], images: int) -> list[dict]:
    """A message's content with as many image blocks as there are images, for candidates that only have a caption."""
    blocks = [part for part in content if part["type"] == "image"]
    return [*blocks[:images], *(part for part in content if part["type"] != "image")]
