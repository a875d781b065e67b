"""What does a person see of an item? A small picture, its text and its attributes, all of it escaped."""

from __future__ import annotations

import base64
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from mmembed.evaluation.page_images import thumbnail_bytes
from mmembed.evaluation.page_text import escaped
from mmembed.images import ImageError, ImageReader, load_image

logger = logging.getLogger(__name__)

_PICTURES = 4096  # thumbnails that are kept: some 30 MB
_TITLE, _VALUE, _IN_LINE = 160, 80, 24  # characters
_FIRST = 4  # attributes in a line
_LOOKED_AT, _FEW, _LONGEST, _OWN = 400, 20, 60, 0.8  # rows, rows, characters, share of different texts
#: Columns of ITEMS that say nothing of an item beside its text and picture.
PLACES = ("id", "text", "text_parts", "image", "group", "split", "family", "product_id")


@dataclass(frozen=True)
class Shown:
    """One item as it is shown, escaped by nobody yet.

    Args:
        id: its id.
        text: its text, or its id where it has none.
        picture: a data URI of a small JPEG; None where there is nothing to show.
        attributes: names and values that are known.
    """

    id: str
    text: str
    picture: str | None
    attributes: tuple[tuple[str, str], ...]


class ItemCards:
    """Looks items up and draws them.

    Args:
        items: ITEMS; None shows ids alone.
        reader: reads their images; None reads images that are bytes, and no file.
        columns: attributes that are shown; None for all that are short, and no text that each item has of its own.
        side: of a picture, in pixels.

    Example:
        >>> items = Dataset.from_dict({"id": ["a"], "text": ["a <b>mug</b>"], "image": [None], "colour": ["red"]})
        >>> cards = ItemCards(items)
        >>> cards.shown(["a"])[0].attributes
        (('colour', 'red'),)
        >>> "&lt;b&gt;mug" in cards.about(cards.shown(["a"])[0])
        True
    """

    def __init__(
        self,
        items: Dataset | None,
        reader: ImageReader | None = None,
        *,
        columns: Sequence[str] | None = None,
        side: int = 260,
    ) -> None:
        self.items, self.reader, self.side = items, reader or ImageReader(), side
        ids = [] if items is None else items.with_format(None)["id"][:]
        self.rows = {id: row for row, id in enumerate(ids)}
        names = [] if items is None else items.column_names
        wanted = [name for name in names if name not in PLACES] if columns is None else list(columns)
        self.columns = [name for name in wanted if name in names and (columns is not None or _is_short(items, name))]
        self._pictures: OrderedDict[str, str | None] = OrderedDict()
        self._told = False

    def shown(self, ids: Sequence[str]) -> list[Shown]:
        """Some items, in this order; what is no item has its id alone.

        Args:
            ids: ids.
        """
        known = [id for id in ids if id in self.rows]
        found: dict[str, dict[str, Any]] = {}
        if self.items is not None and known:
            names = [name for name in ("text", "image", *self.columns) if name in self.items.column_names]
            table = self.items.select([self.rows[id] for id in known]).select_columns(names).with_format(None)
            found = dict(zip(known, table))
        return [self._shown(id, found.get(id, {})) for id in ids]

    def about(self, item: Shown) -> str:
        """The title of an item, its first attributes in a line, and a fold with all of them: HTML."""
        title = f'<div class="title" dir="auto" title="{escaped(item.text)}">{escaped(item.text, _TITLE)}</div>'
        if not item.attributes:
            return title
        line = " · ".join(f"<bdi>{escaped(value, _IN_LINE)}</bdi>" for _, value in item.attributes[:_FIRST])
        return f"{title}<details><summary>{line}</summary>{facts(item)}</details>"

    def _shown(self, id: str, row: dict[str, Any]) -> Shown:
        attributes = [(name, value) for name in self.columns if (value := value_text(row.get(name)))]
        return Shown(id, row.get("text") or id, self._picture(id, row.get("image")), tuple(attributes))

    def _picture(self, id: str, image: Any) -> str | None:
        if id not in self._pictures:
            self._pictures[id] = self._drawn(id, image)
            if len(self._pictures) > _PICTURES:
                self._pictures.popitem(last=False)
        self._pictures.move_to_end(id)
        return self._pictures[id]

    def _drawn(self, id: str, image: Any) -> str | None:
        if image is None:
            return None
        try:
            picture = load_image(image, policy=self.reader.policy, at_least=self.side)
        except ImageError as error:
            log = logger.info if self._told else logger.warning
            log("the image of %r is not shown, and perhaps others: %s", id, error)
            self._told = True
            return None
        return data_uri(thumbnail_bytes(picture, self.side))


def frame(item: Shown) -> str:
    """The picture of an item, or a gap: HTML."""
    inside = f'<img alt="" src="{item.picture}">' if item.picture else '<span class="gap">no picture</span>'
    return f'<div class="frame">{inside}</div>'


def facts(item: Shown) -> str:
    """The attributes of an item as a list: HTML."""
    rows = (
        f"<dt>{escaped(name.replace('_', ' '), 40)}</dt><dd dir='auto'>{escaped(value, _VALUE)}</dd>"
        for name, value in item.attributes
    )
    return f"<dl>{''.join(rows)}</dl>"


def data_uri(jpeg: bytes) -> str:
    """A JPEG that stands in the page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def value_text(value: Any) -> str:
    """A value of an attribute in words; an empty text where nothing is known.

    Example:
        >>> value_text(["short sleeve", "v-neck"]), value_text(9.9), value_text(True), value_text(None)
        ('short sleeve, v-neck', '9.9', 'yes', '')
    """
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {text}" for name, one in value.items() if (text := value_text(one)))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return ", ".join(text for one in value if (text := value_text(one)))
    return "" if isinstance(value, bytes) else str(value)


def _is_short(items: Dataset | None, name: str) -> bool:
    """Whether a column's values are attributes, by the first rows: short, and not a text of each row's own."""
    assert items is not None
    some = items.select(range(min(_LOOKED_AT, len(items)))).select_columns([name]).with_format(None)[name][:]
    texts = [text for value in some if (text := value_text(value))]
    own = all(isinstance(value, str) for value in some if value is not None) and len(texts) > _FEW
    return bool(texts) and max(map(len, texts)) <= _LONGEST and not (own and len(set(texts)) > _OWN * len(texts))
