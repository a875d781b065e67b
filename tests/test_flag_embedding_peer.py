"""FlagEmbedding and this library read one another's folders: same vectors, same scores.

FlagEmbedding is imported where it is installed, else from the folder that MMEMBED_FLAG_EMBEDDING names, else it is
installed for the run into a temporary folder, without its dependencies; the tests skip where that cannot be.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments

from mmembed.losses.candidates import CandidateRankingLoss
from mmembed.losses.reranking import CandidateScoringLoss
from mmembed.models.flag_embedding import recorded_pooling
from mmembed.models.loading import load_model
from mmembed.models.text_instructions import instruction_prompt, set_prompts
from mmembed.rerankers.text_pairs import load_text_reranker
from tests.models.test_text_models import text_folder
from tests.rerankers.tiny_rerankers import POSITIONS, tiny_reranker

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
LONG = "the quick brown fox jumps over a lazy dog and a red mug, " * 6
QUERIES = ["a red mug", "lazy dog", LONG, "红色杯子"]
DOCUMENTS = ["blue desk lamp", "a mug", "wool", LONG[9:]]
PAIRS = [("a red mug", "red mugs"), ("a red mug", LONG), ("green hat", "desk lamp"), ("lazy dog", LONG[9:])]
LONG_PAIRS = [(LONG, "a red mug"), (LONG, LONG[9:]), (LONG[4:], "wool")]
ROWS = [
    ("a red mug", "red mug", "hat"),
    ("desk lamp", "blue lamp", "dog"),
    ("wool hat", "hat", "mug"),
    ("dog", "lazy dog", "fox"),
]
LENGTH = 32
ASKED = {"query_instruction_for_retrieval": "find", "query_instruction_format": "{}: {}"}
POOLINGS = {"cls": "cls", "mean": "mean", "last_token": "lasttoken"}
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 3}


@pytest.fixture(scope="module")
def overlay(tmp_path_factory) -> str:
    """A folder to put on the path before FlagEmbedding is imported; empty where it is installed."""
    if importlib.util.find_spec("FlagEmbedding"):
        return ""
    given = os.environ.get("MMEMBED_FLAG_EMBEDDING")
    if given:
        return given
    folder = tmp_path_factory.mktemp("overlay")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(folder),
        "FlagEmbedding==1.4.2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"FlagEmbedding cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return str(folder)


def train_here(folder: Path, kind: str, base: Path) -> Path:
    """What we train, and save: of an embedder with its pooling and prompt, or of a reranker."""
    table = Dataset.from_dict(
        {"query": [r[0] for r in ROWS], "positive": [r[1] for r in ROWS], "negative": [r[2] for r in ROWS]}
    )
    torch.manual_seed(0)
    shared = {**QUIET, "learning_rate": 5e-3, "per_device_train_batch_size": 2}
    if kind == "reranker":
        reranker = load_text_reranker(base, device="cpu")
        args = CrossEncoderTrainingArguments(str(folder / "run"), **shared)
        CrossEncoderTrainer(reranker, args, table, loss=CandidateScoringLoss(reranker)).train()
        reranker.save_pretrained(str(folder))
    else:
        model = set_prompts(load_model(base, device="cpu", pooling=POOLINGS[kind]), query="find: ")
        args = SentenceTransformerTrainingArguments(str(folder / "run"), **shared)
        SentenceTransformerTrainer(model, args, table, loss=CandidateRankingLoss(model)).train()
        model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def told(overlay, tmp_path_factory) -> dict[str, Any]:
    """Name → folder and what FlagEmbedding said of it. One process does all, for its imports take ten seconds."""
    place = tmp_path_factory.mktemp("peer")
    data = place / "rows.jsonl"
    rows = [{"query": q, "pos": [p], "neg": [n]} for q, p, n in ROWS]
    data.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    tasks: list[dict[str, Any]] = []
    named: dict[str, Any] = {}

    def ask(name: str, folder: Path, task: dict[str, Any]) -> None:
        tasks.append(task)
        named[name] = {"folder": folder, "task": len(tasks) - 1}

    def encode(name: str, folder: Path, pooling: str, flag_class: str = "FlagModel") -> None:
        lengths = {"query_max_length": LENGTH, "passage_max_length": LENGTH}
        own = {} if flag_class == "FlagLLMModel" else {"pooling_method": pooling}
        given = {"queries": QUERIES, "documents": DOCUMENTS, "arguments": {**ASKED, **lengths, **own}}
        ask(name, folder, {"encode": str(folder), "class": flag_class, **given})

    def score(name: str, folder: Path, pairs: list, **arguments: Any) -> None:
        given = {"pairs": pairs, "arguments": {"max_length": POSITIONS, **arguments}}
        ask(name, folder, {"score": str(folder), **given})

    for kind in ("bert", "xlm-roberta"):
        base = text_folder(kind, place / f"{kind}-base")
        for pooling in POOLINGS:
            theirs = place / f"{kind}-{pooling}-theirs"
            tasks.append(
                {"train": "embedder", "model": str(base), "data": str(data), "output": str(theirs), "pooling": pooling}
            )
            ours = train_here(place / f"{kind}-{pooling}-ours", pooling, base)
            # FlagModel itself has no last_token.
            flag_class = "FlagLLMModel" if pooling == "last_token" else "FlagModel"
            encode(f"{kind}-{pooling}-theirs", theirs, pooling, flag_class)
            encode(f"{kind}-{pooling}-ours", ours, pooling, flag_class)
        base = tiny_reranker(place / f"{kind}-reranker", kind)
        theirs, ours = place / f"{kind}-reranker-theirs", train_here(place / f"{kind}-reranker-ours", "reranker", base)
        tasks.append({"train": "reranker", "model": str(base), "data": str(data), "output": str(theirs)})
        for whose, folder in (("theirs", theirs), ("ours", ours)):
            # FlagEmbedding decodes a cut query and reads it again, which loses a space at the end of XLM-RoBERTa's.
            score(f"{kind}-score-{whose}", folder, PAIRS + (LONG_PAIRS if kind == "bert" else []))
            score(f"{kind}-sigmoid-{whose}", folder, PAIRS, normalize=True)
            score(f"{kind}-asked-{whose}", folder, PAIRS, query_instruction_for_rerank="find: ")
    encode("decoder", text_folder("decoder", place / "decoder", "left"), "last_token", "FlagLLMModel")
    encode("m3", text_folder("xlm-roberta", place / "m3"), "cls", "BGEM3FlagModel")
    (place / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [overlay, str(ROOT)])),
        "OMP_NUM_THREADS": "1",
    }
    script = [
        sys.executable,
        str(ROOT / "tests" / "flag_embedding_peer.py"),
        str(place / "tasks.json"),
        str(place / "answers.json"),
    ]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=280)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"FlagEmbedding lacks a module: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads((place / "answers.json").read_text())
    return {name: {**entry, "answer": answers[entry["task"]]} for name, entry in named.items()}


@pytest.mark.parametrize("whose", ["theirs", "ours"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_embedders_have_the_same_vectors(kind: str, pooling: str, whose: str, told) -> None:
    entry = told[f"{kind}-{pooling}-{whose}"]
    if whose == "theirs":
        assert recorded_pooling(entry["folder"]) == POOLINGS[pooling]
        model = load_model(entry["folder"], device="cpu", pooling=recorded_pooling(entry["folder"]))
        set_prompts(model, query=instruction_prompt(*ASKED.values()))
    else:  # saved with its pooling and its prompt
        model = load_model(entry["folder"], device="cpu")
    model.max_seq_length = LENGTH
    for encode, texts, expected in zip(
        (model.encode_query, model.encode_document), (QUERIES, DOCUMENTS), entry["answer"]
    ):
        assert np.abs(encode(texts) - np.array(expected)).max() < 1e-5
    assert np.abs(model.encode_query(DOCUMENTS) - model.encode_document(DOCUMENTS)).max() > 1e-3


@pytest.mark.parametrize(("name", "pooling"), [("decoder", "lasttoken"), ("m3", "cls")])
def test_decoders_padded_on_the_left_and_m3s_dense_vectors(name: str, pooling: str, told) -> None:
    model = set_prompts(load_model(told[name]["folder"], device="cpu", pooling=pooling), query="find: ")
    model.max_seq_length = LENGTH
    for encode, texts, expected in zip(
        (model.encode_query, model.encode_document), (QUERIES, DOCUMENTS), told[name]["answer"]
    ):
        assert np.abs(encode(texts) - np.array(expected)).max() < 1e-5


@pytest.mark.parametrize("whose", ["theirs", "ours"])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_rerankers_have_the_same_scores(kind: str, whose: str, told) -> None:
    for name, pairs, arguments, prompt in (
        ("score", PAIRS + (LONG_PAIRS if kind == "bert" else []), {}, None),
        ("sigmoid", PAIRS, {"normalize": True}, None),
        ("asked", PAIRS, {}, "find: "),
    ):
        entry = told[f"{kind}-{name}-{whose}"]
        model = load_text_reranker(entry["folder"], device="cpu", **arguments)
        scores = model.predict(pairs, prompt=prompt)
        assert np.abs(scores - np.array(entry["answer"])).max() < 1e-4 and np.ptp(scores) > 1e-3
