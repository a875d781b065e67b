"""A photo of a product: its silhouette with colour, pattern, material and brand mark, set in a scene and lit."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mmembed.data.catalogue.products import BRANDS, COLOURS, Chance, Product
from mmembed.data.catalogue.silhouettes import LIGHT, MAIN, SHADE, SILHOUETTES, TRIM, Pen

DRAWING_VERSION = 4  # goes up whenever the same product would get other pixels
BACKGROUNDS = ("studio", "gradient", "wall", "table", "clutter")
_WALLS = ((232, 222, 208), (206, 218, 226), (218, 226, 210), (228, 210, 214), (214, 208, 226), (196, 200, 204))
_TABLES = ((188, 150, 112), (150, 120, 96), (214, 206, 198), (120, 124, 130))
_TRANSPARENCY = {"glass": 0.1}


def draw_photo(product: Product, index: int, *, size: int = 128) -> Image.Image:
    """Draw one of a product's photos.

    Photo 0 is the catalogue's own: straight, on a pale studio ground. The others differ in view, background, light and
    crop, as a seller's and a buyer's photos do.

    Args:
        product: what to draw.
        index: which photo, from 0.
        size: side of the square photo in pixels, at least 16.

    Returns:
        An RGB image, the same on every run.

    Raises:
        ValueError: if index or size is out of range.

    Example:
        >>> from mmembed.data.catalogue.products import generate_products
        >>> draw_photo(generate_products(1)[0], 0, size=32).size
        (32, 32)
    """
    if index < 0 or size < 16:
        raise ValueError(f"index must be at least 0 and size at least 16, got index={index} and size={size}")
    chance = Chance(product.seed, "photo", product.id, index)
    matrix = _view(chance, index, 2.0 * size)  # drawn at twice the size, then halved: smooth edges
    colours, covered, finished = _paint(product, matrix, 2 * size)
    # (size, size, 3) colours already multiplied by (size, size) cover, both 0–1
    finish = _finish(product.material, *_sheet(matrix, size, 2.0))
    solid = colours * (1 + finished * (finish - 1))[..., None]
    solid += (finished * np.clip(finish - 1.05, 0, None) * 0.55)[
        ..., None
    ]  # what is lit beyond its own colour turns white
    cover = covered - finished * _TRANSPARENCY.get(product.material, 0.0)
    solid *= (cover / np.maximum(covered, 1e-6))[..., None]
    scene = _background(chance, index, size)
    scene *= (1 - _shadow(covered, chance, size))[..., None]
    scene = scene * (1 - cover)[..., None] + solid
    return Image.fromarray(_light(scene, chance, index, size))


def photo_bytes(product: Product, index: int, *, size: int = 128) -> bytes:
    """The photo as a JPEG file, of a quality (55–92) that differs from photo to photo."""
    quality = 55 + Chance(product.seed, "quality", product.id, index).below(38)
    stream = io.BytesIO()
    draw_photo(product, index, size=size).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def product_mask(product: Product, index: int, *, size: int = 128) -> np.ndarray:
    """Where the product's own colour and pattern show in the photo.

    Returns:
        (size, size) float32: the share of each pixel that is covered, 0–1.
    """
    matrix = _view(Chance(product.seed, "photo", product.id, index), index, 2.0 * size)
    numbers, pen = _outline(product, matrix, 2 * size)
    return _halve((numbers == 2 * pen.fills.index(MAIN) + 1).astype(np.float32))


def _view(chance: Chance, index: int, side: float) -> tuple[float, ...]:
    """The map from the 100 × 100 sheet to pixels: size, turn, mirror and place."""
    straight = index == 0
    scale = chance.uniform(0.66, 0.94) if straight else chance.uniform(0.64, 1.0)
    turn = math.radians(chance.uniform(-2, 2) if straight else chance.uniform(-12, 12))
    mirror = -1 if not straight and chance.happens(0.4) else 1
    squeeze = 1.0 if straight else chance.uniform(0.86, 1.0)
    reach = 0.015 if straight else 0.05
    x, y = side * (0.5 + chance.uniform(-reach, reach)), side * (0.5 + chance.uniform(-reach, reach))
    unit = scale * side / 100
    a, b = unit * squeeze * mirror * math.cos(turn), -unit * math.sin(turn)
    d, e = unit * squeeze * mirror * math.sin(turn), unit * math.cos(turn)
    return a, b, x - 50 * (a + b), d, e, y - 50 * (d + e)


def _sheet(matrix: tuple[float, ...], side: int, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The sheet coordinates (side, side) of pixels that are `step` drawing pixels apart."""
    a, b, c, d, e, f = matrix
    down = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(step)
    det = a * e - b * d
    x, y = down[None, :] - np.float32(c), down[:, None] - np.float32(f)
    return np.float32(e / det) * x - np.float32(b / det) * y, np.float32(a / det) * y - np.float32(d / det) * x


def _outline(product: Product, matrix: tuple[float, ...], side: int) -> tuple[np.ndarray, Pen]:
    image = Image.new("L", (side, side))
    pen = Pen(ImageDraw.Draw(image), matrix, max(1, round(side / 128)))
    pen.fills.append(MAIN)
    SILHOUETTES[product.subcategory](pen, dict(product.details))
    _draw_mark(pen, product.brand)
    return np.asarray(image), pen


def _paint(product: Product, matrix: tuple[float, ...], side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours, cover and the part with the material's finish, at half the side; the colours are premultiplied."""
    numbers, pen = _outline(product, matrix, side)
    own = np.array(COLOURS[product.colour], np.float32) / 255
    second = own if product.second_colour is None else np.array(COLOURS[product.second_colour], np.float32) / 255
    dark = own * 0.66 if own.max() > 0.2 else own + 0.16
    paints = {
        MAIN: own,
        SHADE: dark,
        LIGHT: own + (1 - own) * 0.25,
        TRIM: dark if product.second_colour is None else second,
    }
    palette = np.zeros((2 * len(pen.fills) + 2, 3), np.float32)
    for i, fill in enumerate(pen.fills):
        paint = paints[fill] if isinstance(fill, str) else np.array(fill, np.float32) / 255
        palette[2 * i + 1] = paint
        palette[2 * i + 2] = paint * 0.62 if paint.max() > 0.2 else paint + 0.2
    finished = np.zeros(len(palette), np.float32)
    for fill in (MAIN, SHADE, LIGHT):
        if fill in pen.fills:
            finished[2 * pen.fills.index(fill) + 1] = 1
    colours = palette[numbers]  # (side, side, 3)
    if product.second_colour is not None:
        u, v = _sheet(matrix, side, 1.0)
        own_part = numbers == 1
        if product.pattern == "two-tone":  # the lower half of what shows, wherever that is on the sheet
            v = v - np.median(v[own_part])
        colours[_pattern(product.pattern, u, v) & own_part] = second
    return _halve(colours), _halve((numbers > 0).astype(np.float32)), _halve(finished[numbers])


def _halve(image: np.ndarray) -> np.ndarray:
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) * np.float32(0.25)


def _pattern(pattern: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the second colour goes, at sheet coordinates u (right) and v (down)."""
    if pattern == "stripes":
        return np.broadcast_to(v % 13 < 6, u.shape)
    if pattern == "dots":
        return (u % 13 - 6.5) ** 2 + (v % 13 - 6.5) ** 2 < 15
    if pattern == "checks":
        return (u % 18 < 9) ^ (v % 18 < 9)
    if pattern == "zigzag":
        return (v + np.abs(u % 16 - 8) * 1.2) % 15 < 6
    if pattern == "floral":
        x = (u + 12 * (v // 22 % 2)) % 24 - 12
        y = v % 22 - 11
        radius = np.hypot(x, y)
        return (radius < 6.2 + 3 * np.cos(5 * np.arctan2(y, x))) & (radius > 1.8)
    return v > 0  # two-tone


def _finish(material: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How bright the material makes the colour: 1 is as it is, more is lit, less is in its own shade."""
    wave = np.float32(2 * math.pi)
    if material == "cotton":
        return 1 + 0.05 * np.sin(u * 0.17 + v * 0.05)
    if material == "linen":
        return 1 + 0.07 * np.sin(u * wave / 4) + 0.07 * np.sin(v * wave / 4)
    if material == "canvas":
        return 0.98 + 0.15 * np.sign(np.sin(u * wave / 6) * np.sin(v * wave / 6))
    if material == "wool":
        return 0.97 + 0.17 * np.sin((v + np.abs(u % 8 - 4)) * wave / 6)
    if material == "denim":
        return 0.98 + 0.14 * np.sign(np.sin((u + v) * wave / 6))
    if material == "silk":
        return 1.02 + 0.26 * np.sin((0.9 * u + 0.5 * v) * 0.15)
    if material == "velvet":
        return 1.2 - 0.38 * np.abs(np.sin(u * 0.075 + v * 0.01))
    if material == "leather":
        return (
            0.9 + 0.55 * np.exp(-(((u - 36) / 13) ** 2) - ((v - 40) / 26) ** 2) + 0.08 * np.exp(-(((u - 70) / 8) ** 2))
        )
    if material == "suede":
        return 0.86 + 0.26 * _speckle(u, v, 3.0)
    if material == "plush":
        return 0.8 + 0.4 * _speckle(u, v, 4.0)
    if material == "rubber":
        return 0.9 + 0.2 * ((u % 7 - 3.5) ** 2 + (v % 7 - 3.5) ** 2 < 4.5)
    if material == "wood":
        return 0.98 + 0.17 * np.sin(v * 0.75 + 2.2 * np.sin(u * 0.07)) * (0.6 + 0.4 * np.sin(v * 0.21))
    if material == "metal":
        return 0.98 + 0.34 * np.sin(u * wave / 34 + 0.6)
    if material == "plastic":
        return 0.98 + 0.4 * (np.abs(u - 34) < 3.2)
    if material == "glass":
        return 0.98 + 0.45 * (np.abs(u - 36 + 0.12 * v) < 2.4) + 0.3 * (np.abs(u - 62 + 0.12 * v) < 1.6)
    if material == "ceramic":
        return 1.04 - 0.0042 * (u - 36) + 0.5 * np.exp(-(((u - 32) / 6) ** 2) - ((v - 42) / 12) ** 2)
    if material == "rattan":
        return 0.96 + 0.24 * np.sign(np.sin(u * wave / 9) * np.sin(v * wave / 7))
    return 0.97 + 0.09 * np.sign(np.sin(u * wave / 5))  # cardboard: its flutes


def _speckle(u: np.ndarray, v: np.ndarray, grain: float) -> np.ndarray:
    """Fixed noise in [0, 1), in grains of this many sheet units."""
    tile = _noise()
    return tile[(v / np.float32(grain)).astype(np.int32) % 64, (u / np.float32(grain)).astype(np.int32) % 64]


@functools.lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    # the bit stream of PCG64 is fixed by NumPy's policy; its distributions are not
    raw = np.random.PCG64(20240229).random_raw(64 * 64)
    return (raw >> np.uint64(40)).astype(np.float32).reshape(64, 64) / np.float32(2**24)


def _draw_mark(pen: Pen, brand_name: str) -> None:
    """The brand's tag: a white plate with its glyph."""
    brand = BRANDS[brand_name]
    x, y, r = pen.mark_at
    ink = brand.colour
    white = (253, 253, 253)
    pen.box(x - r, y - r, x + r, y + r, white, r * 0.35)
    s = r * 0.74
    if brand.glyph == "disc":
        pen.oval(x, y, s, s, ink, outline=False)
    elif brand.glyph == "ring":
        pen.oval(x, y, s, s, ink, outline=False)
        pen.oval(x, y, s * 0.5, s * 0.5, white, outline=False)
    elif brand.glyph == "triangle":
        pen.pairs(x, y - s, x + s, y + s * 0.8, x - s, y + s * 0.8, fill=ink, outline=False)
    elif brand.glyph == "square":
        pen.box(x - s * 0.8, y - s * 0.8, x + s * 0.8, y + s * 0.8, ink, outline=False)
    elif brand.glyph == "diamond":
        pen.pairs(x, y - s, x + s, y, x, y + s, x - s, y, fill=ink, outline=False)
    elif brand.glyph == "cross":
        pen.box(x - s, y - s * 0.34, x + s, y + s * 0.34, ink, outline=False)
        pen.box(x - s * 0.34, y - s, x + s * 0.34, y + s, ink, outline=False)
    elif brand.glyph == "star":
        turns = [math.pi * (i / 5 - 0.5) for i in range(10)]
        reach = [s * 1.1 if i % 2 == 0 else s * 0.45 for i in range(10)]
        points = [(x + k * math.cos(t), y + k * math.sin(t)) for k, t in zip(reach, turns, strict=True)]
        pen.poly(points, ink, outline=False)
    elif brand.glyph == "bars":
        for shift in (-0.9, -0.2, 0.5):
            pen.box(x + s * shift, y - s, x + s * (shift + 0.42), y + s, ink, outline=False)
    elif brand.glyph == "chevron":
        pen.pairs(x - s, y - s, x, y - s * 0.1, x + s, y - s, x + s, y, x, y + s, x - s, y, fill=ink, outline=False)
    else:  # moon
        pen.oval(x, y, s, s, ink, outline=False)
        pen.oval(x + s * 0.45, y - s * 0.1, s * 0.72, s * 0.72, white, outline=False)


def _background(chance: Chance, index: int, size: int) -> np.ndarray:
    """The scene without the product, (size, size, 3) in 0–1."""
    kind = "studio" if index == 0 else chance.pick(BACKGROUNDS)
    down = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    if kind == "studio":
        # paper of some pale shade: were it always the same white, its share alone would give a product away
        paper = np.array([chance.uniform(0.9, 1.0) for _ in range(3)], np.float32) * np.float32(
            chance.uniform(0.86, 1.0)
        )
        return paper * (1 - np.float32(chance.uniform(0.0, 0.14)) * down * down) * np.ones((size, size, 3), np.float32)
    wall = np.array(chance.pick(_WALLS), np.float32) / 255
    if kind == "wall":
        return wall * (1 - np.float32(0.08) * down) * np.ones((size, size, 3), np.float32)
    if kind == "gradient":
        other = np.array(chance.pick(_WALLS), np.float32) / 255
        return (wall + (other * 0.85 - wall) * down) * np.ones((size, size, 3), np.float32)
    if kind == "table":
        scene = wall * np.ones((size, size, 3), np.float32)
        edge = round(size * chance.uniform(0.62, 0.82))
        table = np.array(chance.pick(_TABLES), np.float32) / 255
        scene[edge:] = table * (1.04 - 0.25 * down[edge:])
        scene[edge : edge + max(1, size // 64)] *= 0.8
        return scene
    # clutter: things out of focus, a few soft spots of muted colour
    spots = np.array([[chance.uniform(-0.13, 0.08) for _ in range(3)] for _ in range(25)], np.float32).reshape(5, 5, 3)
    small = np.clip((wall + spots) * 255, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255


def _shadow(covered: np.ndarray, chance: Chance, size: int) -> np.ndarray:
    """How much light the product takes from the scene behind it, (size, size) in 0–1."""
    strength = chance.uniform(0.15, 0.4)
    small = Image.fromarray((covered * 255).astype(np.uint8)).reduce(4).filter(ImageFilter.GaussianBlur(size / 64))
    soft = np.asarray(small.resize((size, size), Image.Resampling.BILINEAR), np.float32) / 255
    right, below = round(size * chance.uniform(-0.04, 0.04)), round(size * chance.uniform(0.01, 0.05))
    return np.roll(soft, (below, right), (0, 1)) * np.float32(strength)


def _light(scene: np.ndarray, chance: Chance, index: int, size: int) -> np.ndarray:
    """The scene as the camera saw it: exposure, warmth, a darker edge, a little noise; (size, size, 3) uint8."""
    swing = 0.6 if index == 0 else 1.0
    warmth = chance.uniform(-0.06, 0.06) * swing
    exposure = 1 + chance.uniform(-0.14, 0.08) * swing
    gain = np.array([1 + warmth, 1, 1 - warmth], np.float32) * np.float32(exposure)
    side = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    edge = 1 - np.float32(chance.uniform(0, 0.09) * swing) * (side[None, :] + side[:, None])
    slope = 1 + np.float32(chance.uniform(-0.07, 0.07) * swing) * np.linspace(-1, 1, size, dtype=np.float32)[None, :]
    scene *= gain
    scene *= (edge * slope)[..., None]
    repeats = -(-size // 64)
    grain = np.roll(np.tile(_noise(), (repeats, repeats))[:size, :size], chance.below(64), 1) - np.float32(0.5)
    scene += (grain * np.float32(chance.uniform(0.0, 0.035) * swing))[..., None]
    return (np.clip(scene, 0, 1) * 255 + 0.5).astype(np.uint8)
