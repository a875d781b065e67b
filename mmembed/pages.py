"""What a person looks at: contact sheets of rankings, and tables for a page or a terminal."""

from __future__ import annotations

import os
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from mmembed.lettering import Lettering

_INK, _GREY, _RULE, _PAPER, _PANEL = "#1f2328", "#656d76", "#e6e8eb", "#ffffff", "#f6f7f9"
_HIT, _MISS, _UNKNOWN = "#1a7f37", "#cf222e", "#c4c9d0"
_MARGIN, _GAP, _FRAME = 36, 14, 3
_MAX_PIXELS = 200_000_000  # 600 MB of canvas


@dataclass(frozen=True)
class SheetHit:
    """One result of a query on a contact sheet.

    Args:
        image: its picture, or None.
        text: its caption, or None.
        score: as the search gave it; None shows the rank only.
        correct: whether it is relevant; None where nobody knows.
    """

    image: Image.Image | None = None
    text: str | None = None
    score: float | None = None
    correct: bool | None = None


@dataclass(frozen=True)
class SheetRow:
    """One query of a contact sheet and its results.

    Args:
        query_text: the words that were searched for, or None.
        query_image: the picture that was searched for, or None.
        hits: results, best first.
    """

    query_text: str | None = None
    query_image: Image.Image | None = None
    hits: Sequence[SheetHit] = field(default_factory=tuple)


def contact_sheet(
    rows: Sequence[SheetRow],
    path: str | os.PathLike[str],
    *,
    title: str,
    subtitle: str = "",
    columns: int | None = None,
    thumb: int = 112,
    fonts: Sequence[str] = (),
) -> Path:
    """Draw queries and their top results as one PNG, a query a row.

    A green frame with a tick is a relevant result, a red one with a cross an irrelevant one. The file appears whole
    or not at all, and is the same for the same rows and fonts.

    Args:
        rows: the queries, at least one.
        path: the PNG to write; its folder is made.
        title: the first line.
        subtitle: a line below it, such as the metric and its interval.
        columns: results shown for each query; None: all.
        thumb: side of a picture in pixels.
        fonts: font files to try before the installed ones, for scripts that these lack.

    Returns:
        The path.

    Raises:
        ValueError: no rows, or a sheet too large to draw.
        OSError: one of `fonts` cannot be read.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> red = Image.new("RGB", (40, 60), "red")
        >>> row = SheetRow("red dress", hits=[SheetHit(red, "Dress", 0.91, True), SheetHit(red, "Shoe", 0.4, False)])
        >>> contact_sheet([row], f"{folder}/sheet.png", title="Dresses").name
        'sheet.png'
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row, got none")
    columns = max((len(row.hits) for row in rows), default=0) if columns is None else columns
    small, plain = Lettering(12, fonts=tuple(fonts)), Lettering(15, fonts=tuple(fonts))
    heading = Lettering(26, "bold", fonts=tuple(fonts))

    captions = any(hit.text is not None and hit.image is not None for row in rows for hit in row.hits[:columns])
    query_width = round(2.1 * thumb)
    cell_height = thumb + 6 + small.height * (3 if captions else 1)
    row_height = cell_height + 2 * _GAP
    width = 2 * _MARGIN + query_width + 2 * _GAP + columns * (thumb + _GAP) - _GAP
    width = max(width, 2 * _MARGIN + 520)
    titles = heading.wrap(title, width=width - 2 * _MARGIN, lines=2)
    subtitles = plain.wrap(subtitle, width=width - 2 * _MARGIN, lines=2)
    header_height = _MARGIN + len(titles) * heading.height + len(subtitles) * (plain.height + 4) + small.height + 26
    height = header_height + len(rows) * row_height + _MARGIN
    if width * height > _MAX_PIXELS:
        raise ValueError(
            f"a sheet of {len(rows)} rows and {columns} columns would have {width}x{height} pixels, above "
            f"{_MAX_PIXELS:,}: draw fewer rows a sheet, or smaller thumbnails than {thumb}"
        )

    page = Image.new("RGB", (width, height), _PAPER)
    canvas = ImageDraw.Draw(page)
    y = _MARGIN
    for line in titles:
        heading.draw(canvas, (_MARGIN, y), line, _INK)
        y += heading.height
    for line in subtitles:
        plain.draw(canvas, (_MARGIN, y + 4), line, _GREY)
        y += plain.height + 4
    _draw_legend(page, canvas, small, (_MARGIN, y + 10), rows, columns)

    for number, row in enumerate(rows):
        top = header_height + number * row_height
        canvas.line([(_MARGIN, top), (width - _MARGIN, top)], fill=_RULE)
        _draw_query(page, canvas, row, (_MARGIN, top + _GAP), (query_width, cell_height), thumb, plain)
        for rank, hit in enumerate(row.hits[:columns], start=1):
            left = _MARGIN + query_width + 2 * _GAP + (rank - 1) * (thumb + _GAP)
            _draw_hit(page, canvas, hit, rank, (left, top + _GAP), thumb, small)
    return _save(page, Path(path))


def markdown_table(rows: Sequence[Sequence[object]], header: Sequence[object]) -> str:
    """Write a Markdown table whose cells show exactly what they are given.

    Args:
        rows: cells; floats are shown with four digits, None as an empty cell.
        header: a name for each column.

    Returns:
        The lines of the table, columns of numbers to the right; no newline at the end.

    Raises:
        ValueError: a row with more or fewer cells than the header.

    Example:
        >>> print(markdown_table([["a|b", 0.25]], ["name", "R@1"]))
        | name | R@1 |
        | :--- | ---: |
        | a\\|b | 0.25 |
    """
    _check_cells(rows, header)
    alignment = ["---:" if _numeric(rows, column) else ":---" for column in range(len(header))]
    lines = [[_markdown_cell(cell) for cell in header], alignment]
    lines += [[_markdown_cell(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text_table(rows: Sequence[Sequence[object]], header: Sequence[object]) -> str:
    """Write a table for a terminal, aligned also where characters are two columns wide.

    Args:
        rows: cells; floats are shown with four digits, None as an empty cell.
        header: a name for each column.

    Returns:
        The lines of the table, columns of numbers to the right; no newline at the end.

    Raises:
        ValueError: a row with more or fewer cells than the header.

    Example:
        >>> print(text_table([["连衣裙", 0.5], ["dress", 12]], ["query", "score"]))
        query   score
        ------  -----
        连衣裙    0.5
        dress      12
    """
    _check_cells(rows, header)
    cells = [[_printable(_cell(cell)) for cell in row] for row in [header, *rows]]
    widths = [max(_terminal_width(row[column]) for row in cells) for column in range(len(header))]
    right = [_numeric(rows, column) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    lines = []
    for row in cells:
        padded = []
        for text, width, to_right in zip(row, widths, right):
            space = " " * (width - _terminal_width(text))
            padded.append(space + text if to_right else text + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def escape_markdown(text: str) -> str:
    """Make one line of Markdown that shows `text` as it is: no markup, no HTML, no template, no second line.

    Args:
        text: any text, also of a stranger.

    Returns:
        The escaped text.

    Example:
        >>> escape_markdown("<img onerror=x> {{ a_b }} *c*")
        '&lt;img onerror=x&gt; \\\\{\\\\{ a_b \\\\}\\\\} \\\\*c\\\\*'
    """
    text = _printable(" ".join(text.split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*{}%\[\]|~$])", r"\\\1", text)
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)  # inside a word it is no markup
    return re.sub(
        r"^(#|[+=-](?![\d.]))|^(\d+)(?=[.)](?:\s|$))",
        lambda start: f"\\{start[1]}" if start[1] else f"{start[2]}\\",
        text,
    )


def _draw_query(
    page: Image.Image,
    canvas: ImageDraw.ImageDraw,
    row: SheetRow,
    corner: tuple[int, int],
    size: tuple[int, int],
    thumb: int,
    lettering: Lettering,
) -> None:
    (left, top), (width, height) = corner, size
    if row.query_image is not None:
        page.paste(_thumbnail(row.query_image, thumb), (left, top))
        canvas.rectangle([left, top, left + thumb - 1, top + thumb - 1], outline=_RULE)
        left, width = left + thumb + _GAP, width - thumb - _GAP
    if row.query_text is not None:
        lines = lettering.wrap(row.query_text, width=width, lines=max(1, height // (lettering.height + 2)))
        for number, line in enumerate(lines):
            lettering.draw(canvas, (left, top + number * (lettering.height + 2)), line, _INK)


def _draw_hit(
    page: Image.Image,
    canvas: ImageDraw.ImageDraw,
    hit: SheetHit,
    rank: int,
    corner: tuple[int, int],
    thumb: int,
    small: Lettering,
) -> None:
    left, top = corner
    box = [left, top, left + thumb - 1, top + thumb - 1]
    caption: list[str] = []
    if hit.image is not None:
        page.paste(_thumbnail(hit.image, thumb), corner)
        caption = small.wrap(hit.text or "", width=thumb, lines=2)
    else:
        canvas.rectangle(box, fill=_PANEL)
        inside = thumb - 2 * (_FRAME + 6)
        for number, line in enumerate(small.wrap(hit.text or "", width=inside, lines=max(1, inside // small.height))):
            small.draw(canvas, (left + _FRAME + 6, top + _FRAME + 6 + number * small.height), line, _INK)
    canvas.rectangle(box, outline=_colour(hit.correct), width=_FRAME)
    if hit.correct is not None:
        page.paste(*_badge(hit.correct, (left + thumb - 22, top + 6)))
    label = f"{rank}" if hit.score is None else f"{rank}  ·  {hit.score:.3f}"
    small.draw(canvas, (left, top + thumb + 5), label, _GREY)
    for number, line in enumerate(caption, start=1):
        small.draw(canvas, (left, top + thumb + 5 + number * small.height), line, _INK)


def _draw_legend(
    page: Image.Image,
    canvas: ImageDraw.ImageDraw,
    small: Lettering,
    corner: tuple[int, int],
    rows: Sequence[SheetRow],
    columns: int,
) -> None:
    x, y = corner
    verdicts = {hit.correct for row in rows for hit in row.hits[:columns]}
    for correct, label in ((True, "relevant"), (False, "not relevant"), (None, "not judged")):
        if correct not in verdicts:
            continue
        if correct is None:
            canvas.rectangle([x, y + 1, x + 15, y + 16], outline=_UNKNOWN, width=_FRAME)
        else:
            page.paste(*_badge(correct, (x, y)))
        small.draw(canvas, (x + 23, y + 1), label, _GREY)
        x += 23 + round(small.width(label)) + 24
    small.draw(canvas, (x, y + 1), "below each result: rank  ·  score", _GREY)


def _badge(correct: bool, corner: tuple[int, int]) -> tuple[Image.Image, tuple[int, int], Image.Image]:
    """A round tick or cross for paste(), drawn four times as large for smooth edges: colour alone tells some nothing."""
    badge = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    canvas = ImageDraw.Draw(badge)
    canvas.ellipse([1, 1, 62, 62], fill=_colour(correct), outline=_PAPER, width=4)
    strokes = [[(18, 33), (28, 43), (46, 22)]] if correct else [[(21, 21), (43, 43)], [(43, 21), (21, 43)]]
    for stroke in strokes:
        canvas.line(stroke, fill=_PAPER, width=7, joint="curve")
    badge = badge.resize((16, 16), Image.Resampling.LANCZOS)
    return badge, corner, badge


def _thumbnail(image: Image.Image, side: int) -> Image.Image:
    # A palette or transparent image is laid on paper before it is shrunk, or its edges turn black.
    image = image.convert("RGBA") if image.mode != "RGB" else image
    small = ImageOps.contain(image, (side, side), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), _PAPER)
    square.paste(
        small, ((side - small.width) // 2, (side - small.height) // 2), small if small.mode == "RGBA" else None
    )
    return square


def _colour(correct: bool | None) -> str:
    return _UNKNOWN if correct is None else _HIT if correct else _MISS


def _save(page: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".png")
    try:
        with os.fdopen(handle, "wb") as file:
            page.save(file, format="PNG", optimize=False)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _check_cells(rows: Sequence[Sequence[object]], header: Sequence[object]) -> None:
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells and the header {len(header)}: {list(row)!r:.200}")


def _numeric(rows: Sequence[Sequence[object]], column: int) -> bool:
    return bool(rows) and all(isinstance(row[column], int | float) or row[column] is None for row in rows)


def _cell(cell: object) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _markdown_cell(cell: object) -> str:
    # A number needs no escape, and -0.5 would get one.
    return _cell(cell) if isinstance(cell, int | float) else escape_markdown(_cell(cell))


def _printable(text: str) -> str:
    """One line without control characters: an escape sequence in a product's name must not reach the terminal."""
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def _terminal_width(text: str) -> int:
    widths = {"W": 2, "F": 2}
    return sum(0 if unicodedata.combining(c) else widths.get(unicodedata.east_asian_width(c), 1) for c in text)
