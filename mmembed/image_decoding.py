"""How do the bytes of an image file become 8-bit RGB? The table of this policy is in `mmembed.images`."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from mmembed.image_paths import ImageError

# Importing the two plugins registers them; otherwise Pillow would import every plugin it has at the first TIFF or WebP
# file.
_PLUGINS = (TiffImagePlugin, WebPImagePlugin)

_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A progressive JPEG has about ten scans. A hostile one repeats a scan of a few bytes thousands of times: seconds a kilobyte.
_START_OF_SCAN, _MOST_SCANS = b"\xff\xda", 200
_LONGEST_PROFILE = 4 << 20  # bytes; real ICC profiles stay below 3 MB
_PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}

# What stands in image columns by mistake, known by its first bytes.
_IMPOSTORS = (
    (b"version https://git-lfs", "it is a Git LFS pointer; run `git lfs pull` to get the file itself"),
    (b"<svg", "it is an SVG drawing; render it to PNG first"),
    (b"<!doctype html", "it is an HTML page, as a failed download leaves it; download the image again"),
    (b"<html", "it is an HTML page, as a failed download leaves it; download the image again"),
    (b"<?xml", "it is XML, perhaps an SVG drawing; render it to PNG first"),
    (b"%pdf", "it is a PDF document; render its pages to PNG first"),
    (b"%!ps", "it is PostScript; render it to PNG first"),
    (b"pk\x03\x04", "it is a zip archive; unpack it first"),
    (b"\x1f\x8b", "it is gzip-compressed; unpack it first"),
)

# What the formats read here begin with.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_warnings_lock = threading.Lock()


def _renew_lock() -> None:
    global _warnings_lock
    _warnings_lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a data loader may fork while another thread is decoding
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's remarks on odd headers and sizes: what matters in them is an error here, the rest is harmless.

    The lock is because `warnings.catch_warnings` is not thread-safe; only header parsing, which holds the interpreter
    anyway, is under it.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError for an image without pixels or with more than `max_pixels`.

    Example:
        >>> check_size(640, 480, max_pixels=1_000_000)
    """
    if width < 1 or height < 1:
        raise ImageError(f"the image is {width} x {height}: it has no pixels; remove or replace it")
    if width * height > max_pixels:
        raise ImageError(
            f"the image is {width} x {height}: {width * height} pixels are more than max_pixels={max_pixels}; make it "
            "smaller, or raise"
            " ImagePolicy(max_pixels=...) if you trust where it comes from"
        )


def _unknown_format(data: bytes, formats: Sequence[str]) -> ImageError:
    accepted = ", ".join(formats)
    if data.startswith(_BEGINNINGS):
        return ImageError(
            f"the image file begins as one but its header is damaged or truncated, or it is of another format than {accepted};"
            " copy or download it again, or convert it"
        )
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for signature, meaning in _IMPOSTORS:
        if start.startswith(signature):
            return ImageError(f"not an image of a format read here ({accepted}): {meaning}")
    if data[4:8] == b"ftyp":
        return ImageError(
            f"not an image of a format read here ({accepted}): it is HEIC, AVIF or a video; convert it to JPEG or "
            "PNG first"
        )
    return ImageError(f"not an image of a format read here ({accepted}); convert or replace it")


def _damaged(error: Exception) -> ImageError:
    """Our words for a decoder's failure: its own may quote the file or a memory address, so only its kind is passed
    on."""
    if isinstance(error, MemoryError):
        return ImageError(
            "not enough memory to decode the image; lower ImagePolicy(max_pixels=...) or use fewer workers"
        )
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return ImageError("the image file is truncated: it ends before its last pixel; copy or download it again")
    return ImageError(
        f"the image file is damaged: the decoder failed ({type(error).__name__}); copy or download it again"
    )


def decode(
    data: bytes,
    *,
    formats: Sequence[str],
    max_pixels: int,
    background: tuple[int, int, int],
    at_least: int | None = None,
) -> Image.Image:
    """Decode the first frame of an image file into 8-bit RGB.

    Args:
        data: the whole file.
        formats: Pillow's names of the formats to try; no other decoder is started.
        max_pixels: largest width x height, checked on the header before any pixel is decoded.
        background: RGB colour under transparent pixels.
        at_least: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 size as long as its short side keeps this many
            pixels.

    Returns:
        A PIL image of mode RGB without metadata.

    Raises:
        ImageError: the data is not an image of these formats, too large, truncated or damaged.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2), 7).save(file, "PNG")
        >>> decode(file.getvalue(), formats=("PNG",), max_pixels=100, background=(255, 255, 255)).getpixel((0, 0))
        (7, 7, 7)
    """
    if not data:
        raise ImageError("the image file is empty (0 bytes); copy or download it again")
    # `from None` throughout: a decoder's message may hold a memory address or bytes of the file, and a logged
    # traceback would show it.
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=tuple(formats))
        check_size(*image.size, max_pixels)
        if image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > _MOST_SCANS:
            raise ImageError(
                f"the JPEG file has more than {_MOST_SCANS} scans, each of which costs a pass over all pixels; save it anew"
            )
        if at_least is not None and image.format == "JPEG":
            image.draft(None, (at_least, at_least))
        return normalised(image, background=background)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            f"the image's header declares far more pixels than max_pixels={max_pixels}, as a decompression bomb "
            "does; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise _unknown_format(data, formats) from None
    except Exception as error:  # decoders raise nearly everything on hostile files
        raise _damaged(error) from None


def normalised(image: Image.Image, *, background: tuple[int, int, int]) -> Image.Image:
    """A copy of any PIL image as upright 8-bit sRGB without metadata; see the table in `mmembed.images`.

    Args:
        image: the image, of any mode; left as it is.
        background: RGB colour under transparent pixels.

    Returns:
        A new PIL image of mode RGB.

    Raises:
        ImageError: the pixels have a value or a mode with no defined 8-bit colour.

    Example:
        >>> normalised(Image.new("LA", (1, 1), (0, 127)), background=(255, 255, 255)).getpixel((0, 0))
        (128, 128, 128)
    """
    if image.format == "TIFF":
        with _quiet():
            image.load()  # reads the tags again, with remarks; also turns the image upright
    else:
        image.load()
    orientation = _orientation(image)
    colour, alpha = _split_alpha(image)
    colour = _to_srgb(colour, image)
    if alpha is not None:
        colour = Image.composite(colour, Image.new("RGB", colour.size, background), alpha)
    if orientation in _TRANSPOSITIONS:
        colour = colour.transpose(_TRANSPOSITIONS[orientation])
    elif colour is image:
        colour = colour.copy()
    colour.info = {}
    return colour


def _orientation(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation, 1 where there is none or it cannot be read."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) or type(image) is not Image.Image and not _has_exif(image):
        return 1
    try:
        with _quiet():
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata is no reason to refuse good pixels
        return 1


def _has_exif(image: Image.Image) -> bool:
    return any(key in image.info for key in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colour as L, RGB, CMYK, LAB, YCbCr or HSV, and the opacity as L or None."""
    mode, transparent = image.mode, image.info.get("transparency")
    if mode.startswith("I") or mode == "F":
        grey, values = _wide_grey(image)
        if isinstance(transparent, int):
            return grey, Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        return grey, None
    if mode in ("P", "PA"):
        palette_mode = image.palette.mode if image.palette else "RGB"
        if mode == "PA" or transparent is not None or palette_mode == "RGBA":
            image = image.convert("RGBA")
            return image.convert("RGB"), image.getchannel("A")
        return image.convert("RGB"), None
    if mode in ("RGBa", "La"):
        image = image.convert(mode.upper())
        mode = image.mode
    if mode in ("RGBA", "LA"):
        return image.convert(mode[:-1]), image.getchannel("A")
    if mode in ("1", "L", "RGB") and transparent is not None:
        alpha = image.convert("RGBA").getchannel("A")
        image = image.copy()
        del image.info["transparency"]
        return (image.convert("L") if mode == "1" else image), alpha
    if mode == "1":
        return image.convert("L"), None
    if mode == "RGBX":
        return image.convert("RGB"), None
    if mode in ("L", "RGB", "CMYK", "LAB", "YCbCr", "HSV"):
        return image, None
    raise ImageError(f"a PIL image of mode {mode} has no defined colours here; convert it to RGB first")


def _wide_grey(image: Image.Image) -> tuple[Image.Image, np.ndarray]:
    """Grey of 16 or 32 bits or floats as 8 bits; also the values as they were, (height, width)."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (np.isfinite(low) and np.isfinite(high)):  # NaN spreads through min and max
            raise ImageError("the float image holds NaN or infinite values; replace them before saving it")
        if low < 0 or high > 255:
            raise ImageError(
                f"the float image holds values from {low:g} to {high:g}; only 0..1 (scaled by 255) and 0..255 have a "
                "meaning here:"
                " rescale it"
            )
        eight = np.rint(values * 255.0 if high <= 1 else values)
    else:
        if low < 0 or high > 65535:
            raise ImageError(
                f"the integer image holds values from {low} to {high}; only 0..65535 (16-bit grey) is read: rescale it"
            )
        eight = (values.astype(np.uint32) + 128) // 257  # 65535 = 255 * 257, rounded
    return Image.fromarray(eight.astype(np.uint8)), values


def _to_srgb(colour: Image.Image, image: Image.Image) -> Image.Image:
    if colour.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG as Adobe's, whose inks are inverted; without Adobe's marker they are not.
        colour = Image.eval(colour, lambda ink: 255 - ink)
    profile = image.info.get("icc_profile")
    if profile and len(profile) <= _LONGEST_PROFILE and colour.mode in _PROFILE_SPACES:
        transform = _profile_transform(bytes(profile), colour.mode)
        if transform is not None:
            return transform.apply(colour)
    if colour.mode == "LAB":
        return _lab_transform().apply(colour)
    return colour if colour.mode == "RGB" else colour.convert("RGB")


@lru_cache(maxsize=32)
def _profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From an embedded profile to sRGB; None where there is nothing to do or the profile is not valid for this mode."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _PROFILE_SPACES[mode]:
            return None
        if mode == "RGB" and (source.profile.profile_description or "").startswith("sRGB"):
            return None  # most photos; the round trip would only cost time and a rounding
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
