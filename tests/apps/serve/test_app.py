"""A started server answers what the model answers, and says no to everything else in one form."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import struct
import time
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from mmembed.apps.serve.app import create_app
from mmembed.apps.serve.limits import ServeError, ServeLimits
from mmembed.apps.serve.rejections import plain
from mmembed.apps.serve.running import build_server
from mmembed.apps.serve.served import Served, shortened
from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.rerankers.text_pairs import load_text_reranker
from mmembed.search.lexical import LexicalIndex
from mmembed.search.pipeline import SearchPipeline
from tests.apps.serve.started_server import error_of, started
from tests.rerankers.tiny_rerankers import tiny_reranker
from tests.tiny_models import tiny_bert, tiny_dual_encoder

TEXTS = [f"word{n} colour{n % 5} {'red mug ' * (n % 7)}".strip() for n in range(40)]


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def model():
    return tiny_dual_encoder()


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    items = Dataset.from_dict(
        {
            "id": [f"i{n}" for n in range(40)],
            "text": TEXTS,
            "price": list(range(40)),
            "colour": [f"c{n % 3}" for n in range(40)],
        }
    )
    vectors = Embeddings(items["id"][:], encode_items(model, items), {"model": "tiny"})
    lexical = LexicalIndex.build(items["id"][:], TEXTS)
    pipeline = SearchPipeline(lexical=lexical, vectors=vectors, model=model, items=items)
    reranker = load_text_reranker(str(tiny_reranker(tmp_path_factory.mktemp("reranker"))), device="cpu")
    names = ("tiny", "text-embedding-3-small")
    return Served(names, model=model, pipeline=pipeline, reranker=reranker, dimensions=(4, 2))


@pytest.fixture(scope="module")
def server(served):
    with started(served) as (client, running):
        yield client, running


@pytest.fixture
def client(server) -> httpx.Client:
    return server[0]


# --- what it answers -----------------------------------------------------------------------------------------------


def test_encode_gives_the_models_vectors_for_texts_images_and_both(client, model) -> None:
    image = picture()
    inputs = [
        "red mug",
        {"text": "blue"},
        {"image": encoded(png(image))},
        {"text": "red", "image": encoded(png(image))},
    ]
    answer = client.post("/encode", json={"inputs": inputs}).json()
    rows = ["red mug", {"text": "blue"}, {"image": image}, {"text": "red", "image": image}]
    np.testing.assert_allclose(answer["embeddings"], model.encode(rows), atol=1e-6)
    assert answer["dimensions"] == 8 and answer["model"] == "tiny"
    one = client.post("/encode", json={"inputs": "red mug"}).json()
    np.testing.assert_allclose(one["embeddings"], model.encode(["red mug"]), atol=1e-6)
    uri = {"image": f"data:image/png;base64,{encoded(png(image))}"}
    again = client.post("/encode", json={"inputs": [uri]}).json()
    np.testing.assert_allclose(again["embeddings"][0], answer["embeddings"][2], atol=1e-6)


def test_a_form_with_files_gives_the_same_vectors(client, model) -> None:
    images = [picture(1), picture(2)]
    files = [("image", (f"{n}.png", png(image), "image/png")) for n, image in enumerate(images)]
    answer = client.post("/encode", data={"text": ["red", "mug"], "dimensions": "4"}, files=files)
    expected = model.encode([{"text": "red"}, {"text": "mug"}, *({"image": image} for image in images)])
    np.testing.assert_allclose(answer.json()["embeddings"], shortened(expected, 4), atol=1e-6)
    fused = client.post("/encode", data={"text": ["red", "mug"], "together": "true"}, files=files).json()
    expected = model.encode([{"text": t, "image": i} for t, i in zip(["red", "mug"], images)])
    np.testing.assert_allclose(fused["embeddings"], expected, atol=1e-6)


def test_dimensions_are_cut_and_of_length_one(client, model) -> None:
    whole = model.encode(["red mug"])
    for length in (2, 4, 8):
        answer = client.post("/encode", json={"inputs": ["red mug"], "dimensions": length}).json()
        by_hand = whole[:, :length] / np.linalg.norm(whole[:, :length])
        np.testing.assert_allclose(answer["embeddings"], by_hand if length < 8 else whole, atol=1e-6)
    error = error_of(client.post("/encode", json={"inputs": ["x"], "dimensions": 3}))
    assert error["message"] == "dimensions: 3 is not served; there are 2, 4, 8" and error["code"] == "dimensions"


def test_prompts_are_the_models_by_name(served, model) -> None:
    prompted = tiny_bert()
    prompted.prompts = {"query": "word1 ", "document": ""}
    with started(Served(("bert",), model=prompted)) as (client, _):
        answer = client.post("/encode", json={"inputs": ["red"], "prompt_name": "query"}).json()
        np.testing.assert_allclose(answer["embeddings"], prompted.encode(["red"], prompt="word1 "), atol=1e-6)
        assert not np.allclose(answer["embeddings"], prompted.encode(["red"]), atol=1e-3)
        error = error_of(client.post("/encode", json={"inputs": ["red"], "prompt_name": "qurey"}))
        assert "there are query, document" in error["message"]
        answer = client.post("/encode", json={"inputs": [{"image": encoded(png(picture()))}]})
        assert "does not read images" in error_of(answer)["message"]
        assert client.post("/search", json={"query": "x"}).status_code == 404


def test_openai_embeddings_in_both_formats(client, model) -> None:
    asked = {"model": "tiny", "input": ["red mug", "a blue shirt colour3"]}
    floats = client.post("/v1/embeddings", json=asked).json()
    packed = client.post("/v1/embeddings", json={**asked, "encoding_format": "base64", "user": "me"}).json()
    expected = model.encode(asked["input"])
    for number, (one, other) in enumerate(zip(floats["data"], packed["data"])):
        assert one["index"] == other["index"] == number and one["object"] == "embedding"
        np.testing.assert_allclose(one["embedding"], expected[number], atol=1e-6)
        np.testing.assert_array_equal(
            np.frombuffer(base64.b64decode(other["embedding"]), "<f4"), np.float32(one["embedding"])
        )
    tokens = sum(map(len, model.tokenizer(asked["input"])["input_ids"]))
    assert floats["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens} and floats["object"] == "list"
    named = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert named == ["tiny", "text-embedding-3-small"]
    assert client.post("/v1/embeddings", json={**asked, "model": named[1]}).status_code == 200


def test_search_is_the_pipelines(client, served) -> None:
    pipeline = served.pipeline
    asked = {"query": "word3 red", "k": 5, "filters": {"price": {"min": 2, "max": 30}, "colour": ["c0", "c1"]}}
    answer = client.post("/search", json={**asked, "fields": ["price", "colour", "text"]}).json()
    expected = pipeline.search(["word3 red"], 5, filters={"price": (2, 30), "colour": ["c0", "c1"]})[0]
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected] and len(expected) == 5
    for told, hit in zip(answer["hits"], expected):
        assert told["score"] == pytest.approx(hit.score) and told["ranks"] == dict(hit.ranks)
        row = int(hit.id[1:])
        assert told["attributes"] == {"price": row, "colour": f"c{row % 3}", "text": TEXTS[row]}
        assert 2 <= row <= 30 and row % 3 < 2
    image = picture(3)
    for query, asked in (
        (image, {"image": encoded(png(image))}),
        ({"text": "red", "image": image}, {"query": "red", "image": encoded(png(image))}),
        (["a mug", "is it red? yes"], {"query": ["a mug", "is it red? yes"]}),
    ):
        ids = [hit["id"] for hit in client.post("/search", json=asked).json()["hits"]]
        assert ids == [hit.id for hit in pipeline.search([query])[0]] and len(ids) == 10


def test_rerank_sorts_by_the_pair_scorer(client, served) -> None:
    documents = TEXTS[:12]
    answer = client.post("/rerank", json={"query": "red mug", "documents": documents, "return_documents": True}).json()
    scores = served.reranker.predict([("red mug", document) for document in documents])
    assert [one["index"] for one in answer["results"]] == np.argsort(-scores, kind="stable").tolist()
    for one in answer["results"]:
        assert one["relevance_score"] == pytest.approx(scores[one["index"]], abs=1e-6)
        assert one["document"] == {"text": documents[one["index"]]}
    top = client.post(
        "/rerank", json={"query": "red mug", "documents": [{"text": d} for d in documents], "top_n": 3}
    ).json()
    assert [one["index"] for one in top["results"]] == [one["index"] for one in answer["results"][:3]]


# --- what it refuses -----------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 30,000 x 30,000 pixels."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


EMBED = {"model": "tiny", "input": "x"}
BAD = {
    "no JSON": ("/encode", b"{", 400, "is not JSON"),
    "NaN": ("/search", b'{"query": "x", "filters": {"price": NaN}}', 400, "NaN is no number"),
    "infinity": ("/search", b'{"query": "x", "filters": {"price": {"max": 1e999}}}', 400, "too large a number"),
    "a long number": ("/search", b'{"query": "x", "k": ' + b"9" * 5000 + b"}", 400, "is not JSON"),
    "not UTF-8": ("/encode", b'{"inputs": "\xff"}', 400, "not UTF-8"),
    "a list": ("/encode", b"[]", 400, "no JSON object"),
    "deep": ("/encode", b'{"inputs": ' + b"[" * 50 + b"]" * 50 + b"}", 400, "levels deep"),
    "bottomless": ("/encode", b'{"inputs": ' + b"[" * 200_000, 400, "is not JSON"),
    "a field too many": ("/encode", {"inputs": ["x"], "url": "x"}, 400, "url: no such field"),
    "no inputs": ("/encode", {}, 400, "inputs: Field required"),
    "an empty list": ("/encode", {"inputs": []}, 400, "an empty list"),
    "too many": ("/encode", {"inputs": ["x"] * 300}, 400, "300 inputs, at most 256"),
    "an empty text": ("/encode", {"inputs": ["x", " \n"]}, 400, "inputs[1]: an empty text"),
    "a long text": ("/encode", {"inputs": ["x" * 100_001]}, 400, "100,001 characters"),
    "a number": ("/encode", {"inputs": [1]}, 400, "token ids are not read"),
    "null": ("/encode", {"inputs": [None]}, 400, "an input is a text"),
    "nothing in it": ("/encode", {"inputs": [{"text": None}]}, 400, "neither a text nor an image"),
    "an unknown part": ("/encode", {"inputs": [{"txt": "x"}]}, 400, "'text', 'image' or both"),
    "half a character": ("/encode", b'{"inputs": ["\\ud800"]}', 400, "a lone surrogate"),
    "a NUL": ("/encode", {"inputs": ["a\0b"]}, 400, "a NUL character"),
    "a format": ("/encode", {"inputs": ["x"], "encoding_format": "pickle"}, 400, "encoding_format"),
    "a dimension as a text": ("/encode", {"inputs": ["x"], "dimensions": "8"}, 400, "dimensions"),
    "a negative dimension": ("/encode", {"inputs": ["x"], "dimensions": -1}, 400, "-1 is not served"),
    "an image by its path": (
        "/encode",
        {"inputs": [{"image": "/etc/passwd"}]},
        400,
        "paths and addresses are not read",
    ),
    "an image by its address": ("/encode", {"inputs": [{"image": "http://127.0.0.1/x.png"}]}, 400, "are not read"),
    "an image by a file address": ("/encode", {"inputs": [{"image": "file:///etc/passwd"}]}, 400, "are not read"),
    "an image that is none": ("/encode", {"inputs": [{"image": encoded(b"<svg/>")}]}, 400, "SVG drawing"),
    "an image that is cut off": ("/encode", {"inputs": [{"image": encoded(png(picture())[:900])}]}, 400, "truncated"),
    "a bomb": ("/encode", {"inputs": [{"image": encoded(bomb())}]}, 400, "as a decompression bomb does"),
    "an empty image": ("/encode", {"inputs": [{"image": ""}]}, 400, "inputs[0]"),
    "an image that is a list": ("/encode", {"inputs": [{"image": [0, 255]}]}, 400, "found a list"),
    "another model": ("/v1/embeddings", {**EMBED, "model": "gpt"}, 404, "no model 'gpt' here"),
    "no model": ("/v1/embeddings", {"input": "x"}, 400, "model: Field required"),
    "token ids": ("/v1/embeddings", {**EMBED, "input": [[1, 2], [3]]}, 400, "token ids are not read"),
    "token ids of one": ("/v1/embeddings", {**EMBED, "input": [1, 2]}, 400, "token ids are not read"),
    "no query": ("/search", {}, 400, "neither a text nor an image"),
    "k of 0": ("/search", {"query": "x", "k": 0}, 400, "greater than or equal to 1"),
    "k beyond all": ("/search", {"query": "x", "k": 10**9}, 400, "at most 1000"),
    "a filter by no column": ("/search", {"query": "x", "filters": {"prize": 1}}, 400, "did you mean 'price'"),
    "a filter of a range": ("/search", {"query": "x", "filters": {"price": {"least": 1}}}, 400, "a range has 'min'"),
    "a filter of a text": ("/search", {"query": "x", "filters": {"price": "cheap"}}, 400, "the column holds numbers"),
    "a field that is none": ("/search", {"query": "x", "fields": ["secret"]}, 400, "no attribute 'secret'"),
    "no documents": ("/rerank", {"query": "x", "documents": []}, 400, "an empty list"),
    "top_n of 0": ("/rerank", {"query": "x", "documents": ["y"], "top_n": 0}, 400, "greater than or equal to 1"),
    "a query that is a list": ("/rerank", {"query": ["x"], "documents": ["y"]}, 400, "query"),
}


@pytest.mark.security
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_clear_4xx_and_names_nothing_of_the_machine(client, case: str) -> None:
    path, body, status, message = BAD[case]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    began = time.perf_counter()
    answer = client.post(path, content=data, headers={"content-type": "application/json"})
    assert time.perf_counter() - began < 5
    error = error_of(answer)
    assert answer.status_code == status and message in error["message"], error
    assert error["type"] == "invalid_request_error" and len(error["message"]) <= 600
    for hidden in ("/work", "/home", "site-packages", "Traceback", "0x", "/etc"):
        assert hidden not in answer.text
    assert client.post("/encode", json={"inputs": ["still there"]}).status_code == 200


@pytest.mark.security
def test_what_is_no_json_request_is_refused(client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):  # what a page of another site may send
        answer = client.post("/encode", content=b'{"inputs": "x"}', headers={"content-type": kind})
        assert answer.status_code == 415 and error_of(answer)["code"] == "content_type"
    answer = client.post("/encode", content=b"--x", headers={"content-type": "multipart/form-data; boundary=y"})
    assert answer.status_code == 400
    answer = client.post("/encode", content=b"--x", headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400 and error_of(answer)["code"] == "invalid_form"
    answer = client.post("/encode", data={"image": "/etc/passwd"}, files={"x": b"y"})
    assert "nothing is fetched" in error_of(answer)["message"]
    assert (
        client.get("/encode").status_code == 405 and error_of(client.get("/encode"))["message"] == "Method Not Allowed"
    )
    assert client.get("/docs").status_code == client.get("/etc/passwd").status_code == 404
    assert (
        client.options("/encode", headers={"Origin": "http://evil"}).headers.get("access-control-allow-origin") is None
    )


@pytest.mark.security
def test_a_body_is_bounded_whatever_it_says_of_itself(served) -> None:
    with started(served, max_body_bytes=2000) as (client, _):
        long = json.dumps({"inputs": "x" * 3000}).encode()
        answer = client.post("/encode", content=long, headers={"content-type": "application/json"})
        assert answer.status_code == 413 and error_of(answer)["code"] == "too_large"
        answer = client.post("/encode", content=iter([long]), headers={"content-type": "application/json"})  # chunked
        assert answer.status_code == 413
        answer = client.post("/encode", files={"image": b"x" * 3000})
        assert answer.status_code == 413
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address, timeout=20) as raw:  # says little, and sends without end
            raw.sendall(b"POST /encode HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                        b"Content-Length: 99999999999\r\n\r\n")  # fmt: skip
            assert raw.recv(100).startswith(b"HTTP/1.1 413")
        assert client.get("/health").status_code == 200


@pytest.mark.security
def test_small_files_of_large_pictures_do_not_fill_the_memory(served) -> None:
    """A white picture of 4 million pixels is a file of a few thousand bytes."""
    large = encoded(png(Image.new("RGB", (2000, 2000))))
    limits = {"max_pixels": 4_000_000, "max_waiting_pixels": 9_000_000, "max_rows": 8}
    with started(served, **limits) as (client, server):
        answer = client.post("/encode", json={"inputs": [{"image": large}] * 3})
        assert answer.status_code == 400 and "more than 9,000,000 pixels" in error_of(answer)["message"]
        bodies = [{"inputs": [{"image": large}] * 2}] * 6
        statuses = [one.status_code for one in asyncio.run(many(client, bodies))]
        assert set(statuses) <= {200, 429} and 200 in statuses
        assert [budget.held for budget in server.config.app.state.held] == [0, 0]  # all was given back
        assert client.post("/encode", json=bodies[0]).status_code == 200


@pytest.mark.security
def test_bodies_together_are_bounded(served) -> None:
    limits = {"max_body_bytes": 50_000, "max_waiting_bytes": 60_000}
    with started(served, **limits) as (client, server):
        head = b"POST /encode HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 45000\r\n\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as slow:
            slow.sendall(head + b"x" * 40_000)  # and no more
            while server.config.app.state.held[0].held < 40_000:
                time.sleep(0.01)
            answer = client.post("/encode", json={"inputs": ["x" * 30_000]})
            assert answer.status_code == 429 and error_of(answer)["code"] == "too_many_bytes"
            assert client.post("/encode", json={"inputs": ["x"]}).status_code == 200
        deadline = time.monotonic() + 10
        while server.config.app.state.held[0].held and time.monotonic() < deadline:  # the connection is gone
            time.sleep(0.01)
        assert client.post("/encode", json={"inputs": ["x " * 15_000]}).status_code == 200
        assert 'path="/encode",status="499"' in client.get("/metrics").text


@pytest.mark.security
def test_a_body_that_trickles_is_not_waited_for(served) -> None:
    with started(served, body_seconds=0.2) as (client, _):
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as raw:
            raw.sendall(b"POST /encode HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                        b"Content-Length: 20\r\n\r\n{")  # fmt: skip
            answer = b""
            while part := raw.recv(2000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.2 seconds" in answer


@pytest.mark.security
def test_a_name_that_leads_here_is_not_this_server(client) -> None:
    for host in ("evil.example", "evil.example:80", "", "127.0.0.1.evil.example"):
        answer = client.post("/encode", json={"inputs": ["x"]}, headers={"Host": host})
        assert answer.status_code in (400, 403), host
    assert client.get("/health", headers={"Host": "localhost:1234"}).status_code == 200


@pytest.mark.security
def test_the_key_is_asked_for(served) -> None:
    key = "a-key-of-enough-length"
    with started(served, key=key) as (client, _):
        assert client.get("/health").status_code == 200
        asked = {"inputs": ["x"]}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": key}, {"X-API-Key": key[:-1]},
                        {"Authorization": f"Bearer {key}x"}, {"X-API-Key": ""}):  # fmt: skip
            answer = client.post("/encode", json=asked, headers=headers)
            assert answer.status_code == 401 and error_of(answer)["type"] == "authentication_error"
            assert key not in answer.text
        assert client.get("/metrics").status_code == client.get("/v1/models").status_code == 401
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}, {"authorization": f"bearer {key}"}):
            assert client.post("/encode", json=asked, headers=headers).status_code == 200


@pytest.mark.security
def test_beyond_this_machine_there_is_a_key_or_a_word(served) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.com"):
        with pytest.raises(ServeError, match="there is no key"):
            build_server(served, host=host)
        build_server(served, host=host, allow_unauthenticated=True)
        build_server(served, host=host, key="a-key-of-enough-length")
    with pytest.raises(ServeError, match="fewer than 16 characters"):
        build_server(served, key="short")


@pytest.mark.security
def test_what_fails_inside_is_told_without_detail(served, model, caplog) -> None:
    class Broken(type(model)):
        def encode(self, inputs, **options):
            raise RuntimeError("cannot open /home/anna/model at 0x7f0012345678")

    broken = tiny_bert()
    broken.__class__ = Broken
    with started(Served(("broken",), model=broken)) as (client, _):
        answer = client.post("/encode", json={"inputs": ["x"]})
        assert answer.status_code == 500 and error_of(answer)["message"] == "something failed inside the server"
        assert "anna" not in answer.text and "anna" in caplog.text  # the log has it
        assert client.get("/health").status_code == 200


def test_numbers_that_are_none_are_not_given_out(served, model) -> None:
    broken = tiny_bert()
    broken.encode = lambda inputs, **options: np.full((len(inputs), 16), np.nan, dtype=np.float32)  # type: ignore
    with started(Served(("broken",), model=broken)) as (client, _):
        assert client.post("/encode", json={"inputs": ["x"]}).status_code == 500


def test_messages_are_plain() -> None:
    told = plain("cannot read 'C:\\Users\\anna\\x.png' or /srv/shop/a.json (0xdeadbeef00)\nsecond line")
    assert told == "cannot read '…' or … (…) second line"
    assert plain("price: 10/20 or c0/c1") == "price: 10/20 or c0/c1" and len(plain("x" * 5000)) == 501


# --- under load ----------------------------------------------------------------------------------------------------


async def many(client: httpx.Client, bodies: list[dict[str, Any]], path: str = "/encode") -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(base_url=client.base_url, timeout=120, limits=limits, trust_env=False) as sender:
        return await asyncio.gather(*(sender.post(path, json=body) for body in bodies))


def test_two_hundred_at_once_get_their_own_vectors(server, model) -> None:
    client, running = server
    bodies = [{"inputs": [TEXTS[n % 40], TEXTS[(n * 7 + 1) % 40]][: 1 + n % 2]} for n in range(200)]
    answers = asyncio.run(many(client, bodies))
    assert {answer.status_code for answer in answers} == {200}
    alone = model.encode(TEXTS)
    for body, answer in zip(bodies, answers):
        expected = alone[[TEXTS.index(text) for text in body["inputs"]]]
        np.testing.assert_allclose(answer.json()["embeddings"], expected, atol=1e-5)
    counted = client.get("/metrics").text
    calls = float(
        next(line for line in counted.splitlines() if 'pass_requests_count{verb="encode"}' in line).split()[1]
    )
    asked = float(next(line for line in counted.splitlines() if 'pass_requests_sum{verb="encode"}' in line).split()[1])
    assert asked >= 200 and calls < asked / 2  # they shared their calls
    assert running._gate.in_flight == 0
    assert "mmembed_waiting_rows 0.0" in counted


def test_a_bad_one_among_many_fails_alone(served, model) -> None:
    """A text that the model refuses shares its call with others; they are answered all the same."""
    real = model.encode

    def encode(inputs, **options):
        if any(isinstance(row, dict) and row.get("text") == "poison" for row in inputs):
            raise ValueError("row 3: no token is left of the text")
        time.sleep(0.02)
        return real(inputs, **options)

    poisoned = tiny_dual_encoder()
    poisoned.encode = encode  # type: ignore[method-assign]
    with started(Served(("tiny",), model=poisoned)) as (client, _):
        bodies = [{"inputs": ["poison" if n % 10 == 3 else TEXTS[n]]} for n in range(40)]
        answers = asyncio.run(many(client, bodies))
        for n, answer in enumerate(answers):
            assert answer.status_code == (400 if n % 10 == 3 else 200)
            if n % 10 == 3:
                assert error_of(answer)["code"] == "unreadable"
            else:
                np.testing.assert_allclose(answer.json()["embeddings"], real([TEXTS[n]]), atol=1e-5)


def test_a_full_queue_says_when_to_come_back(served) -> None:
    slow = tiny_bert()
    real = slow.encode

    def encode(inputs, **options):
        time.sleep(0.05)
        return real(inputs, **options)

    slow.encode = encode  # type: ignore[method-assign]
    with started(Served(("slow",), model=slow), max_waiting_rows=8, max_rows=4, max_rows_a_pass=2) as (client, _):
        answers = asyncio.run(many(client, [{"inputs": [TEXTS[n % 40]]} for n in range(60)]))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 429}
        for n, answer in enumerate(answers):
            if answer.status_code == 429:
                assert answer.headers["retry-after"] == "1" and error_of(answer)["code"] == "queue_full"
                assert error_of(answer)["type"] == "rate_limit_error"
            else:
                np.testing.assert_allclose(answer.json()["embeddings"], real([TEXTS[n % 40]]), atol=1e-5)
        assert 'mmembed_rejected_total{reason="full"}' in client.get("/metrics").text
        assert client.post("/encode", json={"inputs": ["x"]}).status_code == 200


def test_an_answer_that_takes_too_long_is_not_waited_for(served) -> None:
    slow = tiny_bert()
    real = slow.encode

    def encode(inputs, **options):
        time.sleep(0.4)
        return real(inputs, **options)

    slow.encode = encode  # type: ignore[method-assign]
    with started(Served(("slow",), model=slow), request_seconds=0.1) as (client, _):
        answer = client.post("/encode", json={"inputs": ["x"]})
        assert answer.status_code == 504 and "more than 0.1 seconds" in error_of(answer)["message"]
        assert answer.headers["retry-after"] == "5"


def test_while_it_stops_it_says_so(served) -> None:
    with started(served) as (client, running):
        running._gate.draining = True
        health = client.get("/health")
        assert health.status_code == 503 and health.json() == {"status": "draining"}
        answer = client.post("/encode", json={"inputs": ["x"]})
        assert answer.status_code == 503 and error_of(answer)["code"] == "draining"
        assert answer.headers["retry-after"] == "5" and answer.headers["connection"] == "close"
        assert client.get("/metrics").status_code == 200


def test_counters_are_prometheus_text_and_hold_no_callers_word(client) -> None:
    client.get("/secret-word-of-a-caller")
    from prometheus_client.parser import text_string_to_metric_families

    text = client.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name in ("mmembed_requests", "mmembed_request_seconds", "mmembed_pass_rows", "mmembed_waiting_rows"):
        assert families[name].samples
    assert "secret-word" not in text and 'path="other",status="404"' in text


# --- how it is made ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "max_rows=0; give at least 1"),
        ({"gather_seconds": -1}, "gather_seconds=-1"),
        ({"request_seconds": float("nan")}, "request_seconds=nan"),
        ({"max_rows": 100, "max_waiting_rows": 10}, "could never wait"),
        ({"max_waiting_pixels": 10}, "max_pixels=25000000 is more than max_waiting_pixels=10"),
    ],
)
def test_limits_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ServeError, match=message):
        ServeLimits(**options)


def test_something_is_served(model) -> None:
    with pytest.raises(ServeError, match="nothing to serve"):
        Served(("x",))
    with pytest.raises(ServeError, match="the model's vectors have 8 numbers"):
        Served(("x",), model=model, dimensions=(9,))
    with pytest.raises(ServeError, match="give the model a name"):
        Served((), model=model)
    schema = create_app(Served(("x",), model=model)).openapi()
    assert set(schema["paths"]) == {"/v1/models", "/v1/embeddings", "/encode", "/health", "/metrics"}
    assert "inputs" in json.dumps(schema["paths"]["/encode"])


def test_attributes_inside_others_and_of_ids_that_are_not_there() -> None:
    items = Dataset.from_dict(
        {"id": ["a", "b"], "text": ["x", "y"], "about": [{"size": "S", "tags": ["new"]}, {"size": None, "tags": []}]}
    )
    pipeline = SearchPipeline(lexical=LexicalIndex.build(["a", "b"], ["x", "y"]), items=items)
    served = Served(("x",), pipeline=pipeline)
    served.check_fields(["about.size", "text"])
    names = ["about.size", "about.tags", "text"]
    assert served.attributes(["b", "gone", "a"], names) == [
        {"about.size": None, "about.tags": [], "text": "y"},
        {"about.size": None, "about.tags": None, "text": None},
        {"about.size": "S", "about.tags": ["new"], "text": "x"},
    ]
    assert served.attributes([], names) == []
