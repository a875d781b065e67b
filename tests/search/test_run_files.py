"""Run files read back by other readers, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmembed.data.schema import DataError
from mmembed.search.hits import Hit
from mmembed.search.run_files import write_run

HITS = {
    "q1": [
        Hit("a", 7.5, "reranked", {"dense": 2, "reranked": 1}, {"dense": 0.4, "reranked": 7.5}),
        Hit("b", 0.9, "dense"),
    ],
    "q2": [],
    "q3": [Hit("b", 0.1, "dense")],
}


def test_a_trec_run_is_read_by_ir_measures_in_the_order_of_the_hits(tmp_path: Path) -> None:
    import ir_measures

    write_run(tmp_path / "run.trec", HITS, format="trec", tag="mine")
    found = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    assert [(row.query_id, row.doc_id) for row in sorted(found, key=lambda row: (row.query_id, -row.score))] == [
        ("q1", "a"), ("q1", "b"), ("q3", "b"),
    ]  # fmt: skip
    assert (tmp_path / "run.trec").read_text().splitlines()[0] == "q1 Q0 a 1 1.000000 mine"


def test_json_lines_hold_all(tmp_path: Path) -> None:
    write_run(tmp_path / "run.jsonl", HITS, queries={"q1": "rött\nhat"})
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["query_id"] for row in rows] == ["q1", "q2", "q3"] and rows[1]["hits"] == []
    assert rows[0]["query"] == "rött\nhat" and rows[2]["query"] is None
    assert rows[0]["hits"][0] == {
        "id": "a", "score": 7.5, "stage": "reranked", "ranks": {"dense": 2, "reranked": 1},
        "scores": {"dense": 0.4, "reranked": 7.5},
    }  # fmt: skip


@pytest.mark.security
@pytest.mark.parametrize("bad", ["a b", "a\nq9 Q0 z 1 1 x", "", "\u2028"])
def test_an_id_cannot_forge_lines_of_a_run(tmp_path: Path, bad: str) -> None:
    for results, tag in (({"q": [Hit(bad, 1.0, "dense")]}, "t"), ({bad: [Hit("a", 1.0, "dense")]}, "t"), (HITS, bad)):
        with pytest.raises(DataError, match="has a blank"):
            write_run(tmp_path / "run.trec", results, format="trec", tag=tag)
    assert not (tmp_path / "run.trec").exists()


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'trec'"):
        write_run(tmp_path / "run", HITS, format="treck")  # type: ignore[arg-type]
