"""Random crops, flips, colours, rotations and erased rectangles of a training image, the same for the same (seed,
epoch, id)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

from PIL import Image, ImageStat

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode L
_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
# Fraction of the image, and width / height; Zhong et al., "Random Erasing Data Augmentation", 2017, at half the area.
_ERASED_AREA = (0.02, 0.2)
_ERASED_RATIO = (0.3, 1 / 0.3)
_DRAWS = 16  # random numbers an image takes, always all of them


@dataclass(frozen=True)
class Augmentation:
    """A random variation of a training image; everything is off unless asked for.

    The steps come in this order: crop, resize, flip, rotation, colour, erasing. Each random number is drawn from a
    hash of (seed, epoch,
    id) at a fixed position, so a result depends neither on other images, workers or ranks nor on which other steps are
    on.

    Args:
        crop: smallest and largest area of a random crop as fractions of the image, such as (0.6, 1.0); None keeps the
            whole image.
        ratio: smallest and largest width / height of the crop; a crop that would not fit is cut at the border.
        size: side of the square result in pixels; None keeps the size of the crop and leaves resizing to the model's
            processor.
        flip: probability of mirroring left and right. Leave it 0 where images hold text, logos or handed things.
        colour: strength of the change of brightness, contrast and saturation (factors in 1 - colour … 1 + colour); the
            hue turns by up to a
            quarter of it, in full circles. Four numbers set the four apart.
        rotation: largest angle in degrees, either way; corners are filled with `background`.
        erasing: probability of painting one rectangle of 2 % to 20 % of the area grey.
        background: RGB colour of the corners that a rotation opens.

    Raises:
        ValueError: a value that cannot be meant.

    Example:
        >>> image = Image.new("RGB", (64, 48), (200, 30, 30))
        >>> augmentation = Augmentation(crop=(0.6, 1.0), size=32, flip=0.5, colour=0.2)
        >>> augmented = augmentation(image, seed=0, epoch=1, id="sku-1")
        >>> augmented.size, augmented == augmentation(image, seed=0, epoch=1, id="sku-1")
        ((32, 32), True)
        >>> Augmentation()(image, seed=0, epoch=1, id="sku-1") == image
        True
    """

    crop: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    size: int | None = None
    flip: float = 0.0
    colour: float | tuple[float, float, float, float] = 0.0
    rotation: float = 0.0
    erasing: float = 0.0
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.crop is not None:
            object.__setattr__(self, "crop", _range("crop", self.crop, highest=1.0))
        object.__setattr__(self, "ratio", _range("ratio", self.ratio, highest=math.inf))
        if self.size is not None and (isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1):
            raise ValueError(f"size={self.size!r}: give a whole number of pixels of at least 1, or None")
        for name in ("flip", "erasing"):
            _check_number(name, getattr(self, name), 0.0, 1.0)
        _check_number("rotation", self.rotation, 0.0, 180.0)
        if not isinstance(self.colour, (int, float)):
            colour = tuple(self.colour) if isinstance(self.colour, (tuple, list)) else ()
            if len(colour) != 4:
                raise ValueError(f"colour={self.colour!r}: give one number, or (brightness, contrast, saturation, hue)")
            object.__setattr__(self, "colour", colour)
        for amount, highest in zip(self._colour_amounts(), (1.0, 1.0, 1.0, 0.5)):
            _check_number("colour", amount, 0.0, highest)
        background = tuple(self.background) if isinstance(self.background, (tuple, list)) else ()
        if len(background) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in background):
            raise ValueError(f"background={self.background!r}: give three whole numbers from 0 to 255")
        object.__setattr__(self, "background", background)

    def __call__(self, image: Image.Image, *, seed: int, epoch: int, id: str) -> Image.Image:
        """Vary one image.

        Args:
            image: PIL image of mode RGB; left as it is.
            seed: the run's seed.
            epoch: the epoch, so that each one shows another variation.
            id: the row's id.

        Returns:
            A PIL image of mode RGB; the image itself where nothing changes.

        Raises:
            ValueError: the image is not RGB.

        Example:
            >>> mirror = Augmentation(flip=1.0)
            >>> image = Image.new("RGB", (2, 1))
            >>> image.putpixel((0, 0), (255, 0, 0))
            >>> mirror(image, seed=0, epoch=0, id="a").getpixel((1, 0))
            (255, 0, 0)
        """
        if image.mode != "RGB":
            raise ValueError(f"got an image of mode {image.mode}: give RGB, as mmembed.images.load_image does")
        draws = _uniforms(seed, epoch, id)
        image = self._cropped(image, draws[0:4])
        if draws[4] < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rotation:
            angle = self.rotation * (2 * draws[5] - 1)
            image = image.rotate(angle, resample=_BILINEAR, fillcolor=self.background)
        if any(self._colour_amounts()):
            image = self._coloured(image, draws[6:10])
        if draws[10] < self.erasing:
            image = _erased(image, draws[11:15])
        return image

    def _cropped(self, image: Image.Image, draws: list[float]) -> Image.Image:
        box = (0, 0, *image.size)
        if self.crop is not None:
            low, high = self.crop
            area = image.width * image.height * (low + (high - low) * draws[0])
            box = _box(image.size, area, _log_between(self.ratio, draws[1]), draws[2], draws[3])
        if self.size is not None:
            if image.size == (self.size, self.size) and box == (0, 0, *image.size):
                return image
            # reducing_gap: shrink by whole factors first; invisible at 2 and several times faster on photos
            return image.resize((self.size, self.size), _BICUBIC, box=box, reducing_gap=2.0)
        return image if box == (0, 0, *image.size) else image.crop(box)

    def _colour_amounts(self) -> tuple[float, float, float, float]:
        if isinstance(self.colour, (int, float)):
            return (self.colour, self.colour, self.colour, self.colour / 4)
        return self.colour

    def _coloured(self, image: Image.Image, draws: list[float]) -> Image.Image:
        """Brightness, contrast, saturation and hue as one affine map of RGB: one pass over the pixels, clipped once."""
        brightness, contrast, saturation, hue = (
            amount * (2 * draw - 1) for amount, draw in zip(self._colour_amounts(), draws)
        )
        mean = sum(weight * value for weight, value in zip(_LUMA, ImageStat.Stat(image).mean))  # of the grey image
        linear = _hue_and_saturation(hue, 1 + saturation)  # keeps the luma, so the mean stays the pivot of contrast
        gain = (1 + brightness) * (1 + contrast)
        offset = -(1 + brightness) * contrast * mean
        rows = [[gain * value for value in row] + [offset] for row in linear]
        return image.convert("RGB", tuple(value for row in rows for value in row))


def _hue_and_saturation(turn: float, saturation: float) -> list[list[float]]:
    """The 3x3 matrix that turns the colour plane of RGB by `turn` circles and stretches it, luma unchanged."""
    cos, sin = saturation * math.cos(2 * math.pi * turn), saturation * math.sin(2 * math.pi * turn)
    red, green, blue = _LUMA
    # In YCbCr terms: chroma u = (B - Y), v = (R - Y), scaled to a circle as Pb and Pr are.
    u_scale, v_scale = 0.5 / (1 - blue), 0.5 / (1 - red)
    luma = [red, green, blue]
    u = [u_scale * (column - y) for column, y in zip((0, 0, 1), luma)]
    v = [v_scale * (column - y) for column, y in zip((1, 0, 0), luma)]
    turned_u = [cos * a - sin * b for a, b in zip(u, v)]
    turned_v = [sin * a + cos * b for a, b in zip(u, v)]
    new_red = [y + b / v_scale for y, b in zip(luma, turned_v)]
    new_blue = [y + a / u_scale for y, a in zip(luma, turned_u)]
    new_green = [(y - red * r - blue * b) / green for y, r, b in zip(luma, new_red, new_blue)]
    return [new_red, new_green, new_blue]


def _erased(image: Image.Image, draws: list[float]) -> Image.Image:
    low, high = _ERASED_AREA
    area = image.width * image.height * (low + (high - low) * draws[0])
    image = image.copy()
    image.paste((128, 128, 128), _box(image.size, area, _log_between(_ERASED_RATIO, draws[1]), draws[2], draws[3]))
    return image


def _box(size: tuple[int, int], area: float, ratio: float, x: float, y: float) -> tuple[int, int, int, int]:
    """A rectangle of about `area` pixels and `ratio` = width / height at relative position (x, y), within the image."""
    width = min(size[0], max(1, round(math.sqrt(area * ratio))))
    height = min(size[1], max(1, round(math.sqrt(area / ratio))))
    left, top = int(x * (size[0] - width + 1)), int(y * (size[1] - height + 1))
    return left, top, left + width, top + height


def _log_between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] * (bounds[1] / bounds[0]) ** draw


def _uniforms(seed: int, epoch: int, id: str) -> list[float]:
    """`_DRAWS` numbers in [0, 1) from the hash of the arguments; no generator, so no state."""
    key = f"{int(seed)}\0{int(epoch)}\0{id}".encode("utf-8", "surrogatepass")
    bits = b"".join(blake2b(key, digest_size=64, salt=bytes([block])).digest() for block in range(_DRAWS // 8))
    return [(int.from_bytes(bits[8 * n : 8 * n + 8], "little") >> 11) * 2.0**-53 for n in range(_DRAWS)]


def _range(name: str, bounds: tuple[float, float], highest: float) -> tuple[float, float]:
    try:
        low, high = bounds
    except (TypeError, ValueError):
        raise ValueError(f"{name}={bounds!r}: give two numbers, the smallest and the largest") from None
    for value in (low, high):
        _check_number(name, value, 0.0, highest)
    if not 0 < low <= high or math.isinf(high):
        raise ValueError(f"{name}={bounds!r}: give two numbers above 0, the smaller one first")
    return float(low), float(high)


def _check_number(name: str, value: float, lowest: float, highest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
        raise ValueError(f"{name} holds {value!r}: give a number from {lowest:g} to {highest:g}")
