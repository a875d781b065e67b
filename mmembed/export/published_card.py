"""What does a published model's card say, and would the Hub take it?"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from mmembed.export.card import CardFacts, write_card
from mmembed.export.card_reading import read_card
from mmembed.export.hub_results import FOLDER, HUB_ID
from mmembed.export.onnx_files import MANIFEST
from mmembed.export.portable_layout import ADAPTER, content_of, is_place, least_versions
from mmembed.export.published_files import PublishError, Source
from mmembed.pages import escape_markdown, markdown_table

CARD = "README.md"
_OWN_FOLDER = re.compile(
    r'((?:SentenceTransformer|CrossEncoder|[A-Z]\w*Embedder(?:\.\w+)?)\()"(?:\.|path/to/this/folder)"'
    r"([^)\n]*\))(?:  # the folder of this card)?"
)
_UNFILLED = re.compile(r"\[More Information Needed\]", re.IGNORECASE)
_RERANKER_TAGS = ["sentence-transformers", "cross-encoder", "reranker", "mmembed"]


def published_card(
    files: Mapping[str, Source],
    repo_id: str,
    *,
    facts: CardFacts | None = None,
    license: str | None = None,
    base_model: str | Sequence[str] | None = None,
    languages: Sequence[str] = (),
    tags: Sequence[str] = (),
    limitations: str = "",
) -> dict[str, bytes]:
    """Write the card as it is published, from facts, from the card that is there, or from the files alone.

    The example loads the repository instead of the folder; what is given here is added to the metadata, or replaces it.

    Args:
        files: The model's, by their path in the repository.
        repo_id: "owner/name".
        facts: What a new card says; None keeps the one that is there.
        license: As the Hub spells it.
        base_model: Hub ids.
        languages: ISO codes.
        tags: More tags.
        limitations: A paragraph, where the card has none.

    Returns:
        README.md, and results beside it where they come from `facts`.

    Raises:
        ValueError: What is given is nothing that the Hub takes, or the card cannot be read.
    """
    bases = [base_model] if isinstance(base_model, str) else list(base_model or [])
    for base in bases:
        if not HUB_ID.fullmatch(base) or Path(base).exists():
            raise ValueError(f"base_model {base!r} is no name of the Hub; write it as in 'owner/name'")
    # CardFacts refuses a language, licence or tag that the Hub would not take.
    given = CardFacts(repo_id.rpartition("/")[2], languages=languages, license=license, tags=tags, model_id=repo_id)
    written: dict[str, bytes] = {}
    if facts is not None:
        made = replace(
            facts,
            model_id=repo_id,
            license=license or facts.license,
            base_model=bases or facts.base_model,
            languages=languages or facts.languages,
            tags=[*facts.tags, *tags],
            limitations=facts.limitations or limitations,
        )
        written = _written(files, made)
    elif CARD not in files:
        written = _written(files, replace(given, **_seen(files), base_model=bases or None, limitations=limitations))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CARD
        path.write_bytes(written.get(CARD) or _bytes(files[CARD]))
        card = read_card(path)
    data: Any = card.data
    if license:
        data.license = license
    if bases:
        data.base_model = bases[0] if len(bases) == 1 else bases
    elif any(
        is_place(base) for base in (data.base_model if isinstance(data.base_model, list) else [data.base_model or "x"])
    ):
        data.base_model = None  # a folder of this machine
    if data.tags:  # peft's say "base_model:adapter:" and the folder
        data.tags = [tag for tag in data.tags if not (":" in str(tag) and is_place(str(tag).rpartition(":")[2]))]
    if languages:
        data.language = list(languages)
    if tags:
        data.tags = list(dict.fromkeys([*(data.tags or []), *tags]))
    if data.eval_results and not data.model_name:
        data.model_name = given.name
    ours = "mmembed" in (data.tags or [])
    body = _OWN_FOLDER.sub(lambda match: f"{match[1]}{json.dumps(repo_id)}{match[2]}", card.text)
    if limitations and "## Limitations" not in body:
        body = f"{body.rstrip()}\n\n## Limitations\n\n{escape_markdown(limitations)}\n"
    if ours:
        body = body.rstrip() + "\n" + _code(files, body) + _requirements(body)
    front = data.to_yaml(original_order=card._original_order)
    return {**written, CARD: f"---\n{front}\n---\n{body}".encode()}


def check_card(files: Mapping[str, Source]) -> list[str]:
    """Read a card and its results as the Hub does, offline.

    Args:
        files: The model's, the card among them.

    Returns:
        What a reader will miss: no licence, no base model, no numbers, a part that was never filled in.

    Raises:
        ValueError: The metadata, the model-index or a file of results cannot be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CARD
        path.write_bytes(_bytes(files[CARD]))
        card: ModelCard = read_card(path)
    data: Any = card.data
    results = [path for path in files if path.startswith(f"{FOLDER}/")]
    for name in results:
        try:
            entries = yaml.safe_load(_bytes(files[name]))
            if not isinstance(entries, list) or not parse_eval_result_entries(entries):
                raise ValueError("it holds no result")
        except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, RecursionError) as error:
            raise PublishError(f"{name} is no file of results ({' '.join(str(error).split())[:200]})") from None
    notes = []
    if not data.license:
        notes.append("the card names no licence: nobody may use the model; say --license")
    if not data.base_model:
        notes.append("the card names no base model of the Hub")
    if not data.language:
        notes.append("the card names no language")
    if not results and not data.eval_results:
        notes.append("the card has no numbers: `mmembed evaluate --update_card` writes them")
    if _UNFILLED.search(card.text):
        notes.append("the card has a part that was never filled in: [More Information Needed]")
    if not re.search(r"^#+ .*(Limit|Bias|Out-of-Scope)", card.text, re.MULTILINE | re.IGNORECASE):
        notes.append("the card says nothing of the model's limits")
    return notes


def _bytes(source: Source) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def _written(files: Mapping[str, Source], facts: CardFacts) -> dict[str, bytes]:
    """The card and the results of facts, as `write_card` writes them beside a model."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for path in files:
            if path.endswith("config.json") and path.count("/") < 2 or path == facts.contact_sheet:
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_bytes(_bytes(files[path]))
        kept = set(folder.rglob("*"))
        write_card(folder, facts)
        new = [path for path in folder.rglob("*") if path.is_file() and path not in kept]
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in new}
    if MANIFEST in files:
        found[CARD] = _export_card(files, facts)
    elif ADAPTER in files:
        found[CARD] = _adapter_card(files, facts)
    elif _is_reranker(files):
        found[CARD] = _reranker_card(facts)
    return found


def _seen(files: Mapping[str, Source]) -> dict[str, Any]:
    """What the files themselves say of a model."""
    config = content_of(files, "sentence_bert_config.json")
    modalities = set((config or {}).get("modality_config") or {"text": {}})
    inputs = [kind for kind in ("text", "image") if kind in modalities]
    if {"image+text", "text+image", "message"} & modalities and len(inputs) == 2:
        inputs.append("fused")
    pooling = content_of(files, "1_Pooling/config.json") or {}
    own = content_of(files, "config.json") or {}
    dimensions = (
        pooling.get("word_embedding_dimension") or pooling.get("embedding_dimension") or own.get("projection_dim")
    )
    return {"inputs": inputs or ["text"], "dimensions": dimensions if isinstance(dimensions, int) else None}


def _is_reranker(files: Mapping[str, Source]) -> bool:
    kind = content_of(files, "config_sentence_transformers.json") or {}
    names = (content_of(files, "config.json") or {}).get("architectures") or []
    return kind.get("model_type") == "CrossEncoder" or any(
        str(name).endswith("ForSequenceClassification") for name in names
    )


def _reranker_card(facts: CardFacts) -> bytes:
    example = (
        "from sentence_transformers import CrossEncoder\n\n"
        'model = CrossEncoder("path/to/this/folder")\n'
        'ranking = model.rank("a query", ["a candidate", "another"])'
    )
    what = "A scorer of pairs: how well does a candidate answer a query?"
    return _short_card(facts, "sentence-transformers", "text-ranking", _RERANKER_TAGS, what, example)


def _adapter_card(files: Mapping[str, Source], facts: CardFacts) -> bytes:
    base = (content_of(files, ADAPTER) or {}).get("base_model_name_or_path")
    example = (
        "from peft import AutoPeftModel\n\n"
        f"model = AutoPeftModel.from_pretrained({json.dumps(facts.model_id or 'owner/name')})  # loads its base as well"
    )
    what = f"An adapter of {escape_markdown(str(base))}, which mmembed trained."
    return _short_card(facts, "peft", "feature-extraction", ["peft", "mmembed"], what, example)


def _export_card(files: Mapping[str, Source], facts: CardFacts) -> bytes:
    about = content_of(files, MANIFEST) or {}
    reranks = about.get("kind") == "reranker"
    name = "OnnxReranker" if reranks else "OnnxEmbedder"
    verbs = sorted({str(graph.get("verb")) for graph in about.get("graphs") or [] if isinstance(graph, dict)})
    repo_id = facts.model_id or "owner/name"
    call = (
        'ranking = model.rank("a query", ["a candidate", "another"])'
        if reranks
        else 'texts = model.encode(["a red dress", "a blue mug"])'
        if "text" in verbs
        else "images = model.encode([photo])  # a PIL image"
    )
    example = (
        f"from huggingface_hub import snapshot_download\n\nfrom mmembed.export.onnx_embedder import {name}\n\n"
        f"folder = snapshot_download({json.dumps(repo_id)}, local_dir={json.dumps(facts.name)})  # files, not links\n"
        f"model = {name}(folder)\n{call}"
    )
    what = (
        f"ONNX graphs ({', '.join(verbs)}) that mmembed exported; before each was kept, its numbers were compared with the "
        "model's on real rows (`parity.txt`). `mmembed_onnx.json` names inputs, outputs and the SHA-256 of every file."
    )
    task = "text-ranking" if reranks else "feature-extraction"
    return _short_card(facts, "mmembed", task, ["onnx", "mmembed"], what, example)


def _short_card(facts: CardFacts, library: str, task: str, tags: Sequence[str], what: str, example: str) -> bytes:
    """A card of what little is known of a folder."""
    front: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": task,
        "tags": list(dict.fromkeys([*tags, *facts.tags])),
        "language": list(facts.languages),
        "license": facts.license,
    }
    head = yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True)
    lines = [
        f"# {escape_markdown(facts.name)}",
        what,
        "## Use",
        f"```python\n{example}\n```",
        escape_markdown(facts.description),
        *(["## Limitations", escape_markdown(facts.limitations)] if facts.limitations else []),
    ]
    body = "\n\n".join(line for line in lines if line)
    return f"---\n{head}---\n\n{body}\n".encode()


def _code(files: Mapping[str, Source], body: str) -> str:
    """Which code a model brings, and how it is pinned."""
    code = [path for path in files if path.endswith(".py")]
    if not code or "## Code" in body:
        return ""
    rows = [[path, hashlib.sha256(_bytes(files[path])).hexdigest()] for path in code]
    told = (
        "The code stands beside the weights, in the same commit, and names no other repository: `revision=` with the commit's "
        "hash pins both, and no `code_revision` is needed. transformers runs it only with `trust_remote_code=True`; with mmembed "
        "installed its own copy is used instead."
    )
    return f"\n## Code\n\n{told}\n\n{markdown_table(rows, ['file', 'SHA-256'])}\n"


def _requirements(body: str) -> str:
    needs = least_versions()
    if not needs or "## Requirements" in body:
        return ""
    listed = ", ".join(f"{package} {version}" for package, version in needs.items())
    return f"\n## Requirements\n\n{listed}.\n"
