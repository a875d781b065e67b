"""What a few curves with their intervals look like on one page."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from mmembed.lettering import Lettering

# One look with the contact sheets of `mmembed.pages`; the colours are told apart by most colour-blind eyes.
_INK, _GREY, _RULE, _PAPER = "#1f2328", "#656d76", "#e6e8eb", "#ffffff"
_COLOURS = ("#0b62c4", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#57606a", "#9a6700", "#0a7d91")
_SCALE = 2  # drawn twice as large and shrunk, for smooth lines
_MARGIN, _WIDTH, _HEIGHT, _LEGEND = 36, 640, 340, 250

Point = tuple[float, float, float, float]


def draw_curves(
    path: str | os.PathLike[str],
    curves: Mapping[str, Sequence[Point]],
    *,
    title: str,
    subtitle: str = "",
    x_title: str = "",
    x_labels: Mapping[float, str] | None = None,
) -> Path:
    """Draw curves as one PNG, whole or not at all.

    Args:
        path: The PNG; its folder is made.
        curves: Name → points (x, y, low, high), y within [0, 1]; a curve may have few points.
        title: The first line.
        subtitle: A line below it.
        x_title: What x is.
        x_labels: Where on x a label stands, and which; None labels round numbers.

    Returns:
        The path.

    Raises:
        ValueError: If there is no point.

    Example:
        >>> points = [(0.0, 0.2, 0.1, 0.3), (1.0, 0.5, 0.4, 0.6)]
        >>> draw_curves(getfixture("tmp_path") / "a.png", {"shop": points}, title="success@1").name
        'a.png'
    """
    every = [point for points in curves.values() for point in points]
    if not every:
        raise ValueError("a picture of curves needs at least one point, got none")
    left, right = min(point[0] for point in every), max(point[0] for point in every)
    pad = 0.04 * (right - left) or 0.5
    top = _ceiling(max(point[3] for point in every))
    small, heading = Lettering(12 * _SCALE), Lettering(20 * _SCALE, "bold")
    width, height = 2 * _MARGIN + 40 + _WIDTH + _LEGEND, 2 * _MARGIN + 64 + _HEIGHT + 48
    page = Image.new("RGB", (width * _SCALE, height * _SCALE), _PAPER)
    canvas = ImageDraw.Draw(page)
    x0, y0 = _MARGIN + 40, _MARGIN + 64

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left + pad) / (right - left + 2 * pad)
        return (x0 + across * _WIDTH) * _SCALE, (y0 + (1 - y / top) * _HEIGHT) * _SCALE

    heading.draw(canvas, (_MARGIN * _SCALE, _MARGIN * _SCALE), title, _INK)
    small.draw(canvas, (_MARGIN * _SCALE, (_MARGIN + 32) * _SCALE), subtitle, _GREY)
    for step in range(6):
        value = top * step / 5
        start, end = place(left - pad, value), place(right + pad, value)
        canvas.line([start, end], fill=_RULE, width=_SCALE)
        label = f"{value:.3g}"
        small.draw(canvas, (start[0] - small.width(label) - 8 * _SCALE, start[1] - 8 * _SCALE), label, _GREY)
    if x_labels is None:
        unit = _ceiling((right - left) / 5, most=math.inf) if right > left else 1.0
        places = [unit * step for step in range(math.ceil(left / unit), math.floor(right / unit) + 1)]
        x_labels = {place: f"{place:.3g}" for place in places}
    for x, label in x_labels.items():
        at = place(x, 0)
        small.draw(canvas, (at[0] - small.width(label) / 2, at[1] + 8 * _SCALE), label, _GREY)
    middle = place((left + right) / 2, 0)
    small.draw(canvas, (middle[0] - small.width(x_title) / 2, middle[1] + 28 * _SCALE), x_title, _GREY)

    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        for x, _, low, high in points:
            canvas.line([place(x, max(0.0, low)), place(x, high)], fill=colour, width=_SCALE)
        if len(points) > 1:
            canvas.line([place(x, y) for x, y, _, _ in points], fill=colour, width=2 * _SCALE, joint="curve")
        for x, y, _, _ in points:
            _mark(canvas, place(x, y), number, colour)
        beside = ((x0 + _WIDTH + 24) * _SCALE, (y0 + 10 + 24 * number) * _SCALE)
        _mark(canvas, beside, number, colour)
        for line in small.wrap(name, width=(_LEGEND - 44) * _SCALE, lines=1):
            small.draw(canvas, (beside[0] + 14 * _SCALE, beside[1] - 8 * _SCALE), line, _INK)
    return _save(page.resize((width, height), Image.Resampling.LANCZOS), Path(path))


def _mark(canvas: ImageDraw.ImageDraw, at: tuple[float, float], number: int, colour: str) -> None:
    """A disc, square, triangle or diamond: colour alone tells some nothing."""
    (x, y), r = at, 4.5 * _SCALE
    if number % 4 == 0:
        canvas.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif number % 4 == 1:
        canvas.rectangle([x - r, y - r, x + r, y + r], fill=colour)
    else:
        corners = [(x, y - 1.2 * r), (x + 1.2 * r, y + r), (x - 1.2 * r, y + r)]
        diamond = [(x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y)]
        canvas.polygon(corners if number % 4 == 2 else diamond, fill=colour)


def _ceiling(value: float, most: float = 1.0) -> float:
    """The next round number at or above a value, at most `most`."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return min(most, next(unit * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if unit * step >= value))


def _save(page: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".png")
    try:
        with os.fdopen(handle, "wb") as file:
            page.save(file, format="PNG")
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path
