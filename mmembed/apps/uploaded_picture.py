"""What of an upload becomes a picture to search with? What the policy of images reads, made small; else a plain reason."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

from mmembed.apps.page_gate import UPLOAD_BYTES
from mmembed.images import ImageError, ImagePolicy, load_image

_PIXELS = 40_000_000
_SIDE = 1024  # pixels: more than any of our models looks at
_REASONS = (
    ("max_bytes", f"the file is larger than {UPLOAD_BYTES // 1_000_000} MB"),
    ("max_pixels", f"it has more than {_PIXELS // 1_000_000} million pixels"),
    ("is empty", "the file is empty"),
    ("not an image of a format", "it is no JPEG, PNG, WebP, GIF, BMP or TIFF"),
)


class UploadError(ValueError):
    """An upload that is no picture to search with; the message is for whoever sent it, and names no place."""


def uploaded_picture(payload: Any, upload_dir: str | os.PathLike[str]) -> Image.Image | None:
    """The picture that was uploaded.

    Args:
        payload: what Gradio's image control sends: None, or a mapping with the `path` of the uploaded file. An address in
            it is not looked at.
        upload_dir: the folder that uploads lie in; nothing is read outside of it.

    Returns:
        An RGB picture of at most 1,024 pixels a side; None where there is none.

    Raises:
        UploadError: it cannot be read.

    Example:
        >>> uploaded_picture({"path": "/etc/passwd"}, "/tmp")
        Traceback (most recent call last):
        mmembed.apps.uploaded_picture.UploadError: the picture cannot be read: it is damaged, or no picture
    """
    if payload is None:
        return None
    path = payload.get("path") if isinstance(payload, dict) else None
    policy = ImagePolicy(root=os.path.realpath(upload_dir), max_bytes=UPLOAD_BYTES, max_pixels=_PIXELS)
    try:
        if not isinstance(path, str) or path[:5].lower() == "data:":
            raise ImageError("no path")
        picture = load_image(path.removeprefix(os.fspath(upload_dir) + os.sep), policy=policy)
    except ImageError as error:
        reason = next((said for sign, said in _REASONS if sign in str(error)), "it is damaged, or no picture")
        raise UploadError(f"the picture cannot be read: {reason}") from None
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return picture
