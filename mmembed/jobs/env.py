"""What a bug report needs to say about the machine: versions, platform, cores. Imports none of what it names."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from mmembed.jobs.options import parse_options

PACKAGES = (
    "mmembed",
    "torch",
    "transformers",
    "sentence-transformers",
    "datasets",
    "accelerate",
    "peft",
    "pillow",
    "faiss-cpu",
    "ir-measures",
    "xxhash",
)


@dataclasses.dataclass
class EnvOptions:
    """`mmembed env` has no options of its own."""


def main(argv: Sequence[str]) -> int:
    """Print the versions of mmembed and of what it stands on.

    Args:
        argv: The words after the verb.

    Returns:
        The exit status, 0.

    Raises:
        OptionsError: For any option.

    Example:
        >>> main([])
        python: ...
        0
    """
    parse_options(EnvOptions, argv, prog="mmembed env", description="Print the versions that a bug report needs.")
    lines = [
        f"python: {platform.python_version()} ({sys.executable})",
        f"platform: {platform.platform()}",
        f"CPU cores: {os.cpu_count()}",
        *(f"{name}: {_version(name) or 'not installed'}" for name in PACKAGES),
    ]
    torch, torchvision = _version("torch"), _version("torchvision")
    if torchvision is None:
        lines.append("torchvision: not installed (not needed)")
    elif torch is not None and "+cu" not in torchvision and "+cpu" not in torch:
        lines.append(f"torchvision: {torchvision}")
    else:
        lines.append(
            f"torchvision: {torchvision} (warning: beside a CPU build of torch it breaks the import of transformers; "
            "`pip uninstall torchvision` if that import fails)"
        )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
