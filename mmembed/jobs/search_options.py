"""What `mmembed search` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mmembed.jobs.data_options import ItemsOptions, option

RerankerKind = Literal["text", "vision_language", "blip_itm"]


@dataclass
class SearchOptions(ItemsOptions):
    """Search an index, or a whole pipeline: by words and vectors, fused, rescored and reranked.

    Prints the hits, or writes them as a run; with judgements it prints what each stage adds and costs. Which model an index is
    searched with stands in its manifest.
    """

    items: str | None = option(None, "ITEMS that are searched, for their texts, attributes and images")

    # where it is searched
    pipeline: str | None = option(
        None, "folder of a saved pipeline, instead of index, vectors, lexical and their models"
    )
    index: str | None = option(None, "folder of an index of vectors")
    vectors: str | None = option(
        None, "folder of vectors: searched exactly, or beside an index to score its candidates exactly"
    )
    chunked: bool = option(
        False, "index or vectors are of parts of documents, called document#0, document#1, …: find the documents"
    )
    lexical: str | None = option(None, "folder of a lexical index; or `items`: build one of the items' texts now")
    tokeniser: Literal["word", "bigram", "uni_bigram"] | None = option(
        None, "of `--lexical items`: how texts are cut; null: by the script that most of them are in"
    )
    stemmer: Literal["english", "russian"] | None = option(None, "of `--lexical items`: whose endings are cut off")
    model: str | None = option(None, "embedding model; null: the one that the index or vectors name")
    device: str | None = option(None, "where models run, such as cpu or cuda:0")
    data: str | None = option(None, "file or folder of a named format with items, queries and pairs, instead of those")
    format: str | None = option(None, "name of the data's format, see `mmembed convert-data --list_formats`")
    read_options: dict[str, Any] = option({}, "further arguments of the format's reader")

    # what is asked
    query: list[str] = option([], "text to look for, or several; a text is never opened or fetched")
    image: list[str] = option([], "image file to look for; with one query each, both together")
    dialogue: list[str] = option([], "one dialogue: the caption, then a question with its answer a round")
    queries: str | None = option(None, "ITEMS of queries: .jsonl, .csv, .tsv, .parquet or a saved dataset")
    query_use: Literal["text", "image", "fused"] = option(
        "fused", "of `queries`: what is searched with; fused: what is there"
    )
    dialogue_column: str | None = option(None, "of `queries`: column with lists of rounds, instead of the text")
    query_prompt: str | None = option(None, "put before each text that is encoded; null: the model's own")
    text_weight: float | None = option(
        None, "of text and image together: weight of the text, 0 to 1; null: the model's own fusion, else 0.5"
    )
    like: list[str] = option([], "ids of items that answer the query: it moves towards them")
    unlike: list[str] = option([], "ids of items that do not: it moves away from them")
    filter: list[str] = option(
        [], "conditions on attributes: column=value, price=10..50, price=..50; a column twice: either"
    )
    k: int = option(10, "hits a query")

    # how
    depth: int = option(100, "documents that words and vectors find each")
    fusion: Literal["rrf", "min_max", "z_score"] = option("rrf", "how words and vectors are fused")
    fusion_weights: dict[str, float] = option({}, "weights of lexical and dense; 1 where not named")
    fusion_k: float = option(60, "of rrf: k")
    fit_pairs: str | None = option(None, "PAIRS of validation queries, on which the fusion is learned instead")
    fit_queries: str | None = option(None, "ITEMS of these queries; null: `queries`")
    rocchio_documents: int = option(0, "first results that a query's vector moves towards before it is searched again")
    expansion_documents: int = option(0, "first results whose words are added to the query's own (RM3)")
    expansion_terms: int = option(10, "how many")
    reranker: str | None = option(None, "pair scorer for the best candidates: folder, Hub name, package:NAME/FOLDER")
    reranker_kind: RerankerKind = option("text", "what kind of pair scorer that is")
    rerank_depth: int = option(20, "candidates that it reads")
    rerank_use: Literal["text", "image", "fused"] = option("text", "what of an item it reads")
    rerank_query_use: Literal["text", "image", "fused"] | None = option(None, "what of a query; null: as of items")
    fuse_reranker: bool = option(False, "fuse its order with the one before by reciprocal ranks")
    batch_size: int = option(32, "rows or pairs a forward pass")

    # rewriting
    rewrites: str | None = option(None, "JSON file of further texts by query")
    rewrite_url: str | None = option(None, "OpenAI-compatible address that makes them; queries are sent there")
    rewrite_model: str | None = option(None, "the server's name of its model")
    rewrite_task: Literal["rewrite", "hyde", "summary"] = option("rewrite", "what it is asked for")
    rewrite_texts: int = option(3, "texts a query")
    rewrite_calls: int | None = option(None, "how many requests may be made; must be given")
    rewrite_key_env: str | None = option(None, "environment variable that holds its key; null: no key is sent")
    rewrite_cache: str = option("rewrite-cache", "folder in which replies are kept")
    keep_query: bool = option(True, "search with a rewritten query's own text as well")
    combine_rewrites: Literal["mean", "rrf"] = option(
        "mean", "several texts: the mean of their vectors and of their words' scores, or rrf over their rankings"
    )

    # what comes out
    pairs: str | None = option(None, "PAIRS of the queries: prints a table of the stages")
    metrics: list[str] = option(["ndcg@10"], "of that table; differences are of the first")
    report: str | None = option(None, "JSON file of that table")
    output: str | None = option(None, "run file of the hits")
    run_format: Literal["jsonl", "trec"] | None = option(
        None, "of output; null: trec for .trec, .run and .txt, else jsonl"
    )
    run_tag: str = option("mmembed", "of trec: the run's name")
    save_pipeline: str | None = option(None, "folder to save the whole pipeline in, models by the names given here")
    text_width: int = option(60, "characters of a text in the printed table")
    show_progress_bar: bool = option(True, "show progress bars")
