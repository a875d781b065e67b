"""The pipeline against its stages done one by one, and against hostile texts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

pytest.importorskip("bm25s")

from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.search.filters import FilterError
from mmembed.search.fusion import Fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.search.pipeline import SearchPipeline
from mmembed.search.queries import QueryError, encode_queries
from mmembed.search.query_expansion import Rocchio, TermExpansion
from tests.tiny_models import WORDS, tiny_bert, tiny_clip, tiny_dual_encoder

IDS = [f"item{number:02d}" for number in range(len(WORDS))]
ITEMS = Dataset.from_dict(
    {
        "id": IDS,
        "text": WORDS,
        "colour": [f"colour{number % 5}" for number in range(len(WORDS))],
        "price": list(range(len(WORDS))),
    }
)


class LongFirst:
    """Stands for a CrossEncoder: of two candidates it prefers the one whose number is higher."""

    def __init__(self) -> None:
        self.pairs: list = []

    def predict(self, pairs, **options) -> np.ndarray:
        self.pairs += pairs
        return np.array([float(document.split()[0].removeprefix("word")) for _, document in pairs])


class Coarse:
    """An index that knows every vector by the signs of its numbers alone."""

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings

    def search(self, queries, k=10, *, allowed=None) -> list[dict[str, float]]:
        found = []
        for query in queries:
            scores = np.sign(query) @ np.sign(np.asarray(self.embeddings.vectors)).T
            pairs = [(id, float(s)) for id, s in zip(self.embeddings.ids, scores) if allowed is None or id in allowed]
            found.append(dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]))
        return found


@pytest.fixture(scope="module")
def model():
    return tiny_dual_encoder()


@pytest.fixture(scope="module")
def vectors(model) -> Embeddings:
    return Embeddings(IDS, encode_items(model, ITEMS))


@pytest.fixture(scope="module")
def lexical() -> LexicalIndex:
    return LexicalIndex.build(IDS, WORDS)


def test_every_stage_is_what_it_says(model, vectors, lexical) -> None:
    reranker = LongFirst()
    pipeline = SearchPipeline(
        lexical=lexical, index=Coarse(vectors), vectors=vectors, model=model, reranker=reranker, items=ITEMS,
        depth=30, rerank_depth=5,
    )  # fmt: skip
    queries = ["word7 red", "colour3 mug", "word12"]
    stages = pipeline.stages(queries, k=10)
    assert [stage.name for stage in stages] == ["lexical", "dense", "fused", "rescored", "reranked"]
    words, dense, fused, rescored, reranked = stages
    assert words.rankings == lexical.search(queries, 30)
    asked = model.encode(queries, normalize_embeddings=True)
    exact = asked @ np.asarray(vectors.vectors).T  # (3, 60)
    for number in range(3):
        assert list(dense.rankings[number]) == list(Coarse(vectors).search(asked[number : number + 1], 30)[0])
        # reciprocal ranks, written out
        score: dict[str, float] = {}
        for ranking in (words.rankings[number], dense.rankings[number]):
            for rank, id in enumerate(ranking, 1):
                score[id] = score.get(id, 0) + 1 / (60 + rank)
        assert fused.rankings[number] == pytest.approx(score)
        assert list(fused.rankings[number].values()) == pytest.approx(sorted(score.values(), reverse=True))
        # rescoring: every candidate's dense rank is now that of its exact score
        by_exact = sorted(score, key=lambda id: -exact[number, IDS.index(id)])
        score = dict.fromkeys(score, 0.0)
        for ranking in (list(words.rankings[number]), by_exact):
            for rank, id in enumerate(ranking, 1):
                score[id] += 1 / (60 + rank)
        assert rescored.rankings[number] == pytest.approx(score)
        assert rescored.exact is not None
        for id, value in rescored.exact[number].items():
            assert value == pytest.approx(exact[number, IDS.index(id)], abs=1e-6)
        # reranking: the best five by their number, the others behind as they were
        before = list(rescored.rankings[number])
        assert reranked.order(number) == sorted(before[:5], reverse=True) + before[5:]
    hits = pipeline.search(queries, k=7)
    assert [[hit.id for hit in own] for own in hits] == [reranked.order(number)[:7] for number in range(3)]
    assert [hit.stage for hit in hits[0]] == ["reranked"] * 5 + ["rescored"] * 2
    first = hits[0][0]
    assert first.ranks["reranked"] == 1 and first.score == first.scores["reranked"]
    assert first.scores["exact"] == rescored.exact[0][first.id]
    assert len(reranker.pairs) == 2 * 15


def test_vectors_alone_are_searched_exactly(model, vectors) -> None:
    pipeline = SearchPipeline(vectors=vectors, model=model)
    (stage,) = pipeline.stages(["word7 red"], k=10)
    scores = model.encode(["word7 red"], normalize_embeddings=True)[0] @ np.asarray(vectors.vectors).T
    assert list(stage.rankings[0])[:10] == [IDS[row] for row in np.argsort(-scores, kind="stable")[:10]]
    assert len(pipeline.search(["word7 red"], k=500)[0]) == len(IDS)


def test_one_query_or_many_find_the_same(model, vectors, lexical) -> None:
    pipeline = SearchPipeline(lexical=lexical, vectors=vectors, model=model)
    queries = [WORDS[0], WORDS[17][:6], "mug"]
    together = pipeline.search(queries)
    for query, hits in zip(queries, together):
        assert [hit.id for hit in pipeline.search([query])[0]] == [hit.id for hit in hits]
    assert pipeline.search([]) == []


def test_filters_hold_in_every_stage(model, vectors, lexical) -> None:
    pipeline = SearchPipeline(
        lexical=lexical, index=Coarse(vectors), vectors=vectors, model=model, reranker=LongFirst(), items=ITEMS
    )
    allowed = {IDS[n] for n in range(60) if n % 5 == 3 and 20 <= n <= 40}
    for stage in pipeline.stages(["red mug colour3"], k=50, filters={"colour": "colour3", "price": (20, 40)}):
        assert set(stage.order(0)) == allowed, stage.name
    assert pipeline.search(["red", "mug"], filters={"colour": "colour3", "price": (0, 1)}) == [[], []]
    with pytest.raises(FilterError, match="did you mean 'colour'"):
        pipeline.search(["red"], filters={"color": "colour3"})
    with pytest.raises(FilterError, match="given none"):
        SearchPipeline(lexical=lexical).search(["red"], filters={"colour": "colour3"})


def test_a_filter_finds_what_lies_below_the_unfiltered_best(model, vectors) -> None:
    # depth counts allowed documents: a filter applied after the search would leave fewer than asked
    pipeline = SearchPipeline(vectors=vectors, model=model, items=ITEMS, depth=5)
    worst = list(pipeline.stages(["red"], k=60)[0].rankings[0])[-3:]
    hits = pipeline.search(["red"], k=3, filters={"price": [IDS.index(id) for id in worst]})[0]
    assert [hit.id for hit in hits] == worst


@pytest.mark.parametrize("make", [tiny_dual_encoder, tiny_clip])
def test_text_image_composed_and_dialogue(make) -> None:
    model = make()
    red, blue = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    queries = ["red mug", red, {"text": "red mug", "image": blue}, ["red mug", "is it blue? no"]]
    kinds = SearchPipeline(vectors=Embeddings(["a"], np.eye(1, 8, dtype=np.float32)), model=model)
    assert [len(hits) for hits in kinds.search(queries)] == [1] * 4
    from mmembed.search.queries import as_queries

    found = encode_queries(model, as_queries(queries))
    rows = [
        {"text": "red mug"},
        {"image": red},
        {"text": "red mug", "image": blue},
        {"text": "red mug, is it blue? no"},
    ]
    expected = np.concatenate([model.encode([row], normalize_embeddings=True) for row in rows])
    assert found == pytest.approx(expected, abs=1e-6)
    # a weighted sum of the two unit vectors
    parts = (
        model.encode([{"text": "red mug"}], normalize_embeddings=True),
        model.encode([{"image": blue}], normalize_embeddings=True),
    )
    summed = 0.3 * parts[0] + 0.7 * parts[1]
    weighted = encode_queries(model, as_queries(queries), text_weight=0.3)
    assert weighted[2] == pytest.approx((summed / np.linalg.norm(summed))[0], abs=1e-6)
    assert weighted[[0, 1, 3]] == pytest.approx(found[[0, 1, 3]])


def test_a_stage_that_cannot_read_a_query_leaves_it_as_it_was(model, vectors, lexical) -> None:
    pipeline = SearchPipeline(lexical=lexical, vectors=vectors, model=model, reranker=LongFirst(), items=ITEMS)
    picture = Image.new("RGB", (32, 32), "red")
    words, dense, fused, reranked = pipeline.stages([picture, "red"])
    assert words.rankings[0] == {} and reranked.rankings[0] == {} and reranked.rankings[1]
    assert list(dense.rankings[0]) == list(fused.rankings[0]) == reranked.order(0)
    assert {hit.stage for hit in pipeline.search([picture])[0]} == {"fused"}
    with pytest.raises(QueryError, match="query 1 is an image"):
        SearchPipeline(lexical=lexical).search(["red", picture])
    with pytest.raises(QueryError, match="does not read: its image"):
        SearchPipeline(vectors=Embeddings(["a"], np.eye(1, 16, dtype=np.float32)), model=tiny_bert()).search([picture])


def test_a_reranker_that_looks_at_images_gets_the_querys_own_pixels(model, vectors) -> None:
    import io

    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise[::-1].copy()).save(stream, "PNG")
    items = ITEMS.add_column("image", [{"bytes": stream.getvalue(), "path": None}] * len(IDS))
    seen = []

    class Looks:
        def predict(self, pairs, **options):
            seen.extend(pairs)
            return np.zeros(len(pairs))

    from mmembed.data.schema import validate_items

    pipeline = SearchPipeline(
        vectors=vectors, model=model, reranker=Looks(), items=validate_items(items), rerank_use="fused", rerank_depth=2
    )
    pipeline.search([{"text": "red", "image": noise}, "mug"])
    (both, document), *_, (text, _) = seen
    assert both["text"] == "red" and (np.asarray(both["image"]) == noise).all() and text == "mug"
    assert (np.asarray(document["image"]) == noise[::-1]).all() and document["text"].startswith("word")


def test_rewrites_are_a_mean_of_vectors_or_fused_rankings(model, vectors, lexical) -> None:
    rewriter = {"word7": ["word8", "word9 red"]}.get
    texts = ["word7", "word8", "word9 red"]
    found = model.encode(texts, normalize_embeddings=True)
    mean = found.mean(axis=0) / np.linalg.norm(found.mean(axis=0))
    pipeline = SearchPipeline(lexical=lexical, vectors=vectors, model=model, rewriter=rewriter)
    words, dense, _ = pipeline.stages(["word7"], k=60)
    scores = mean @ np.asarray(vectors.vectors).T
    assert list(dense.rankings[0]) == [IDS[row] for row in np.argsort(-scores, kind="stable")]
    # the query's own words count as much as those of both rewrites together
    expected = (2 * lexical.scores(texts[0]) + lexical.scores(texts[1]) + lexical.scores(texts[2])) / 4
    assert words.rankings[0] == pytest.approx({id: s for id, s in zip(IDS, expected.tolist()) if s > 0}, rel=1e-5)
    apart = SearchPipeline(lexical=lexical, rewriter=rewriter, combine_rewrites="rrf")
    reciprocal: dict[str, float] = {}
    for text in texts:
        for rank, id in enumerate(lexical.search([text], 100)[0], 1):
            reciprocal[id] = reciprocal.get(id, 0) + 1 / (60 + rank)
    assert apart.stages(["word7"])[0].rankings[0] == pytest.approx(reciprocal) and len(reciprocal) == 60
    alone = SearchPipeline(lexical=lexical, rewriter=rewriter, keep_query=False).stages(["word7"])[0].rankings[0]
    expected = (lexical.scores(texts[1]) + lexical.scores(texts[2])) / 2
    assert alone == pytest.approx({id: s for id, s in zip(IDS, expected.tolist()) if s > 0}, rel=1e-5)
    fused = SearchPipeline(vectors=vectors, model=model, rewriter=rewriter, combine_rewrites="rrf", depth=20)
    score: dict[str, float] = {}
    for row in found @ np.asarray(vectors.vectors).T:
        for rank, place in enumerate(np.argsort(-row, kind="stable")[:20], 1):
            score[IDS[place]] = score.get(IDS[place], 0) + 1 / (60 + rank)
    best = dict(sorted(score.items(), key=lambda pair: -pair[1])[:20])
    assert list(fused.stages(["word7"])[0].rankings[0].values()) == pytest.approx(list(best.values()))
    instead = SearchPipeline(vectors=vectors, model=model, rewriter=lambda text: "word8", keep_query=False)
    assert instead.search(["word7"]) == SearchPipeline(vectors=vectors, model=model).search(["word8"])


def test_feedback_moves_the_query(model, vectors, lexical) -> None:
    plain = SearchPipeline(vectors=vectors, model=model)
    good, bad = ["item33", "item38"], ["item02"]
    query = model.encode(["red"], normalize_embeddings=True)[0]
    read = {id: np.asarray(vectors.vectors)[IDS.index(id)] for id in (*good, *bad)}
    moved = query + 0.75 * (read["item33"] + read["item38"]) / 2 - 0.15 * read["item02"]
    expected = [IDS[row] for row in np.argsort(-(np.asarray(vectors.vectors) @ moved), kind="stable")[:10]]
    assert [hit.id for hit in plain.search(["red"], positives=[good], negatives=[bad])[0]] == expected
    first = list(plain.stages(["red"])[0].rankings[0])[:3]
    taken = SearchPipeline(vectors=vectors, model=model, rocchio=Rocchio(documents=3))
    assert taken.search(["red"]) == plain.search(["red"], positives=[first])
    words = SearchPipeline(lexical=lexical, items=ITEMS, term_expansion=TermExpansion(documents=1, terms=3))
    assert len(words.search(["word7"], k=60)[0]) == 60 > len(SearchPipeline(lexical=lexical).search(["word7"])[0])
    with pytest.raises(QueryError, match="1 lists of positives for 2 queries"):
        plain.search(["a", "b"], positives=[good])
    with pytest.raises(QueryError, match="a list of ids for each query"):
        plain.search(["a"], positives=["item33"])  # type: ignore[list-item]
    for k in (0, 2.5, True):
        with pytest.raises(QueryError, match="k="):
            plain.search(["a"], k=k)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no vector, such as 'nobody'"):
        plain.search(["red"], positives=[["nobody"]])
    with pytest.raises(ValueError, match="give the pipeline vectors"):
        SearchPipeline(index=Coarse(vectors), model=model).search(["red"], positives=[good])


def test_a_rerankers_order_can_be_fused_with_the_one_before(vectors, model) -> None:
    pipeline = SearchPipeline(
        vectors=vectors, model=model, reranker=LongFirst(), items=ITEMS, rerank_depth=4, rerank_fusion=Fusion()
    )
    dense, reranked = pipeline.stages(["red"])
    before = dense.order(0)[:4]
    after = sorted(before, reverse=True)
    score = {id: 1 / (61 + before.index(id)) + 1 / (61 + after.index(id)) for id in before}
    assert reranked.rankings[0] == pytest.approx(score) and reranked.order(0)[4:] == dense.order(0)[4:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to search with"),
        ({"vectors": Embeddings(["a"], np.eye(1, 8, dtype=np.float32))}, "give the model"),
        ({"lexical": "words", "reranker": LongFirst()}, "give items"),
        ({"lexical": "words", "depth": 0}, "depth=0"),
        ({"lexical": "words", "rerank_use": "texts"}, "rerank_use='texts'"),
        ({"lexical": "words", "combine_rewrites": "sum"}, "choose mean or rrf"),
        ({"lexical": "words", "rocchio": Rocchio()}, "give vectors"),
    ],
)
def test_what_a_pipeline_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchPipeline(**arguments)


def test_arguments_and_attributes_have_the_same_names(lexical) -> None:
    # so that whoever wants a pipeline with one part exchanged can make it of another
    import inspect

    pipeline = SearchPipeline(lexical=lexical, items=ITEMS, depth=7)
    copy = SearchPipeline(**{name: getattr(pipeline, name) for name in inspect.signature(SearchPipeline).parameters})
    assert copy.search(["word3 red"]) == pipeline.search(["word3 red"]) and copy.depth == 7


def test_vectors_of_another_model_are_refused(model) -> None:
    with pytest.raises(ValueError, match="vectors of 3 numbers, and a model that gives 8"):
        SearchPipeline(vectors=Embeddings(["a"], np.eye(1, 3, dtype=np.float32)), model=model)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ("red", "give a list of queries"),
        ([""], "query 0: it has neither"),
        (["a", "  "], "query 1: it has neither"),
        ([3], "query 0: found integer 3"),
        ([{"txt": "a"}], "did you mean 'text'"),
        ([["a", 3]], "query 0"),
        ([[]], "at least one string"),
        (["a\0b"], "NUL"),
        ([["a", ["b"]]], "at least one string"),
        ([["a", "b\0"]], "NUL"),
        (["\ud800"], "lone surrogate"),
        ([{"text": "a", "image": "/etc/passwd"}], "an image is a PIL image"),
        ([b"abc"], "query 0: found 3 bytes"),
    ],
)
def test_what_is_no_query(queries, message: str, lexical) -> None:
    with pytest.raises(QueryError, match=message):
        SearchPipeline(lexical=lexical).search(queries)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", asked
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.security
def test_a_text_that_names_a_url_or_a_file_is_not_fetched_or_opened(server, tmp_path: Path) -> None:
    address, asked = server
    picture = tmp_path / "secret.png"
    Image.new("RGB", (32, 32), "red").save(picture)
    hostile = [f"{address}/a.png", str(picture), "data:image/png;base64,AAAA", f"file://{picture}", f"{address}/v.mp4"]
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event == "open" and str(picture) in str(arguments[0]):
            opened.append(str(arguments[0]))
        if watching and event == "socket.connect":
            opened.append(str(arguments))

    models = [tiny_dual_encoder(), tiny_clip()]
    sys.addaudithook(watch)
    try:
        for model in models:
            vectors = Embeddings(IDS, encode_items(model, ITEMS))
            pipeline = SearchPipeline(
                lexical=LexicalIndex.build(IDS, WORDS), vectors=vectors, model=model, reranker=LongFirst(), items=ITEMS,
                rewriter=lambda text: [f"{address}/rewritten.png"],
            )  # fmt: skip
            queries = [*hostile, *([text, "is it red? no"] for text in hostile)]
            queries += [{"text": text, "image": Image.new("RGB", (32, 32))} for text in hostile]
            assert all(pipeline.search(queries))
            # and as words they are the text that they are
            plain = encode_queries(model, [_query(str(picture))])
            assert plain == pytest.approx(model.encode([{"text": str(picture)}], normalize_embeddings=True), abs=1e-6)
    finally:
        watching = False
    assert asked == [] and opened == []


def _query(text: str):
    from mmembed.search.queries import as_query

    return as_query(text)


@pytest.mark.parametrize(
    ("tokeniser", "expected"), [("bigram", [0.8100, 0.9595, 0.8734]), ("uni_bigram", [0.8442, 0.9533, 0.8931])]
)
def test_published_figures_on_chinese_questions(shared_data: Path, tokeniser: str, expected: list[float]) -> None:
    from mmembed.ranking_metrics import ranking_metrics

    data = json.loads((shared_data / "data/text/percent4_zh/doc_qa_test.json").read_text(encoding="utf-8"))
    lexical = LexicalIndex.build(list(data["corpus"]), list(data["corpus"].values()), tokeniser=tokeniser)  # type: ignore[arg-type]
    hits = SearchPipeline(lexical=lexical).search(list(data["queries"].values()), k=5)
    run = {query: [hit.id for hit in own] for query, own in zip(data["queries"], hits, strict=True)}
    values = ranking_metrics(run, data["relevant_docs"], ["success@1", "success@5", "mrr@5"])
    assert [value.mean() for value in values.values()] == pytest.approx(expected, abs=5e-5)
