"""How is a card that somebody else wrote read, so that nothing in it constructs, expands or exhausts?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK

_MOST_BYTES = 4 << 20
_MOST_VALUES = 100_000  # of a card's front matter, aliases written out


def read_card(path: Path) -> ModelCard:
    """Read a model's card.

    Args:
        path: Its README.md.

    Returns:
        Hugging Face's card, its metadata in `data`.

    Raises:
        ValueError: It is too large, or its front matter cannot be read.

    Example:
        >>> path = getfixture("tmp_path") / "README.md"
        >>> _ = path.write_text("---\\nlicense: mit\\n---\\n# Shoes\\n")
        >>> read_card(path).data.license
        'mit'
    """
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, at most {_MOST_BYTES:,} are read")
        content = path.read_bytes().decode("utf-8-sig")
        if front := REGEX_YAML_BLOCK.search(content):
            _check_size(yaml.safe_load(front.group(2)))
        return ModelCard(content)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: its front matter cannot be read ({' '.join(str(error).split())}): mend it") from None


def _check_size(front: Any) -> None:
    """Refuse aliases of aliases: the Hub's tools write each of them out."""
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        if not isinstance(value, (dict, list)):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = _MOST_VALUES + 1  # of one that holds itself
            sizes[id(value)] = 1 + sum(map(size, value.values() if isinstance(value, dict) else value))
        return sizes[id(value)]

    if size(front) > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES:,} values")
