"""What `mmembed push` can be told. Imports nothing heavy, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from mmembed.jobs.data_options import option


@dataclass
class PushOptions:
    """Which model is published, under which name, and what its card says.

    The folder is looked through before anything of it is sent: no pickle, no link, no foreign code. The token is that of
    `hf auth login` or HF_TOKEN; it is no option, so that no shell's history and no configuration holds it.
    """

    model: str | None = option(None, "folder of the model: an embedding model, a reranker or an ONNX export")
    repo_id: str | None = option(None, "name on the Hub, as owner/name")
    private: bool = option(False, "make the repository private; one that is public already is refused")
    dry_run: bool = option(False, "build and check everything, tell it, and send nothing")
    output: str | None = option(None, "folder to also write the published files to")
    replace: bool = option(False, "remove what the repository holds besides the model")
    commit_message: str | None = option(None, "of the commit; null: Upload NAME with mmembed")
    endpoint: str | None = option(None, "address of the Hub; null: HF_ENDPOINT, else https://huggingface.co")

    # the card
    license: str | None = option(None, "licence as the Hub spells it, such as apache-2.0")
    base_model: list[str] = option([], "Hub names of what it was trained from")
    language: list[str] = option([], "ISO codes of its languages, such as en")
    tags: list[str] = option([], "more tags")
    limitations: str = option("", "a paragraph for a card that names no limits")
