"""An upload becomes a small RGB picture, or a plain reason why not; nothing else is read for it."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmembed.apps.uploaded_picture import UploadError, uploaded_picture


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def test_a_picture_is_read_turned_upright_and_made_small(uploads) -> None:
    image = Image.new("RGB", (2000, 1000), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(uploads / "a.jpg", exif=exif)
    picture = uploaded_picture({"path": str(uploads / "a.jpg"), "url": "http://127.0.0.1/", "size": 3}, uploads)
    assert picture.mode == "RGB" and picture.size == (512, 1024)
    small = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    Image.fromarray(small).save(uploads / "b.png")
    np.testing.assert_array_equal(np.asarray(uploaded_picture({"path": str(uploads / "b.png")}, uploads)), small)
    assert uploaded_picture(None, uploads) is None


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 30_001))
        + chunk(b"IEND", b"")
    )


@pytest.mark.security
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "it is no JPEG"),
        (b"<html><img src=http://127.0.0.1/>", "it is no JPEG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "damaged"),
        (b"%PDF-1.7", "it is no JPEG"),
        (bomb(), "million pixels"),
        (b"\xff\xd8\xff" + b"a" * 10_000_001, "larger than 10 MB"),
    ],
)
def test_a_hostile_upload_is_a_plain_reason(uploads, data, reason) -> None:
    (uploads / "cat.png").write_bytes(data)
    with pytest.raises(UploadError) as caught:
        uploaded_picture({"path": str(uploads / "cat.png")}, uploads)
    said = str(caught.value)
    assert said.startswith("the picture cannot be read: ") and reason in said
    assert str(uploads) not in said and "0x" not in said and "/" not in said


@pytest.mark.security
def test_nothing_outside_the_uploads_is_read(uploads, tmp_path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", uploads / "link.png")
    payloads = (
        "/etc/passwd", 7, [], {}, {"path": None}, {"path": str(tmp_path / "secret.png")}, {"path": str(uploads / "link.png")},
        {"path": str(uploads / ".." / "secret.png")}, {"path": "http://127.0.0.1:9/x.png"}, {"path": "data:image/png;base64,AAAA"},
        {"path": "\0"}, {"path": ""}, {"path": str(uploads)}, {"path": None, "url": "data:image/png;base64,AAAA"},
    )  # fmt: skip
    for payload in payloads:
        with pytest.raises(UploadError, match="cannot be read"):
            uploaded_picture(payload, uploads)
