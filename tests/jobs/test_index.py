"""`mmembed index`: a folder that loads, measured before it is written, and not written where a model collapses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mmembed.cli import main as mmembed
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.jobs.index import main, read_qrels
from mmembed.jobs.options import OptionsError
from mmembed.search.fit_report import FitError
from mmembed.search.index import Index

pytest.importorskip("faiss")

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--no_show_progress_bar"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Documents, queries near three of them each, and judgements; all that matters lies in small numbers of one sign."""
    generator = np.random.default_rng(0)
    documents = np.abs(generator.normal(size=(300, 16))) + 0.02
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    chosen = generator.integers(300, size=(40, 2))
    queries = documents[chosen].sum(axis=1)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    about = {"model": "mine", "model_fingerprint": "f" * 32}
    Embeddings([f"d{row}" for row in range(300)], documents.astype(np.float32), about).save(tmp_path / "documents")
    Embeddings([f"q{row}" for row in range(40)], queries.astype(np.float32), about).save(tmp_path / "queries")
    with open(tmp_path / "pairs.jsonl", "w", encoding="utf-8") as pairs, open(tmp_path / "qrels", "w") as qrels:
        for row, (one, other) in enumerate(chosen.tolist()):
            pairs.write(json.dumps({"query_id": f"q{row}", "positive_ids": sorted({f"d{one}", f"d{other}"})}) + "\n")
            qrels.write(f"q{row} 0 d{one} 1\nq{row}\t0\td{other}\t1\n\nq{row} 0 d0 0\n")
    return tmp_path


def words(shop: Path, *more: str, out: str = "index", measured: bool = True) -> list[str]:
    given = ["--embeddings", str(shop / "documents"), "--output_dir", str(shop / out), *QUIET]
    return [
        *given,
        *(["--queries", str(shop / "queries"), "--pairs", str(shop / "pairs.jsonl")] if measured else []),
        *more,
    ]


def test_an_index_is_written_and_says_what_it_keeps(shop: Path, capsys) -> None:
    assert mmembed(["index", *words(shop, "--precision", "int8")]) == 0
    printed = capsys.readouterr().out
    assert "flat, int8" in printed and "n = 40 queries" in printed and "300 × 16, 17 bytes each" in printed
    index = Index.load(shop / "index", model="mine")
    assert index.fit["n"] == 40 and index.fit["measure"] == "ndcg@10" and index.fit["floor"] == 0.95
    assert index.fit["kept"] > 0.95 and index.fit["parameters"] == {"precision": "int8"}
    queries = Embeddings.load(shop / "queries")
    assert index.search(queries.vectors, 3) == Index.build(
        Embeddings.load(shop / "documents"), precision="int8"
    ).search(queries.vectors, 3)


def test_a_collapse_is_not_written(shop: Path, capsys) -> None:
    with pytest.raises(FitError, match=r"binary keeps \d+\.\d% .*ndcg@10 \(n = 40\)"):
        main(words(shop, "--kind", "binary"))
    assert not (shop / "index").exists() and "collapses" in capsys.readouterr().out
    assert mmembed(["index", *words(shop, "--kind", "binary")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("mmembed index: error: binary keeps") and printed.err.count("\n") == 1
    assert main(words(shop, "--kind", "binary", "--allow_collapse")) == 0
    assert Index.load(shop / "index").fit["kept"] < 0.95
    assert main(words(shop, "--kind", "binary", "--floor", "0", out="other")) == 0
    assert main(words(shop, "--kind", "binary", "--rescore", "float32", "--oversample", "30", out="third")) == 0


def test_judgements_of_trec_are_those_of_pairs(shop: Path, capsys) -> None:
    assert main(words(shop, "--report_only", "--precision", "float16")) == 0
    by_pairs = capsys.readouterr().out.splitlines()
    given = [
        "--embeddings",
        str(shop / "documents"),
        "--queries",
        str(shop / "queries"),
        "--qrels",
        str(shop / "qrels"),
    ]
    assert main([*given, "--report_only", "--precision", "float16", *QUIET]) == 0
    by_qrels = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:4] for line in by_pairs[:4]] == [line.split("  ")[:4] for line in by_qrels[:4]]
    assert not (shop / "index").exists()
    assert read_qrels(str(shop / "qrels"))["q0"].keys() == {"d" + one for one in _chosen(shop, 0)}
    for line, at in (("q0 0 d1", 1), ("q0 0 d1 1\nq0 0 d1 1.5", 2), ("q0 0 d1 1 x", 1), ("q0 0 d\xff 1", 1)):
        (shop / "bad").write_bytes(line.encode("latin-1"))
        with pytest.raises(DataError, match=f"bad:{at}: .*query 0 document grade"):
            main([*given[:-1], str(shop / "bad"), "--report_only", *QUIET])


def _chosen(shop: Path, row: int) -> set[str]:
    lines = (shop / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    return {one[1:] for one in json.loads(lines[row])["positive_ids"]}


def test_without_judgements_the_overlap_is_measured_and_documents_may_be_queries(shop: Path, capsys) -> None:
    given = ["--embeddings", str(shop / "documents"), *QUIET]
    assert main([*given, "--queries", str(shop / "queries"), "--report_only", "--compare"]) == 0
    printed = capsys.readouterr().out
    assert "overlap@10" in printed and all(kind in printed for kind in ("float16", "int8", "binary"))
    (shop / "same.jsonl").write_text('{"query_id": "d3", "positive_ids": ["d4"]}\n')
    assert main([*given, "--pairs", str(shop / "same.jsonl"), "--report_only", "--k", "299"]) == 0
    value = float(capsys.readouterr().out.splitlines()[2].split()[2])
    vectors = np.asarray(Embeddings.load(shop / "documents").vectors)
    scores = vectors @ vectors[3]
    rank = 1 + int((scores > scores[4]).sum()) - 1  # without d3 itself
    assert value == pytest.approx(1 / np.log2(rank + 1), abs=1e-4)


def test_what_is_not_measured_is_said(shop: Path, capsys) -> None:
    assert main(words(shop, "--kind", "binary", measured=False)) == 0
    assert "not measured: give --queries" in capsys.readouterr().out
    assert Index.load(shop / "index").fit is None
    assert main(words(shop, out="flat", measured=False)) == 0
    assert "not measured" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "pq", "ivf_pq"])
def test_every_kind_and_its_numbers(shop: Path, kind: str) -> None:
    more = {"ivf": ["--lists", "5", "--probes", "5"], "hnsw": ["--neighbours", "8"], "pq": ["--segments", "8"]}.get(
        kind, []
    )
    assert main(words(shop, "--kind", kind, *more, measured=False)) == 0
    index = Index.load(shop / "index")
    assert index.kind == kind and len(index) == 300
    if kind == "ivf":
        assert (index.settings.lists, index.settings.probes) == (5, 5)


def test_calibration_of_other_vectors(shop: Path) -> None:
    more = ["--precision", "int8", "--calibration", str(shop / "queries")]
    assert main(words(shop, *more, measured=False)) == 0
    assert Index.load(shop / "index").calibration.count == 40


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--kind", "ivvf"], "kind"),
        (["--kind", "flat", "--lists", "3"], "lists=3 does not concern"),
        (["--truncate_dim", "17"], "at most 16"),
        (["--kind", "ivf", "--lists", "301"], "lists=301 for 300 vectors"),
        (["--floor", "1.5"], "--floor 1.5"),
        (["--k", "0"], "--k 0"),
        (["--qrels", "x"], "--pairs and --qrels"),
        (["--calibration", "QUERIES"], "calibration vectors"),
    ],
)
def test_options_that_do_not_go_are_a_line(shop: Path, more: list[str], message: str, capsys) -> None:
    more = [str(shop / "queries") if word == "QUERIES" else word for word in more]
    assert mmembed(["index", *words(shop, *more)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (shop / "index").exists()


def test_what_is_there_is_left_alone(shop: Path) -> None:
    with pytest.raises(OptionsError, match="--embeddings"):
        main(["--output_dir", "x"])
    with pytest.raises(OptionsError, match="--output_dir"):
        main(["--embeddings", str(shop / "documents")])
    with pytest.raises(OptionsError, match="--queries"):
        main(["--embeddings", str(shop / "documents"), "--report_only"])
    with pytest.raises(OptionsError, match="is there already"):
        main(words(shop, out="queries", measured=False))
    with pytest.raises(DataError, match="something other than an index"):
        main(words(shop, "--overwrite", out="queries", measured=False))
    assert Embeddings.load(shop / "queries").ids
    assert main(words(shop, measured=False)) == main(words(shop, "--overwrite", measured=False)) == 0
    with pytest.raises(DataError, match="no manifest.json|does not exist"):
        main(["--embeddings", str(shop / "nowhere"), "--output_dir", str(shop / "x")])


def test_the_recipe_is_the_verb_and_help_is_fast(shop: Path) -> None:
    command = [sys.executable, str(ROOT / "recipes" / "run_index.py")]
    subprocess.run([*command, "--help"], check=True, capture_output=True)  # byte code is there from now on
    start = time.process_time()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command[1:], "--help"], check=True, capture_output=True, text=True
    )
    assert "--rescore" in done.stdout and time.process_time() - start < 1
    assert not {"numpy", "faiss", "torch", "datasets"} & {
        line.split("|")[-1].strip() for line in done.stderr.splitlines()
    }
    done = subprocess.run([*command, *words(shop, measured=False)], check=True, capture_output=True, text=True)
    assert "index           " in done.stdout and "faiss" not in done.stderr.casefold()
