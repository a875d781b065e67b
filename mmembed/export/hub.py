"""From a model to a repository on the Hub, or to the same files in a folder: built, checked, told, and only then sent."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id
from sentence_transformers import CrossEncoder, SentenceTransformer

from mmembed.export.card import CardFacts, write_card
from mmembed.export.hub_upload import HubError, upload
from mmembed.export.portable_layout import portable_layout, with_named_base
from mmembed.export.published_card import check_card, published_card
from mmembed.export.published_files import PublishError, Source, check_secrets, choose_files
from mmembed.export.serving_fit import ServerFit, serving_fit
from mmembed.whole_files import write_whole

__all__ = ["HubError", "PublishError", "PublishedFile", "PushReport", "push_to_hub", "save_model"]


@dataclass(frozen=True)
class PublishedFile:
    """A file as it is published.

    Args:
        path: In the repository.
        size: In bytes.
        sha256: Of its content.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PushReport:
    """What a push built, and where it is.

    Args:
        repo_id: "owner/name".
        files: What is published.
        left_out: Files of the folder that are not, with the reason.
        servers: Which servers can run it.
        notes: What a reader of the card will miss, and what else is worth knowing.
        commit: Hash of the commit on the Hub; None after a dry run. `revision=` of this hash pins weights and code.
        url: Where a person sees it; None after a dry run.
    """

    repo_id: str
    files: tuple[PublishedFile, ...]
    left_out: Mapping[str, str]
    servers: tuple[ServerFit, ...]
    notes: tuple[str, ...]
    commit: str | None = None
    url: str | None = None

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)


def push_to_hub(
    model: SentenceTransformer | CrossEncoder | str | os.PathLike[str],
    repo_id: str,
    *,
    card: CardFacts | None = None,
    license: str | None = None,
    base_model: str | Sequence[str] | None = None,
    languages: Sequence[str] = (),
    tags: Sequence[str] = (),
    limitations: str = "",
    private: bool = False,
    replace: bool = False,
    commit_message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
) -> PushReport:
    """Publish a model: safetensors and no pickle, a card whose example runs, a layout that other servers read.

    The folder is looked through before anything of it is loaded or sent, see `check_model_folder` and `choose_files`. What
    loads it needs no mmembed: stock architectures load in plain sentence-transformers and transformers, ours bring their
    code in the same commit.

    Args:
        model: A model in memory, or a folder: of an embedding model, a `CrossEncoder`, or an ONNX export.
        repo_id: "owner/name".
        card: What the card says; None keeps that of the folder, or writes one from its files.
        license: As the Hub spells it, such as "apache-2.0".
        base_model: Hub ids of what it was trained from.
        languages: ISO codes such as "en".
        tags: More tags.
        limitations: A paragraph for a card that has none.
        private: The repository is to be private. One that is public already is refused.
        replace: Remove what the repository holds besides the model.
        commit_message: Of the commit.
        token: Of the Hub; None takes what `hf auth login` stored, or HF_TOKEN. It is sent to the endpoint alone.
        endpoint: Of the Hub; None takes HF_ENDPOINT.
        dry_run: Build and check everything, and send nothing.

    Returns:
        What was published, what was not and why, which servers can run it, and the commit.

    Raises:
        ModelError: The folder is hostile.
        PublishError: The model is not fit to be published.
        HubError: It did not reach the Hub. A repetition goes on where this one stopped.
        ValueError: What is given for the card is nothing that the Hub takes.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> report = push_to_hub(model, "me/red-mugs", license="apache-2.0", languages=["en"], dry_run=True)
        >>> [file.path for file in report.files if file.path.endswith(".py")]
        ['configuration_dual_encoder.py', 'modeling_dual_encoder.py', 'processing_dual_encoder.py']
    """
    _check_repo_id(repo_id)
    told: dict[str, Any] = {
        "license": license, "base_model": base_model, "languages": languages, "tags": tags, "limitations": limitations
    }  # fmt: skip
    with _folder_of(model, card) as folder:
        # A model in memory has its card written beside it; of a folder nothing is changed.
        files, left_out, notes = _built(folder, repo_id, card if folder == _path(model) else None, told)
        check_secrets(files, token or get_token())
        report = PushReport(
            repo_id,
            tuple(_published(path, source) for path, source in files.items()),
            left_out,
            tuple(serving_fit(files)),
            notes,
        )
        if dry_run:
            return report
        name = repo_id.rpartition("/")[2]
        sent = upload(
            files,
            repo_id,
            private=private,
            replace=replace,
            message=commit_message or f"Upload {name} with mmembed",
            token=token,
            endpoint=endpoint,
        )
    if sent.pickles:
        shown = ", ".join(sent.pickles[:5])
        notes += (f"the repository still holds {shown}, which can carry code: push with --replace",)
    return dataclasses.replace(report, notes=notes, commit=sent.commit, url=sent.url)


def save_model(
    model: SentenceTransformer | CrossEncoder | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    repo_id: str = "owner/name",
    card: CardFacts | None = None,
    **told: Any,
) -> Path:
    """Write the very files that `push_to_hub` would send into a folder.

    Args:
        model: A model in memory, or a folder.
        folder: Where they go; a model that stands there is replaced at the end, anything else is left alone.
        repo_id: What the card's example loads.
        card: See `push_to_hub`.
        **told: `license`, `base_model`, `languages`, `tags`, `limitations` of `push_to_hub`.

    Returns:
        The folder.

    Raises:
        ModelError: The model's folder is hostile.
        PublishError: It is not fit to be published, or something else than a model stands there.
        ValueError: What is given for the card is nothing that the Hub takes.

    Example:
        >>> from mmembed.models.dual_encoder.building import build_dual_encoder
        >>> model = build_dual_encoder(["red mug"], text_hidden_size=16, text_layers=1, image_size=32,
        ...     image_embedding_size=8, image_hidden_sizes=[8], image_depths=[1], projection_dim=8)
        >>> folder = save_model(model, getfixture("tmp_path") / "red-mugs", license="mit")
        >>> (folder / "model.safetensors").is_file()
        True
    """
    _check_repo_id(repo_id)
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())) and not (place / "README.md").is_file():
        raise PublishError(f"{place} holds something else than a published model; name another folder")
    with _folder_of(model, card) as source:
        if place.resolve() == source.resolve() or place.resolve() in source.resolve().parents:
            raise PublishError(f"{place} is the model's own folder; name another")
        files, _, _ = _built(source, repo_id, card if source == _path(model) else None, told)
        check_secrets(files, get_token())
        write_whole(place, lambda new: _write(files, Path(new)))
    return place


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"the Hub does not take {repo_id!r:.100} ({' '.join(str(error).split())[:200]})") from None
    if repo_id.count("/") != 1:
        raise HubError(f"{repo_id!r:.100} names no owner: write it as in 'owner/name'")


def _path(model: Any) -> Path | None:
    return Path(model) if isinstance(model, (str, os.PathLike)) else None


@contextmanager
def _folder_of(model: Any, card: CardFacts | None) -> Iterator[Path]:
    """The model's folder; a model in memory is saved for the time being."""
    path = _path(model)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch, create_model_card=False)
        if card is not None:
            write_card(scratch, card)
        yield Path(scratch)


def _built(
    folder: Path, repo_id: str, card: CardFacts | None, told: Mapping[str, Any]
) -> tuple[dict[str, Source], dict[str, str], tuple[str, ...]]:
    """Every file as it is published, what is not, and what a reader of the card will miss."""
    chosen, left_out = choose_files(folder)
    base = told.get("base_model")
    files = with_named_base(portable_layout(chosen), base if isinstance(base, str) or not base else base[0])
    files |= published_card(files, repo_id, facts=card, **told)
    return dict(sorted(files.items())), left_out, tuple(check_card(files))


def _published(path: str, source: Source) -> PublishedFile:
    if isinstance(source, bytes):
        return PublishedFile(path, len(source), hashlib.sha256(source).hexdigest())
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PublishedFile(path, source.stat().st_size, digest)


def _write(files: Mapping[str, Source], folder: Path) -> None:
    folder.mkdir()
    for path, source in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            (folder / path).write_bytes(source)
        else:
            shutil.copyfile(source, folder / path)
