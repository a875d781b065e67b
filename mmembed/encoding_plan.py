"""plan.json and shard-00000.json: what a folder of vectors was begun with, and which of its shards are whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from typing import Any

from mmembed.data.schema import DataError, shown
from mmembed.embeddings import MANIFEST, check_shard_entry, read_manifest, read_shard
from mmembed.whole_files import write_whole

PLAN = "plan.json"

# What each line of the plan is called in a message.
_PLANNED = {
    "use": "another use",
    "prompt": "another prompt",
    "dtype": "another dtype",
    "shard_rows": "another shard_rows",
    "model_fingerprint": "another model (its weights, modules or tokenizer differ)",
    "dim": "another dimension",
    "count": "another number of items",
    "items": "other items (ids, texts or images differ)",
}
_LEFT_BEHIND = re.compile(r"\.(ids|vectors|shard|plan|manifest)(-\d{5,})?\.(jsonl|npy|json)-\w{8}")


def begin_folder(folder: str, plan: dict[str, Any], revision: str | None) -> dict[str, Any]:
    """Write the plan, or check that what is there was begun with the same; with "whole": whether nothing is to be done."""
    for name, whole in ((MANIFEST, True), (PLAN, False)):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            found = read_manifest(folder) if whole else _read_json(path)
            if plan["shard_rows"] is None:
                plan["shard_rows"] = _shard_rows(found, path)
            _check_plan(found, plan, path, whole=whole, revision=revision)
            if whole:
                tidy_folder(folder)
            # What an earlier run called the model stays.
            return {**plan, **{name: found.get(name, plan[name]) for name in ("model", "revision")}, "whole": whole}
    if os.path.lexists(folder) and (not os.path.isdir(folder) or any(map(_is_foreign, os.listdir(folder)))):
        raise DataError("holds something other than embeddings; give an empty or new folder", file=folder)
    if plan["shard_rows"] is None:
        plan["shard_rows"] = min(max(-(-plan["count"] // 32), 1024), 65_536)
    write_json(os.path.join(folder, PLAN), plan)
    return {**plan, "whole": False}


def _shard_rows(found: dict[str, Any], path: str) -> int:
    value = found.get("shard_rows")
    if type(value) is not int or value < 1:
        raise DataError(
            f"found {shown(value)}, expected a whole number of at least 1: these vectors were not begun by encode_dataset; "
            "give another folder",
            file=path,
            field="shard_rows",
        )
    return value


def _is_foreign(name: str) -> bool:
    """Whether a name in a folder without a plan is none that a killed process left behind."""
    return _LEFT_BEHIND.fullmatch(name) is None


def tidy_folder(folder: str) -> None:
    """Remove what only the work needed, and what a process that was killed left half written."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name == PLAN or re.fullmatch(r"shard-\d{5,}\.json", name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        elif _LEFT_BEHIND.fullmatch(name) and os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)


def _check_plan(found: dict[str, Any], plan: dict[str, Any], path: str, *, whole: bool, revision: str | None) -> None:
    wanted = dict(_PLANNED)
    if revision is not None:  # one that was asked for, not the commit that a model happens to be of
        wanted["revision"] = "another revision"
    for field, what in wanted.items():
        if found.get(field) != plan[field]:
            state = "holds embeddings" if whole else "was begun"
            values = f": {found.get(field)!r} there, {plan[field]!r} now" if field not in ("items",) else ""
            message = f"the folder {state} with {what}{values}; give another folder, or delete this one"
            raise DataError(message, file=path, field=field)


def whole_shard(folder: str, number: int, ids: list[str], plan: dict[str, Any]) -> dict[str, Any] | None:
    """The entry of a shard that an earlier run wrote whole; None for one that is still to be written."""
    path = os.path.join(folder, receipt_name(number))
    if not os.path.exists(path):
        return None
    try:
        entry = check_shard_entry(_read_json(path), path)
        found, _ = read_shard(folder, entry, dim=plan["dim"], dtype=plan["dtype"], verify=True)
    except DataError:
        return None  # damaged since: written again
    return entry if found == ids else None


def receipt_name(number: int) -> str:
    """The file that says that a shard is whole."""
    return f"shard-{number:05d}.json"


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON in UTF-8 ({error}); delete the folder and encode again", file=path) from None
    if not isinstance(found, dict):
        raise DataError("not a JSON object; delete the folder and encode again", file=path)
    return found


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a plan or a receipt, whole."""

    def write(new: str) -> None:
        with open(new, "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, ensure_ascii=False, indent=2)

    write_whole(path, write)
