"""How do a model's files reach the Hub, and what is said when they do not?

The whole model is one commit of huggingface_hub's own client: a repository holds it as it was, or as it is meant. Large
files go first; what has reached the Hub is not sent again by the next attempt.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from mmembed.export.published_files import Source

_KEPT = (".gitattributes",)
_ASKED_AT_ONCE = 500  # paths; the Hub takes at most 1,000
_PICKLED = re.compile(r".*\.(bin|pt|pth|pkl|pickle|joblib|ckpt|npy)")


class HubError(ValueError):
    """A model that did not reach the Hub: at which step, what is there now, and what to do."""


@dataclass(frozen=True)
class Upload:
    """What an upload left on the Hub.

    Args:
        commit: Hash of the commit that holds the model.
        url: Where a person sees it.
        deleted: Files of earlier commits that were removed.
        others: Files that the repository holds besides the model's.
    """

    commit: str
    url: str
    deleted: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def pickles(self) -> tuple[str, ...]:
        """Those of `others` that can carry code."""
        return tuple(path for path in self.others if _PICKLED.fullmatch(path))


def upload(
    files: Mapping[str, Source],
    repo_id: str,
    *,
    private: bool = False,
    replace: bool = False,
    message: str = "Upload a model with mmembed",
    token: str | None = None,
    endpoint: str | None = None,
) -> Upload:
    """Create the repository where it is missing, send the files, commit them, and look whether they are there.

    Args:
        files: By their path in the repository.
        repo_id: "owner/name".
        private: The repository is to be private; one that is public already is refused.
        replace: Remove what the repository holds besides these files.
        message: Of the commit.
        token: Of the Hub; None takes what `hf auth login` stored, or HF_TOKEN.
        endpoint: Of the Hub; None takes HF_ENDPOINT.

    Returns:
        The commit.

    Raises:
        HubError: With the step that failed and what to do. A repetition goes on where this one stopped.
    """
    api, token = _api(token, endpoint)
    with _step("creating the repository", repo_id, token, "nothing was sent"):
        api.create_repo(repo_id, private=True if private else None, exist_ok=True, repo_type="model")
    with _step("reading the repository", repo_id, token, "the repository is there, nothing was sent"):
        info = api.repo_info(repo_id, repo_type="model")
        there = set(api.list_repo_files(repo_id, repo_type="model"))
    if private and info.private is False:
        raise HubError(
            f"{repo_id} is public already; make it private on its page, or name another, before a private model goes there"
        )
    extra = sorted(there - set(files) - set(_KEPT))
    additions = [
        CommitOperationAdd(path, source if isinstance(source, bytes) else str(source)) for path, source in files.items()
    ]
    deletions = [CommitOperationDelete(path, is_folder=False) for path in extra] if replace else []
    told = "the repository still holds what it held; repeat the command to go on, what was sent is not sent again"
    with _step("sending the large files", repo_id, token, told):
        api.preupload_lfs_files(repo_id, additions, repo_type="model", free_memory=False)
    with _step("committing", repo_id, token, told):
        commit = api.create_commit(repo_id, [*deletions, *additions], commit_message=message, repo_type="model")
    with _step("looking whether all is there", repo_id, token, "repeat the command"):
        _check_arrived(api, repo_id, commit.oid, additions)
    return Upload(
        str(commit.oid),
        f"{api.endpoint}/{repo_id}/tree/{commit.oid}",
        deleted=tuple(extra) if replace else (),
        others=() if replace else tuple(extra),
    )


def _api(token: str | None, endpoint: str | None) -> tuple[HfApi, str]:
    endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise HubError(f"the endpoint {endpoint!r:.200} is no address of a Hub, such as https://huggingface.co")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise HubError(f"the endpoint {endpoint!r:.200} is not https: a token sent there can be read on the way")
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so nothing is sent; unset it, or use the dry run")
    token = token or get_token()
    if not token:
        raise HubError("there is no token of the Hub: run `hf auth login`, or set HF_TOKEN")
    return HfApi(endpoint=endpoint, token=token, library_name="mmembed"), token


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _step(doing: str, repo_id: str, token: str, state: str) -> Iterator[None]:
    """Say in one line what failed, of whatever kind it is: the client raises many."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        raise HubError(f"{repo_id}: {doing} failed: {_reason(error, token)}. Now: {state}.") from None


def _reason(error: BaseException, token: str) -> str:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, HfHubHTTPError):
        seen = seen.__cause__ or seen.__context__
    if isinstance(seen, HfHubHTTPError):
        status = seen.response.status_code
        what = " ".join((seen.server_message or "").split())
        hint = {
            401: "; the token is not valid: run `hf auth login`",
            403: "; the token may not write there: make one with write access",
            404: "; there is no such repository, or the token may not see it",
        }.get(status, "")
        text = f"the Hub answered {status}{f' ({what})' if what else ''}{hint}"
    else:
        cause = error.__cause__ or error
        text = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    # Addresses of uploads are signed: who has one may write. No message needs them.
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)[:400]
    return text.replace(token, "…")


def _check_arrived(api: HfApi, repo_id: str, commit: Any, additions: Sequence[CommitOperationAdd]) -> None:
    expected = {addition.path_in_repo: addition for addition in additions}
    paths = list(expected)
    found: dict[str, Any] = {}
    for start in range(0, len(paths), _ASKED_AT_ONCE):
        for file in api.get_paths_info(repo_id, paths[start : start + _ASKED_AT_ONCE], revision=commit):
            found[file.path] = file
    for path, addition in expected.items():
        arrived = found.get(path)
        if arrived is None:
            raise HubError(
                f"{repo_id}: {path} did not arrive, though the Hub took the commit {commit}; repeat the command"
            )
        lfs = getattr(arrived, "lfs", None)
        same = lfs.sha256 == addition.upload_info.sha256.hex() if lfs else arrived.blob_id == _git_hash(addition)
        if not same:
            raise HubError(f"{repo_id}: {path} arrived as something else at the commit {commit}; repeat the command")


def _git_hash(addition: CommitOperationAdd) -> str:
    with addition.as_file() as file:
        content = file.read()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
