"""A long document → one vector a span, each of which has read the whole document: late chunking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tqdm.auto import tqdm

from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.encoding_fingerprints import model_fingerprint
from mmembed.search.chunks import Span, chunk_id, sentence_spans
from mmembed.search.queries import unit_rows

_DOCUMENTS_AT_ONCE = 32


def late_chunks(
    model: SentenceTransformer,
    items: Dataset,
    *,
    spans: Callable[[str], Sequence[Span]] | Mapping[str, Sequence[Span]] = sentence_spans,
    max_tokens: int | None = None,
    overlap: int | None = None,
    prompt: str | None = None,
    batch_size: int = 16,
    show_progress_bar: bool = False,
) -> Embeddings:
    """Encode each document as a whole and average its tokens span by span (Günther et al. 2024, arXiv:2409.04701).

    A span's vector is the mean of its tokens' embeddings, which have seen the tokens around the span, through the model's
    further modules and of length 1. [CLS] and its like, and a prompt, count to the span with the first token, [SEP] to
    that with the last, so that one span over a document that fits is exactly the model's own vector of it.

    A document beyond the model's limit is read in windows that overlap; a token is taken from the first window it is in,
    so that all but the first window's have tokens before them.

    Args:
        model: a `SentenceTransformer` of texts that pools by the mean.
        items: ITEMS with texts.
        spans: cuts a text into (start, end) places of characters; or the spans of each item by its id.
        max_tokens: tokens of a window, special ones and a prompt among them; None for the model's limit.
        overlap: tokens that a window repeats of the one before; None for an eighth of a window.
        prompt: put before each window; None for the model's default prompt, if it has one.
        batch_size: windows a forward pass.
        show_progress_bar: show one.

    Returns:
        Vectors with the ids `document#0`, `document#1`, …, see `mmembed.search.chunks`.

    Raises:
        ValueError: a model that pools otherwise, or lengths that leave no room.
        DataError: an item without a text, or a span that holds no token; names the item.

    Example:
        >>> from mmembed.models.dual_encoder.building import train_tokenizer
        >>> from mmembed.models.loading import load_model
        >>> from transformers import BertConfig, BertModel
        >>> folder, words = str(getfixture("tmp_path")), train_tokenizer(["a red mug"], vocab_size=50, max_length=32)
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        >>> BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(folder)
        >>> _ = words.save_pretrained(folder)
        >>> items = Dataset.from_dict({"id": ["a"], "text": ["a red mug. a mug."]})
        >>> chunks = late_chunks(load_model(folder), items, spans={"a": [(0, 10), (11, 17)]})
        >>> chunks.ids, chunks.vectors.shape
        (['a#0', 'a#1'], (2, 16))
    """
    _check_model(model)
    if prompt is None and model.default_prompt_name is not None:
        prompt = model.prompts.get(model.default_prompt_name)
    cutter = _Windows(model, max_tokens, overlap, prompt or "")
    ids: list[str] = []
    vectors: list[np.ndarray] = []
    training = model.training
    model.eval()
    try:
        bar = tqdm(total=len(items), desc="late chunks", unit="document", disable=not show_progress_bar)
        with bar:
            for documents in _documents(items):
                read = [cutter.read(id, text) for id, text in documents]
                embedded = _embedded(model, read, batch_size)
                for (id, text), document, tokens in zip(documents, read, embedded, strict=True):
                    own = spans[id] if isinstance(spans, Mapping) else spans(text)
                    ids += [chunk_id(id, number) for number in range(len(own))]
                    vectors.append(_means(id, document, tokens, own))
                bar.update(len(documents))
    finally:
        model.train(training)
    means = np.concatenate(vectors) if vectors else np.zeros((0, cutter.dim), dtype=np.float32)
    about = {
        "model_fingerprint": model_fingerprint(model),
        "use": "text",
        "prompt": prompt,
        "chunking": {"method": "late", "max_tokens": cutter.max_tokens, "overlap": cutter.overlap},
    }
    return Embeddings(ids, unit_rows(_finished(model, means)), about)


# --- texts → windows of tokens ---------------------------------------------------------------------------------------


@dataclass
class _Document:
    """A document's tokens.

    Args:
        windows: the token ids of each window, special ones and the prompt among them.
        starts: for each token of the text the place of its first character.
        places: for each window, (row in the window, token of the text, how many) of what is taken from it.
        head: tokens of a window before those of the text; tail: those behind.
        head_counts: whether the head counts to the first span.
    """

    windows: list[list[int]]
    starts: np.ndarray
    places: list[tuple[int, int, int]]
    head: int
    tail: int
    head_counts: bool


class _Windows:
    def __init__(self, model: SentenceTransformer, max_tokens: int | None, overlap: int | None, prompt: str) -> None:
        self.tokenizer: Any = model.tokenizer
        self.prompt = prompt
        limit = model.max_seq_length
        if max_tokens is None and limit is None:
            raise ValueError("the model says no limit; give max_tokens")
        if max_tokens is not None and limit is not None and max_tokens > limit:
            raise ValueError(f"max_tokens={max_tokens}; the model reads {limit} tokens")
        self.max_tokens = int(max_tokens or limit or 0)
        self.overlap = self.max_tokens // 8 if overlap is None else overlap
        pooling = next(module for module in model if isinstance(module, Pooling))
        self.dim = pooling.embedding_dimension
        self.head_counts = bool(pooling.include_prompt) or not prompt
        if self.overlap < 0:
            raise ValueError(f"overlap={overlap}; give at least 0")

    def read(self, id: str, text: str) -> _Document:
        found = self.tokenizer(
            self.prompt + text,
            truncation=False,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ids, special = found["input_ids"], found["special_tokens_mask"]
        ends = [end for _, end in found["offset_mapping"]]
        head = next((row for row, one in enumerate(special) if not one), len(ids))
        tail = next((row for row, one in enumerate(reversed(special)) if not one), 0)
        while head < len(ids) - tail and ends[head] <= len(self.prompt):
            head += 1  # a token of the prompt
        body = ids[head : len(ids) - tail]
        if not body:
            raise DataError(f"no token is left of the text of item {id!r}", file="items", field="text")
        room = self.max_tokens - head - tail
        if room < 1 or self.overlap >= room:
            raise ValueError(
                f"max_tokens={self.max_tokens}: {head + tail} are special or the prompt's and {self.overlap} overlap, so "
                "that none is left; raise max_tokens or lower overlap"
            )
        windows, places = [], []
        start = taken = 0
        while taken < len(body):
            end = min(start + room, len(body))
            windows.append(ids[:head] + body[start:end] + ids[len(ids) - tail :])
            places.append((head + taken - start, taken, end - taken))
            taken, start = end, end - self.overlap
        offsets = [max(begin - len(self.prompt), 0) for begin, _ in found["offset_mapping"][head : len(ids) - tail]]
        return _Document(windows, np.array(offsets), places, head, tail, self.head_counts)


def _documents(items: Dataset) -> Iterator[list[tuple[str, str]]]:
    for batch in items.with_format(None).select_columns(["id", "text"]).iter(_DOCUMENTS_AT_ONCE):
        for id, text in zip(batch["id"], batch["text"]):
            if text is None:
                raise DataError(f"item {id!r} has no text; leave it out", file="items", field="text")
        yield list(zip(batch["id"], batch["text"]))


# --- windows → token embeddings → means ------------------------------------------------------------------------------


@torch.inference_mode()
def _embedded(model: SentenceTransformer, documents: Sequence[_Document], batch_size: int) -> list[list[np.ndarray]]:
    """For each document and window the float32 (tokens, dim) embeddings."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; give at least 1")
    windows = [(number, place) for number, one in enumerate(documents) for place in range(len(one.windows))]
    windows.sort(key=lambda window: -len(documents[window[0]].windows[window[1]]))
    tokenizer: Any = model.tokenizer
    found: dict[tuple[int, int], np.ndarray] = {}
    for start in range(0, len(windows), batch_size):
        some = windows[start : start + batch_size]
        rows = [documents[number].windows[place] for number, place in some]
        features: dict[str, Any] = dict(tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt"))
        if "token_type_ids" in tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        features = {name: tensor.to(model.device) for name, tensor in features.items()}
        mask = features["attention_mask"].bool().cpu().numpy()
        tokens = model[0](features)["token_embeddings"].float().cpu().numpy()
        for row, window in enumerate(some):
            found[window] = tokens[row][mask[row]]
    return [[found[number, place] for place in range(len(one.windows))] for number, one in enumerate(documents)]


def _means(id: str, document: _Document, windows: Sequence[np.ndarray], spans: Sequence[Span]) -> np.ndarray:
    """float32 (spans, dim)."""
    body = np.concatenate([tokens[row : row + count] for tokens, (row, _, count) in zip(windows, document.places)])
    means = np.empty((len(spans), body.shape[1]), dtype=np.float32)
    for number, (start, end) in enumerate(spans):
        inside = (document.starts >= start) & (document.starts < end)
        if not inside.any():
            raise DataError(f"span {number} ({start}, {end}) of item {id!r} holds no token", file="items", field="text")
        own = [body[inside]]
        if inside[0] and document.head_counts:
            own.append(windows[0][: document.head])
        if inside[-1] and document.tail:
            own.append(windows[-1][-document.tail :])
        means[number] = np.concatenate(own).astype(np.float64).mean(axis=0)
    return means


@torch.inference_mode()
def _finished(model: SentenceTransformer, means: np.ndarray) -> np.ndarray:
    """The means through what the model does after pooling."""
    if not len(means):
        return np.zeros((0, model.get_embedding_dimension() or means.shape[1]), dtype=np.float32)
    features: dict[str, Any] = {"sentence_embedding": torch.from_numpy(means).to(model.device)}
    for module in list(model)[2:]:
        features = module(features)
    return features["sentence_embedding"].float().cpu().numpy()


def _check_model(model: SentenceTransformer) -> None:
    if len(model) < 2 or not isinstance(model[0], Transformer) or not isinstance(model[1], Pooling):
        kinds = " → ".join(type(module).__name__ for module in model)
        raise ValueError(f"late chunking averages a transformer's tokens; this model is {kinds}")
    if model[1].pooling_mode != "mean":
        raise ValueError(f"late chunking averages tokens; this model pools by {model[1].pooling_mode!r}")
