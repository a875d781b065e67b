"""A search pipeline as a folder of its parts, and back.

    pipeline.json    the settings, which parts there are, and the SHA-256 of the file by which each part vouches for itself
    lexical/         `LexicalIndex.save`
    index/           `Index.save`; over parts of documents where they were chunked
    vectors/         `Embeddings.save`
    items.parquet    `write_items`; image paths are below a root that the reader names
    model/           the embedding model, unless it is named
    reranker/        the pair scorer, unless it is named
    rewrites.json    what `FileRewrites` read

Nothing in the folder says where else to look, but for the names of models; these are read by `load_model`, which runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer

from mmembed.data.reading import read_items
from mmembed.data.schema import DataError, shown
from mmembed.data.writing import write_items
from mmembed.embeddings import Embeddings
from mmembed.encoding_fingerprints import model_fingerprint
from mmembed.images import ImagePolicy, ImageReader
from mmembed.models.loading import load_model
from mmembed.search.chunks import ChunkedIndex
from mmembed.search.fusion import Fusion
from mmembed.search.lexical import LexicalIndex
from mmembed.search.query_expansion import Rocchio, TermExpansion
from mmembed.search.rewriting import FileRewrites
from mmembed.whole_files import write_whole

if TYPE_CHECKING:
    from mmembed.search.pipeline import SearchPipeline

FILE = "pipeline.json"
FORMAT = "mmembed-search-pipeline"
VERSION = 1

RerankerKind = Literal["text", "vision_language", "blip_itm"]

# Each part's own file that holds the hashes of its others, or that is all of it.
_PROOFS = {
    "lexical": "lexical/lexical.json",
    "index": "index/manifest.json",
    "vectors": "vectors/manifest.json",
    "items": "items.parquet",
    "rewrites": "rewrites.json",
}
_SETTINGS: dict[str, tuple[type, ...]] = {
    "depth": (int,),
    "rescore": (bool,),
    "rerank_depth": (int,),
    "rerank_use": (str,),
    "rerank_query_use": (str, type(None)),
    "rerank_prompt": (str, type(None)),
    "query_prompt": (str, type(None)),
    "text_weight": (int, float, type(None)),
    "dialogue_tokens": (int, type(None)),
    "keep_query": (bool,),
    "combine_rewrites": (str,),
    "batch_size": (int,),
}
_MAX_BYTES = 64 << 20  # of pipeline.json; a learned fusion names its queries there


def save_pipeline(
    pipeline: SearchPipeline,
    folder: str | os.PathLike,
    *,
    model_name: str | None = None,
    reranker_name: str | None = None,
    reranker_kind: RerankerKind = "text",
    image_root: str | os.PathLike | None = None,
) -> None:
    """Write a pipeline as a folder that is whole or not there; one that holds a pipeline already is replaced.

    Args:
        pipeline: the pipeline. A rewriter that is no `FileRewrites` is not written, and must be given again to `load`.
        folder: where to.
        model_name: a folder or a name on the Hub from which the model is loaded again; None saves the model in the folder.
        reranker_name: the same for the reranker.
        reranker_kind: which loader reads the reranker: "text", "vision_language" or "blip_itm".
        image_root: the folder below which the items' images lie; whoever loads the pipeline names their own. None where
            the items have none, or hold them as bytes.

    Raises:
        DataError: the folder holds something else, or an image lies outside the root.
        ValueError: an index that cannot be saved, or an unknown kind.
    """
    if reranker_kind not in get_args(RerankerKind):
        raise ValueError(f"reranker_kind={reranker_kind!r}; choose {', '.join(get_args(RerankerKind))}")
    index: Any = pipeline.index
    index = index.index if isinstance(index, ChunkedIndex) else index
    if index is not None and not hasattr(index, "save"):
        raise ValueError(f"the index is a {type(index).__name__}, which has no save; give a mmembed.Index")
    folder = os.fspath(folder)
    if os.path.lexists(folder) and not os.path.isfile(os.path.join(folder, FILE)):
        if not os.path.isdir(folder) or os.listdir(folder):
            raise DataError("holds something other than a search pipeline; give another folder", file=folder)

    def write(new: str) -> None:
        place = Path(new)
        place.mkdir()
        for name in ("lexical", "index", "vectors"):
            part = getattr(pipeline, name)
            if part is not None:
                part.save(place / name)
        if pipeline.items is not None:
            write_items(pipeline.items, place / "items.parquet", image_root=image_root or _root_of(pipeline.items))
        rewriter = "none"
        if isinstance(pipeline.rewriter, FileRewrites):
            rewriter = "file"
            pipeline.rewriter.save(place / "rewrites.json")
        elif pipeline.rewriter is not None:
            rewriter = "given"
        models: dict[str, Any] = {}
        for part, named in (("model", model_name), ("reranker", reranker_name)):
            held = getattr(pipeline, part)
            if held is None:
                continue
            if named is None:
                held.save_pretrained(str(place / part), create_model_card=False)
            models[part] = {"name": named, "fingerprint": model_fingerprint(held)}
        if "reranker" in models:
            models["reranker"]["kind"] = reranker_kind
        about = {
            "format": FORMAT,
            "version": VERSION,
            "settings": {name: getattr(pipeline, name) for name in _SETTINGS},
            "fusion": pipeline.fusion.as_dict(),
            "rerank_fusion": None if pipeline.rerank_fusion is None else pipeline.rerank_fusion.as_dict(),
            "rocchio": None if pipeline.rocchio is None else asdict(pipeline.rocchio),
            "term_expansion": None if pipeline.term_expansion is None else asdict(pipeline.term_expansion),
            "rewriter": rewriter,
            "images": _images_of(pipeline.items),
            "chunked": isinstance(pipeline.index, ChunkedIndex),
            "parts": {name: _sha256(place / file) for name, file in _PROOFS.items() if (place / file).exists()},
            "models": models,
        }
        (place / FILE).write_text(json.dumps(about, ensure_ascii=False, indent=1), encoding="utf-8")

    write_whole(folder, write)


def load_pipeline(
    folder: str | os.PathLike,
    *,
    model: SentenceTransformer | None = None,
    reranker: CrossEncoder | None = None,
    rewriter: Any = None,
    image_root: str | os.PathLike | None = None,
    device: str | None = None,
) -> SearchPipeline:
    """Read what `save_pipeline` wrote, once every part is the one that was written; nothing in it is executed.

    Args:
        folder: the folder.
        model: the model itself, instead of the one in the folder or the one it names.
        reranker: another reranker than the pipeline's, or one where it has none.
        rewriter: the rewriter, where the pipeline had one that is no file.
        image_root: the folder below which the items' images lie on this machine; needed where they are paths.
        device: where models are put.

    Returns:
        The pipeline.

    Raises:
        DataError: no such folder, or a part is missing, damaged, exchanged or of another model.
        ModelError: a model cannot be loaded.

    Example:
        >>> import tempfile
        >>> from mmembed.search.pipeline import SearchPipeline
        >>> folder = tempfile.mkdtemp() + "/pipeline"
        >>> SearchPipeline(lexical=LexicalIndex.build(["a", "b"], ["red hat", "blue hat"])).save(folder)
        >>> [hit.id for hit in SearchPipeline.load(folder).search(["blue"])[0]]
        ['b']
    """
    from mmembed.search.pipeline import SearchPipeline

    place = Path(folder)
    about = read_description(folder)
    parts: dict[str, Any] = {}
    for name, digest in about["parts"].items():
        path = place / _PROOFS[name]
        _check_plain(path)
        if _sha256(path) != digest:
            raise DataError(
                f"not the file that {FILE} names (its SHA-256 differs): it was changed or exchanged", file=path
            )
    if "lexical" in about["parts"]:
        parts["lexical"] = LexicalIndex.load(place / "lexical")
    if "index" in about["parts"]:
        from mmembed.search.index import Index

        index = Index.load(place / "index")
        parts["index"] = ChunkedIndex(index, index.ids) if about["chunked"] else index
    if "vectors" in about["parts"]:
        parts["vectors"] = Embeddings.load(place / "vectors")
    if "items" in about["parts"]:
        if about["images"] == "paths" and image_root is None:
            message = "its items have images by their paths; give image_root, the folder below which they lie here"
            raise DataError(message, file=folder)
        parts["items"] = read_items(place / "items.parquet", image_root=image_root or place)
        parts["reader"] = ImageReader(ImagePolicy(root=image_root)) if about["images"] != "none" else None
    if about["rewriter"] == "given" and rewriter is None:
        raise DataError("it was saved with a rewriter that is no file; give it as rewriter", file=folder)
    parts["rewriter"] = FileRewrites(place / "rewrites.json") if "rewrites" in about["parts"] else rewriter
    if "model" in about["models"]:
        parts["model"] = _loaded(place, about, "model", model, device)
    if reranker is not None:
        parts["reranker"] = reranker
    elif "reranker" in about["models"]:
        parts["reranker"] = _loaded(place, about, "reranker", None, device)
    try:
        settings = dict(about["settings"])
        for name, kind in (("rocchio", Rocchio), ("term_expansion", TermExpansion)):
            settings[name] = None if about[name] is None else kind(**about[name])
        for name in ("fusion", "rerank_fusion"):
            settings[name] = None if about[name] is None else Fusion.from_dict(about[name])
        return SearchPipeline(**parts, **settings)
    except (TypeError, ValueError) as error:
        raise DataError(f"{error}; save the pipeline again", file=place / FILE) from None


def read_description(folder: str | os.PathLike) -> dict[str, Any]:
    """What pipeline.json says, checked field by field; no other file is opened.

    Args:
        folder: as `save_pipeline` wrote it.

    Raises:
        DataError: it is not there, is none, or of another version.
    """
    path = Path(folder, FILE)
    if not path.parent.is_dir():
        raise DataError("no such folder; save a pipeline there", file=folder)
    _check_plain(path)
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path.stat().st_size:,} bytes, at most {_MAX_BYTES:,} are read", file=path)
    try:
        about = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error}); the file is damaged", file=path) from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise DataError(f"not the description of a search pipeline: no format {FORMAT!r}", file=path)
    if about.get("version") != VERSION:
        message = f"found {shown(about.get('version'))}, this mmembed reads version {VERSION}"
        raise DataError(message, file=path, field="version")
    for name in ("settings", "parts", "models", "fusion"):
        if not isinstance(about.get(name), dict):
            raise DataError(f"found {shown(about.get(name))}, expected an object", file=path, field=name)
    for name in ("rerank_fusion", "rocchio", "term_expansion"):
        if not isinstance(about.setdefault(name, None), (dict, type(None))):
            raise DataError(f"found {shown(about[name])}, expected an object or null", file=path, field=name)
    for name, known in (("rewriter", ("none", "file", "given")), ("images", ("none", "bytes", "paths"))):
        if about.get(name) not in known:
            raise DataError(f"found {shown(about.get(name))}, expected {' or '.join(known)}", file=path, field=name)
    if not isinstance(about.get("chunked"), bool):
        raise DataError(f"found {shown(about.get('chunked'))}, expected true or false", file=path, field="chunked")
    for name, value in about["settings"].items():
        if name not in _SETTINGS or type(value) not in _SETTINGS[name]:
            raise DataError(
                f"found {shown(value)}, which no setting of a pipeline is", file=path, field=f"settings.{name}"
            )
    for name, digest in about["parts"].items():
        if name not in _PROOFS or not isinstance(digest, str):
            raise DataError(f"found {shown(digest)}, which no part of a pipeline is", file=path, field=f"parts.{name}")
    for name, told in about["models"].items():
        fits = name in ("model", "reranker") and isinstance(told, dict) and isinstance(told.get("fingerprint"), str)
        if not fits or not isinstance(told.get("name"), (str, type(None))):
            raise DataError(f"found {shown(told)}, which no model is", file=path, field=f"models.{name}")
    return about


def load_reranker(name: str, kind: RerankerKind, *, device: str | None = None) -> CrossEncoder:
    """A pair scorer by its kind.

    Args:
        name: a folder or a name on the Hub.
        kind: "text", "vision_language" or "blip_itm".
        device: where it is put.

    Raises:
        ValueError: an unknown kind, or no such model.
    """
    if kind == "vision_language":
        from mmembed.rerankers.vision_language import load_vlm_reranker

        return load_vlm_reranker(name, device=device)
    if kind == "blip_itm":
        from mmembed.rerankers.blip_itm import load_blip_itm

        return load_blip_itm(name, device=device)
    if kind != "text":
        raise ValueError(f"reranker_kind={kind!r}; choose {', '.join(get_args(RerankerKind))}")
    from mmembed.rerankers.text_pairs import load_text_reranker

    return load_text_reranker(name, device=device)


def _loaded(place: Path, about: Mapping[str, Any], part: str, given: Any, device: str | None) -> Any:
    told = about["models"][part]
    where = told["name"] if told["name"] is not None else str(place / part)
    if given is None and told["name"] is None and not os.path.isdir(where):
        raise DataError(f"the folder of the {part} is missing; save the pipeline again, or give {part}", file=place)
    if given is None and part == "model":
        given = load_model(where, device=device)
    elif given is None:
        given = load_reranker(where, told.get("kind", "text"), device=device)
    if model_fingerprint(given) != told["fingerprint"]:
        message = f"the {part} is another than the pipeline was saved with: its weights, modules or tokenizer differ"
        raise DataError(f"{message}; give the one it was made with, or make the pipeline again", file=place)
    return given


def _images_of(items: Dataset | None) -> str:
    """Where the items' images are: "none", "bytes" or "paths" (some of them)."""
    if items is None or "image" not in items.column_names:
        return "none"
    found = "none"
    for batch in items.with_format(None).select_columns(["image"]).iter(1000):
        for image in batch["image"]:
            if image is not None and image.get("bytes") is None:
                return "paths"
            found = "bytes" if image is not None else found
    return found


def _root_of(items: Dataset) -> str | None:
    from mmembed.encode import reader_of

    root = reader_of(items).policy.root if "image" in items.column_names else None
    return None if root is None else os.fspath(root)


def _check_plain(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        raise DataError("missing; save the pipeline again", file=path) from None
    if not stat.S_ISREG(mode):
        raise DataError("not a plain file; save the pipeline again", file=path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
