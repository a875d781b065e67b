"""How a folder that FlagEmbedding trained pools its tokens, which the weights and their configuration do not say."""

from __future__ import annotations

import os
import pickletools
import zipfile
from pathlib import Path
from typing import Any

_ARGUMENTS = "training_args.bin"
_LARGEST = 1 << 20  # bytes of pickled arguments; FlagEmbedding's are some 5 kB
#: FlagEmbedding's names of poolings → sentence-transformers'.
POOLINGS = {"cls": "cls", "mean": "mean", "last_token": "lasttoken"}


def recorded_pooling(folder: str | os.PathLike[str]) -> str | None:
    """The pooling that FlagEmbedding trained a folder with.

    FlagEmbedding saves a plain transformers folder without modules, so that whoever loads it must know its pooling. It is
    written in the training arguments beside the weights, a pickle: that is read as text, instruction by instruction, and
    none is carried out.

    Args:
        folder: The output folder of a training run, or one of its checkpoints.

    Returns:
        "cls", "mean" or "lasttoken", as `load_model(folder, pooling=…)` takes it; None where FlagEmbedding left no record.

    Raises:
        ValueError: If the record names a pooling that FlagEmbedding does not have.

    Example:
        >>> recorded_pooling(getfixture("tmp_path")) is None
        True
    """
    path = Path(folder) / _ARGUMENTS
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith("data.pkl")]
            if len(entries) != 1 or entries[0].file_size > _LARGEST:
                return None
            pickled = archive.read(entries[0])
        said = _value_after("sentence_pooling_method", pickled)
    except (ValueError, zipfile.BadZipFile, EOFError):
        return None  # not written by torch.save; some other program's file
    if said is None:
        return None
    if said not in POOLINGS:
        raise ValueError(f"{path} names the pooling {said!r}; FlagEmbedding has {', '.join(POOLINGS)}.")
    return POOLINGS[said]


def _value_after(key: str, pickled: bytes) -> Any:
    """What a pickle puts on its stack right after a text, without building anything; None where the text is not in it."""
    memo: dict[int, Any] = {}
    last: Any = None
    found = False
    for operation, argument, _ in pickletools.genops(pickled):
        name = operation.name
        if name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if argument is None else int(argument)] = last
            continue
        last = memo.get(int(argument)) if name.endswith("GET") and argument is not None else argument
        if found:
            return last
        found = last == key
    return None
