"""What each sub-category looks like: outlines on a 100 × 100 sheet, x to the right and y down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from PIL import ImageDraw

Point = tuple[float, float]
Fill = str | tuple[int, int, int]

# Fills that take the product's own colours; any other fill is an RGB triple.
MAIN = "main"  # colour, pattern and material
SHADE = "shade"  # the colour, darker
LIGHT = "light"  # the colour, lighter
TRIM = "trim"  # the second colour; the darker colour where there is none
DARK, STEEL, SILVER, WHITE, WOOD = (44, 44, 50), (150, 156, 164), (206, 210, 215), (250, 250, 248), (176, 128, 82)
GOLD, CREAM, SKY, RED, LEAF = (205, 164, 66), (245, 232, 200), (176, 208, 226), (196, 44, 46), (70, 140, 70)
_ROUND = [(math.cos(2 * math.pi * i / 28), math.sin(2 * math.pi * i / 28)) for i in range(28)]


class Pen:
    """Draws filled outlines into an image of fill numbers, through one turn, scale and shift.

    Args:
        draw: the drawing surface of an "L" image of fill numbers.
        matrix: (a, b, c, d, e, f): sheet (x, y) lands on pixel (a·x + b·y + c, d·x + e·y + f).
        line: width of an outline in pixels.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, matrix: Sequence[float], line: int) -> None:
        self._draw, self._matrix, self._line = draw, matrix, line
        self.fills: list[Fill] = []
        self.mark_at: tuple[float, float, float] = (50, 50, 8)

    def poly(self, points: Iterable[Point], fill: Fill = MAIN, outline: bool = True) -> None:
        """A closed outline through the points."""
        a, b, c, d, e, f = self._matrix
        placed = [(a * x + b * y + c, d * x + e * y + f) for x, y in points]
        if fill not in self.fills:
            self.fills.append(fill)
        number = 2 * self.fills.index(fill) + 1  # odd: the fill, even: its outline
        self._draw.polygon(placed, fill=number)
        if outline:
            self._draw.line([*placed, placed[0]], fill=number + 1, width=self._line)

    def pairs(self, *numbers: float, fill: Fill = MAIN, outline: bool = True, both: bool = False) -> None:
        """A closed outline through x, y, x, y …; with `both`, its mirror image about x = 50 too."""
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        self.poly(points, fill, outline)
        if both:
            self.poly([(100 - x, y) for x, y in points], fill, outline)

    def half(self, *numbers: float, fill: Fill = MAIN, outline: bool = True) -> None:
        """One outline, symmetric about x = 50, from its right half listed downwards."""
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        self.poly(points + [(100 - x, y) for x, y in reversed(points)], fill, outline)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Fill = MAIN, outline: bool = True) -> None:
        """An ellipse about (x, y)."""
        self.poly([(x + rx * u, y + ry * v) for u, v in _ROUND], fill, outline)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Fill = MAIN, r: float = 0, outline: bool = True
    ) -> None:
        """A rectangle with corners of radius r."""
        if not r:
            self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outline)
            return
        corners = ((x1 - r, y1 - r, 0), (x0 + r, y1 - r, 1), (x0 + r, y0 + r, 2), (x1 - r, y0 + r, 3))
        turns = [(x, y, (k + i / 4) * math.pi / 2) for x, y, k in corners for i in range(5)]
        self.poly([(x + r * math.cos(t), y + r * math.sin(t)) for x, y, t in turns], fill, outline)

    def stroke(self, *numbers: float, width: float = 3, fill: Fill = DARK, outline: bool = False) -> None:
        """A band of this width along x, y, x, y …"""
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        left, right = [], []
        for i, (x, y) in enumerate(points):
            (px, py), (qx, qy) = points[max(i - 1, 0)], points[min(i + 1, len(points) - 1)]
            length = math.hypot(qx - px, qy - py) or 1.0
            nx, ny = -(qy - py) / length * width / 2, (qx - px) / length * width / 2
            left.append((x + nx, y + ny))
            right.append((x - nx, y - ny))
        self.poly(left + right[::-1], fill, outline)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, width: float = 4, fill: Fill = SHADE
    ) -> None:
        """A band along an ellipse, from `start` to `end` degrees, clockwise from the right."""
        turns = [math.radians(start + (end - start) * i / 14) for i in range(15)]
        outer = [(x + (rx + width / 2) * math.cos(t), y + (ry + width / 2) * math.sin(t)) for t in turns]
        inner = [(x + (rx - width / 2) * math.cos(t), y + (ry - width / 2) * math.sin(t)) for t in turns]
        self.poly(outer + inner[::-1], fill)

    def mark(self, x: float, y: float, r: float = 8) -> None:
        """Where the brand's tag goes, and half its width."""
        self.mark_at = (x, y, r)


def _t_shirt(pen: Pen, d: dict[str, str]) -> None:
    if d["sleeve"] == "long sleeve":
        pen.pairs(31, 16, 12, 30, 6, 76, 17, 78, 26, 42, 31, 40, both=True)
    elif d["sleeve"] == "short sleeve":
        pen.pairs(31, 16, 8, 34, 17, 50, 31, 40, both=True)
    if d["sleeve"] == "sleeveless":
        pen.half(58, 14, 68, 14, 68, 34, 74, 42, 73, 90)
    else:
        pen.half(60, 14, 70, 16, 73, 42, 72, 90)
    _neck(pen, d["neckline"])
    pen.mark(61, 42)


def _neck(pen: Pen, neckline: str) -> None:
    if neckline == "v-neck":
        pen.half(64, 12, 50, 40, fill=TRIM)
        pen.half(59, 11, 50, 31, fill=DARK, outline=False)
    else:
        pen.half(65, 12, 62, 20, 56, 25, 50, 26, fill=TRIM)
        pen.half(60, 11, 58, 16, 54, 20, 50, 20.5, fill=DARK, outline=False)


def _shirt(pen: Pen, d: dict[str, str]) -> None:
    if d["sleeve"] == "long sleeve":
        pen.pairs(32, 16, 14, 28, 6, 74, 17, 77, 27, 44, 31, 42, both=True)
        pen.pairs(6, 72, 17, 75, 16, 83, 5, 80, fill=TRIM, both=True)
    else:
        pen.pairs(32, 16, 8, 32, 16, 50, 31, 42, both=True)
    pen.half(60, 14, 69, 16, 72, 42, 73, 88, 60, 93, 50, 90)
    pen.half(57, 12, 50, 24, fill=DARK, outline=False)
    pen.pairs(41, 10, 50, 24, 43, 33, 34, 15, fill=TRIM, both=True)
    pen.stroke(50, 25, 50, 90, width=2, fill=SHADE)
    for y in (36, 50, 64, 78):
        pen.oval(50, y, 1.9, 1.9, WHITE)
    if d["pocket"] == "chest pocket":
        pen.pairs(29, 42, 45, 42, 45, 58, 37, 63, 29, 58, fill=SHADE)
    pen.mark(62, 46, 7)


def _hoodie(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(30, 24, 12, 36, 6, 80, 19, 82, 28, 50, 31, 48, both=True)
    pen.pairs(6, 78, 19, 80, 18, 88, 5, 86, fill=SHADE, both=True)
    pen.half(62, 22, 71, 25, 74, 46, 73, 84)
    pen.box(27, 84, 73, 92, SHADE, 2)
    pen.half(50, 4, 62, 7, 68, 18, 64, 32, 50, 38, fill=TRIM)
    pen.oval(50, 21, 10, 11, DARK)
    if d["closure"] == "zipped":
        pen.stroke(50, 34, 50, 92, width=3.5, fill=SILVER, outline=True)
        pen.pairs(33, 62, 45, 62, 45, 80, 29, 80, fill=SHADE, both=True)
    else:
        pen.half(60, 60, 68, 80, fill=SHADE)
        pen.stroke(45, 34, 44, 52, width=2.2, fill=WHITE)
        pen.stroke(55, 34, 56, 52, width=2.2, fill=WHITE)
    pen.mark(63, 46, 7)


def _trousers(pen: Pen, d: dict[str, str]) -> None:
    if d["fit"] == "slim fit":
        pen.pairs(33, 12, 50, 12, 50, 36, 46, 95, 35, 95, 30, 38, both=True)
    else:
        pen.pairs(33, 12, 50, 12, 50, 36, 48, 95, 18, 95, 28, 38, both=True)
    pen.box(32, 7, 68, 15, SHADE, 1)
    pen.oval(50, 11, 2, 2, SILVER)
    pen.stroke(50, 15, 50, 34, width=1.6, fill=SHADE)
    pen.pairs(33, 17, 42, 17, 33, 28, fill=SHADE, both=True)
    pen.mark(59, 26, 6.5)


def _shorts(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(28, 26, 50, 26, 50, 50, 47, 80, 18, 77, both=True)
    pen.pairs(18.5, 73, 47.4, 76, 47, 81, 18, 78, fill=TRIM, both=True)
    if d["waist"] == "belted waist":
        pen.box(27, 19, 73, 29, DARK, 1)
        pen.box(45, 19, 55, 29, GOLD, 1)
    else:
        pen.box(27, 19, 73, 29, SHADE, 3)
        pen.stroke(47, 28, 43, 48, width=2.4, fill=WHITE)
        pen.stroke(53, 28, 57, 48, width=2.4, fill=WHITE)
    pen.mark(67, 52, 7.5)


def _skirt(pen: Pen, d: dict[str, str]) -> None:
    bottom = 62 if d["length"] == "mini length" else 94
    if d["cut"] == "straight cut":
        pen.half(64, 12, 71, 34, 70, bottom)
    else:
        width = 34 if bottom == 62 else 42
        pen.half(63, 12, 50 + width, bottom - 3, 50 + width * 0.5, bottom, 50, bottom + 1)
        for x in (-0.45, 0, 0.45):
            pen.stroke(50 + x * 22, 24, 50 + x * width * 1.5, bottom - 3, width=1.3, fill=SHADE)
    pen.box(35, 7, 65, 15, TRIM, 1)
    pen.mark(59, 30, 7)


def _dress(pen: Pen, d: dict[str, str]) -> None:
    if d["sleeve"] == "long sleeve":
        pen.pairs(36, 10, 24, 16, 15, 56, 24, 58, 34, 30, both=True)
    pen.half(58, 8, 65, 9, 66, 24, 61, 44, 82, 92, 66, 95, 50, 96)
    pen.half(61.5, 40, 62.5, 47, fill=TRIM)
    if d["neckline"] == "v-neck":
        pen.half(60.5, 6, 50, 33, fill=DARK, outline=False)
    else:
        pen.half(59, 6, 57, 13, 50, 17, fill=DARK, outline=False)
    pen.mark(56, 62, 7)


def _sneakers(pen: Pen, d: dict[str, str]) -> None:
    top = 20 if d["shaft"] == "high-top" else 40
    pen.pairs(10, top, 34, top - 2, 40, 42, 62, 54, 86, 60, 94, 70, 94, 76, 8, 76)
    pen.pairs(74, 58, 88, 60, 95, 70, 95, 76, 72, 76, fill=TRIM)
    pen.box(6, 74, 96, 84, WHITE, 4)
    pen.box(6, 81, 96, 85, SHADE, 2)
    for i in range(3):
        pen.stroke(38 + 9 * i, 48 + 4.5 * i, 46 + 9 * i, 42 + 5 * i, width=3, fill=WHITE, outline=True)
    if top == 20:
        pen.stroke(30, 30, 37, 27, width=3, fill=WHITE, outline=True)
        pen.stroke(33, 39, 40, 36, width=3, fill=WHITE, outline=True)
    pen.pairs(9, top + 1, 17, top, 17, 60, 9, 62, fill=TRIM)
    pen.mark(28, 61, 8)


def _boots(pen: Pen, d: dict[str, str]) -> None:
    top = 8 if d["shaft"] == "knee-high" else 36
    pen.pairs(24, top, 54, top, 54, 58, 66, 66, 84, 72, 88, 84, 22, 84)
    pen.box(23, top - 1, 55, top + 7, TRIM, 2)
    if d["heel"] == "block heel":
        pen.pairs(20, 82, 90, 82, 90, 87, 44, 87, 41, 97, 21, 97, fill=DARK)
    else:
        pen.box(20, 82, 90, 88, DARK, 2)
    pen.stroke(50, top + 10, 50, 58, width=1.6, fill=SILVER)
    pen.mark(36, 58, 8)


def _sandals(pen: Pen, d: dict[str, str]) -> None:
    for x in (27, 73):
        pen.poly([(x + 17 * u * (1 - 0.18 * v), 52 + 42 * v) for u, v in _ROUND], WOOD)
        if d["straps"] == "crossed straps":
            pen.stroke(x - 18, 30, x + 17, 58, width=11, fill=MAIN, outline=True)
            pen.stroke(x + 18, 30, x - 17, 58, width=11, fill=MAIN, outline=True)
        else:
            pen.pairs(x - 20, 30, x + 20, 30, x + 20, 45, x - 20, 45)
            pen.pairs(x - 18, 58, x + 18, 58, x + 18, 70, x - 18, 70)
            pen.box(x + 8, 59, x + 15, 69, GOLD)
    pen.mark(27, 83, 6.5)


def _pumps(pen: Pen, d: dict[str, str]) -> None:
    if d["heel"] == "stiletto heel":
        pen.pairs(9, 50, 25, 55, 17, 89, 12, 89, fill=TRIM)
        pen.pairs(
            8, 24, 17, 22, 25, 39, 39, 54, 53, 59, 63, 55, 80, 66, 92, 77, 95, 84, 66, 87, 52, 81, 38, 67, 24, 56, 9, 53
        )
    else:
        pen.pairs(9, 64, 25, 68, 19, 89, 12, 89, fill=TRIM)
        pen.pairs(
            8, 38, 17, 36, 26, 51, 39, 60, 53, 62, 63, 57, 80, 67, 92, 77, 95, 84, 66, 87, 50, 85, 36, 77, 24, 70, 9, 67
        )
    pen.pairs(95, 83, 66, 86, 66, 89, 95, 88, fill=DARK)
    pen.mark(71, 73, 7.5)


def _backpack(pen: Pen, d: dict[str, str]) -> None:
    pen.arc(50, 14, 10, 9, 180, 360, 4, SHADE)
    pen.stroke(24, 30, 13, 55, 20, 84, width=6, fill=SHADE, outline=True)
    pen.stroke(76, 30, 87, 55, 80, 84, width=6, fill=SHADE, outline=True)
    pen.pairs(22, 36, 28, 17, 50, 12, 72, 17, 78, 36, 78, 90, 72, 94, 28, 94, 22, 90)
    pen.arc(50, 40, 26, 17, 190, 350, 2, DARK)
    if d["pockets"] == "one pocket":
        pen.box(29, 58, 71, 88, TRIM, 5)
        pen.stroke(32, 65, 68, 65, width=2.4, fill=DARK)
    else:
        pen.box(28, 64, 48, 88, TRIM, 4)
        pen.box(52, 64, 72, 88, TRIM, 4)
        pen.stroke(30, 70, 46, 70, width=2.4, fill=DARK)
        pen.stroke(54, 70, 70, 70, width=2.4, fill=DARK)
    pen.mark(50, 45, 8)


def _handbag(pen: Pen, d: dict[str, str]) -> None:
    if d["strap"] == "shoulder strap":
        pen.arc(50, 48, 34, 44, 180, 360, 3.5, TRIM)
    else:
        pen.arc(50, 45, 17, 22, 180, 360, 5, TRIM)
    if d["cut"] == "trapeze shape":
        pen.half(72, 42, 88, 88, 84, 91)
        pen.half(72, 42, 78, 60, 50, 64, fill=SHADE)
    else:
        pen.pairs(16, 46, 84, 46, 90, 62, 84, 80, 66, 92, 34, 92, 16, 80, 10, 62)
        pen.stroke(14, 52, 86, 52, width=3, fill=SILVER, outline=True)
    pen.box(46, 58, 54, 65, GOLD, 1)
    pen.mark(50, 76, 8)


def _watch(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(34, 2, 66, 2, 68, 36, 32, 36)
    pen.pairs(34, 98, 66, 98, 68, 64, 32, 64)
    for y in (80, 86, 92):
        pen.oval(50, y, 1.5, 1.5, DARK, outline=False)
    if d["dial"] == "round dial":
        pen.oval(50, 50, 27, 27, SILVER)
        pen.oval(50, 50, 22, 22, TRIM)
        pen.oval(50, 50, 20, 20, WHITE)
    else:
        pen.box(25, 25, 75, 75, SILVER, 6)
        pen.box(29, 29, 71, 71, TRIM, 3)
        pen.box(31, 31, 69, 69, WHITE, 2)
    pen.box(76, 46, 81, 54, STEEL, 1)
    for x, y in ((50, 34), (66, 50), (34, 50)):
        pen.oval(x, y, 1.8, 1.8, DARK, outline=False)
    pen.stroke(50, 50, 59, 40, width=2.4, fill=DARK)
    pen.stroke(50, 50, 44, 38, width=2, fill=DARK)
    pen.mark(50, 60, 6.5)


def _sunglasses(pen: Pen, d: dict[str, str]) -> None:
    for side in (-1, 1):
        x = 50 + 23 * side
        pen.stroke(50 + 40 * side, 42, 50 + 47 * side, 34, 50 + 48 * side, 26, width=4.5, fill=TRIM, outline=True)
        if d["lenses"] == "round lenses":
            pen.oval(x, 52, 21, 21)
            pen.oval(x, 52, 15, 15, DARK)
        elif d["lenses"] == "square lenses":
            pen.box(x - 21, 35, x + 21, 68, MAIN, 4)
            pen.box(x - 15.5, 41, x + 15.5, 62.5, DARK, 3)
        else:
            rim = ((-20, -10), (10, -16), (26, -26), (24, -2), (14, 14), (-4, 17), (-17, 8))
            pen.poly([(x + side * u, 52 + v) for u, v in rim])
            pen.poly([(x + side * (u * 0.68 - 1), 52 + v * 0.66) for u, v in rim], DARK)
    pen.stroke(42, 47, 50, 44, 58, 47, width=5, fill=MAIN, outline=True)
    pen.mark(27, 51, 6.5)


def _cap(pen: Pen, d: dict[str, str]) -> None:
    rise = 44 if d["crown"] == "high crown" else 27
    pen.poly(
        [(42 + 32 * math.cos(math.pi * (1 + i / 16)), 66 + rise * math.sin(math.pi * (1 + i / 16))) for i in range(17)]
    )
    pen.pairs(42, 60, 74, 62, 97, 72, 95, 78, 72, 74, 10, 72, 10, 66, fill=TRIM)
    pen.oval(42, 66 - rise, 4, 2.6, TRIM)
    pen.stroke(42, 66 - rise, 30, 66, width=1.2, fill=SHADE)
    pen.mark(56, 53, 7.5)


def _umbrella(pen: Pen, d: dict[str, str]) -> None:
    pen.stroke(50, 10, 50, 84, width=3, fill=STEEL, outline=True)
    if d["handle"] == "hooked handle":
        pen.arc(43, 86, 7, 8, 0, 180, 4, WOOD)
    else:
        pen.box(46.5, 76, 53.5, 96, WOOD, 2)
    rim = [(50 + 44 * math.cos(math.pi * (1 + i / 16)), 52 + 40 * math.sin(math.pi * (1 + i / 16))) for i in range(17)]
    scallops = [(94 - 88 * i / 16, 52 - 5 * abs(math.sin(math.pi * i / 4))) for i in range(1, 16)]
    pen.poly(rim + scallops)
    for x in (28, 50, 72):
        pen.stroke(50, 12, x + (x - 50) * 0.06, 50, width=1.2, fill=SHADE)
    pen.mark(61, 36, 8)


def _chair(pen: Pen, d: dict[str, str]) -> None:
    if d["legs"] == "four legs":
        pen.pairs(27, 58, 33, 58, 29, 96, 24, 96, fill=WOOD, both=True)
        pen.pairs(36, 58, 40, 58, 39, 88, 35, 88, fill=WOOD, both=True)
    else:
        pen.box(47, 58, 53, 88, STEEL)
        pen.half(54, 86, 74, 93, 74, 97, fill=STEEL)
    if d["back"] == "solid back":
        pen.pairs(27, 8, 73, 8, 70, 52, 30, 52)
    else:
        pen.pairs(27, 6, 73, 6, 72, 17, 28, 17)
        for x in (30, 41, 53, 64):
            pen.box(x, 17, x + 6, 52)
    pen.pairs(27, 50, 73, 50, 79, 62, 21, 62)
    pen.box(21, 61, 79, 66, TRIM, 1)
    pen.mark(50, 26 if d["back"] == "solid back" else 15, 7.5)


def _table(pen: Pen, d: dict[str, str]) -> None:
    if d["legs"] == "four legs":
        pen.pairs(14, 44, 21, 44, 20, 90, 15, 90, fill=TRIM, both=True)
        pen.pairs(28, 42, 33, 42, 32, 76, 28, 76, fill=TRIM, both=True)
    else:
        pen.box(45, 44, 55, 84, TRIM)
        pen.half(56, 82, 76, 90, 76, 94, fill=TRIM)
    if d["top"] == "round top":
        pen.oval(50, 44, 45, 15, SHADE)
        pen.oval(50, 38, 45, 15)
    else:
        pen.pairs(18, 26, 82, 26, 97, 46, 3, 46)
        pen.box(3, 46, 97, 53, SHADE)
    pen.mark(50, 37, 7.5)


def _sofa(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(14, 80, 20, 80, 18, 90, 15, 90, fill=WOOD, both=True)
    pen.box(12, 28, 88, 64, MAIN, 6)
    seats = 2 if d["seats"] == "two seats" else 3
    width = 66 / seats
    for i in range(seats):
        pen.box(17 + i * width, 55, 17 + (i + 1) * width, 70, MAIN, 3)
        pen.stroke(17 + i * width, 32, 17 + i * width, 56, width=1.4, fill=SHADE)
    pen.box(12, 68, 88, 82, TRIM, 2)
    for x in (11, 89):
        if d["arms"] == "rolled arms":
            pen.box(x - 6, 52, x + 6, 82)
            pen.oval(x, 50, 9, 9)
        else:
            pen.box(x - 8, 46, x + 8, 82, MAIN, 1)
    pen.mark(50, 42, 7.5)


def _lamp(pen: Pen, d: dict[str, str]) -> None:
    pen.box(48, 44, 52, 88, GOLD)
    pen.half(56, 86, 68, 92, 68, 96, fill=TRIM)
    if d["shade"] == "cone shade":
        pen.half(60, 8, 82, 54)
    elif d["shade"] == "drum shade":
        pen.box(23, 12, 77, 52, MAIN, 1)
        pen.box(23, 12, 77, 16, TRIM)
        pen.box(23, 48, 77, 52, TRIM)
    else:
        pen.oval(50, 32, 27, 26)
    pen.stroke(62, 54, 62, 66, width=1.3, fill=DARK)
    pen.mark(50, 38, 8)


def _bookcase(pen: Pen, d: dict[str, str]) -> None:
    pen.box(22, 4, 78, 96)
    shelves = 3 if d["shelves"] == "three shelves" else 5
    height = 84 / shelves
    for i in range(shelves):
        top = 9 + i * height
        pen.box(28, top, 72, top + height - 5, SHADE)
        for j, ink in enumerate((RED, CREAM, SKY, DARK)[: 4 if i % 2 else 3]):
            x = (30 if i % 2 else 56) + 4.2 * j
            pen.box(x, top + 1.5 + j % 2, x + 4, top + height - 5, ink, outline=False)
    pen.mark(50, 97 - 7.5, 6.5)


def _mug(pen: Pen, d: dict[str, str]) -> None:
    if d["handle"] == "round handle":
        pen.arc(72, 52, 17, 19, -100, 100, 7, SHADE)
    else:
        for x0, y0, x1, y1 in ((66, 33, 92, 41), (84, 33, 92, 70), (66, 63, 92, 71)):
            pen.box(x0, y0, x1, y1, SHADE, outline=False)
    foot = 0 if d["form"] == "straight walls" else 13
    pen.pairs(14, 20, 72, 20, 72 - foot, 84, 66 - foot, 88, 20 + foot, 88, 14 + foot, 84)
    pen.oval(43, 20, 29, 6, TRIM)
    pen.oval(43, 20, 25, 4, DARK, outline=False)
    pen.mark(43, 56, 8.5)


def _kettle(pen: Pen, d: dict[str, str]) -> None:
    pen.arc(46, 36, 27, 27, 180, 360, 6, DARK)
    if d["spout"] == "gooseneck spout":
        pen.stroke(66, 76, 82, 70, 86, 46, 96, 38, width=5, fill=SHADE, outline=True)
    else:
        pen.pairs(66, 48, 92, 40, 95, 46, 74, 66, fill=SHADE)
    pen.pairs(24, 40, 68, 40, 78, 74, 74, 90, 18, 90, 14, 74)
    pen.pairs(25, 40, 30, 32, 62, 32, 67, 40, fill=TRIM)
    pen.oval(46, 29, 5, 4, DARK)
    pen.mark(46, 66, 8.5)


def _pan(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(62, 50, 98, 44, 99, 52, 64, 62, fill=DARK)
    pen.pairs(6, 50, 68, 50, 62, 74, 56, 78, 18, 78, 12, 74)
    if d["lid"] == "with lid":
        pen.poly(
            [
                (37 + 32 * math.cos(math.pi * (1 + i / 12)), 50 + 24 * math.sin(math.pi * (1 + i / 12)))
                for i in range(13)
            ],
            SKY,
        )
        pen.oval(37, 24, 6, 4, TRIM)
        pen.box(4, 47, 70, 53, STEEL, 2)
    else:
        pen.oval(37, 50, 32, 9, TRIM)
        pen.oval(37, 51, 27, 6.5, DARK, outline=False)
    pen.mark(37, 66, 7.5)


def _water_bottle(pen: Pen, d: dict[str, str]) -> None:
    if d["cap"] == "loop cap":
        pen.arc(50, 11, 9, 8, 180, 360, 4, TRIM)
        pen.box(40, 11, 60, 22, TRIM, 2)
    else:
        pen.pairs(40, 10, 60, 10, 64, 5, 68, 7, 62, 14, 60, 22, 40, 22, fill=TRIM)
        pen.box(45, 3, 52, 10, WHITE, 1)
    pen.pairs(42, 22, 58, 22, 68, 34, 68, 92, 64, 96, 36, 96, 32, 92, 32, 34)
    pen.mark(50, 58, 8.5)


def _plate(pen: Pen, d: dict[str, str]) -> None:
    if d["rim"] == "scalloped rim":
        turns = [2 * math.pi * i / 72 for i in range(72)]
        pen.poly(
            [
                (50 + (42 + 3.5 * math.cos(12 * t)) * math.cos(t), 50 + (42 + 3.5 * math.cos(12 * t)) * math.sin(t))
                for t in turns
            ]
        )
        pen.oval(50, 50, 32, 32, LIGHT)
    else:
        pen.oval(50, 50, 44, 44)
        pen.oval(50, 50, 22, 22, LIGHT)
    pen.mark(50, 50, 9)


def _vase(pen: Pen, d: dict[str, str]) -> None:
    for x, ink in ((38, RED), (50, GOLD), (61, RED)):
        pen.stroke(50, 34, x, 12, width=1.8, fill=LEAF)
        pen.oval(x, 10, 5.5, 5.5, ink)
        pen.oval(x, 10, 1.8, 1.8, CREAM, outline=False)
    if d["form"] == "slender neck":
        pen.half(57, 28, 55, 46, 68, 68, 67, 84, 60, 96)
    else:
        pen.half(62, 32, 58, 40, 74, 54, 79, 70, 72, 88, 62, 96)
    pen.mark(50, 74, 8.5)


def _ball(pen: Pen, d: dict[str, str]) -> None:
    if d["stand"] == "with stand":
        pen.half(64, 82, 72, 97, fill=WOOD)
        pen.oval(50, 46, 40, 40)
    else:
        pen.oval(50, 50, 44, 44)
    pen.arc(8, 46, 34, 40, -48, 48, 2, SHADE)
    pen.arc(92, 46, 34, 40, 132, 228, 2, SHADE)
    pen.mark(50, 48, 9)


def _blocks(pen: Pen, d: dict[str, str]) -> None:
    if d["layout"] == "tower set":
        pen.box(36, 68, 64, 96)
        pen.box(38, 42, 64, 68, TRIM)
        pen.box(35, 16, 61, 42)
        pen.pairs(35, 16, 61, 16, 48, 2, fill=TRIM)
        pen.mark(50, 80, 8)
    else:
        for x in (8, 36, 64):
            pen.box(x, 68, x + 28, 96)
        pen.box(22, 40, 50, 68, TRIM)
        pen.box(50, 40, 78, 68)
        pen.pairs(36, 40, 64, 40, 50, 16, fill=TRIM)
        pen.mark(50, 82, 8)


def _toy_car(pen: Pen, d: dict[str, str]) -> None:
    if d["body"] == "racing body":
        pen.pairs(4, 60, 28, 54, 40, 44, 60, 44, 68, 56, 97, 62, 97, 72, 4, 72)
        pen.pairs(2, 42, 22, 42, 20, 48, 12, 48, 12, 60, 6, 60, fill=TRIM)
        pen.pairs(46, 46, 58, 46, 63, 55, 44, 55, fill=SKY)
    elif d["body"] == "truck body":
        pen.box(4, 26, 62, 72)
        pen.pairs(64, 40, 82, 40, 92, 56, 96, 58, 96, 72, 64, 72, fill=TRIM)
        pen.pairs(69, 44, 81, 44, 87, 56, 69, 56, fill=SKY)
    else:
        pen.pairs(24, 54, 34, 34, 66, 34, 78, 54, fill=TRIM)
        pen.pairs(30, 52, 37, 38, 48, 38, 48, 52, fill=SKY)
        pen.pairs(52, 38, 63, 38, 71, 52, 52, 52, fill=SKY)
        pen.pairs(4, 54, 88, 52, 97, 60, 97, 73, 4, 73)
    for x in (24, 76):
        pen.oval(x, 74, 12, 12, DARK)
        pen.oval(x, 74, 5, 5, SILVER)
    pen.mark(
        47 if d["body"] != "truck body" else 33,
        63 if d["body"] != "truck body" else 46,
        6.5 if d["body"] != "truck body" else 8.5,
    )


def _teddy_bear(pen: Pen, d: dict[str, str]) -> None:
    ear = 11 if d["ears"] == "big ears" else 6.5
    for x in (30, 70):
        pen.oval(x, 14, ear, ear)
        pen.oval(x, 14, ear * 0.55, ear * 0.55, TRIM, outline=False)
        pen.oval(x - (50 - x) * 0.3, 58, 8, 14)
        pen.oval(x - (50 - x) * 0.05, 88, 12, 9)
        pen.oval(x - (50 - x) * 0.05, 89, 6, 5, TRIM, outline=False)
    pen.oval(50, 66, 23, 24)
    pen.oval(50, 28, 24, 21)
    pen.oval(50, 36, 10, 8, CREAM)
    pen.oval(50, 32, 3.4, 2.6, DARK)
    for x in (41, 59):
        pen.oval(x, 24, 2.6, 2.6, DARK, outline=False)
    if d["bow"] == "with bow":
        pen.pairs(50, 50, 34, 43, 34, 57, fill=RED, both=True)
        pen.oval(50, 50, 3, 3, RED)
    pen.mark(50, 69, 8)


def _kite(pen: Pen, d: dict[str, str]) -> None:
    if d["tail"] == "long tail":
        pen.stroke(58, 66, 66, 76, 56, 82, 72, 90, 84, 84, 94, 94, width=2, fill=DARK)
        for x, y in ((63, 75), (62, 84), (78, 88), (91, 91)):
            pen.pairs(x - 6, y - 4, x - 6, y + 4, x + 6, y - 4, x + 6, y + 4, fill=RED)
    else:
        pen.stroke(58, 66, 66, 76, width=2, fill=DARK)
        pen.pairs(60, 72, 60, 82, 74, 72, 74, 82, fill=RED)
    pen.pairs(22, 4, 76, 22, 60, 70, 6, 46)
    pen.stroke(22, 4, 60, 70, width=1.6, fill=DARK)
    pen.stroke(6, 46, 76, 22, width=1.6, fill=DARK)
    pen.mark(38, 34, 8)


def _wine(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(45, 8, 55, 8, 55, 32, 65, 46, 65, 94, 62, 97, 38, 97, 35, 94, 35, 46, 45, 32)
    if d["stopper"] == "cork stopper":
        pen.box(46, 2, 54, 11, WOOD, 1)
    else:
        pen.pairs(44, 4, 56, 4, 57, 22, 54, 19, 51, 25, 47, 20, 43, 23, fill=RED)
    pen.box(35, 54, 65, 84, CREAM)
    pen.stroke(39, 79, 61, 79, width=2, fill=GOLD)
    pen.mark(50, 66, 8)


def _whisky(pen: Pen, d: dict[str, str]) -> None:
    pen.box(43, 3, 57, 16, DARK, 2)
    pen.box(45, 14, 55, 30)
    if d["form"] == "square bottle":
        pen.pairs(30, 30, 70, 30, 74, 35, 74, 96, 26, 96, 26, 35)
    else:
        pen.pairs(44, 26, 56, 26, 72, 42, 80, 62, 76, 84, 66, 96, 34, 96, 24, 84, 20, 62, 28, 42)
    pen.box(32, 52, 68, 84, DARK)
    pen.stroke(36, 79, 64, 79, width=2, fill=GOLD)
    pen.mark(50, 65, 8)


def _beer(pen: Pen, d: dict[str, str]) -> None:
    places = (50,) if d["pack"] == "single bottle" else (22, 78, 50)
    for x in places:
        pen.pairs(x - 5, 10, x + 5, 10, x + 6, 34, x + 14, 50, x + 14, 96, x - 14, 96, x - 14, 50, x - 6, 34)
        pen.box(x - 7, 5, x + 7, 12, GOLD, 2)
        pen.oval(x, 72, 12, 15, WHITE)
    pen.mark(50, 72, 8)


def _juice(pen: Pen, d: dict[str, str]) -> None:
    if d["cap"] == "screw cap":
        pen.pairs(30, 26, 70, 26, 64, 12, 36, 12, fill=SHADE)
        pen.box(30, 6, 70, 13, LIGHT)
        pen.oval(50, 20, 7, 5, WHITE)
    else:
        pen.stroke(58, 26, 62, 8, 76, 3, width=4.5, fill=RED, outline=True)
    pen.box(28, 24, 72, 96)
    pen.oval(50, 80, 10, 10, (240, 150, 30))
    pen.pairs(50, 71, 57, 64, 60, 69, fill=LEAF)
    pen.mark(50, 46, 8.5)


def _tea(pen: Pen, d: dict[str, str]) -> None:
    if d["pack"] == "tin":
        pen.box(24, 22, 76, 92, MAIN, 4)
        pen.oval(50, 92, 26, 4, SHADE)
        pen.oval(50, 20, 27, 8, TRIM)
        pen.oval(50, 15, 8, 3, GOLD)
    else:
        pen.pairs(14, 32, 66, 32, 66, 90, 14, 90)
        pen.pairs(66, 32, 86, 22, 86, 78, 66, 90, fill=SHADE)
        pen.pairs(14, 32, 34, 22, 86, 22, 66, 32, fill=TRIM)
    x = 50 if d["pack"] == "tin" else 40
    pen.pairs(x - 14, 82, x - 10, 70, x + 2, 66, x + 14, 70, x + 6, 82, fill=LEAF)
    pen.stroke(x - 14, 82, x + 10, 71, width=1.4, fill=CREAM)
    pen.mark(x, 49, 8.5)


def _notebook(pen: Pen, d: dict[str, str]) -> None:
    pen.box(24, 9, 84, 95, WHITE)
    pen.box(20, 6, 80, 92, MAIN, 2)
    if d["binding"] == "spiral binding":
        for i in range(9):
            pen.oval(20, 12 + 9.3 * i, 4.5, 2.4, SILVER)
    else:
        pen.box(20, 6, 30, 92, TRIM)
    if d["band"] == "elastic band":
        pen.box(70, 6, 74.5, 92, DARK)
    pen.mark(51, 36, 9)


def _pencil_case(pen: Pen, d: dict[str, str]) -> None:
    for x, ink in ((36, RED), (46, GOLD), (56, SKY)):
        pen.pairs(x, 40, x, 20, x + 4, 10, x + 8, 20, x + 8, 40, fill=CREAM)
        pen.box(x, 20, x + 8, 42, ink)
    if d["form"] == "tube form":
        pen.box(4, 38, 96, 80, MAIN, 19)
        pen.oval(14, 59, 9, 20, SHADE)
    else:
        pen.box(6, 38, 94, 80, MAIN, 2)
        pen.box(6, 72, 94, 80, SHADE)
    pen.stroke(14, 45, 88, 45, width=3, fill=SILVER, outline=True)
    pen.oval(89, 46, 3.5, 3.5, TRIM)
    pen.mark(54, 62, 8)


def _scissors(pen: Pen, d: dict[str, str]) -> None:
    tip = 4 if d["blades"] == "long blades" else 24
    pen.pairs(46, 58, 54, 56, 68, tip, 60, tip + 6, fill=SILVER)
    pen.pairs(54, 58, 46, 56, 32, tip, 40, tip + 6, fill=STEEL)
    for x, fill in ((32, MAIN), (68, MAIN)):
        pen.stroke(50, 54, x, 70, width=8, fill=fill, outline=True)
        pen.arc(x, 79, 11, 13, 0, 360, 9, fill)
    pen.oval(50, 55, 3, 3, DARK)
    pen.mark(50, 66, 6.5)


def _phone(pen: Pen, d: dict[str, str]) -> None:
    pen.box(27, 4, 73, 96, MAIN, 8)
    if d["camera"] == "single camera":
        pen.oval(39, 16, 6, 6, DARK)
        pen.oval(39, 16, 2.4, 2.4, SKY, outline=False)
    else:
        pen.box(31, 8, 55, 34, SHADE, 5)
        for x, y in ((38, 15), (38, 27), (48, 21)):
            pen.oval(x, y, 4.8, 4.8, DARK)
            pen.oval(x, y, 1.8, 1.8, SKY, outline=False)
    pen.box(73, 28, 75, 40, STEEL)
    pen.box(45, 90, 55, 92, DARK, outline=False)
    pen.mark(50, 58, 8.5)


def _headphones(pen: Pen, d: dict[str, str]) -> None:
    pen.arc(50, 50, 33, 38, 180, 360, 8, MAIN)
    rx, ry = (15, 16) if d["cups"] == "round cups" else (11, 22)
    for x in (20, 80):
        pen.oval(x + (50 - x) * 0.22, 62, rx * 0.75, ry, DARK)
        pen.oval(x, 62, rx, ry)
        pen.oval(x, 62, rx * 0.5, ry * 0.55, TRIM)
    if d["boom"] == "microphone":
        pen.stroke(24, 76, 34, 90, 52, 92, width=3, fill=DARK)
        pen.oval(54, 92, 5, 4, DARK)
    pen.mark(80, 62, 7)


def _laptop(pen: Pen, d: dict[str, str]) -> None:
    lean = 0 if d["pose"] == "wide open" else 14
    pen.pairs(16 + lean, 14 + lean, 84 + lean, 14 + lean, 84, 66, 16, 66)
    pen.pairs(16, 66, 84, 66, 96, 84, 4, 84, fill=SILVER)
    pen.pairs(22, 69, 78, 69, 82, 76, 18, 76, fill=DARK)
    pen.pairs(42, 78, 58, 78, 60, 83, 40, 83, fill=STEEL)
    pen.box(4, 84, 96, 87, TRIM, 1)
    pen.mark(50 + lean / 2, 42 + lean / 2, 8)


def _speaker(pen: Pen, d: dict[str, str]) -> None:
    if d["form"] == "cylinder form":
        pen.box(28, 10, 72, 92, MAIN, 3)
        pen.oval(50, 92, 22, 5, SHADE)
        pen.oval(50, 10, 22, 6, DARK)
        pen.oval(50, 72, 14, 14, DARK)
        pen.oval(50, 72, 8, 8, TRIM)
        pen.mark(50, 36, 8.5)
    else:
        pen.box(14, 18, 86, 88, MAIN, 6)
        pen.oval(50, 60, 23, 23, DARK)
        pen.oval(50, 60, 14, 14, TRIM)
        pen.oval(50, 60, 6, 6, DARK)
        pen.mark(31, 31, 8.5)


def _camera(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(34, 30, 40, 18, 60, 18, 66, 30, fill=SHADE)
    pen.box(14, 22, 26, 30, STEEL, 1)
    pen.box(6, 28, 94, 82, MAIN, 5)
    pen.box(6, 28, 94, 37, TRIM, 3)
    if d["lens"] == "zoom lens":
        pen.oval(54, 60, 27, 27, DARK)
        pen.oval(54, 60, 21, 21, STEEL)
        pen.oval(54, 60, 15, 15, DARK)
    else:
        pen.oval(54, 60, 18, 18, DARK)
    pen.oval(54, 60, 9, 9, SKY)
    pen.mark(17, 50, 7.5)


def _lighter(pen: Pen, d: dict[str, str]) -> None:
    if d["lid"] == "open lid":
        pen.poly([(50 + 7 * u * (1 - 0.5 * max(0, -v)), 17 + 14 * v) for u, v in _ROUND], (248, 176, 48), False)
        pen.oval(50, 23, 3.5, 6, (110, 170, 240), outline=False)
        pen.box(36, 30, 64, 46, SILVER)
        pen.oval(62, 36, 6, 6, STEEL)
        pen.pairs(70, 44, 94, 34, 88, 18, 66, 28, fill=TRIM)
    else:
        pen.box(28, 20, 72, 44, TRIM, 3)
        pen.box(72, 38, 76, 50, STEEL)
    pen.box(28, 44, 72, 96, MAIN, 3)
    pen.mark(50, 69, 9)


def _cigars(pen: Pen, d: dict[str, str]) -> None:
    if d["box"] == "open box":
        pen.pairs(14, 10, 86, 10, 90, 46, 10, 46, fill=TRIM)
        pen.box(10, 46, 90, 62, CREAM)
        for i in range(6):
            pen.box(13 + 12.6 * i, 36, 23 + 12.6 * i, 62, (112, 70, 38), 3)
            pen.box(13 + 12.6 * i, 50, 23 + 12.6 * i, 56, GOLD)
        pen.box(8, 60, 92, 90)
        pen.mark(50, 75, 8.5)
    else:
        pen.pairs(8, 46, 22, 34, 96, 34, 92, 46, fill=TRIM)
        pen.box(8, 46, 92, 84)
        pen.stroke(8, 56, 92, 56, width=1.6, fill=DARK)
        pen.box(20, 51, 28, 61, GOLD)
        pen.box(4, 85, 70, 93, (112, 70, 38), 4)
        pen.box(22, 85, 32, 93, GOLD)
        pen.mark(50, 68, 8.5)


def _poker_set(pen: Pen, d: dict[str, str]) -> None:
    pen.pairs(52, 10, 88, 20, 74, 74, 38, 64, fill=WHITE)
    pen.pairs(76, 20, 83, 26, 78, 34, 71, 28, fill=RED)
    pen.pairs(66, 40, 74, 49, 66, 58, 58, 49, fill=RED)
    pen.box(12, 10, 52, 72, WHITE, 3)
    pen.box(15.5, 13.5, 48.5, 68.5, MAIN, 2)
    if d["content"] == "cards and chips":
        for x, y in ((70, 88), (70, 81), (70, 74), (38, 88), (38, 81)):
            pen.oval(x, y, 17, 7, TRIM)
            pen.oval(x, y - 1, 9, 3.4, WHITE)
    pen.mark(32, 40, 9)


SILHOUETTES: dict[str, Callable[[Pen, dict[str, str]], None]] = {
    "t-shirt": _t_shirt, "shirt": _shirt, "hoodie": _hoodie, "trousers": _trousers, "shorts": _shorts, "skirt": _skirt,
    "dress": _dress, "sneakers": _sneakers, "boots": _boots, "sandals": _sandals, "pumps": _pumps, "backpack": _backpack,
    "handbag": _handbag, "watch": _watch, "sunglasses": _sunglasses, "cap": _cap, "umbrella": _umbrella, "chair": _chair,
    "table": _table, "sofa": _sofa, "lamp": _lamp, "bookcase": _bookcase, "mug": _mug, "kettle": _kettle, "pan": _pan,
    "water bottle": _water_bottle, "plate": _plate, "vase": _vase, "ball": _ball, "blocks": _blocks, "toy car": _toy_car,
    "teddy bear": _teddy_bear, "kite": _kite, "wine": _wine, "whisky": _whisky, "beer": _beer, "juice": _juice, "tea": _tea,
    "notebook": _notebook, "pencil case": _pencil_case, "scissors": _scissors, "phone": _phone, "headphones": _headphones,
    "laptop": _laptop, "speaker": _speaker, "camera": _camera, "lighter": _lighter, "cigars": _cigars,
    "poker set": _poker_set,
}  # fmt: skip
