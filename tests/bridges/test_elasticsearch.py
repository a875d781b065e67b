"""The official client against a stand-in on this machine, which checks each request and searches exactly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from mmembed.bridges.elasticsearch import search_elasticsearch, write_elasticsearch
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.search.filters import FilterError
from tests.bridges import store_examples as examples

elasticsearch = pytest.importorskip("elasticsearch")
QUIET = {"show_progress_bar": False}
TYPE = "application/vnd.elasticsearch+json; compatible-with=9"


class StandIn(ThreadingHTTPServer):
    """What of Elasticsearch is used here; anything else is an error, and so is a request that it would refuse."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mappings: dict[str, dict[str, Any]] = {}
        self.documents: dict[str, dict[str, dict[str, Any]]] = {}
        self.requests: list[str] = []
        self.busy = 0  # bulk requests whose first document is turned away for now
        self.refused: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: Any) -> None:
        return None

    def answer(self, status: int, value: Any = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        index = path.strip("/").split("/")[0]
        there = index in self.server.mappings
        if path == "/_bulk":
            return self.answer(200, self.bulk(body))
        if self.command == "HEAD":
            return self.answer(200 if there else 404)
        if self.command == "PUT" and path == f"/{index}":
            properties = json.loads(body)["mappings"]["properties"]
            assert not there and properties["vector"]["dims"] <= 4096
            self.server.mappings[index] = properties
            self.server.documents[index] = {}
            return self.answer(200, {"acknowledged": True, "index": index})
        if path == f"/{index}/_mapping":
            return self.answer(200, {index: {"mappings": {"properties": self.server.mappings[index]}}})
        if path == f"/{index}/_refresh":
            return self.answer(200, {"_shards": {"failed": 0}})
        if path == f"/{index}/_msearch":
            lines = [json.loads(line) for line in body.decode().splitlines()]
            return self.answer(200, {"responses": [self.found(index, one) for one in lines[1::2]]})
        return self.answer(400, {"error": f"no such request here: {self.command} {path}"})

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def bulk(self, body: bytes) -> dict[str, Any]:
        assert body.endswith(b"\n"), "the last line of a bulk request ends in a line feed"
        lines = [json.loads(line) for line in body.decode().splitlines()]
        results = []
        for number, (action, document) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
            [(verb, about)] = action.items()
            assert verb == "index" and set(about) == {"_index", "_id"} and len(about["_id"].encode()) <= 512
            if self.server.busy and number == 0:
                self.server.busy -= 1
                results.append(
                    {
                        "index": {
                            "_id": about["_id"],
                            "status": 429,
                            "error": {"type": "es_rejected_execution_exception"},
                        }
                    }
                )
                continue
            error = self.error(about["_index"], about["_id"], document)
            if error:
                results.append({"index": {"_id": about["_id"], "status": 400, "error": error}})
                continue
            new = about["_id"] not in self.server.documents[about["_index"]]
            self.server.documents[about["_index"]][about["_id"]] = document
            results.append({"index": {"_id": about["_id"], "status": 201 if new else 200}})
        return {"errors": any("error" in one["index"] for one in results), "took": 1, "items": results}

    def error(self, index: str, id: str, document: dict[str, Any]) -> dict[str, str] | None:
        vector = document.get("vector")
        if vector is not None and (len(vector) != self.server.mappings[index]["vector"]["dims"] or not any(vector)):
            return {"type": "document_parsing_exception", "reason": "wrong vector"}
        return {"type": "document_parsing_exception", "reason": "mind"} if id in self.server.refused else None

    def found(self, index: str, search: dict[str, Any]) -> dict[str, Any]:
        knn = search["knn"]
        assert knn["field"] == "vector" and knn["num_candidates"] >= knn["k"] and search["size"] == knn["k"]
        query = np.array(knn["query_vector"])
        hits = []
        for id, document in self.server.documents[index].items():
            if "vector" in document and all(self.meets(document, one) for one in knn.get("filter", [])):
                vector = np.array(document["vector"])
                cosine = query @ vector / np.linalg.norm(query) / np.linalg.norm(vector)
                hits.append({"_index": index, "_id": id, "_score": (1 + cosine) / 2})
        hits.sort(key=lambda hit: -hit["_score"])
        return {"status": 200, "hits": {"hits": hits[: knn["k"]]}}

    def meets(self, document: dict[str, Any], clause: dict[str, Any]) -> bool:
        [(kind, about)] = clause.items()
        if kind == "bool":
            assert list(about) == ["must_not"]
            return not self.meets(document, about["must_not"])
        if kind == "exists":
            return bool(self.values(document, about["field"]))
        [(field, wanted)] = about.items()
        values = self.values(document, field)
        if kind == "terms":
            return any(value in wanted and isinstance(value, bool) == isinstance(wanted[0], bool) for value in values)
        assert kind == "range"
        return any(wanted.get("gte", -np.inf) <= value <= wanted.get("lte", np.inf) for value in values)

    @staticmethod
    def values(document: dict[str, Any], field: str) -> list[Any]:
        value: Any = document
        for part in field.split("."):
            value = (value or {}).get(part)
        return [one for one in (value if isinstance(value, list) else [value]) if one is not None]


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def client(server: StandIn) -> Iterator[Any]:
    client = elasticsearch.Elasticsearch(f"http://127.0.0.1:{server.server_address[1]}", max_retries=0)
    yield client
    client.close()


@pytest.fixture(scope="module")
def mugs(client) -> str:
    assert (
        write_elasticsearch(examples.embeddings(), client, "mugs", items=examples.items(), batch_size=7, **QUIET) == 60
    )
    return "mugs"


@pytest.mark.parametrize("filters", examples.CONDITIONS, ids=lambda filters: json.dumps(filters, ensure_ascii=True))
def test_what_is_found_is_what_an_exact_search_finds(client, mugs: str, filters) -> None:
    wanted = examples.exact(examples.embeddings(), examples.queries(), 10, filters)
    examples.assert_same(search_elasticsearch(client, mugs, examples.queries(), 10, filters=filters), wanted)


def test_the_mapping_and_the_requests(server: StandIn, client, mugs: str) -> None:
    keyword = {"type": "keyword", "ignore_above": 8191}
    assert server.mappings[mugs] == {
        "vector": {"type": "dense_vector", "dims": 8, "index": True, "similarity": "cosine"},
        "text": {"type": "text"},
        "colour": keyword,
        "price": {"type": "double"},
        "stock": {"type": "long"},
        "new": {"type": "boolean"},
        "tags": keyword,
        "made": {"properties": {"country": keyword, "year": {"type": "long"}}},
    }
    assert len(server.documents[mugs]) == 60
    server.requests.clear()
    write_elasticsearch(examples.embeddings(), client, mugs, items=examples.items(), batch_size=16, **QUIET)
    assert server.requests == ["HEAD /mugs", "GET /mugs/_mapping", *["PUT /_bulk"] * 4, "POST /mugs/_refresh"]
    assert len(server.documents[mugs]) == 60  # replaced, not added


def test_what_is_turned_away_for_now_is_sent_again_and_what_is_refused_is_told(
    server: StandIn, client, monkeypatch
) -> None:
    monkeypatch.setattr("elasticsearch.helpers.actions.time.sleep", lambda seconds: None)
    server.busy = 2
    assert write_elasticsearch(examples.embeddings(), client, "busy", batch_size=30, **QUIET) == 60
    assert len(server.documents["busy"]) == 60 and server.busy == 0
    server.refused = {"id 7/ж"}
    with pytest.raises(DataError, match="busy: document 'id 7/ж' was refused: .*mind"):
        write_elasticsearch(examples.embeddings(), client, "busy", **QUIET)
    server.refused = set()


def test_a_vector_of_zeros_is_a_document_that_is_not_found(server: StandIn, client) -> None:
    vectors = np.array([[1, 0], [0, 0], [0.6, 0.8]], dtype=np.float16)
    write_elasticsearch(Embeddings(["a", "b", "c"], vectors), client, "zeros", **QUIET)
    assert set(server.documents["zeros"]) == {"a", "b", "c"} and "vector" not in server.documents["zeros"]["b"]
    found = search_elasticsearch(client, "zeros", np.array([[2.0, 0.0]]))[0]
    assert list(found) == ["a", "c"] and found["c"] == pytest.approx(0.6, abs=1e-3)
    with pytest.raises(DataError, match="row 0: a query of zeros has no cosine"):
        search_elasticsearch(client, "zeros", np.zeros((1, 2)))


def test_what_does_not_fit_is_told(server: StandIn, client, mugs: str) -> None:
    with pytest.raises(DataError, match="mugs: the index holds vectors of 8 numbers, and these have 3"):
        write_elasticsearch(Embeddings(["a"], np.eye(3, dtype=np.float32)[:1]), client, mugs, **QUIET)
    with pytest.raises(DataError, match="row 0: field 'id': .* has more than 512 bytes"):
        write_elasticsearch(Embeddings(["ж" * 257], np.eye(3, dtype=np.float32)[:1]), client, "long", **QUIET)
    with pytest.raises(DataError, match="there is no such index"):
        search_elasticsearch(client, "hats", examples.queries())
    with pytest.raises(FilterError, match="no column 'text' to filter by"):
        search_elasticsearch(client, mugs, examples.queries(), filters={"text": "mug"})
    with pytest.raises(FilterError, match="did you mean 'colour'"):
        search_elasticsearch(client, mugs, examples.queries(), filters={"color": "red"})
    client.indices.create(
        index="words", mappings={"properties": {"vector": {"type": "dense_vector", "dims": 8, "similarity": "l2_norm"}}}
    )
    with pytest.raises(DataError, match="no field 'vector' that is compared by cosine"):
        write_elasticsearch(examples.embeddings(), client, "words", **QUIET)
    own = {"colour": {"type": "text"}}
    table = Dataset.from_dict({"id": ["a"], "colour": ["red"]})
    write_elasticsearch(
        Embeddings(["a"], np.ones((1, 1), np.float32)), client, "own", items=table, mappings=own, **QUIET
    )
    assert server.mappings["own"]["colour"] == {"type": "text"}
