"""What does a page open? Items, vectors and models that options name; else the drawn catalogue and a model of its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from mmembed.images import ImagePolicy, ImageReader
from mmembed.jobs.browse_options import BrowseOptions
from mmembed.jobs.data_options import DataOptions, ItemsOptions
from mmembed.jobs.options import OptionsError, parse_options
from mmembed.jobs.search_options import SearchOptions
from mmembed.search.pipeline import SearchPipeline

TRAINED = Path("runs/train/model")
_EPOCHS = 6  # of the model that is trained for the page
_CATALOGUE_COLUMNS = (
    "category", "subcategory", "brand", "colour", "second_colour", "pattern", "material", "size", "gender", "age_group",
    "price", "details",
)  # fmt: skip
_EXAMPLES = (
    "red striped mug",
    "denim shirt",
    "green teddy bear",
    "knee-high boots",
    "round sunglasses",
    "tea in a tin",
)


@dataclass
class PageParts:
    """What a page shows.

    Args:
        items: ITEMS; None where an index was given alone.
        reader: reads their images.
        columns: attributes that are shown; None for those that items share values of.
        examples: queries to begin with.
        about: names and values for the page's head.
        is_catalogue: whether these are the drawn products.
    """

    items: Dataset | None
    reader: ImageReader
    columns: list[str] | None
    examples: tuple[str, ...]
    about: list[tuple[str, str]]
    is_catalogue: bool = False


def read_page(options: BrowseOptions) -> PageParts:
    """The items, and what is known of them.

    Args:
        options: what is opened.

    Raises:
        DataError: a file with a fault.
    """
    from mmembed.jobs.training_data import read_tables

    if options.items is None and (options.index or options.vectors or options.pipeline):
        reader = ImageReader(ImagePolicy(root=options.image_root))
        return PageParts(None, reader, options.columns or None, (), [])
    plain = DataOptions(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(ItemsOptions) if field.init}
    )
    tables, reader, _ = read_tables(
        plain, record_to=Path(os.devnull), decode_all=False, show_progress_bar=options.show_progress_bar
    )
    if options.items is None:
        columns = options.columns or list(_CATALOGUE_COLUMNS)
        return PageParts(tables.queries, reader, columns, _EXAMPLES, [("data", "the drawn catalogue")], True)
    about = [("data", Path(options.items).name)]
    return PageParts(tables.queries, reader, options.columns or None, (), about)


def page_pipeline(options: BrowseOptions, parts: PageParts) -> SearchPipeline:
    """What is searched with.

    Args:
        options: what is opened.
        parts: of `read_page`; what it is searched with is noted there.

    Raises:
        OptionsError: a part without the one that it needs.
        DataError: a part that is damaged, or of another model.
    """
    from mmembed.jobs.search_parts import SearchParts, search_pipeline

    lexical = options.lexical
    if lexical is None and parts.is_catalogue and importlib.util.find_spec("bm25s") is not None:
        lexical = "items"
    told: dict[str, Any] = {
        "pipeline": options.pipeline,
        "index": options.index,
        "vectors": options.vectors,
        "lexical": None if lexical == "none" else lexical,
        "model": options.model,
        "reranker": options.reranker,
        "reranker_kind": options.reranker_kind,
        "rerank_use": "text" if options.reranker_kind == "text" else "fused",
        "device": options.device,
        "image_root": options.image_root,
        "show_progress_bar": options.show_progress_bar,
    }
    words_alone = bool(told["lexical"]) and options.model is None and not parts.is_catalogue
    if not (options.pipeline or options.index or options.vectors or words_alone):
        told["model"], folder = options.model or catalogue_model(options, parts), Path(options.work_dir)
        told["vectors"] = _encoded(options, parts, told["model"], folder)
    searched = SearchOptions(**told)
    root = None if parts.reader.policy.root is None else os.fspath(parts.reader.policy.root)
    pipeline = search_pipeline(searched, SearchParts(parts.items, root=root))
    if pipeline.items is not None:
        parts.items = pipeline.items
    if pipeline.reader is not None:
        parts.reader = pipeline.reader
    name = told["model"] or getattr(pipeline.index, "manifest", {}).get("model")
    if name is None and pipeline.vectors is not None:
        name = pipeline.vectors.manifest.get("model")
    if name:
        parts.about.append(("model", _short(name)))
    if options.reranker:
        parts.about.append(("reranker", _short(options.reranker)))
    return pipeline


def catalogue_model(options: BrowseOptions, parts: PageParts) -> str:
    """The model that the drawn catalogue is searched with: the trained one, else one that is trained now and kept.

    Args:
        options: `work_dir`.
        parts: which items.

    Returns:
        Its folder.

    Raises:
        OptionsError: the items are others, and no model was named.
    """
    if not parts.is_catalogue:
        raise OptionsError(
            "--model: name the model that items are encoded and searched with; or give --index, or --lexical items for words alone"
        )
    if TRAINED.is_dir():
        return str(TRAINED)
    own = Path(options.work_dir) / "model"
    if own.is_dir():
        return str(own)
    sys.stdout.write(
        f"there is no {TRAINED} yet: a small model is trained for this page, once, and kept in {own}\n"
        "(`mmembed train` trains a better one; --model names another)\n"
    )
    sys.stdout.flush()
    from mmembed.jobs import train
    from mmembed.jobs.train_options import TrainOptions
    from mmembed.jobs.training_arguments import embedding_arguments_class

    words = ["--output_dir", options.work_dir, "--num_train_epochs", str(_EPOCHS)]
    words += ["--disable_tqdm", str(not options.show_progress_bar).lower()]
    training = parse_options(TrainOptions, words, passthrough=embedding_arguments_class, prog="mmembed browse")
    training.catalogue = dict(options.catalogue)
    train.run(training)
    return str(own)


def _encoded(options: BrowseOptions, parts: PageParts, name: str, folder: Path) -> str:
    """The folder with the items' vectors, made now or before."""
    from mmembed.data.keys import content_id
    from mmembed.dataset_encoding import encode_dataset
    from mmembed.encoding_fingerprints import items_fingerprint, model_fingerprint
    from mmembed.jobs.evaluation_vectors import uses_of
    from mmembed.jobs.model_choice import resolve_name
    from mmembed.models.loading import load_model

    assert parts.items is not None
    model = load_model(resolve_name(name), device=options.device)
    uses = uses_of(parts.items, model)
    use: Any = options.use or next((one for one in ("image", "text") if one in uses), "fused")
    key = content_id(model_fingerprint(model), items_fingerprint(parts.items, use), use)
    place = folder / f"vectors-{key[:16]}"
    encode_dataset(
        model,
        parts.items,
        place,
        use=use,
        reader=parts.reader,
        model_name=name,
        across_ranks=False,
        show_progress_bar=options.show_progress_bar,
    )
    parts.about.append(("searched by", {"image": "pictures", "text": "texts", "fused": "texts and pictures"}[use]))
    return str(place)


def _short(name: str) -> str:
    """The end of a folder's name, or a name on the Hub; not where it lies."""
    return "/".join(Path(name.removeprefix("package:")).parts[-2:])
