"""A local vision-language model: what it says and weighs is what plain transformers says, and a folder may be hostile."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmembed.interactive.small_vision_language import build_small_vision_language
from mmembed.interactive.vision_language_model import VisionLanguageModel, load_vision_language
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


def test_an_adapter_on_top(folder: Path, model: VisionLanguageModel, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    config = peft.LoraConfig(r=4, target_modules=r".*text_model.*(q_proj|v_proj)", init_lora_weights=False)
    torch.manual_seed(1)
    peft.get_peft_model(plain, config).save_pretrained(tmp_path / "adapter")
    loaded = load_vision_language(folder, adapter=tmp_path / "adapter", device="cpu")
    replies = ["Is it red?", "What colour is it?"]
    base = model.log_probabilities(asked("which?"), [RED, BLUE], replies)[0]
    below = loaded.log_probabilities(asked("which?"), [RED, BLUE], replies, with_adapter=False)[0]
    above = loaded.log_probabilities(asked("which?"), [RED, BLUE], replies)[0]
    assert np.abs(below - base).max() < 1e-5 < np.abs(above - base).max()
    assert loaded.record == {"model": str(folder), "revision": None, "adapter": str(tmp_path / "adapter")}
    assert loaded.replies(asked("which?"), [RED, BLUE], max_new_tokens=3) is not None
    with pytest.raises(ModelError, match="no adapter that could be left out"):
        model.log_probabilities(asked("which?"), [RED, BLUE], replies, with_adapter=False)
    with pytest.raises(ModelError, match="is an adapter; load the model that it is for"):
        load_vision_language(tmp_path / "adapter")
    with pytest.raises(ModelError, match="give the folder that peft saved"):
        load_vision_language(folder, adapter=tmp_path)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**settings, "target_modules": ["nothing"]}))
    with pytest.raises(ModelError, match="is no adapter for this model"):
        load_vision_language(folder, adapter=tmp_path / "adapter", device="cpu")


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


def test_models_that_are_none(folder: Path, tmp_path: Path) -> None:
    from tests.rerankers.tiny_rerankers import tiny_reranker

    with pytest.raises(ModelError, match="no processor of images and texts|cannot be loaded"):
        load_vision_language(tiny_reranker(tmp_path / "text"))
    for missing in (tmp_path / "nothing", "./nothing", folder / "config.json"):
        with pytest.raises(ModelError, match="is no folder"):
            load_vision_language(missing)
    mute = shutil.copytree(folder, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load_vision_language(mute)
    deaf = shutil.copytree(folder, tmp_path / "deaf")
    (deaf / "chat_template.jinja").write_text("{{ messages[0]['content'][-1]['text'] }}")
    with pytest.raises(ModelError, match="shows 0 images, and 2 were given"):
        load_vision_language(deaf, device="cpu").replies(asked("which?"), [RED, BLUE])


@pytest.mark.parametrize("kind", ["Qwen2_5_VLProcessor", "SmolVLMProcessor"])
def test_a_processor_that_needs_torchvision_is_told_of(folder: Path, tmp_path: Path, kind: str) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    path = other / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "processor_class": kind}))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "processor_class": kind}))
    with pytest.raises(ModelError, match="torchvision"):
        load_vision_language(other)


@pytest.mark.security
def test_a_hostile_chat_template_runs_nothing(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for number, attack in enumerate(
        [
            "{{ cycler.__init__.__globals__.os.system('touch MARKER') }}",
            "{{ messages.__class__.__mro__[1].__subclasses__() }}",
            "{{ self.__init__.__globals__.__builtins__.open('MARKER', 'w') }}",
        ]
    ):
        other = shutil.copytree(folder, tmp_path / f"hostile{number}")
        (other / "chat_template.jinja").write_text(attack.replace("MARKER", str(marker)))
        with pytest.raises(Exception, match="unsafe|undefined|SecurityError"):
            load_vision_language(other, device="cpu").replies(asked("which?"), [RED, BLUE])
    assert not marker.exists()


@pytest.mark.security
def test_pickled_weights_and_code_are_refused(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    torch.save(weights, other / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vision_language(other)
    code = shutil.copytree(folder, tmp_path / "code")
    (code / "ran.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    settings = json.loads((code / "config.json").read_text())
    named = {"auto_map": {"AutoModelForImageTextToText": "ran.Model"}, "model_type": "unheard_of"}
    (code / "config.json").write_text(json.dumps({**settings, **named}))
    with pytest.raises(ModelError):
        load_vision_language(code)
    assert not (tmp_path / "marker").exists()


@pytest.mark.security
def test_a_pickled_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}')
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match="adapter_model.safetensors"):
        load_vision_language(folder, adapter=tmp_path)


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
