"""Which address does what?

| address | asks for |
|---|---|
| `POST /v1/embeddings` | vectors of texts, as OpenAI's clients ask for them |
| `POST /encode` | vectors of texts, images, and both; JSON or a form with files |
| `POST /search` | the best items for a text, an image, both, or a dialogue |
| `POST /rerank` | candidates in the order of a pair scorer |
| `GET /v1/models` | what is served, by name |
| `GET /health` | whether it is ready, or about to stop |
| `GET /metrics` | counters for Prometheus |
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.exceptions import HTTPException

from mmembed.apps.listening import LOOPBACK
from mmembed.apps.serve.batching import Batcher
from mmembed.apps.serve.gate import HEALTH, METRICS, Gate
from mmembed.apps.serve.limits import Budget, Holding, ServeLimits
from mmembed.apps.serve.metrics import Metrics
from mmembed.apps.serve.rejections import Rejection
from mmembed.apps.serve.request_bodies import decode_image, read_form, read_json
from mmembed.apps.serve.requests import (
    EmbeddingsRequest,
    EncodeRequest,
    RerankRequest,
    Row,
    SearchRequest,
    checked,
    filters_of,
    row_of,
    rows_of,
    text_of,
)
from mmembed.apps.serve.served import ENCODE, RERANK, SEARCH, Served, shortened
from mmembed.search.queries import QueryError, as_query


def create_app(
    served: Served,
    *,
    limits: ServeLimits | None = None,
    key: str | None = None,
    hosts: tuple[str, ...] | None = LOOPBACK,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        served: Its model, pipeline and reranker.
        limits: What may be asked at once.
        key: Without which nothing but /health is answered; None asks for none.
        hosts: Names that a request may call the server by; None lets any through.

    Returns:
        The application. `app.state.gate` knows what is under way; setting its `draining` refuses what comes.
    """
    limits = limits or ServeLimits()
    metrics = Metrics()
    batcher = Batcher(
        served.run,
        metrics,
        max_rows=limits.max_rows_a_pass,
        max_waiting=limits.max_waiting_rows,
        gather_seconds=limits.gather_seconds,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await batcher.close()

    # No page of documentation: it would load scripts from elsewhere.
    app = FastAPI(title="mmembed", docs_url=None, redoc_url=None, lifespan=lifespan)
    work = _Work(served, limits, batcher)
    routes: list[tuple[str, str, Any, Any]] = [("/v1/models", "GET", work.models, None)]
    if served.model is not None:
        routes += [
            ("/v1/embeddings", "POST", work.embeddings, EmbeddingsRequest),
            ("/encode", "POST", work.encode, EncodeRequest),
        ]
    if served.pipeline is not None:
        routes.append(("/search", "POST", work.search, SearchRequest))
    if served.reranker is not None:
        routes.append(("/rerank", "POST", work.rerank, RerankRequest))
    held = Budget(limits.max_waiting_bytes), Budget(limits.max_waiting_pixels)
    for path, method, act, kind in routes:
        schema = None if kind is None else {"application/json": {"schema": kind.model_json_schema()}}
        extra = None if schema is None else {"requestBody": {"content": schema, "required": True}}
        endpoint = act if kind is None else _holding(act, *held)
        app.add_api_route(path, endpoint, methods=[method], openapi_extra=extra, response_model=None)

    @app.get(HEALTH, response_model=None)
    async def health() -> Response:
        if gate.draining:
            return JSONResponse({"status": "draining"}, status_code=503, headers={"Retry-After": "5"})
        return JSONResponse({"status": "ready", "model": served.names[0], "dimensions": served.width})

    @app.get(METRICS, response_model=None)
    async def counters() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(Rejection)
    async def rejected(_: Request, error: Rejection) -> Response:
        return JSONResponse(error.body(), status_code=error.status, headers=error.headers())

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        message = "there is no such address" if error.status_code == 404 else str(error.detail)
        rejection = Rejection(error.status_code, message, code="not_found" if error.status_code == 404 else None)
        return JSONResponse(rejection.body(), status_code=error.status_code, headers=error.headers)

    paths = frozenset([path for path, *_ in routes] + [HEALTH, METRICS, "/openapi.json"])
    gate = Gate(None, metrics=metrics, paths=paths, key=key, hosts=hosts)

    def behind(inner: Any) -> Gate:
        gate.app = inner
        return gate

    app.add_middleware(behind)  # type: ignore[arg-type]
    app.state.gate, app.state.metrics, app.state.limits, app.state.held = gate, metrics, limits, held
    return app


def _holding(act: Any, bytes_held: Budget, pixels_held: Budget) -> Any:
    """A handler that gives back at its end what it held."""

    async def endpoint(request: Request) -> Response:
        holding = Holding(bytes_held, pixels_held)
        try:
            return await act(request, holding)
        finally:
            holding.release()

    return endpoint


class _Work:
    """The requests' handlers, over what is served."""

    def __init__(self, served: Served, limits: ServeLimits, batcher: Batcher) -> None:
        self.served, self.limits, self.batcher = served, limits, batcher

    async def models(self) -> Response:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "mmembed"} for name in self.served.names]
        return JSONResponse({"object": "list", "data": listed})

    async def embeddings(self, request: Request, holding: Holding) -> Response:
        asked = checked(EmbeddingsRequest, await read_json(request, self.limits, holding))
        self._check_name(asked.model)
        rows = rows_of(asked.input, self.limits, "input")
        vectors, tokens = await self._vectors(rows, None, asked.dimensions, "input", holding)
        data = [
            {"object": "embedding", "index": number, "embedding": one}
            for number, one in enumerate(_written(vectors, asked.encoding_format))
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return await _json({"object": "list", "data": data, "model": self.served.names[0], "usage": usage})

    async def encode(self, request: Request, holding: Holding) -> Response:
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            asked = await self._form(request, holding)
        else:
            asked = checked(EncodeRequest, await read_json(request, self.limits, holding))
        rows = rows_of(asked.inputs, self.limits, "inputs")
        prompt = None
        if asked.prompt_name is not None:
            prompts = self.served.prompts
            if asked.prompt_name not in prompts:
                there = ", ".join(prompts) or "none"
                message = f"prompt_name: no prompt {asked.prompt_name[:40]!r}; there are {there}"
                raise Rejection(400, message, code="prompt", param="prompt_name")
            prompt = prompts[asked.prompt_name]
        vectors, tokens = await self._vectors(rows, prompt, asked.dimensions, "inputs", holding)
        return await _json(
            {
                "embeddings": _written(vectors, asked.encoding_format),
                "dimensions": vectors.shape[1],
                "model": self.served.names[0],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    async def search(self, request: Request, holding: Holding) -> Response:
        asked = checked(SearchRequest, await read_json(request, self.limits, holding))
        if asked.k > self.limits.max_results:
            raise Rejection(
                400, f"k: {asked.k}, at most {self.limits.max_results} results are given", code="k", param="k"
            )
        self.served.check_fields(asked.fields)
        parts: dict[str, Any] = {}
        if isinstance(asked.query, list):
            parts["text"] = [text_of(one, self.limits, f"query[{n}]") for n, one in enumerate(asked.query)]
        elif asked.query is not None:
            parts["text"] = text_of(asked.query, self.limits, "query")
        if asked.image is not None:
            parts["image"] = (await self._decoded([asked.image], ["image"], holding))[0]
        try:
            query = as_query(parts)
        except QueryError as error:
            raise Rejection(400, str(error).partition(": ")[2] or str(error), code="query", param="query") from None
        filters = filters_of(asked.filters)
        settings = (asked.k, asked.rerank, json.dumps(filters, sort_keys=True))
        hits = await self._do(SEARCH, settings, (query, filters), rows=1)
        answers = [asdict(hit) for hit in hits]
        if asked.fields:
            for told, attributes in zip(answers, self.served.attributes([hit.id for hit in hits], asked.fields)):
                told["attributes"] = attributes
        return await _json({"hits": answers})

    async def rerank(self, request: Request, holding: Holding) -> Response:
        asked = checked(RerankRequest, await read_json(request, self.limits, holding))
        if asked.model is not None:
            self._check_name(asked.model)
        query = row_of(asked.query, self.limits, "query")
        documents = rows_of(asked.documents, self.limits, "documents")
        first, *others = await self._pictured(
            [query, *documents], ["query", *_numbered("documents", len(documents))], holding
        )
        pairs = [(_content(first), _content(other)) for other in others]
        scores = await self._do(RERANK, None, pairs, rows=len(pairs))
        order = np.argsort(-scores, kind="stable")[: asked.top_n or len(pairs)].tolist()
        results = []
        for index in order:
            told: dict[str, Any] = {"index": index, "relevance_score": float(scores[index])}
            if asked.return_documents:
                told["document"] = {"text": documents[index].get("text")}
            results.append(told)
        return await _json({"results": results, "model": self.served.names[0]})

    # --- what they share -------------------------------------------------------------------------------------------

    def _check_name(self, name: str) -> None:
        if name not in self.served.names:
            message = f"there is no model {name[:80]!r} here; there is {self.served.names[0]!r}"
            raise Rejection(404, message, code="model_not_found", param="model")

    async def _vectors(
        self, rows: list[Row], prompt: str | None, dimensions: int | None, param: str, holding: Holding
    ) -> tuple[np.ndarray, int]:
        width = self.served.width
        if dimensions is not None and dimensions not in (*self.served.dimensions, width):
            allowed = ", ".join(map(str, sorted({*self.served.dimensions, width or 0})))
            message = f"dimensions: {dimensions} is not served; there are {allowed}"
            raise Rejection(400, message, code="dimensions", param="dimensions")
        self.served.check_rows(rows, param)
        names = _numbered(param, len(rows))
        rows = await self._pictured(rows, names, holding)
        vectors, tokens = await self._do(ENCODE, prompt, rows, rows=len(rows))
        return shortened(vectors, dimensions), tokens

    async def _pictured(self, rows: Sequence[Row], names: Sequence[str], holding: Holding) -> list[Row]:
        """The rows with their images decoded."""
        with_image = [number for number, row in enumerate(rows) if "image" in row]
        sources = [rows[number]["image"] for number in with_image]
        pictures = await self._decoded(sources, [names[number] for number in with_image], holding)
        found = [dict(row) for row in rows]
        for number, picture in zip(with_image, pictures):
            found[number]["image"] = picture
        return found

    async def _decoded(self, sources: Sequence[Any], names: Sequence[str], holding: Holding) -> list[Image.Image]:
        """Images, decoded beside the event loop, one of a request at a time: a small file may be a large picture."""
        loop = asyncio.get_running_loop()
        found = []
        for source, name in zip(sources, names):
            picture = await loop.run_in_executor(None, decode_image, source, self.limits, name)
            if not holding.take("pixels", picture.width * picture.height):
                if holding.own("pixels") + picture.width * picture.height > self.limits.max_waiting_pixels:
                    message = (
                        f"{name}: the images of this request have more than {self.limits.max_waiting_pixels:,} pixels"
                    )
                    raise Rejection(400, f"{message}; send fewer or smaller ones", code="too_many_pixels", param=name)
                message = "many images are waiting for the model already; ask again in a moment"
                raise Rejection(429, message, code="too_many_pixels", retry_after=1)
            found.append(picture)
        return found

    async def _do(self, verb: str, settings: Any, payload: Any, *, rows: int) -> Any:
        try:
            return await self.batcher.submit(verb, settings, payload, rows=rows, seconds=self.limits.request_seconds)
        except ValueError as error:
            # The model cannot read it: no token is left, a text is too long for its positions, an image too thin.
            raise Rejection(400, f"the model cannot read this: {error}", code="unreadable") from error

    async def _form(self, request: Request, holding: Holding) -> EncodeRequest:
        texts, images, others = await read_form(request, self.limits, holding)
        together = others.pop("together", "false").lower() == "true"
        rows: list[dict[str, Any]]
        if together:
            if len(texts) != len(images):
                message = f"together: {len(texts)} texts and {len(images)} images; send as many of both"
                raise Rejection(400, message, code="invalid_form", param="together")
            rows = [{"text": text, "image": image} for text, image in zip(texts, images)]
        else:
            rows = [{"text": text} for text in texts] + [{"image": image} for image in images]
        content: dict[str, Any] = {"inputs": rows, **others}
        if "dimensions" in content:
            word = content["dimensions"]
            content["dimensions"] = int(word) if word.isascii() and word.isdigit() and len(word) < 7 else word
        return checked(EncodeRequest, content)


def _numbered(param: str, count: int) -> list[str]:
    return [f"{param}[{number}]" for number in range(count)]


def _content(row: Row) -> Any:
    """A row as a pair scorer reads it: a vision-language model the image before the text."""
    if "image" not in row:
        return row["text"]
    return {"image": row["image"], "text": row["text"]} if "text" in row else row["image"]


def _written(vectors: np.ndarray, form: str) -> list[Any]:
    if form == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in vectors]
    return vectors.tolist()


async def _json(content: Any) -> Response:
    """The answer, written beside the event loop: a thousand vectors take a while."""
    body = await asyncio.get_running_loop().run_in_executor(
        None, functools.partial(json.dumps, content, allow_nan=False)
    )
    return Response(body.encode("utf-8"), media_type="application/json")
