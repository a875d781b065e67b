"""What `mmembed browse` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmembed.jobs.data_options import ItemsOptions, option


@dataclass
class BrowseOptions(ItemsOptions):
    """Open a page over an index: type, drop a picture, filter, find more like a result, and see what compression costs.

    Without anything it shows the drawn catalogue, searched by the model of `runs/train`, else by a small one that is trained
    once, in a minute or two, and kept in `work_dir`. With `--dialogue` the page asks back: a person looks for a product and
    answers questions until it is found; it ranks by words, where nothing with vectors is named. Nothing is asked of any
    network, and only this machine reaches the page.
    """

    # what is searched
    pipeline: str | None = option(None, "folder of a saved search pipeline, with its own models and items")
    index: str | None = option(None, "folder of an index of the items' vectors")
    vectors: str | None = option(None, "folder of the items' vectors, instead of an index")
    lexical: str | None = option(
        None, "words beside vectors: folder of a lexical index, `items` or `none`; null: `items` of the drawn catalogue"
    )
    model: str | None = option(
        None, "embedding model: folder, Hub name, package:NAME/FOLDER; null: the one that the index names, or see above"
    )
    use: Literal["text", "image", "fused"] | None = option(
        None, "what of items is encoded, where neither index nor vectors are given; null: images where all have one"
    )
    reranker: str | None = option(None, "pair scorer for the best candidates: folder, Hub name, package:NAME/FOLDER")
    reranker_kind: Literal["text", "vision_language", "blip_itm"] = option("text", "what kind of pair scorer that is")
    device: str | None = option(None, "where models run, such as cpu or cuda:0")
    work_dir: str = option("runs/browse", "where a model that is trained for the page, and vectors, are kept")

    # the page
    dialogue: bool = option(False, "the page that asks back, instead of the search page")
    rounds: int = option(8, "of a dialogue: most questions that are asked")
    compressed: list[str] = option(["int8", "binary"], "what the vectors are compressed to beside; [] for nothing")
    columns: list[str] = option([], "attributes that are shown; nothing: those that items share values of")
    k: int = option(24, "results at first")
    seed: int = option(0, "of what is shown first, and of what a dialogue looks for")
    host: str = option("127.0.0.1", "address to listen at; any but this machine's own needs allow_remote")
    port: int = option(7860, "port; 0 takes a free one, and prints it")
    allow_remote: bool = option(
        False, "let others reach the page: there is no password, and whoever comes sees the items"
    )
    show_progress_bar: bool = option(True, "show progress bars")
