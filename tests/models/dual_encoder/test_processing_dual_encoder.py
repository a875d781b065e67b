"""Rows → tensors, against Pillow and the tokenizer alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from mmembed.models import DualEncoderProcessor

from ..tiny_models import image, tokenizer


def processor(**settings) -> DualEncoderProcessor:
    return DualEncoderProcessor(tokenizer(), **{"image_size": 16, **settings})


def user(*parts) -> list[dict]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return [{"role": "user", "content": content}]


def test_rows_of_every_kind() -> None:
    made = processor()
    features = made(["a red mug", None, "lamp", None], [None, image(1), image(2), image(3)])
    words = made.tokenizer(["a red mug", "lamp"], padding=True, return_tensors="pt")
    assert torch.equal(features["input_ids"][[0, 2]], words["input_ids"])
    assert torch.equal(features["attention_mask"][[0, 2]], words["attention_mask"])
    assert not features["attention_mask"][[1, 3]].any() and not features["input_ids"][[1, 3]].any()
    assert features["pixel_values"].shape == (3, 3, 16, 16) and features["pixel_values"].dtype == torch.uint8
    assert features["num_images_per_sample"].tolist() == [0, 1, 1, 1]
    only = made(images=[image(1)])
    assert only["input_ids"].shape == (1, 1) and not only["attention_mask"].any()
    assert "pixel_values" not in made("a red mug")


def test_chat_messages_are_rows() -> None:
    made = processor()
    system = {"role": "system", "content": [{"type": "text", "text": "a "}]}
    batch = [[system, *user("red mug")], [system, *user(image(1))], [system, *user(image(2), "lamp")]]
    options = {
        "text_kwargs": {"padding": True, "truncation": "longest_first"},
        "images_kwargs": {},
        "common_kwargs": {"return_tensors": "pt"},
    }
    given = made.apply_chat_template(batch, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=options, load_audio_from_video=False)  # fmt: skip
    expected = made(["a red mug", None, "a lamp"], [None, image(1), image(2)])
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in given)
    one = made.apply_chat_template(user("red mug"))
    assert torch.equal(one["input_ids"], made("red mug")["input_ids"])


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (16, 16), (7, 9), (31, 17)])
def test_resizing_is_pillows(size) -> None:
    picture = image(5, size)
    squashed = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(processor(resize="squash")(images=picture)["pixel_values"][0].numpy(), squashed)
    cropped = processor(resize="crop", shortest_edge=20, resample=2)(images=picture)["pixel_values"][0].numpy()
    width, height = picture.size
    scaled = picture.resize(
        (int(20 * width / min(width, height)), int(20 * height / min(width, height))), Image.Resampling.BILINEAR
    )
    left, top = round((scaled.width - 16) / 2), round((scaled.height - 16) / 2)
    expected = np.asarray(scaled)[top : top + 16, left : left + 16].transpose(2, 0, 1)
    assert cropped.shape == (3, 16, 16) and np.array_equal(cropped, expected)


def test_cropping_keeps_the_aspect_ratio_and_squashing_does_not() -> None:
    halves = np.zeros((20, 60, 3), dtype=np.uint8)
    halves[:, 20:40] = 255  # the middle third
    assert processor(resize="crop")(images=halves)["pixel_values"].float().mean() > 240
    assert processor(resize="squash")(images=halves)["pixel_values"].float().mean() < 100


def test_texts_are_cut_at_the_limit(tmp_path) -> None:
    made = processor(max_text_length=5)
    assert made("a red mug and a blue lamp")["input_ids"].shape == (1, 5)
    made.tokenizer.model_max_length = 4
    made.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path)("a red mug and a blue lamp")["input_ids"].shape == (1, 4)
    assert made("a red mug", text_kwargs={"padding": "max_length", "max_length": 9})["input_ids"].shape == (1, 9)


@pytest.mark.security
def test_control_tokens_in_a_text_are_text() -> None:
    made = processor()
    for hostile in ("a [SEP] mug", "[CLS][SEP]", "mug [PAD] [MASK]"):
        ids = made([hostile, "a red mug and a blue lamp, a brown fox"])["input_ids"][0].tolist()
        words = ids[: 1 + max(i for i, id in enumerate(ids) if id)]
        assert words[0] == 2 and words[-1] == 3 and not {0, 2, 3, 4} & set(words[1:-1])


@pytest.mark.parametrize("source", ["mug.png", "https://example.org/mug.png", b"\x89PNG", np.zeros((4, 4, 3))])
@pytest.mark.security
def test_nothing_is_opened(source, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    image(1).save("mug.png")
    with pytest.raises(ValueError, match="row 1: an image is a PIL image"):
        processor()(["a", "b"], [None, source])
    with pytest.raises(ValueError, match="row 0: an image is a PIL image"):
        processor().apply_chat_template([user(source) if not isinstance(source, str) else [{"role": "user", "content": [{"type": "image", "image": source}]}]])  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "images", "message"),
    [
        (["a", None], [None, None], "row 1 has neither"),
        (["a"], [None, image(1)], "1 texts and 2 images"),
        (None, None, "pass text, images or both"),
        ([3], None, "row 0: a text is a string, got int"),
    ],
)
def test_rows_that_do_not_fit_are_refused(texts, images, message) -> None:
    with pytest.raises(ValueError, match=message):
        processor()(texts, images)


def test_messages_that_are_no_row_are_refused() -> None:
    made = processor()
    with pytest.raises(ValueError, match="row 0: 1 texts and 2 images"):
        made.apply_chat_template([user("a", image(1), image(2))])
    with pytest.raises(ValueError, match="row 1: a dual encoder reads text and image, got 'video'"):
        made.apply_chat_template([user("a"), [{"role": "user", "content": [{"type": "video", "video": [image(1)]}]}]])
    with pytest.raises(ValueError, match="no chat template"):
        made.apply_chat_template(user("a"), chat_template="{{ messages }}")


def test_settings_survive_a_folder(tmp_path) -> None:
    made = processor(resize="squash", resample=2, image_size=24, max_text_length=7)
    made.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    first, second = made.to_dict(), loaded.to_dict()
    first.pop("auto_map", None)  # written when saving
    assert isinstance(loaded, DualEncoderProcessor) and second == first and first["max_text_length"] == 7
    for given in ((["a red mug"], [image(3)]), (["红色杯子"], [None])):
        first, second = made(*given), loaded(*given)
        assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ValueError, match="choose one of crop, squash"):
        processor(resize="pad")
    with pytest.raises(ValueError, match="less than image_size"):
        processor(shortest_edge=8)
