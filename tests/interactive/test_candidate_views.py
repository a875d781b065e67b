"""What is seen of candidates: pictures by the policy, captions, and in which order."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageColumn
from PIL import Image

from mmembed.data.schema import DataError
from mmembed.images import ImageError, ImagePolicy
from mmembed.interactive.candidate_views import CandidateViews, without_blocks
from mmembed.interactive.questions import DialogueState


def encoded(colour: str, size: tuple[int, int] = (30, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def items(**columns: Any) -> Dataset:
    features = {"id": Value("string"), "text": Value("string"), "image": ImageColumn(decode=False)}
    return Dataset.from_dict(columns, features=Features({name: features[name] for name in columns}))


ITEMS = items(
    id=["a", "b", "c", "d"],
    text=["red", "blue", None, None],
    image=[{"bytes": encoded("red"), "path": None}, None, {"bytes": encoded("green"), "path": None}, None],
)


def test_pictures_come_first_and_captions_keep_their_ids() -> None:
    views = CandidateViews(ITEMS, caption_column="text", max_pixels=150)
    state = DialogueState("x", (), ("d", "b", "c", "a"), np.full(4, 0.25), seed=3)
    seen, pictures, captions = views.shown(state, 4)
    assert seen.shown == ("c", "a", "b") and captions == {"b": "blue", "a": "red"}
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(0, 128, 0), (255, 0, 0)]
    assert {picture.size for picture in pictures} == {(15, 10)} and seen.seed == 3 and seen.ids == state.ids
    assert views.shown(state, 2)[0].shown == ("b",)
    given = DialogueState("x", (), ("d", "b", "c", "a"), np.full(4, 0.25), shown=("a", "d"))
    assert CandidateViews(ITEMS).shown(given, 5)[0].shown == ("a",)
    assert CandidateViews(ITEMS).shown(given, 0)[0].shown == ()


def test_a_decoded_column_is_read_as_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("red"))
    decoded = ITEMS.cast_column("image", ImageColumn(decode=True))
    assert CandidateViews(decoded).image("a").size == (30, 20)  # type: ignore[union-attr]
    named = items(id=["a", "b"], image=[{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "../b.png"}])
    views = CandidateViews(named, policy=ImagePolicy(root=tmp_path))
    assert views.image("a").size == (30, 20)  # type: ignore[union-attr]
    with pytest.raises(ImageError, match="candidate 'b': .*outside the root"):
        views.image("b")


@pytest.mark.security
@pytest.mark.parametrize("path", ["/etc/passwd", "https://127.0.0.1:9/a.png", "a.png"])
def test_without_a_root_no_path_is_read(path: str) -> None:
    views = CandidateViews(items(id=["a"], image=[{"bytes": None, "path": path}]))
    with pytest.raises(ImageError, match="candidate 'a'"):
        views.shown(DialogueState("x", (), ("a",), np.ones(1)), 1)


def test_what_is_no_candidate() -> None:
    views = CandidateViews(ITEMS)
    with pytest.raises(DataError, match="'z' is none of the 4 candidates"):
        views.image("z")
    assert views.caption("a") is None
    broken = CandidateViews(items(id=["a"], image=[{"bytes": b"<html>", "path": None}]))
    with pytest.raises(ImageError, match="candidate 'a': not an image"):
        broken.image("a")
    with pytest.raises(DataError, match="an id stands twice"):
        CandidateViews(items(id=["a", "a"], text=["x", "y"]), caption_column="text")
    with pytest.raises(DataError, match="nothing of a candidate would be seen"):
        CandidateViews(items(id=["a"], text=["x"]))
    with pytest.raises(DataError, match="no such column"):
        CandidateViews(ITEMS, caption_column="title")
    with pytest.raises(DataError, match="is called int; captions are texts"):
        CandidateViews(Dataset.from_dict({"id": ["a"], "title": [5]}), caption_column="title").caption("a")
    with pytest.raises(ValueError, match="max_pixels=0"):
        CandidateViews(ITEMS, max_pixels=0)


def test_blocks_without_pictures_are_left_out() -> None:
    content = [{"type": "image"}, {"type": "image"}, {"type": "image"}, {"type": "text", "text": "x"}]
    for count in range(4):
        assert [part["type"] for part in without_blocks(content, count)] == ["image"] * count + ["text"]
