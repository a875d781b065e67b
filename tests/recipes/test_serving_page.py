"""The page on serving: its requests are answered, its limits are the defaults, its ONNX example runs."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from mmembed.apps.serve.served import Served
from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.jobs.push import main as push
from mmembed.jobs.serve_options import ServeOptions
from mmembed.rerankers.text_pairs import load_text_reranker
from mmembed.search.pipeline import SearchPipeline
from tests.apps.serve.started_server import started
from tests.apps.serve.test_app import picture, png
from tests.rerankers.tiny_rerankers import tiny_reranker
from tests.tiny_models import tiny_bert, tiny_dual_encoder

PAGE = (Path(__file__).resolve().parents[2] / "recipes" / "serving" / "README.md").read_text(encoding="utf-8")


def test_every_request_of_the_page_is_answered(tmp_path: Path) -> None:
    model = tiny_dual_encoder()
    items = Dataset.from_dict({"id": ["a", "b"], "text": ["red shoes", "blue mug"], "price": [40, 60]})
    vectors = Embeddings(["a", "b"], encode_items(model, items), {"model": "tiny"})
    pipeline = SearchPipeline(vectors=vectors, model=model, items=items)
    reranker = load_text_reranker(str(tiny_reranker(tmp_path / "reranker")), device="cpu")
    commands = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("curl ")]
    assert len(commands) == 7
    with started(Served(("model",), model=model, pipeline=pipeline, reranker=reranker)) as (client, _):
        for words in commands:
            path = next(word for word in words if word.startswith("localhost:8000")).removeprefix("localhost:8000")
            if "-d" in words:
                answer = client.post(path, json=json.loads(words[words.index("-d") + 1]))
            elif "-F" in words:
                fields = dict(words[n + 1].split("=", 1) for n, word in enumerate(words) if word == "-F")
                assert fields.pop("image") == "@photo.jpg"
                answer = client.post(path, data=fields, files={"image": png(picture())})
            else:
                answer = client.get(path)
            assert answer.status_code == 200, (words, answer.text)
        body = json.loads(commands[3][-1])
        hits = client.post("/search", json=body).json()["hits"]
        assert [hit["attributes"] for hit in hits] == [{"text": "red shoes", "price": 40}]


def test_the_limits_of_the_page_are_the_defaults() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(ServeOptions)}
    told = re.findall(r"`--(\w+)` ([\d,.]+)( million| MiB)?", PAGE)
    scales = {"": 1, " million": 1_000_000, " MiB": 1 << 20}
    found = {name: float(number.rstrip(",").replace(",", "")) * scales[unit] for name, number, unit in told}
    assert len(found) >= 10
    for name, value in found.items():
        assert defaults[name] == value, name


def test_the_words_of_the_page_are_options(tmp_path: Path, capsys) -> None:
    tiny_dual_encoder().save_pretrained(str(tmp_path / "model"), create_model_card=False)
    line = next(line for line in PAGE.splitlines() if line.startswith("mmembed push") and "--dry_run" in line)
    words = shlex.split(line.partition("#")[0])[2:]
    words[words.index("--model") + 1] = str(tmp_path / "model")
    assert push(words) == 0 and "nothing was sent to me/shoes" in capsys.readouterr().out
    known = {field.name for field in dataclasses.fields(ServeOptions)}
    for line in PAGE.splitlines():
        if line.startswith("mmembed serve"):
            assert {word[2:] for word in shlex.split(line.partition("#")[0]) if word.startswith("--")} <= known


def test_the_example_for_plain_onnx_runtime_runs(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    from mmembed.export.onnx import export_onnx

    model = tiny_bert()
    export_onnx(model, tmp_path / "export", show_progress_bar=False)
    monkeypatch.chdir(tmp_path)
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "onnxruntime" in block)
    names: dict = {}
    exec(code, names)
    np.testing.assert_allclose(names["vector"], model.encode(["a red dress"]), atol=1e-5)
