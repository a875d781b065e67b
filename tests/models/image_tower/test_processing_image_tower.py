"""What becomes of an image's pixels, against Pillow, OpenCV's recorded output and values worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

import mmembed.models  # noqa: F401, makes the type known
from mmembed.models import ImageTowerProcessor
from tests.models.tiny_models import image


def test_squash_and_crop_are_pillows() -> None:
    picture = image(1, (30, 50))  # height, width
    squashed = ImageTowerProcessor(16, "squash")(images=picture)["pixel_values"][0]
    np.testing.assert_array_equal(squashed.permute(1, 2, 0), np.array(picture.resize((16, 16), 3)))
    cropped = ImageTowerProcessor(16, "crop", shortest_edge=20, resample=2)(images=[picture])["pixel_values"][0]
    scaled = np.array(picture.resize((33, 20), 2))
    np.testing.assert_array_equal(cropped.permute(1, 2, 0), scaled[2:18, 8:24])
    assert cropped.dtype == torch.uint8


@pytest.mark.parametrize("name", ["dm_nfnet_f0", "eca_nfnet_l0"])
def test_without_antialiasing_it_is_opencvs(name: str, shared_data: Path) -> None:
    folder = shared_data / "parity" / "nfnet_arcface" / name
    raw = load_file(folder / "inputs.safetensors")["raw_image_uint8_hwc"].numpy()
    wanted = load_file(folder / "outputs.safetensors")["resized_cv2_linear_uint8"]
    processor = ImageTowerProcessor(len(wanted), "squash", resample=2, antialias=False)
    for given in (raw, Image.fromarray(raw)):
        assert torch.equal(processor(images=[given])["pixel_values"][0].permute(1, 2, 0), wanted)


def test_without_antialiasing_by_hand() -> None:
    processor = ImageTowerProcessor(4, "squash", resample=2, antialias=False)
    row = np.array([0, 80, 160, 240], dtype=np.uint8)
    picture = np.repeat(np.tile(row, (4, 1))[:, :, None], 3, axis=2)
    assert processor(images=picture)["pixel_values"][0, 0].tolist() == [row.tolist()] * 4  # of its own size: as it is
    two = ImageTowerProcessor(2, "squash", resample=2, antialias=False)
    assert two(images=picture)["pixel_values"][0, 0].tolist() == [[40, 200]] * 2  # the mean of two neighbours
    wide = np.repeat(picture, 4, axis=1)  # 16 columns to 4: centres at 1.5, 5.5, …, between equals
    assert processor(images=wide)["pixel_values"][0, 0, 0].tolist() == row.tolist()


def test_it_is_saved_and_found(tmp_path: Path) -> None:
    processor = ImageTowerProcessor(20, "squash", resample=2, antialias=False)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is ImageTowerProcessor and again.to_dict() == processor.to_dict()
    picture = image(2)
    assert torch.equal(again(images=[picture])["pixel_values"], processor(images=[picture])["pixel_values"])


def test_a_chat_message_is_one_image() -> None:
    processor, picture = ImageTowerProcessor(16), image(3)
    message = [{"role": "user", "content": [{"type": "image", "image": picture}]}]
    wanted = processor(images=[picture])["pixel_values"]
    assert torch.equal(processor.apply_chat_template([message])["pixel_values"], wanted)
    assert torch.equal(processor.apply_chat_template(message)["pixel_values"], wanted)
    for content, said in (
        ([{"type": "text", "text": "a mug"}], "row 0: an image tower reads images, got 'a mug'"),
        ([], "row 0: 0 images"),
        ([{"type": "image", "image": picture}] * 2, "row 0: 2 images"),
    ):
        with pytest.raises(ValueError, match=said):
            processor.apply_chat_template([[{"role": "user", "content": content}]])
    with pytest.raises(ValueError, match="no chat template"):
        processor.apply_chat_template([message], chat_template="x")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": ["mug.png"]}, "row 0: an image is a PIL image .* got str"),
        ({"images": [image(1), torch.zeros(3, 4, 4)]}, "row 1: .* got Tensor"),
        ({"text": ["a mug"], "images": [image(1)]}, "row 0: an image tower reads images, got the text 'a mug'"),
        ({}, "pass images"),
    ],
)
def test_what_is_no_image(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImageTowerProcessor(16)(**given)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resize": "stretch"}, "choose one of crop, squash"),
        ({"image_size": 64, "shortest_edge": 32}, "shortest_edge=32"),
        ({"antialias": False}, "antialias=False is bilinear"),
    ],
)
def test_what_cannot_be_meant(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ImageTowerProcessor(**settings)
