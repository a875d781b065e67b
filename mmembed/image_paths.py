"""Which file may an image path name? One under a declared root, and nothing else.

A path in a data row may come from a stranger. It is read only when its real location, symbolic links resolved, lies
under the real location of
the root that the caller declared; the file is then opened component by component without following links, so that a
link swapped in between
the check and the opening is refused too (where the platform has `openat`, that is everywhere but on Windows).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import PurePath

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/|://|^(file|local|data|http|https):", re.IGNORECASE)
_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:[\\/]")
_LONGEST_PATH, _LONGEST_NAME = (
    4095,
    255,
)  # bytes; the limits of Linux, kept everywhere so that a table reads the same on each machine


class ImageError(ValueError):
    """An image that cannot or may not be read; the message says why and what to do, and never quotes the file's
    contents."""


def shortened(text: object, limit: int = 200) -> str:
    """`repr` of a user's value on one line and at most about `limit` characters, for messages.

    Example:
        >>> shortened("a.jpg")
        "'a.jpg'"
        >>> len(shortened("a" * 5000)) < 250
        True
    """
    text = text if isinstance(text, str) else str(text)
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}… ({len(text)} characters)"


def _refused(path: str, reason: str, remedy: str) -> ImageError:
    return ImageError(f"image path {shortened(path)} is refused: {reason}; {remedy}")


def check_spelling(path: str) -> None:
    """Refuse what is not a plain file path before the file system hears of it."""
    if not path or "\0" in path:
        raise _refused(path, "it is empty or holds a NUL character", "give a file path relative to the root")
    if path.lower().startswith(("http:", "https:")):
        raise _refused(
            path,
            "it is a URL, and mmembed opens no network connection for an image",
            "download the file first, then pass its path with ImagePolicy(root=...) or its bytes",
        )
    if _SCHEME.search(path):
        raise _refused(path, "it names a scheme", "give a plain file path relative to the root")
    if _WINDOWS_DRIVE.match(path) and os.name != "nt":
        raise _refused(path, "it is a Windows path", "give a file path relative to the root")
    if path.startswith("\\\\"):
        raise _refused(path, "it names a network share", "give a file path relative to the root")
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise _refused(path, "it cannot be spelled in this file system's encoding", "rename the file") from None
    if len(encoded) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in encoded.split(b"/")):
        raise _refused(path, "it is longer than a file path can be", "check that the column holds paths, not texts")


def _under(real_root: str, path: str, given: str) -> str:
    real = os.path.realpath(os.path.join(real_root, path))
    if real == real_root or not real.startswith(os.path.join(real_root, "")):
        raise _refused(
            given,
            "it leads outside the root (directly, through '..' or through a symbolic link)",
            "set root to a directory that really holds the files",
        )
    return real


def _real_root(root: str | os.PathLike[str]) -> str:
    if not os.fspath(root) or "\0" in os.fspath(root):
        raise ImageError(
            "the image root is empty: give the directory under which image paths lie, such as root='data/images'"
        )
    real_root = os.path.realpath(root)
    if not os.path.isdir(real_root):
        raise ImageError(f"the image root {shortened(os.fspath(root))} is not a directory: give one that exists")
    return real_root


def _check_file(status: os.stat_result, given: str, allow_hardlinks: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(given, "it is a directory, a pipe, a socket or a device", "give the path of a regular file")
    if status.st_nlink > 1 and not allow_hardlinks:
        raise _refused(
            given,
            f"the file has {status.st_nlink} names (hard links), so it may also be a file from outside the root",
            "copy the files, or allow it with allow_hardlinks=True where you trust whoever made the directory",
        )


def resolve_under(
    root: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    allow_hardlinks: bool = False,
    must_exist: bool = True,
) -> str:
    """The real absolute location of an image path, or an error if it does not lie under the root.

    Args:
        root: directory under which the path must lie once all symbolic links are resolved.
        path: a path relative to `root`, or an absolute one that leads under it.
        allow_hardlinks: accept a file that has more than one name.
        must_exist: also require a regular file there; False checks the location only (and whatever is there already).

    Returns:
        The absolute path, free of symbolic links.

    Raises:
        ImageError: the path is a URL, names a scheme, a share, a drive, a directory, a pipe or a device, leads outside
        the root, or is missing.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as root:  # doctest: +ELLIPSIS
        ...     _ = pathlib.Path(root, "a.png").write_bytes(b"")
        ...     assert resolve_under(root, "a.png") == os.path.realpath(os.path.join(root, "a.png"))
        ...     resolve_under(root, "../a.png")
        Traceback (most recent call last):
            ...
        mmembed.image_paths.ImageError: image path '../a.png' is refused: it leads outside the root (directly, ...
    """
    return _located(root, os.fspath(path), allow_hardlinks, must_exist)[1]


def _located(
    root: str | os.PathLike[str], given: str, allow_hardlinks: bool, must_exist: bool = True
) -> tuple[str, str]:
    """The real locations of the root and of the path."""
    check_spelling(given)
    real_root = _real_root(root)
    try:
        real = _under(real_root, given, given)
        status = os.stat(real, follow_symlinks=False)
    except FileNotFoundError:
        if not must_exist:
            return real_root, real
        raise _refused(given, "there is no such file under the root", "check the path and the root") from None
    except OSError as error:
        raise _refused(given, f"the system says: {error.strerror}", "check the path and the permissions") from None
    _check_file(status, given, allow_hardlinks)
    return real_root, real


def _open_without_links(real_root: str, real: str) -> int:
    """A file descriptor of `real`, opened so that no component may have become a symbolic link since it was checked."""
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait; the type is checked on the descriptor.
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NOCTTY", 0)
    if os.open not in os.supports_dir_fd:
        return os.open(real, flags)
    *folders, name = PurePath(real[len(os.path.join(real_root, "")) :]).parts
    directory = os.open(real_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            deeper = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = deeper
        return os.open(name, flags, dir_fd=directory)
    finally:
        os.close(directory)


def read_under(
    root: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    max_bytes: int,
    allow_hardlinks: bool = False,
) -> bytes:
    """The bytes of a file under the root; what is checked is what is read.

    Args:
        root: directory under which the path must lie once all symbolic links are resolved.
        path: a path relative to `root`, or an absolute one that leads under it.
        max_bytes: longest file to read.
        allow_hardlinks: accept a file that has more than one name.

    Returns:
        The file's contents.

    Raises:
        ImageError: as `resolve_under`, or the file is longer than `max_bytes` or cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     _ = pathlib.Path(root, "a.png").write_bytes(b"abc")
        ...     read_under(root, "a.png", max_bytes=10)
        b'abc'
    """
    given = os.fspath(path)
    real_root, real = _located(root, given, allow_hardlinks)
    try:
        descriptor = _open_without_links(real_root, real)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            _check_file(status, given, allow_hardlinks)
            if status.st_size > max_bytes:
                raise _refused(
                    given, f"the file has {status.st_size} bytes, more than max_bytes={max_bytes}", "raise the limit"
                )
            contents = file.read(max_bytes + 1)  # one byte more than allowed: the file may have grown since
    except OSError as error:
        raise _refused(
            given, f"it cannot be read, the system says: {error.strerror}", "check its permissions"
        ) from None
    if len(contents) > max_bytes:
        raise _refused(given, f"the file has more than max_bytes={max_bytes} bytes", "raise the limit")
    return contents
