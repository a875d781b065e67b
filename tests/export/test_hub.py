"""What is pushed is what plain libraries load; what fails on the way is said, and is mended by doing it again."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from sentence_transformers import CrossEncoder
from transformers import AutoModel, BertConfig, BertForSequenceClassification

from mmembed.export.card import CardFacts
from mmembed.export.hub import HubError, PublishError, push_to_hub, save_model
from mmembed.models.dual_encoder.building import train_tokenizer
from mmembed.models.folder_checks import ModelError
from mmembed.models.loading import load_model
from tests.export.hub_stand_in import Hub
from tests.tiny_models import WORDS, tiny_bert, tiny_clip, tiny_dual_encoder

TOKEN = "hf_" + "SECRET123" * 4
TEXTS = ["red mug", "a blue shirt colour3 word7", " ".join(["colour1 word5 mug"] * 40), "?", "红 кружка"]
PHOTO = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3))


def started(patch: pytest.MonkeyPatch) -> Hub:
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # its storage speaks another protocol
    patch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # between the client's own attempts
    return Hub(TOKEN)


@pytest.fixture
def hub(monkeypatch):
    stand_in = started(monkeypatch)
    yield stand_in
    stand_in.close()


def tiny_reranker(folder: Path) -> Path:
    tokenizer = train_tokenizer(WORDS, vocab_size=200, max_length=32)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**small, vocab_size=len(tokenizer), max_position_embeddings=32, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder / "plain")
    tokenizer.save_pretrained(folder / "plain")
    CrossEncoder(str(folder / "plain"), device="cpu").save_pretrained(str(folder / "saved"))
    (folder / "saved" / "README.md").unlink(missing_ok=True)
    return folder / "saved"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folders = {"reranker": tiny_reranker(tmp_path_factory.mktemp("reranker"))}
    for name, make in (("clip", tiny_clip), ("bert", tiny_bert), ("dual", tiny_dual_encoder)):
        folders[name] = tmp_path_factory.mktemp("models") / name
        make().save_pretrained(str(folders[name]), create_model_card=False)
    return folders


def pushed(hub: Hub, folder: Any, name: str = "owner/model", **options: Any):
    return push_to_hub(folder, name, token=TOKEN, endpoint=hub.endpoint, **options)


@pytest.fixture(scope="module")
def plain(saved, tmp_path_factory) -> dict[str, Any]:
    """What a process that cannot import mmembed makes of four pushed models, downloaded by name from the stand-in.

    One process for all of it: importing the libraries is what takes time.
    """
    folder = tmp_path_factory.mktemp("plain")
    PHOTO.save(folder / "photo.png")
    with pytest.MonkeyPatch.context() as patch:
        hub = started(patch)
        cards, commits = {}, {}
        for name, source in saved.items():
            commits[name] = pushed(hub, source, f"owner/{name}", license="mit").commit
            card = hub.repositories[f"owner/{name}"].files()["README.md"].decode()
            (cards[name],) = re.findall(r"```python\n(.*?)```", card, re.S)
        code = f"""
import sys
sys.modules["mmembed"] = None
import json
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
told = {{"examples": {{}}, "types": {{}}}}
for name, commit in {commits!r}.items():
    if name == "reranker":
        continue
    model = SentenceTransformer(f"owner/{{name}}", revision=commit, trust_remote_code=name == "dual", device="cpu")
    assert not [module for module in model.modules() if type(module).__module__.startswith("mmembed")]
    np.save(f"{{name}}-texts.npy", model.encode({TEXTS!r}))
    if name != "bert":
        np.save(f"{{name}}-image.npy", model.encode([Image.open("photo.png")]))
for name in ("bert", "clip"):
    model = AutoModel.from_pretrained(f"owner/{{name}}")
    AutoProcessor.from_pretrained(f"owner/{{name}}")
    told["types"][name] = type(model).__module__
    np.savez(f"{{name}}-weights.npz", **{{key: value.numpy() for key, value in model.state_dict().items()}})
for name, example in {cards!r}.items():
    names = {{}}
    exec(example, names)
    shapes = {{key: list(names[key].shape) for key in ("texts", "images", "fused", "scores") if key in names}}
    told["examples"][name] = {{**shapes, "ranking": str(names.get("ranking"))}}
print("TOLD" + json.dumps(told))
"""
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env |= {"HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1"}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=500
        )
        hub.close()
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout.partition("TOLD")[2])
    return {"folder": folder, "cards": cards, **told}


# --- what is loaded from there ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "clip", "dual"])
def test_plain_sentence_transformers_loads_it_by_name_and_gives_the_same_vectors(saved, plain, name: str) -> None:
    model = load_model(saved[name], device="cpu")
    np.testing.assert_allclose(np.load(plain["folder"] / f"{name}-texts.npy"), model.encode(TEXTS), atol=1e-6)
    if name != "bert":
        image = np.load(plain["folder"] / f"{name}-image.npy")
        np.testing.assert_allclose(image, model.encode([{"image": PHOTO}]), atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "clip"])
def test_plain_transformers_loads_a_stock_one(saved, plain, name: str) -> None:
    assert plain["types"][name].startswith(f"transformers.models.{name}")
    weights = np.load(plain["folder"] / f"{name}-weights.npz")
    expected = AutoModel.from_pretrained(saved[name]).state_dict()
    assert set(weights) == set(expected)
    for key, value in expected.items():
        assert np.array_equal(weights[key], value.numpy()), key


@pytest.mark.parametrize("name", ["bert", "clip", "dual", "reranker"])
def test_the_cards_example_runs_as_it_is_written(plain, name: str) -> None:
    assert f'"owner/{name}"' in plain["cards"][name]
    found = plain["examples"][name]
    if name == "reranker":
        assert "'corpus_id'" in found["ranking"] and "'score'" in found["ranking"]
    else:
        width = {"bert": 16, "clip": 8, "dual": 8}[name]
        assert found["texts"] == [2, width] and found["scores"][0] == 2
        assert found.get("images") == (None if name == "bert" else [1, width])
        assert found.get("fused") == ([1, width] if name == "dual" else None)


def test_a_reranker_scores_the_same(saved, tmp_path: Path) -> None:
    folder = save_model(saved["reranker"], tmp_path / "out", repo_id="owner/r", license="mit")
    pairs = [("red mug", "a blue shirt"), ("word3", "word3 colour3")]
    before = CrossEncoder(str(saved["reranker"]), device="cpu").predict(pairs)
    np.testing.assert_allclose(CrossEncoder(str(folder), device="cpu").predict(pairs), before, atol=1e-6)
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == "text-ranking"


def test_a_model_in_memory_is_pushed_with_its_facts(hub) -> None:
    facts = CardFacts(
        "red shoes",
        languages=["en"],
        license="apache-2.0",
        base_model="owner/tower",
        limitations="Only shoes.",
        command="mmembed train --items shoes.jsonl",
        data_hashes={"shoes.jsonl": "ab" * 32},
        results={"after": {"text_to_image": {"n": 80, "recall@1": {"mean": 0.5, "low": 0.4, "high": 0.6}}}},
    )
    report = pushed(hub, tiny_dual_encoder(), card=facts)
    files = hub.repositories["owner/model"].files()
    card = files["README.md"].decode()
    for part in ('SentenceTransformer("owner/model", trust_remote_code=True)', "0.500 (0.400–0.600)", "ab" * 32,
                 "mmembed train --items shoes.jsonl", "## Limitations\n\nOnly shoes.", "base_model: owner/tower"):  # fmt: skip
        assert part in card
    data = ModelCard(card).data
    assert data.eval_results[0].metric_value == 0.5 and data.license == "apache-2.0"
    assert ".eval_results/retrieval-held-out-data.yaml" in files
    assert report.notes == () and report.commit == hub.repositories["owner/model"].commits[-1][0]


def test_facts_also_replace_the_card_of_a_folder(saved, tmp_path: Path) -> None:
    facts = CardFacts("new", inputs=["text"], description="All new.", limitations="Few.")
    before = sorted(path.name for path in saved["bert"].iterdir())
    folder = save_model(saved["bert"], tmp_path / "out", card=facts, license="mit")
    text = (folder / "README.md").read_text()
    assert "All new." in text and "license: mit" in text
    assert sorted(path.name for path in saved["bert"].iterdir()) == before


def test_a_card_that_is_there_is_kept_and_completed(saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved["bert"], tmp_path / "model"))
    (folder / "README.md").write_text(
        "---\nlicense: gpl-3.0\ntags:\n- shoes\n---\n# Mine\n\nWords of mine.\n\n"
        '```python\nmodel = SentenceTransformer(".")\n```\n'
    )
    out = save_model(folder, tmp_path / "out", repo_id="me/shoes", license="mit", languages=["ru"], tags=["new"],
                     base_model="owner/base", limitations="None known.")  # fmt: skip
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.language, card.data.base_model) == ("mit", ["ru"], "owner/base")
    assert card.data.tags == ["shoes", "new"]
    assert "Words of mine." in card.text and 'SentenceTransformer("me/shoes")' in card.text
    assert "## Limitations\n\nNone known." in card.text and "## Requirements" not in card.text


# --- what is published, and what is not ----------------------------------------------------------------------------


def trained_in(folder: Path) -> None:
    """What a trainer and a person leave behind."""
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pkl", "pytorch_model.bin", "x.npy"):
        (folder / name).write_bytes(pickle.dumps({"a": 1}))
    for name in (".env", "trainer_state.json", "helper.py", "notes.docx", ".git/config", "checkpoint-10/model.safetensors",
                 "logs/a.txt", ".eval_results/notes.txt", "1_Pooling/state.joblib"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("x")


@pytest.mark.security
def test_no_pickle_and_nothing_private_is_published_and_all_is_told(hub, saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved["dual"], tmp_path / "model"))
    trained_in(folder)
    report = pushed(hub, folder)
    there = set(hub.repositories["owner/model"].files())
    assert not [path for path in there if re.fullmatch(r".*\.(bin|pt|pth|pkl|pickle|joblib|npy)", path)]
    assert there == {*(file.path for file in report.files), ".gitattributes"}
    assert {path for path in there if path.endswith(".py")} == {
        f"{part}_dual_encoder.py" for part in ("configuration", "modeling", "processing")
    }
    told = dict(report.left_out)
    assert told["training_args.bin"] == told["1_Pooling/state.joblib"] == "a format that can carry code"
    assert told["helper.py"] == "code that no configuration names" and told[".env"] == "hidden"
    assert told["checkpoint-10/"] == told[".git/"] == "a folder that is no part of a model"
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    unseen = {path for path in on_disk - there if path not in told}
    assert all(path.split("/")[0] + "/" in told for path in unseen)


@pytest.mark.security
@pytest.mark.parametrize("read", ["folder", "environment"])
def test_a_token_in_a_file_is_found_and_not_shown(saved, tmp_path: Path, read: str) -> None:
    folder = Path(shutil.copytree(saved["bert"], tmp_path / "model"))
    secret = TOKEN if read == "folder" else "a-token-of-another-form"
    (folder / "notes.txt").write_text(f"token = {secret}\n")
    with pytest.raises(PublishError, match="notes.txt holds an access token") as error:
        push_to_hub(folder, "owner/model", token=secret, dry_run=True)
    assert secret not in str(error.value)


@pytest.mark.security
def test_names_of_local_folders_are_not_published(saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved["clip"], tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config["_name_or_path"] = "/home/anna/secret/clip"
    config["text_config"]["_name_or_path"] = str(tmp_path)
    (folder / "config.json").write_text(json.dumps(config))
    out = save_model(folder, tmp_path / "out")
    for path in out.rglob("*.json"):
        assert "anna" not in path.read_text() and str(tmp_path) not in path.read_text()


HOSTILE = {
    "a pickle under another name": (lambda f: (f / "vocab.txt").write_bytes(b"\x80\x04K\x01."), "under another name"),
    "an archive under another name": (lambda f: (f / "a.json").write_bytes(b"PK\x03\x04xx"), "under another name"),
    "weights that are a pickle": (lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04K\x01." * 9), "no safetensors"),
    "weights that are cut off": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]),
        "cut off",
    ),
    "only a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin is no safetensors",
    ),
    "code that is missing": (
        lambda f: (f / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "modeling_x.X"}}'),
        "the code modeling_x.py, which is not there",
    ),
    "code from above": (
        lambda f: (
            (f / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "modeling_x.X"}}'),
            (f / "modeling_x.py").write_text("from ..evil import X\n"),
        ),
        "imports from another folder",
    ),
    "code that is none": (
        lambda f: (
            (f / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "modeling_x.X"}}'),
            (f / "modeling_x.py").write_text("import\n"),
        ),
        "is no Python",
    ),
    "an index of what is not there": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
        "model-1.safetensors, which is not there",
    ),
    "results that are none": (
        lambda f: (f / ".eval_results").mkdir() or (f / ".eval_results/a.yaml").write_text("- {dataset: 1}\n"),
        "no file of results",
    ),
    "results that construct": (
        lambda f: (f / ".eval_results").mkdir() or (f / ".eval_results/a.yaml").write_text("!!python/object:os.x {}"),
        "no file of results",
    ),
    "a card that expands": (
        lambda f: (f / "README.md").write_text(
            "---\n" + "a0: &a0 [1,2,3,4,5,6,7,8,9]\n"
            + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)) + "---\n# x\n"
        ),
        "more than 100,000 values",
    ),
    "a card without sense": (lambda f: (f / "README.md").write_text("---\n- a\n---\n"), "cannot be read"),
    "a link out": (lambda f: (f / "README.md").symlink_to("/etc/hostname"), "a link out of the model's folder"),
    "a weight outside": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}'),
        "which is not beside it",
    ),
    "code of another repository": (
        lambda f: (f / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "evil/x--m.X"}}'),
        "the code of another repository",
    ),
}  # fmt: skip


@pytest.mark.security
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_is_never_sent(hub, saved, tmp_path: Path, case: str) -> None:
    change, message = HOSTILE[case]
    folder = Path(shutil.copytree(saved["bert"], tmp_path / "model"))
    change(folder)
    for dry_run in (False, True):
        with pytest.raises((ModelError, PublishError, ValueError)) as error:
            pushed(hub, folder, dry_run=dry_run)
        assert message in str(error.value) and type(error.value).__module__.startswith(("mmembed", "builtins"))
    with pytest.raises(ValueError, match=".+"):
        save_model(folder, tmp_path / "out")
    assert hub.asked == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo_id": "model"}, "names no owner"),
        ({"repo_id": "a/b/c"}, "the Hub does not take 'a/b/c'"),
        ({"repo_id": "owner/../x"}, "the Hub does not take"),
        ({"license": "Apache 2"}, "license: the Hub does not take 'Apache 2'"),
        ({"languages": ["English"]}, "languages: the Hub does not take 'English'"),
        ({"base_model": "/home/anna/clip"}, "no name of the Hub"),
        ({"endpoint": "http://example.com"}, "is not https"),
        ({"endpoint": "ftp://example.com"}, "no address of a Hub"),
        ({"endpoint": "https://user:pw@example.com"}, "no address of a Hub"),
    ],
)
def test_errors_say_what_was_got(hub, saved, options: dict[str, Any], message: str) -> None:
    given = {"repo_id": "owner/model", "token": TOKEN, "endpoint": hub.endpoint, **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        push_to_hub(saved["bert"], **given)
    assert hub.asked == []


def test_what_is_no_model_says_what_it_is(saved, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        push_to_hub(tmp_path / "absent", "owner/model", dry_run=True)
    with pytest.raises(PublishError, match="is no model's folder"):
        push_to_hub(tmp_path, "owner/model", dry_run=True)
    shutil.copytree(saved["bert"], tmp_path / "run" / "model")
    with pytest.raises(PublishError, match=r"did you mean .*run/model\?"):
        push_to_hub(tmp_path / "run", "owner/model", dry_run=True)


# --- the way there -------------------------------------------------------------------------------------------------


@pytest.mark.security
def test_a_dry_run_asks_nobody(saved, monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    report = push_to_hub(saved["bert"], "owner/model", license="mit", dry_run=True)
    assert report.commit is None and report.url is None and report.size == sum(file.size for file in report.files)
    assert {fit.server for fit in report.servers if fit.fits} == {
        "sentence-transformers", "transformers", "text-embeddings-inference", "vLLM"
    }  # fmt: skip


def test_a_dry_run_tells_what_a_push_sends(hub, saved, tmp_path: Path) -> None:
    options = {"license": "mit", "languages": ["en"]}
    told = push_to_hub(saved["dual"], "owner/model", dry_run=True, **options)
    sent = pushed(hub, saved["dual"], **options)
    there = hub.repositories["owner/model"].files()
    assert told.files == sent.files
    for file in told.files:
        assert (file.size, file.sha256) == (len(there[file.path]), hashlib.sha256(there[file.path]).hexdigest())
    folder = save_model(saved["dual"], tmp_path / "out", repo_id="owner/model", **options)
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        path: content for path, content in there.items() if path != ".gitattributes"
    }


@pytest.mark.parametrize(
    ("step", "failures", "doing"),
    [
        ("create", [500], "creating the repository failed: the Hub answered 500"),
        ("create", ["cut"], "creating the repository failed: "),
        ("preupload", [500] * 6, "sending the large files failed: the Hub answered 500"),
        ("batch", ["cut"] * 6, "sending the large files failed: "),
        ("put", [500] * 6, "sending the large files failed: the Hub answered 500"),
        ("put", ["cut"] * 6, "sending the large files failed: "),
        ("put", [403], "the Hub answered 403"),
        ("verify", [500] * 6, "sending the large files failed: the Hub answered 500"),
        ("commit", [500], "committing failed: the Hub answered 500 (the stand-in fails at commit)"),
        ("commit", ["cut"], "committing failed: "),
        ("commit", ["commit then cut"], "committing failed: "),
        ("paths", [500], "looking whether all is there failed"),
    ],
)
def test_a_failure_midway_is_said_and_a_repetition_completes(hub, saved, caplog, step, failures, doing) -> None:
    hub.failures[step] = list(failures)
    with pytest.raises(HubError) as error:
        pushed(hub, saved["bert"])
    message = str(error.value)
    assert message.startswith("owner/model: ") and doing in message and "Now: " in message
    assert TOKEN not in message and "secret-signature" not in message and "\n" not in message
    assert TOKEN not in caplog.text
    repository = hub.repositories.get("owner/model")
    if repository is not None and failures != ["commit then cut"] and step != "paths":
        assert set(repository.files()) == {".gitattributes"}  # all of a model, or nothing
    hub.failures[step].clear()
    stored = dict(hub.objects) if hub.verified else {}
    hub.asked.clear()
    report = pushed(hub, saved["bert"])
    assert set(hub.repositories["owner/model"].files()) == {*(file.path for file in report.files), ".gitattributes"}
    assert report.commit == hub.repositories["owner/model"].commits[-1][0]
    puts = [one for one in hub.steps() if one.startswith("PUT")]
    assert len(puts) == (0 if stored else 1)  # what has arrived is not sent again


def test_a_transient_failure_is_survived_by_the_client_itself(hub, saved) -> None:
    hub.failures["put"] = [503, "cut"]
    hub.failures["batch"] = [500]
    assert pushed(hub, saved["bert"]).commit


def test_what_arrives_as_something_else_is_found(hub, saved, monkeypatch) -> None:
    import tests.export.hub_stand_in as stand_in

    entry = stand_in._HubHandler._entry
    monkeypatch.setattr(
        stand_in._HubHandler,
        "_entry",
        lambda self, path, content: entry(self, path, content + b" " if path == "config.json" else content),
    )
    with pytest.raises(HubError, match="config.json arrived as something else"):
        pushed(hub, saved["bert"])


def test_the_same_model_twice_is_one_commit(hub, saved) -> None:
    first = pushed(hub, saved["bert"])
    assert pushed(hub, saved["bert"]).commit == first.commit
    assert len(hub.repositories["owner/model"].commits) == 2  # the one that made it, and the model


@pytest.mark.security
def test_the_token_goes_to_the_hub_alone(hub, saved, tmp_path: Path) -> None:
    report = pushed(hub, saved["bert"])
    to_hub = [headers for method, address, headers in hub.asked if not address.startswith("/lfs/")]
    to_storage = [(address, headers) for method, address, headers in hub.asked if address.startswith("/lfs/")]
    assert to_hub and all(TOKEN in json.dumps(headers) for headers in to_hub)
    assert len(to_storage) == 1
    assert TOKEN not in json.dumps(to_storage)
    for content in hub.repositories["owner/model"].files().values():
        assert TOKEN.encode() not in content
    assert TOKEN not in repr(report)


@pytest.mark.security
def test_a_redirect_elsewhere_does_not_get_the_token(hub, saved) -> None:
    elsewhere = Hub("hf_other")
    try:
        hub.redirect = f"{elsewhere.endpoint}/api/repos/create"
        with pytest.raises(HubError, match="creating the repository failed"):
            pushed(hub, saved["bert"])
        assert elsewhere.asked and TOKEN not in json.dumps(elsewhere.asked)
    finally:
        elsewhere.close()


def test_a_wrong_token_and_none_are_said(hub, saved, monkeypatch) -> None:
    with pytest.raises(HubError, match="answered 401.*the token is not valid") as error:
        push_to_hub(saved["bert"], "owner/model", token="hf_wrong", endpoint=hub.endpoint)
    assert "hf_wrong" not in str(error.value)
    monkeypatch.setattr("mmembed.export.hub_upload.get_token", lambda: None)
    with pytest.raises(HubError, match="there is no token of the Hub"):
        push_to_hub(saved["bert"], "owner/model", endpoint=hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        pushed(hub, saved["bert"])


@pytest.mark.security
def test_a_private_model_does_not_go_to_a_public_repository(hub, saved) -> None:
    pushed(hub, saved["bert"])
    with pytest.raises(HubError, match="is public already"):
        pushed(hub, saved["clip"], private=True)
    assert len(hub.repositories["owner/model"].commits) == 2
    pushed(hub, saved["clip"], "owner/hidden", private=True)
    assert hub.repositories["owner/hidden"].private


def test_what_an_earlier_push_left_is_told_or_removed(hub, saved) -> None:
    pushed(hub, saved["bert"])
    repository = hub.repositories["owner/model"]
    repository.commits[-1][1].update({"pytorch_model.bin": b"old", "old.txt": b"old"})
    report = pushed(hub, saved["clip"])
    assert any("pytorch_model.bin" in note and "--replace" in note for note in report.notes)
    assert {"pytorch_model.bin", "old.txt", "1_Pooling/config.json"} <= set(repository.files())
    report = pushed(hub, saved["clip"], replace=True)
    assert set(repository.files()) == {*(file.path for file in report.files), ".gitattributes"}
    assert not any("--replace" in note for note in report.notes)


# --- exports -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime")
    from mmembed.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(tiny_bert(), folder, show_progress_bar=False)
    return folder


def test_an_export_is_pushed_as_it_is_and_runs_from_the_hub(hub, export, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    from mmembed.export.onnx_embedder import OnnxEmbedder

    folder = Path(shutil.copytree(export, tmp_path / "model"))
    (folder / "notes.bin").write_bytes(b"x")
    report = pushed(hub, folder, license="mit")
    assert report.left_out == {"notes.bin": "no file of the export"}
    assert [fit.server for fit in report.servers if fit.fits] == ["ONNX Runtime"]
    place = snapshot_download("owner/model", local_dir=tmp_path / "there", endpoint=hub.endpoint, token=TOKEN)
    np.testing.assert_allclose(OnnxEmbedder(place).encode(TEXTS), tiny_bert().encode(TEXTS), atol=1e-5)
    files = hub.repositories["owner/model"].files()
    assert b"/tmp" not in files["mmembed_onnx.json"] and b"OnnxEmbedder" in files["README.md"]


@pytest.mark.security
def test_an_export_that_was_changed_is_not_pushed(hub, export, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export, tmp_path / "model"))
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match="is not the file that was written"):
        pushed(hub, folder)
    assert hub.asked == []


# --- adapters ------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    tiny_bert().save_pretrained(str(tmp_path / "base"), create_model_card=False)
    model = peft.get_peft_model(AutoModel.from_pretrained(tmp_path / "base"), peft.LoraConfig(target_modules=["query"]))
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_names_its_base_by_the_hubs_name(hub, adapter: Path) -> None:
    with pytest.raises(PublishError, match="names its base model by a folder of this machine"):
        pushed(hub, adapter)
    assert hub.asked == []
    report = pushed(hub, adapter, base_model="owner/bert", license="mit")
    files = hub.repositories["owner/model"].files()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "owner/bert"
    assert {"adapter_model.safetensors", "README.md"} <= set(files) and report.commit
    assert not [path for path, content in files.items() if str(adapter.parent).encode() in content]


def test_an_adapter_without_a_card_gets_one(adapter: Path, tmp_path: Path) -> None:
    (adapter / "README.md").unlink()
    folder = save_model(adapter, tmp_path / "out", repo_id="me/adapter", base_model="owner/bert", license="mit")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft" and card.data.base_model == "owner/bert"
    assert 'AutoPeftModel.from_pretrained("me/adapter")' in card.text
