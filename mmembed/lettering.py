"""Text into an image: fonts that have the glyphs, lines that fit the width."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

# Found by name in the system's font folders, the first that has a glyph draws it. Western scripts and Cyrillic first,
# then Chinese, Japanese and Korean as Linux, macOS and Windows ship them.
_FAMILIES = {
    "regular": ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf"),
    "bold": ("DejaVuSans-Bold.ttf", "Arial Bold.ttf", "arialbd.ttf", "LiberationSans-Bold.ttf", "NotoSans-Bold.ttf"),
}
_EAST_ASIAN = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "msyh.ttc",
    "simsun.ttc",
)
_BLANK = "\U0010ffff"  # a code point no font has: what it draws is the font's box for missing glyphs


class Lettering:
    """One size of text, drawn with whatever installed fonts have its glyphs.

    A character that no font has is written as its code point (``\\u7ea2``), so that a machine without Chinese fonts
    shows which characters were there and not a row of equal boxes.

    Args:
        size: height of the letters in pixels.
        weight: "regular" or "bold".
        fonts: font files to try before the installed ones.

    Example:
        >>> lettering = Lettering(14)
        >>> lines = lettering.wrap("a long red dress with a belt", width=90, lines=2)
        >>> len(lines), lines[1].endswith("…")
        (2, True)
    """

    def __init__(self, size: int, weight: str = "regular", fonts: tuple[str, ...] = ()) -> None:
        self.size = size
        self.height = round(size * 1.35)
        self._fonts = _load(size, (*fonts, *_FAMILIES[weight], *_EAST_ASIAN))
        for font in fonts:
            ImageFont.truetype(font, size)  # a font that was asked for and cannot be read is an error

    def width(self, text: str) -> float:
        """Pixels that one line of text takes."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def draw(self, canvas: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, fill: str) -> None:
        """Draw one line with its upper left corner at `xy`."""
        x, y = xy
        baseline = y + self.size
        for font, part in self._parts(text):
            canvas.text((x, baseline), part, font=font, fill=fill, anchor="ls")
            x += font.getlength(part)

    def wrap(self, text: str, *, width: float, lines: int) -> list[str]:
        """Break text into at most `lines` lines of `width` pixels; what does not fit ends in "…"."""
        text = text[: lines * int(width)]  # a letter is no narrower than a pixel: more of a long document cannot show
        pieces = _pieces(" ".join(self._readable(text).split()), lambda piece: self.width(piece) > width)
        wrapped = [""]
        for piece in pieces:
            if wrapped[-1] and self.width(wrapped[-1] + piece.rstrip()) > width:
                wrapped[-1] = wrapped[-1].rstrip()
                wrapped.append("")
                piece = piece.lstrip()
            wrapped[-1] += piece
            if len(wrapped) > lines:
                break
        if len(wrapped) > lines:
            last = wrapped[lines - 1]
            while last and self.width(last.rstrip() + "…") > width:
                last = last[:-1]
            wrapped = [*wrapped[: lines - 1], last.rstrip() + "…"]
        return [line for line in wrapped if line]

    def _readable(self, text: str) -> str:
        """Text of which every character has a glyph; controls become spaces, joiners and marks of direction go."""
        shown = []
        for character in unicodedata.normalize("NFC", text):
            category = unicodedata.category(character)
            if category in ("Cf", "Cs"):
                continue
            if category in ("Cc", "Zl", "Zp", "Zs"):
                shown.append(" ")
            elif any(_has_glyph(font, character) for font in self._fonts):
                shown.append(character)
            else:
                code = ord(character)
                shown.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
        return "".join(shown)

    def _parts(self, text: str) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        """Runs of characters that one font draws."""
        run, run_font = "", self._fonts[0]
        for character in self._readable(text):
            font = next(font for font in self._fonts if character == " " or _has_glyph(font, character))
            if font is not run_font and run:
                yield run_font, run
                run = ""
            run, run_font = run + character, font
        if run:
            yield run_font, run


def _pieces(text: str, too_wide: Callable[[str], bool]) -> Iterator[str]:
    """Where a line may break: after a space, around an East Asian character, anywhere in a word wider than a line."""
    for word in re.findall(r"\S+\s*|\s+", text):
        piece = ""
        for character in word:
            ideograph = unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character) == "Lo"
            if piece and (ideograph or too_wide(piece + character)):
                yield piece
                piece = ""
            piece += character
        yield piece


@lru_cache(maxsize=32)
def _load(size: int, names: tuple[str, ...]) -> tuple[ImageFont.FreeTypeFont, ...]:
    fonts = []
    for name in names:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:  # not installed here
            continue
    fonts.append(ImageFont.load_default(size))  # type: ignore[arg-type]  # Pillow's own, Latin only
    return tuple(fonts)


@lru_cache(maxsize=16384)
def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    return _picture(font, character) != _picture(font, _BLANK)


def _picture(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    width, height = 3 * int(font.size), 3 * int(font.size)
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).text((font.size, 2 * font.size), character, font=font, fill=255, anchor="ls")
    return canvas.size, canvas.tobytes()
