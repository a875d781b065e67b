"""A folder of a stranger is refused before anything in it is read as a model, and a sound one is not."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from mmembed.models.folder_checks import ModelError, check_model_folder
from mmembed.models.loading import load_model
from tests.tiny_models import tiny_bert, tiny_clip, tiny_dual_encoder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for name, make in (("clip", tiny_clip), ("bert", tiny_bert), ("dual", tiny_dual_encoder)):
        folders[name] = tmp_path_factory.mktemp("models") / name
        make().save_pretrained(str(folders[name]), create_model_card=False)
    return folders


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved["bert"], tmp_path / "model"))


def changed(path: Path, **entries: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **entries}))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def modules(folder: Path, number: int, **entries: Any) -> None:
    content = json.loads((folder / "modules.json").read_text())
    content[number].update(entries)
    (folder / "modules.json").write_text(json.dumps(content))


def index(folder: Path, file: str, name: str = "model.safetensors.index.json") -> None:
    (folder / "model.safetensors").rename(folder.parent / "w.safetensors")
    shutil.copy(folder.parent / "w.safetensors", folder / "pytorch_model.bin")
    weights = {"embeddings.word_embeddings.weight": file}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def link(folder: Path, name: str, target: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


def linked_weights(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder.parent / "w.safetensors")
    link(folder, "model.safetensors", folder.parent / "w.safetensors")


HOSTILE = {
    "a weight outside": (lambda f: index(f, "../w.safetensors"), "weight_map names '../w.safetensors'"),
    "a weight by its path": (lambda f: index(f, str(f.parent / "w.safetensors")), "not beside it"),
    "a weight behind a folder": (lambda f: index(f, "a/../../w.safetensors"), "not beside it"),
    "a pickle among safetensors": (lambda f: index(f, "pytorch_model.bin"), "among safetensors"),
    "a weight that is no name": (lambda f: index(f, {"a": 1}), "weight_map names"),  # type: ignore[arg-type]
    "code of another repository": (
        lambda f: changed(f / "config.json", auto_map={"AutoModel": "evil/repo--modeling_x.Evil"}),
        "code of another repository, 'evil/repo--modeling_x.Evil'",
    ),
    "code of another repository for the tokenizer": (
        lambda f: changed(f / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil/repo--t.Evil"]}),
        "code of another repository",
    ),
    "code at a path": (
        lambda f: changed(f / "config.json", auto_map={"AutoConfig": "../../evil.Config"}),
        "no class of a file",
    ),
    "code of a path that looks like a repository": (
        lambda f: changed(f / "config.json", auto_map={"AutoConfig": "../evil--m.Config"}),
        "no class of a file",
    ),
    "a foreign module": (lambda f: modules(f, 2, type="evil.Module"), "'evil.Module', which is none of"),
    "a module of the system": (lambda f: modules(f, 2, type="os.system"), "none of sentence-transformers'"),
    "a function behind sentence-transformers": (
        lambda f: modules(f, 2, type="sentence_transformers.util.misc.import_from_string"),
        "none of sentence-transformers'",
    ),
    "a module outside": (lambda f: modules(f, 1, path="../1_Pooling"), "a module at '../1_Pooling'"),
    "a module at an absolute path": (lambda f: modules(f, 1, path="/etc"), "a module at '/etc'"),
    "no modules": (lambda f: (f / "modules.json").write_text('{"0": 1}'), "no list of modules"),
    "kernels by the inner name": (
        lambda f: changed(f / "config.json", _attn_implementation_internal="evil/kernels"),
        "which no saved model does",
    ),
    "kernels by the outer name": (
        lambda f: changed(f / "config.json", attn_implementation="evil/kernels"),
        "code of the Hub",
    ),
    "kernels of a part": (
        lambda f: changed(f / "config.json", text_config={"_attn_implementation": {"": "evil/k:layer"}}),
        "code of the Hub",
    ),
    "leave given to itself": (
        lambda f: changed(f / "sentence_bert_config.json", model_args={"trust_remote_code": True}),
        "sets trust_remote_code",
    ),
    "an activation of the system": (
        lambda f: changed(f / "2_Normalize/config.json", activation_function="os.system"),
        "no activation of torch.nn",
    ),
    "an activation of the Hub": (
        lambda f: changed(f / "config.json", sentence_transformers={"activation_fn": "torch.hub.load"}),
        "no activation of torch.nn",
    ),
    "a template at a path": (
        lambda f: changed(f / "tokenizer_config.json", chat_template=[{"name": "../../x", "template": "x"}]),
        "chat template '../../x'",
    ),
    "a template at a path, by name": (
        lambda f: changed(f / "processor_config.json", chat_template={"additional_chat_templates/../../x": "x"}),
        "which is no plain name",
    ),
    "a vocabulary elsewhere": (
        lambda f: changed(f / "tokenizer_config.json", vocab_file="/etc/passwd"),
        "vocab_file is '/etc/passwd'",
    ),
    "weights by a link": (linked_weights, "a link out of the model's folder"),
    "a link to a folder": (lambda f: link(f, "more", f.parent), "a link to a folder"),
    "a link in a circle": (lambda f: link(f, "round", f / "round"), "a link to nothing"),
    "a pipe": (lambda f: os.mkfifo(f / "notes.json"), "neither a file nor a folder"),
    "a deep configuration": (
        lambda f: (f / "config.json").write_text(f'{{"model_type": "bert", "x": {nested(200)}}}'),
        "levels deep",
    ),
    "a bottomless configuration": (lambda f: (f / "config.json").write_text(nested(200_000)), "levels deep"),
    "an endless configuration": (
        lambda f: (f / "config.json").write_text(f'{{"model_type": "bert", "x": "{"a" * (17 << 20)}"}}'),
        "has 17,825,",
    ),
    "a configuration that is none": (lambda f: (f / "config.json").write_bytes(b"\x80\x04K\x01."), "is not JSON"),
    "a library of adapters": (
        lambda f: changed(f / "1_Pooling/adapter_config.json", auto_mapping={"parent_library": "os"}),
        "no library of models",
    ),
}


@pytest.mark.security
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_refused_before_it_is_read(folder: Path, monkeypatch, case: str) -> None:
    change, message = HOSTILE[case]
    change(folder)
    before = sorted(path for path in folder.parent.rglob("*"))

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("reached for something outside")

    monkeypatch.setattr(socket.socket, "connect", unwanted)
    monkeypatch.setattr("torch.load", unwanted)
    monkeypatch.setattr("mmembed.models.loading.SentenceTransformer", unwanted)
    for read in (check_model_folder, load_model):
        with pytest.raises(ModelError) as error:
            read(folder)
        assert message in str(error.value)
        assert len(str(error.value)) < 600
    assert sorted(path for path in folder.parent.rglob("*")) == before


@pytest.mark.security
def test_what_transformers_would_have_read_is_really_elsewhere(folder: Path) -> None:
    """The peer reads a weight outside the folder without a word: the check is what stands between."""
    from transformers import AutoModel

    weights = folder / "model.safetensors"
    shutil.move(weights, folder.parent / "w.safetensors")
    names = ["embeddings.word_embeddings.weight"]
    content = {"metadata": {}, "weight_map": dict.fromkeys(names, "../w.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert AutoModel.from_pretrained(folder).config.model_type == "bert"
    with pytest.raises(ModelError, match="which is not beside it"):
        load_model(folder)


def test_what_the_caller_trusts_is_let_through(folder: Path) -> None:
    changed(folder / "config.json", auto_map={"AutoModel": "owner/code--modeling_x.Model"})
    modules(folder, 2, type="modeling_x.Module")
    with pytest.raises(ModelError):
        check_model_folder(folder)
    check_model_folder(folder, trust_remote_code=True)
    modules(folder, 1, path="../x")
    with pytest.raises(ModelError, match="a module at"):
        check_model_folder(folder, trust_remote_code=True)


@pytest.mark.parametrize("name", ["clip", "bert", "dual"])
def test_a_sound_folder_passes(saved, name: str) -> None:
    check_model_folder(saved[name])


def test_a_folder_of_the_hubs_cache_passes(saved, tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    snapshot = cache / "snapshots" / "0123"
    (cache / "blobs").mkdir(parents=True)
    shutil.copytree(saved["bert"], snapshot)
    for number, path in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        shutil.move(path, cache / "blobs" / str(number))
        path.symlink_to(os.path.relpath(cache / "blobs" / str(number), path.parent))
    check_model_folder(snapshot)
    assert load_model(snapshot).encode(["red"]).shape == (1, 16)
    link(snapshot, "config.json", tmp_path / "blobs")
    (tmp_path / "blobs").write_text("{}")
    with pytest.raises(ModelError, match="a link out of"):
        check_model_folder(snapshot)


def test_what_older_versions_left_behind_passes(folder: Path) -> None:
    gone = "/root/.cache/huggingface/1234/tokenizer.json"
    changed(folder / "tokenizer_config.json", tokenizer_file=gone, special_tokens_map_file=gone, vocab_file=None)
    changed(folder / "config.json", _name_or_path="/home/somebody/bert", _attn_implementation="sdpa", use_kernels=False)
    changed(folder / "sentence_bert_config.json", model_args={"trust_remote_code": False})
    (folder / "trainer_state.json").write_text("{" * 3)
    (folder / ".git").mkdir()
    link(folder / ".git", "anything", folder.parent)
    check_model_folder(folder)
    assert load_model(folder).encode(["red"]).shape == (1, 16)


def test_a_folder_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        check_model_folder(tmp_path / "nothing")


@pytest.mark.security
@pytest.mark.parametrize("load", ["text_pairs", "vision_language"])
def test_rerankers_are_looked_through_too(folder: Path, load: str, monkeypatch) -> None:
    from mmembed.rerankers.text_pairs import load_text_reranker
    from mmembed.rerankers.vision_language import load_vlm_reranker

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("it was read")

    index(folder, "../w.safetensors")
    monkeypatch.setattr(f"mmembed.rerankers.{load}.CrossEncoder", unwanted)
    with pytest.raises(ModelError, match="which is not beside it"):
        {"text_pairs": load_text_reranker, "vision_language": load_vlm_reranker}[load](str(folder))
