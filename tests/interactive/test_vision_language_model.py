"""A local vision-language model: what it says and weighs is what plain transformers says, and a folder may be hostile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmembed.interactive.small_vision_language import build_small_vision_language
from mmembed.interactive.vision_language_loading import load_vision_language
from mmembed.interactive.vision_language_model import VisionLanguageModel
from mmembed.models.folder_checks import ModelError
from tests.models.tiny_models import build_vlm, spread

TEXTS = ["Is it red?", "What colour is it?", "a red mug and a blue lamp", "yes no"] * 20


def picture(seed: int, size: tuple[int, int] = (40, 60)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


RED, BLUE = picture(1), picture(2, (70, 30))


def asked(text: str, images: int = 2) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*[{"type": "image"}] * images, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(build_small_vision_language(tmp_path_factory.mktemp("small"), TEXTS))
    model = AutoModelForImageTextToText.from_pretrained(path)
    torch.manual_seed(0)
    with torch.no_grad():  # wide apart, so that another prompt has another reply
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> VisionLanguageModel:
    return load_vision_language(folder, device="cpu")


def by_hand(folder: Path, text: str, images: list[Image.Image], reply: str) -> tuple[float, int]:
    """ln P(reply) from transformers alone: the prompt written out, one token after the other."""
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    prompt = f"<|im_start|>user\n{'<image>' * len(images)}{text}<end_of_utterance>\n<|im_start|>assistant\n"
    start = processor(text=prompt, images=images or None, return_tensors="pt")["input_ids"].shape[1]
    inputs = processor(text=f"{prompt}{reply}<end_of_utterance>", images=images or None, return_tensors="pt")
    with torch.no_grad():
        scores = torch.log_softmax(model.eval()(**inputs).logits[0].double(), dim=-1)
    ids = inputs["input_ids"][0].tolist()
    return sum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids))), len(ids) - start


def test_log_probabilities_are_those_of_plain_transformers(folder: Path, model: VisionLanguageModel) -> None:
    replies = ["Is it red?", "a", "What colour is it? 图", "", "Is it red?"]
    expected = [by_hand(folder, "which?", [RED, BLUE], reply) for reply in replies]
    for size in (1, 2, 8):
        model.batch_size = size
        sums, tokens = model.log_probabilities(asked("which?"), [RED, BLUE], replies)
        assert np.abs(sums - [one for one, _ in expected]).max() < 1e-4 and tokens.tolist() == [n for _, n in expected]
    other = model.log_probabilities(asked("which?"), [BLUE, RED], replies)[0]
    alone = model.log_probabilities(asked("which?", 0), [], replies)[0]
    assert np.abs(sums - other).max() > 1e-3 and np.abs(sums - alone).max() > 1e-3
    assert abs(alone[0] - by_hand(folder, "which?", [], replies[0])[0]) < 1e-4
    assert [part.shape for part in model.log_probabilities(asked("which?"), [RED, BLUE], [])] == [(0,), (0,)]


def test_the_likeliest_reply_is_that_of_plain_transformers(folder: Path, model: VisionLanguageModel) -> None:
    processor, plain = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    prompt = "<|im_start|>user\n<image><image>which?<end_of_utterance>\n<|im_start|>assistant\n"
    inputs = processor(text=prompt, images=[RED, BLUE], return_tensors="pt")
    output = plain.eval().generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    expected = processor.decode(output, skip_special_tokens=True).strip()
    assert model.replies(asked("which?"), [RED, BLUE], max_new_tokens=12, samples=2) == [expected] * 2 and expected


def test_draws_are_seeded_and_leave_the_global_generator(model: VisionLanguageModel) -> None:
    state = torch.get_rng_state()
    drawn = [
        model.replies(asked("which?"), [RED, BLUE], samples=4, seed=seed, temperature=1.0, max_new_tokens=6)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 4


def test_rows_that_are_images_stay_with_their_prompt() -> None:
    """LLaVA's pixels have a row an image: repeated row by row, two drawn replies would see one image twice."""
    plain, processor = build_vlm()
    tiny = VisionLanguageModel(spread(plain), processor, name="tiny llava")
    fed: list[dict[str, Any]] = []
    generate = plain.generate
    plain.generate = lambda **given: fed.append(given) or generate(**given)  # type: ignore[method-assign, func-returns-value]
    alone = tiny._inputs([tiny.prompt(asked("a red mug"), 2)], [[RED, BLUE]])
    assert len(tiny.replies(asked("a red mug"), [RED, BLUE], samples=3, temperature=1.0, max_new_tokens=5)) == 3
    (given,) = fed
    assert given["num_return_sequences"] == 1 and given["input_ids"].shape == (3, *alone["input_ids"].shape[1:])
    assert torch.equal(given["pixel_values"], alone["pixel_values"].repeat(3, 1, 1, 1))
    # a template without a beginning of replies: the reply follows the prompt, and the text's end ends it
    sums, tokens = tiny.log_probabilities(asked("a mug"), [RED, BLUE], ["red", "blue lamp"])
    batched = [tiny.log_probabilities(asked("a mug"), [RED, BLUE], [text])[0][0] for text in ("red", "blue lamp")]
    assert np.abs(sums - batched).max() < 1e-4 and (tokens > 1).all()


def test_what_a_reply_is_cut_to(model: VisionLanguageModel) -> None:
    words = model.processor.tokenizer
    for said, kept in (
        ("Is it red?<end_of_utterance>\n<|im_start|>user\nno", "Is it red?"),
        ("<end_of_utterance>Is it red? <pad><pad>", "Is it red?"),
        ("<pad>", ""),
    ):
        assert model._text(words(said, add_special_tokens=False)["input_ids"]) == kept


# --- what is refused --------------------------------------------------------------------------------------------------


def test_numbers_of_images_and_lengths_that_do_not_fit(model: VisionLanguageModel) -> None:
    for images in ([], [RED], [RED] * 3):
        with pytest.raises(ModelError, match=f"shows 2 images, and {len(images)} were given"):
            model.replies(asked("which?"), images)
    with pytest.raises(ModelError, match="1024 positions"):
        model.replies(asked("red " * 2000), [RED, BLUE])
    with pytest.raises(ModelError, match="1024 positions"):
        model.log_probabilities(asked("which?"), [RED, BLUE], ["red " * 2000])
    for wrong in ({"samples": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            model.replies(asked("which?"), [RED, BLUE], **wrong)  # type: ignore[arg-type]


@pytest.mark.security
def test_a_text_that_looks_like_an_image_is_a_text_and_nothing_is_opened(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    RED.save(secret)
    model.replies(asked("warm", 0), max_new_tokens=1)  # what a first call imports
    opened: list[str] = []
    watching = [True]

    def watch(event: str, given: tuple) -> None:
        if watching and (event == "open" or event.startswith("socket.")):
            opened.append(f"{event} {given[0] if event == 'open' else ''}")

    sys.addaudithook(watch)
    try:
        for text in (str(secret), "https://127.0.0.1:9/a.png", "data:image/png;base64,AAAA", f"file://{secret}"):
            assert "pixel_values" not in model._inputs([model.prompt(asked(text, 0), 0)], [[]])
            model.replies(asked(text, 0), max_new_tokens=1)
    finally:
        watching.clear()
    assert not [event for event in opened if "secret" in event or "socket" in event]
