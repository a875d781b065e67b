"""Vision-language models and adapters from folders, and folders that are none or hostile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from mmembed.interactive.small_vision_language import build_small_vision_language
from mmembed.interactive.vision_language_loading import load_vision_language
from mmembed.interactive.vision_language_model import VisionLanguageModel
from mmembed.models.folder_checks import ModelError

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
