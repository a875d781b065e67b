"""The search recipes in small: every road through the scripts."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("bm25s")

from tests.jobs.tiny_jobs import write_shop
from tests.tiny_models import WORDS, tiny_bert, tiny_dual_encoder

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert") / "tiny"
    tiny_bert().save_pretrained(str(folder), create_model_card=False)
    return folder


def run(name: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / name), run_name="__main__")
    assert ended.value.code == 0


def questions(path: Path, first: int) -> None:
    """Passages of `WORDS`, and a question of two words for each."""
    some = WORDS[first : first + 15]
    value = {
        "queries": {f"q{first + n}": " ".join(text.split()[:2]) for n, text in enumerate(some)},
        "corpus": {f"d{first + n}": text for n, text in enumerate(some)},
        "relevant_docs": {f"q{first + n}": [f"d{first + n}"] for n in range(15)},
    }
    path.write_text(json.dumps(value), encoding="utf-8")


def test_stages_fusion_rewrites_and_feedback(bert: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    for name, first in (("validation", 0), ("test", 20)):
        questions(tmp_path / f"{name}.json", first)
    asked = json.loads((tmp_path / "test.json").read_text())["queries"].values()
    (tmp_path / "rewrites.json").write_text(json.dumps({query: [f"{query} mug"] for query in asked}))
    options = {
        "format": "qa_json", "files": {"validation": "validation.json", "test": "test.json"}, "metrics": ["ndcg@10", "mrr@5"],
        "bm25": {"tokeniser": "word"}, "dense_model": str(bert), "depth": 10, "rewrites": "rewrites.json",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
    run(
        "search/measure.py",
        monkeypatch,
        "--config",
        tmp_path / "config.yaml",
        "--source",
        tmp_path,
        "--output_dir",
        tmp_path / "out",
    )
    said = capsys.readouterr().out
    assert "chosen on validation, of 44" in said and "rewrites: lexical" in said and "on 15 other queries" in said
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["words, vectors, reciprocal ranks"]["n"] == 15
    assert found["rewrites: fused"]["the rewrites alone, fused rankings"]["mrr@5"]["n"] == 15
    # with judgements of several documents a query, feedback has something left to find
    for name, first in (("validation", 0), ("test", 20)):
        value = json.loads((tmp_path / f"{name}.json").read_text())
        value["relevant_docs"] = {f"q{first + n}": [f"d{first + (n + k) % 15}" for k in range(12)] for n in range(15)}
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    del options["rewrites"]
    options["files"] = {"validation": "test.json", "test": "validation.json"}
    options["feedback"] = {"term_expansion": [[2, 3]], "rocchio": [[2, 0.5]]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(options))
    run(
        "search/measure.py",
        monkeypatch,
        "--config",
        tmp_path / "config.yaml",
        "--source",
        tmp_path,
        "--output_dir",
        tmp_path / "fed",
    )
    found = json.loads((tmp_path / "fed" / "metrics.json").read_text())
    assert "judged feedback: dense, residual" in found and "first results as feedback: lexical" in found


def test_late_chunks(bert: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    paragraphs = [{"context": f"{text}. mug", "qas": [{"id": text, "question": text}]} for text in WORDS[:6]]
    data = [{"paragraphs": paragraphs[:3]}, {"paragraphs": paragraphs[3:]}]
    (tmp_path / "xquad.en.json").write_text(json.dumps({"data": data}))
    run(
        "search/late_chunks.py", monkeypatch, "--data", "xquad", "--source", tmp_path / "xquad.en.json", "--model", bert,
        "--max_tokens", 16, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(found) == {"plain chunks", "late chunks, windows of 16"} and found["plain chunks"]["ndcg@10"]["n"] == 6
    assert "2 documents of" in capsys.readouterr().out


def test_photos(tmp_path: Path, monkeypatch, capsys) -> None:
    shop = write_shop(tmp_path / "shop", 30)
    rows = [json.loads(line) for line in shop.read_text().splitlines()]
    for number, row in enumerate(rows):
        colour, thing = row["text"].split()[:2]
        row.update(split="test", gender=("Men", "Women")[number % 2], baseColour=colour, articleType=thing)
    shop.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_dual_encoder().save_pretrained(str(tmp_path / "model"), create_model_card=False)
    run(
        "search/fashion.py", monkeypatch, "--items", shop, "--image_root", shop.parent, "--model", tmp_path / "model",
        "--output_dir", tmp_path / "out",
    )  # fmt: skip
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["learned fusion"]["n"] == found["filter, fused"]["n"] and "30 products" in capsys.readouterr().out


def test_the_verb_as_a_recipe(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": "a", "text": "red mug"}\n{"id": "b", "text": "blue hat"}\n')
    run("run_search.py", monkeypatch, "--items", tmp_path / "items.jsonl", "--lexical", "items", "--query", "hat")
    assert "blue hat" in capsys.readouterr().out
