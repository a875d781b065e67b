"""`mmembed serve` as a process of its own: OpenAI's client, a pipeline from its folder, and the end under load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from datasets import Dataset

from mmembed.cli import main as cli
from mmembed.data.writing import write_items
from mmembed.dataset_encoding import model_fingerprint
from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.jobs.options import OptionsError
from mmembed.jobs.serve import load_served, main
from mmembed.jobs.serve_options import ServeOptions
from mmembed.models.loading import load_model
from mmembed.search.index import Index
from mmembed.search.lexical import LexicalIndex
from mmembed.search.pipeline import SearchPipeline
from tests.rerankers.tiny_rerankers import tiny_reranker
from tests.tiny_models import tiny_bert, tiny_dual_encoder

KEY = "a-key-of-enough-length"
TEXTS = [f"word{n} colour{n % 5} red mug" for n in range(30)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A model, an index, items, a pipeline and a reranker, each in its folder."""
    place = tmp_path_factory.mktemp("shop")
    model = tiny_dual_encoder()
    model.save_pretrained(str(place / "model"), create_model_card=False)
    model = load_model(place / "model", device="cpu")
    items = Dataset.from_dict({"id": [f"i{n}" for n in range(30)], "text": TEXTS, "price": list(range(30))})
    write_items(items, place / "items.jsonl")
    embeddings = Embeddings(
        items["id"][:], encode_items(model, items), {"model": "tiny", "model_fingerprint": model_fingerprint(model)}
    )
    Index.build(embeddings).save(place / "index")
    lexical = LexicalIndex.build(items["id"][:], TEXTS)
    SearchPipeline(lexical=lexical, vectors=embeddings, model=model, items=items).save(place / "pipeline")
    tiny_reranker(place / "reranker")
    return place


def test_openais_client_and_the_end_under_load(shop: Path) -> None:
    """One process for both: OpenAI's own client reads it; then it is told to stop while requests are under way."""
    openai = pytest.importorskip("openai")
    model = load_model(shop / "model", device="cpu")
    env = {**os.environ, "MMEMBED_API_KEY": KEY, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = ["serve", "--model", str(shop / "model"), "--port", "0", "--dimensions", "4", "--served_name", "tiny"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmembed", *words, "--max_rows_a_pass", "4"], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=10)
        answer = client.embeddings.create(model="tiny", input=TEXTS[:7])  # base64, as the client asks for by itself
        expected = model.encode(TEXTS[:7])
        np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-6)
        assert [one.index for one in answer.data] == list(range(7)) and answer.usage.prompt_tokens > 0
        floats = client.embeddings.create(model="tiny", input="red mug", encoding_format="float", dimensions=4)
        whole = model.encode(["red mug"])[:, :4]
        np.testing.assert_allclose([floats.data[0].embedding], whole / np.linalg.norm(whole), atol=1e-6)
        assert [one.id for one in client.models.list().data] == ["tiny"]
        with pytest.raises(openai.NotFoundError, match="there is no model 'ada' here"):
            client.embeddings.create(model="ada", input="x")
        with pytest.raises(openai.BadRequestError, match="token ids are not read"):
            client.embeddings.create(model="tiny", input=[[1, 2, 3]])
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong").embeddings.create(model="tiny", input="x")
        _stop_under_load(process, address, model)
    finally:
        process.kill()
        process.wait()


def _stop_under_load(process: subprocess.Popen, address: str, model) -> None:
    alone = model.encode(TEXTS)
    answered, refused, cut, lock = [], [], [], threading.Lock()
    begun = threading.Event()

    def ask(worker: int) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as client:
            for number in range(1000):
                row = (worker * 7 + number) % 30
                try:
                    answer = client.post("/encode", json={"inputs": [TEXTS[row]] * 3})
                except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                    with lock:
                        cut.append(error)
                    return  # it no longer listens
                with lock:
                    if answer.status_code == 200:
                        answered.append((row, answer.json()["embeddings"]))
                    else:
                        refused.append(answer)
                if answer.status_code != 200:
                    return
                if number == 3:
                    begun.set()

    workers = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for worker in workers:
        worker.start()
    assert begun.wait(60)
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    assert process.wait(timeout=60) == 0  # it did what it was told
    assert time.monotonic() - told < 30
    for worker in workers:
        worker.join(timeout=60)
    assert process.stdout is not None and process.stdout.read().endswith("stopped\n")
    assert len(answered) >= 12 and len(refused) + len(cut) == 12
    for row, vectors in answered:
        np.testing.assert_allclose(vectors, alone[[row] * 3], atol=1e-5)
    for answer in refused:
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "draining"
    # A request that was read is answered: only connections that carried none were closed.
    assert all(isinstance(one, (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError)) for one in cut)


def test_what_is_served_is_what_the_options_name(shop: Path) -> None:
    served = load_served(ServeOptions(model=str(shop / "model"), index=str(shop / "index"), items=str(shop / "items.jsonl"),
                                      reranker=str(shop / "reranker"), device="cpu"))  # fmt: skip
    assert served.names == ("model",) and served.reranker is served.pipeline.reranker
    hits = served.pipeline.search(["word3 colour3"], 3, filters={"price": (0, 20)})[0]
    assert len(hits) == 3 and hits[0].stage == "reranked"
    served = load_served(ServeOptions(pipeline=str(shop / "pipeline"), device="cpu", served_name=["a", "b"]))
    assert served.names == ("a", "b") and served.model is served.pipeline.model and served.reranker is None
    assert served.pipeline.search(["word3"], 1)[0][0].id == "i3"
    served = load_served(ServeOptions(reranker=str(shop / "reranker"), device="cpu"))
    assert served.model is None and served.pipeline is None and served.names == ("reranker",)


def test_an_index_of_another_model_is_refused(shop: Path, tmp_path: Path, capsys) -> None:
    tiny_bert().save_pretrained(str(tmp_path / "other"), create_model_card=False)
    assert cli(["serve", "--model", str(tmp_path / "other"), "--index", str(shop / "index")]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("mmembed serve: error: ") and "model_fingerprint" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name what is served"),
        ({"model": "x", "index": "y", "pipeline": "z"}, "give one"),
        ({"reranker": "x", "index": "y"}, "give --model as well"),
        ({"model": "x", "items": "y"}, "give --index as well"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        main([word for name, value in options.items() for word in (f"--{name}", value)])


def test_the_command_line_says_it_in_a_line(shop: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("MMEMBED_API_KEY", raising=False)
    model = ["serve", "--model", str(shop / "model")]
    for words, message in (
        (["--host", "0.0.0.0"], "there is no key"),
        (["--dimensions", "9"], "vectors have 8 numbers"),
        (["--max_rows", "0"], "max_rows=0; give at least 1"),
        (["--port", "70000"], "cannot listen"),
        (["--host", "256.1.1.1", "--allow_unauthenticated"], "cannot listen"),
    ):
        assert cli([*model, *words]) == 2
        told = capsys.readouterr().err.splitlines()
        assert message in told[-1] and (len(told) == 1 or "--dimensions" in words), told  # all else is said at once


def test_a_port_that_is_taken_is_said(shop: Path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli(["serve", "--model", str(shop / "model"), "--port", port]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}" in capsys.readouterr().err


def test_a_missing_extra_is_named(shop: Path, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("mmembed.apps", "fastapi"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ImportError, match=r"pip install 'mmembed\[serve\]'"):
        main(["--model", str(shop / "model")])


def test_the_options_are_told_without_anything_heavy() -> None:
    code = "import sys\nfrom mmembed.jobs.serve import main\ntry:\n main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(json.dumps([m for m in ('torch', 'fastapi') if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", f"import json\n{code}"], capture_output=True, text=True, timeout=120)
    assert run.stdout.splitlines()[-1] == "[]" and json.loads("[]") == [] and "--gather_ms" in run.stdout


def test_an_export_serves_the_index_of_the_model_that_was_exported(shop: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("onnxruntime")
    from mmembed.export.onnx import export_onnx

    model = tiny_bert()
    export_onnx(model, tmp_path / "onnx", show_progress_bar=False)
    vectors = np.asarray(model.encode(TEXTS, normalize_embeddings=True))
    manifest = {"model": "bert", "model_fingerprint": model_fingerprint(model)}
    Index.build(Embeddings([f"i{n}" for n in range(30)], vectors, manifest)).save(tmp_path / "index")
    served = load_served(ServeOptions(model=str(tmp_path / "onnx"), index=str(tmp_path / "index")))
    (answer, tokens), = served.run("encode", None, [[{"text": TEXTS[3]}]])  # fmt: skip
    np.testing.assert_allclose(answer, vectors[3:4], atol=1e-5)
    assert tokens > 0 and served.width == 16 and not served.reads("image")
    assert served.pipeline.search([TEXTS[3]], 1)[0][0].score == pytest.approx(1, abs=1e-5)
    assert cli(["serve", "--model", str(tmp_path / "onnx"), "--index", str(shop / "index"), "--port", "0"]) == 2
    assert "its vectors are of another model than the one that is served" in capsys.readouterr().err
    asked = [
        "search",
        "--model",
        str(tmp_path / "onnx"),
        "--index",
        str(tmp_path / "index"),
        "--query",
        TEXTS[3],
        "--k",
        "1",
    ]
    assert cli(asked) == 0 and "i3" in capsys.readouterr().out
