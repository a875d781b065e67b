"""`mmembed search` from words to hits: what is printed, written and measured, and what is refused."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("faiss")

from mmembed.cli import main as command
from mmembed.data.reading import read_items
from mmembed.data.schema import DataError
from mmembed.dataset_encoding import encode_dataset
from mmembed.images import ImagePolicy, ImageReader
from mmembed.jobs.options import OptionsError
from mmembed.jobs.search import main, run
from mmembed.jobs.search_options import SearchOptions
from mmembed.models.loading import load_model
from mmembed.ranking_metrics import ranking_metrics
from mmembed.search.filters import FilterError
from mmembed.search.index import Index
from mmembed.search.lexical import LexicalIndex
from mmembed.search.pipeline import SearchPipeline
from tests.jobs.tiny_jobs import write_shop
from tests.tiny_models import tiny_dual_encoder

COUNT = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shop, a model, its vectors and an index of them, queries and judgements."""
    folder = tmp_path_factory.mktemp("search")
    shop = write_shop(folder / "shop", COUNT)
    rows = [json.loads(line) for line in shop.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row.update(price=10 * number, new=number % 2 == 0)
    shop.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tiny_dual_encoder().save_pretrained(str(folder / "model"), create_model_card=False)
    model = load_model(folder / "model", device="cpu")
    items = read_items(shop)
    reader = ImageReader(ImagePolicy(root=str(shop.parent)))
    vectors = encode_dataset(
        model,
        items,
        folder / "vectors",
        use="fused",
        reader=reader,
        model_name=str(folder / "model"),
        show_progress_bar=False,
    )
    Index.build(vectors, kind="binary").save(folder / "index")
    queries = [{"id": f"q{n}", "text": rows[n]["text"]} for n in range(COUNT)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries), encoding="utf-8")
    for name, some in (("test", range(6)), ("validation", range(6, COUNT))):
        pairs = [{"query_id": f"q{n}", "positive_ids": [rows[n]["id"]], "negative_ids": []} for n in some]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    return folder


def given(place: Path, **more: object) -> SearchOptions:
    parts = {
        "items": str(place / "shop" / "items.jsonl"),
        "index": str(place / "index"),
        "vectors": str(place / "vectors"),
    }
    if not Path(str(parts["items"])).exists():
        parts["items"] = str(next((place / "shop").glob("*.jsonl")))
    return SearchOptions(**{**parts, "lexical": "items", "device": "cpu", "show_progress_bar": False, **more})  # type: ignore[arg-type]


def pipeline_of(place: Path) -> SearchPipeline:
    from mmembed.embeddings import Embeddings

    items = read_items(given(place).items or "")
    lexical = LexicalIndex.build(items["id"][:], items["text"][:])
    vectors = Embeddings.load(place / "vectors")
    model = load_model(place / "model", device="cpu")
    return SearchPipeline(lexical=lexical, index=Index.load(place / "index"), vectors=vectors, model=model, items=items)


def test_hits_are_the_pipelines_and_are_printed(place: Path, capsys) -> None:
    items = read_items(given(place).items or "")
    text = items["text"][3]
    results = run(given(place, query=[text, "red"], k=3))
    pipeline = pipeline_of(place)
    assert list(results.values()) == pipeline.search([text, "red"], 3) and list(results) == ["1", "2"]
    said = capsys.readouterr().out
    assert f"1: {text}" in said and "in rescored" in said
    first = results["1"][0]
    assert any(line.split()[:2] == ["1", first.id] for line in said.splitlines())


def test_filters_and_an_empty_result(place: Path, capsys) -> None:
    results = run(given(place, query=["red"], filter=["price=20..60", "new=true"]))
    items = read_items(given(place).items or "")
    assert {hit.id for hit in results["1"]} == {items["id"][n] for n in (2, 4, 6)}
    assert run(given(place, query=["red"], filter=["price=1..2"])) == {"1": []}
    assert "nothing found" in capsys.readouterr().out
    with pytest.raises(FilterError, match="did you mean 'price'"):
        run(given(place, query=["red"], filter=["prize=3"]))


def test_an_image_both_and_a_dialogue(place: Path) -> None:
    photo = next((place / "shop").rglob("*.png"), None) or next((place / "shop").rglob("*.jp*g"))
    pipeline = pipeline_of(place)
    from mmembed.images import load_image

    picture = load_image(photo.read_bytes())
    assert run(given(place, image=[str(photo)]))["1"] == pipeline.search([picture])[0]
    both = run(given(place, image=[str(photo)], query=["red"]))["1"]
    assert both == pipeline.search([{"text": "red", "image": picture}])[0]
    rounds = ["a mug", "is it red? yes"]
    assert run(given(place, dialogue=rounds))["1"] == pipeline.search([rounds])[0]
    liked = run(given(place, query=["red"], like=[both[0].id], unlike=[both[-1].id]))["1"]
    assert liked == pipeline.search(["red"], positives=[[both[0].id]], negatives=[[both[-1].id]])[0]
    with pytest.raises(OptionsError, match="there is no file"):
        run(given(place, image=[str(place / "nowhere.png")]))


def test_runs_are_written(place: Path, tmp_path: Path) -> None:
    import ir_measures

    queries = str(place / "queries.jsonl")
    for name in ("run.jsonl", "run.trec"):
        assert len(run(given(place, queries=queries, output=str(tmp_path / name), k=5))) == COUNT
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    found = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    assert [(row.query_id, row.doc_id) for row in found] == [
        (row["query_id"], hit["id"]) for row in rows for hit in row["hits"]
    ]
    assert len(found) == 5 * COUNT


def test_judgements_make_the_stages_table(place: Path, tmp_path: Path, capsys) -> None:
    options = given(
        place, queries=str(place / "queries.jsonl"), pairs=str(place / "test.jsonl"), metrics=["mrr@5", "ndcg@10"],
        report=str(tmp_path / "report.json"),
    )  # fmt: skip
    assert run(options) == {}
    said = capsys.readouterr().out
    stages = ["lexical", "dense", "fused", "rescored"]
    table = [line.split()[0] for line in said.partition("p50 ms")[2].splitlines() if line.split()]
    assert [name for name in table if name in stages] == stages
    assert "6 queries without judgements were left out" in said
    report = json.loads((tmp_path / "report.json").read_text())
    items = read_items(given(place).items or "")
    dense = pipeline_of(place).stages([items["text"][n] for n in range(6)])[1]
    run_ = {f"q{n}": dense.rankings[n] for n in range(6)}
    expected = ranking_metrics(run_, {f"q{n}": [items["id"][n]] for n in range(6)}, ["mrr@5"])["mrr@5"].mean()
    assert report["stages"][1]["metrics"]["mrr@5"]["mean"] == pytest.approx(expected) and report["n"] == 6


def test_a_fusion_is_learned_on_validation_and_not_measured_there(place: Path, capsys) -> None:
    fitted = {"queries": str(place / "queries.jsonl"), "fit_pairs": str(place / "validation.jsonl")}
    run(given(place, **fitted, pairs=str(place / "test.jsonl")))
    said = capsys.readouterr().out
    assert "the best of 44 on 6 validation queries" in said and "on 6 other queries." in said
    with pytest.raises(ValueError, match="learned on 6 of these 6 queries"):
        run(given(place, **fitted, pairs=str(place / "validation.jsonl")))


def test_a_saved_pipeline_finds_the_same(place: Path, tmp_path: Path) -> None:
    first = run(given(place, query=["red"], save_pipeline=str(tmp_path / "p"), model=str(place / "model")))
    assert not (tmp_path / "p" / "model").exists()
    root = str(place / "shop")
    loaded = SearchOptions(
        pipeline=str(tmp_path / "p"), image_root=root, query=["red"], device="cpu", show_progress_bar=False
    )
    assert run(loaded) == first


def test_a_named_format_has_all_tables(place: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "documents.jsonl").write_text('{"id": "a", "text": "red mug"}\n{"id": "b", "text": "blue hat"}\n')
    (folder / "queries.jsonl").write_text('{"id": "q", "text": "mug"}\n')
    (folder / "pairs.jsonl").write_text('{"query_id": "q", "positive_ids": ["a"], "negative_ids": []}\n')
    words = ["search", "--data", str(folder), "--lexical", "items", "--no_show_progress_bar"]
    assert command(words) == 0
    assert "1.0000 [1.0000, 1.0000]" in capsys.readouterr().out
    assert command([*words, "--query", "hat"]) == 0
    assert "blue hat" in capsys.readouterr().out


def test_parts_of_documents_find_documents(place: Path, tmp_path: Path) -> None:
    from mmembed.embeddings import Embeddings

    whole = Embeddings.load(place / "vectors")
    parts = Embeddings([f"{id}#0" for id in whole.ids], whole.vectors, whole.manifest)
    parts.save(tmp_path / "parts")
    Index.build(parts).save(tmp_path / "index")
    plain = run(given(place, query=["red"], index=None))
    assert [hit.id for hit in plain["1"]] == [
        hit.id
        for hit in run(given(place, query=["red"], index=None, vectors=str(tmp_path / "parts"), chunked=True))["1"]
    ]
    found = run(given(place, query=["red"], index=str(tmp_path / "index"), vectors=None, chunked=True))
    assert [hit.id for hit in plain["1"]] == [hit.id for hit in found["1"]]


def test_rewrites_come_from_a_file_or_a_server(place: Path, tmp_path: Path) -> None:
    asked: list[dict] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = {"choices": [{"message": {"role": "assistant", "content": '{"texts": ["blue shirt"]}'}}]}
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments) -> None:
            pass

    (tmp_path / "rewrites.json").write_text('{"red": ["blue shirt"]}')
    from_file = run(given(place, query=["red"], rewrites=str(tmp_path / "rewrites.json")))
    pipeline = pipeline_of(place)
    pipeline.rewriter = lambda text: "blue shirt"
    assert from_file["1"] == pipeline.search(["red"])[0]
    http = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        options = given(
            place, query=["red"], rewrite_url=f"http://127.0.0.1:{http.server_port}/v1", rewrite_model="m", rewrite_calls=2,
            rewrite_cache=str(tmp_path / "cache"), rewrite_task="hyde",
        )  # fmt: skip
        assert run(options) == from_file and run(options) == from_file  # the second time from the cache
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
    assert len(asked) == 1 and "passages" in asked[0]["messages"][0]["content"]


def test_an_index_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    tiny_dual_encoder(text_layers=2).save_pretrained(str(tmp_path / "other"), create_model_card=False)
    with pytest.raises(DataError, match="vectors are of another model"):
        run(given(place, query=["red"], model=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", "a"], "nothing to search"),
        (["--lexical", "x"], "nothing is asked"),
        (["--lexical", "items", "--query", "a"], "name the items"),
        (["--pipeline", "p", "--index", "i", "--query", "a"], "has its own parts"),
        (["--lexical", "x", "--query", "a", "--dialogue", "b"], "give one"),
        (["--lexical", "x", "--query", "a", "b", "--image", "c"], "2 --query and 1 --image"),
        (["--lexical", "x", "--query", "a", "--pairs", "p"], "--pairs goes with --queries"),
        (["--lexical", "x", "--query", "a", "--k", "0"], "--k: found 0"),
        (["--lexical", "x", "--query", "a", "--report", "r"], "needs judgements"),
        (["--lexical", "x", "--query", "a", "--chunked"], "--chunked is of"),
        (["--lexical", "x", "--query", "a", "--rewrite_url", "http://h/v1"], "--rewrite_model"),
        (["--lexical", "x", "--query", "a", "--format", "cranfield"], "--format is of --data"),
        (["--lexical", "x", "--query", "a", "--fusio", "rrf"], "did you mean --fusion"),
        (["--lexical", "x", "--query", "a", "--fusion", "rff"], "rrf"),
        (["--lexical", "x", "--query", "a", "--fit_pairs", "p"], "--fit_queries"),
    ],
)
def test_options_that_cannot_be_meant(words: list[str], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        main(words)


def test_faults_are_said_in_one_line(place: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query_id": "q99", "positive_ids": ["x"], "negative_ids": []}\n')
    wrong = [
        (["--lexical", str(tmp_path), "--query", "a"], "no whole lexical index"),
        (["--vectors", str(tmp_path), "--query", "a"], "manifest"),
        (["--pipeline", str(tmp_path), "--query", "a"], "missing"),
        (["--lexical", "items", "--items", str(tmp_path / "no.jsonl"), "--query", "a"], "no.jsonl"),
        (["--lexical", "items", "--items", given(place).items, "--queries", str(place / "queries.jsonl"),
          "--pairs", str(tmp_path / "pairs.jsonl")], "such as 'q99'"),
        (["--lexical", "items", "--items", given(place).items, "--query", " "], "neither a text nor an image"),
    ]  # fmt: skip
    for words, message in wrong:
        assert command(["search", *words, "--no_show_progress_bar"]) == 2, words
        said = capsys.readouterr().err
        assert message in said.splitlines()[-1] and "Traceback" not in said
