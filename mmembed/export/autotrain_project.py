"""Pairs of texts and a base model → a project that AutoTrain Advanced trains: config.yml, its data, and a base that it reads.

AutoTrain's environment holds transformers 4.48 and sentence-transformers 3.3; what newer ones save they do not read. A
base model from a folder is therefore written anew in the older spelling. Paths are relative, so that the project's
folder can be sent elsewhere, and nothing secret is written.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from mmembed.data.formats import jsonl
from mmembed.data.schema import DataError, did_you_mean
from mmembed.export.hub import save_model
from mmembed.models.loading import load_model

# The columns of each task, as its trainer takes them.
TASKS = {
    "pair": ("sentence1", "sentence2"),
    "pair_class": ("sentence1", "sentence2", "target"),
    "pair_score": ("sentence1", "sentence2", "target"),
    "triplet": ("sentence1", "sentence2", "sentence3"),
    "qa": ("sentence1", "sentence2"),
}
CONFIG, DATA, BASE = "config.yml", "data", "base_model"

# Words, as pandas would read "0" and "1" back as numbers, which AutoTrain's labels may not be.
CLASSES = ("other", "match")

# Fields of AutoTrain's SentenceTransformersParams that its config may set; the Hub's are left out on purpose.
PARAMS = {
    "lr": float, "epochs": int, "max_seq_length": int, "batch_size": int, "warmup_ratio": float,
    "gradient_accumulation": int, "optimizer": str, "scheduler": str, "weight_decay": float, "max_grad_norm": float,
    "seed": int, "logging_steps": int, "auto_find_batch_size": bool, "mixed_precision": str, "save_total_limit": int,
    "eval_strategy": str, "early_stopping_patience": int, "early_stopping_threshold": float,
}  # fmt: skip
_HUBS = ("token", "username", "push_to_hub")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_MAX_NAME = 50
# What pandas.read_csv takes for no value at all.
_NO_VALUES = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null"]
)  # fmt: skip


class AutoTrainError(ValueError):
    """What AutoTrain cannot be given, or did not do, with what to do."""


def autotrain_rows(
    pairs: Dataset, queries: Dataset, documents: Dataset, task: str, *, negatives: int = 1, source: str = "pairs"
) -> Iterator[dict[str, Any]]:
    """The rows of a task: one for each positive, or for each positive and some of its query's negatives.

    Args:
        pairs: PAIRS.
        queries, documents: the ITEMS in which their ids are looked up; every one of them needs a text.
        task: a name of `TASKS`. "pair" and "qa" take positives alone; "triplet" a row for each positive and negative;
            "pair_class" positives as "match" and negatives as "other"; "pair_score" the pairs' own scores, else 1 and 0.
        negatives: at most so many negatives of a query.
        source: what messages call the pairs.

    Yields:
        Rows with the columns of the task.

    Raises:
        DataError: an item has no text; or a task needs negatives and there are none.

    Example:
        >>> items = Dataset.from_dict({"id": ["q", "a", "b"], "text": ["red mug?", "a red mug", "a hat"]})
        >>> pairs = Dataset.from_dict({"query_id": ["q"], "positive_ids": [["a"]], "negative_ids": [["b"]]})
        >>> list(autotrain_rows(pairs, items, items, "triplet"))
        [{'sentence1': 'red mug?', 'sentence2': 'a red mug', 'sentence3': 'a hat'}]
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not one of {', '.join(TASKS)}{did_you_mean(task, TASKS)}")
    asked, told = _texts(queries), _texts(documents)
    has_scores = {"positive_scores", "negative_scores"} & set(pairs.column_names)
    with_negatives = 0
    for number, row in enumerate(pairs.with_format(None)):
        where = {"file": source, "row": number}
        prompt = row.get("prompt") or ""
        query = prompt + _looked_up(asked, row["query_id"], "query_id", where)
        good = [_looked_up(told, one, "positive_ids", where) for one in row["positive_ids"]]
        bad = [_looked_up(told, one, "negative_ids", where) for one in (row["negative_ids"] or [])[:negatives]]
        with_negatives += bool(bad)
        if task in ("pair", "qa"):
            yield from ({"sentence1": query, "sentence2": text} for text in good)
        elif task == "triplet":
            for text in good:
                yield from ({"sentence1": query, "sentence2": text, "sentence3": other} for other in bad)
        else:
            for texts, side, default in ((good, "positive", 1.0), (bad, "negative", 0.0)):
                scores = (row.get(f"{side}_scores") if has_scores else None) or [default] * len(texts)
                for text, score in zip(texts, scores):
                    target = CLASSES[side == "positive"] if task == "pair_class" else float(score)
                    yield {"sentence1": query, "sentence2": text, "target": target}
    if task in ("triplet", "pair_class") and not with_negatives:
        message = f"no query has negatives, and {task} learns from them; mine some with `mmembed mine`, or train pair"
        raise DataError(message, file=source, field="negative_ids")


def write_autotrain_project(
    folder: str | os.PathLike[str],
    train: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    *,
    task: str,
    base_model: str,
    project_name: str,
    params: Mapping[str, Any] | None = None,
    data_format: str = "jsonl",
) -> Path:
    """Write config.yml, the data, and a base model that AutoTrain's environment can read.

    Args:
        folder: where to; made where it is missing.
        train, validation: rows of `autotrain_rows`. Without validation rows AutoTrain holds out a fifth itself, by chance.
        task: a name of `TASKS`.
        base_model: a folder, which is copied in the older spelling, or a name on the Hub, which AutoTrain loads.
        project_name: the folder of the trained model: letters, digits and hyphens, at most 50.
        params: of `PARAMS`, over AutoTrain's defaults.
        data_format: "jsonl" or "csv". pandas reads both, and in CSV takes texts such as NA for nothing.

    Returns:
        The path of config.yml.

    Raises:
        AutoTrainError: a name, a parameter or a base model that AutoTrain would refuse.
        DataError: no rows, or a text that pandas would not read back as it is.
    """
    check_project_name(project_name)
    given = check_params(params or {})
    if data_format not in ("jsonl", "csv"):
        raise AutoTrainError(f"data_format={data_format!r}; choose jsonl or csv")
    for name, rows in (("train", train), ("validation", validation)):
        _check_rows(rows, task, name, data_format)
    place = Path(folder)
    (place / DATA).mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation)):
        if rows:
            _write_rows(place / DATA / f"{name}.{data_format}", rows, TASKS[task])
    is_folder = os.path.isdir(base_model)
    if is_folder:
        _write_base(base_model, place / BASE)
    config = {
        "task": f"sentence-transformers:{task}",
        "base_model": BASE if is_folder else base_model,
        "project_name": project_name,
        "log": "none",
        "backend": "local",
        "data": {
            "path": DATA,
            "train_split": "train",
            "valid_split": "validation" if validation else None,
            "column_mapping": {f"{column}_column": column for column in TASKS[task]},
        },
        "params": given,
    }
    path = place / CONFIG
    path.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def check_project_name(name: str) -> str:
    """The name itself, once AutoTrain takes it.

    Example:
        >>> check_project_name("red_mugs")
        Traceback (most recent call last):
        mmembed.export.autotrain_project.AutoTrainError: project_name 'red_mugs': letters, digits and hyphens alone; 'red-mugs' would do
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        better = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:_MAX_NAME] or "my-model"
        what = f"at most {_MAX_NAME} characters" if len(name) > _MAX_NAME else "letters, digits and hyphens alone"
        raise AutoTrainError(f"project_name {name!r:.80}: {what}; {better!r} would do")
    return name


def check_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, once AutoTrain has all of them and they are of its types.

    Example:
        >>> check_params({"epoch": 1})
        Traceback (most recent call last):
        mmembed.export.autotrain_project.AutoTrainError: AutoTrain has no parameter 'epoch'; did you mean 'epochs'? It has: lr, ...
    """
    checked = {}
    for name, value in params.items():
        if name in _HUBS:
            raise AutoTrainError(f"{name} is not written into a project; push the trained model with `mmembed push`")
        if name not in PARAMS:
            hint = did_you_mean(name, PARAMS) or "."
            raise AutoTrainError(f"AutoTrain has no parameter {name!r}{hint} It has: {', '.join(PARAMS)}")
        kind = PARAMS[name]
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if value is not None and (not fits or (isinstance(value, bool) and kind is not bool)):
            raise AutoTrainError(f"the parameter {name} is {value!r:.60}, and AutoTrain takes {kind.__name__}")
        checked[name] = float(value) if kind is float and value is not None else value
    return checked


def _texts(items: Dataset) -> dict[str, str | None]:
    texts: dict[str, str | None] = {}
    for batch in items.select_columns(["id", "text"]).with_format(None).iter(1000):
        texts.update(zip(batch["id"], batch["text"]))
    return texts


def _looked_up(texts: Mapping[str, str | None], one: str, field: str, where: dict[str, Any]) -> str:
    if one not in texts:
        raise DataError(f"id {one!r:.80} is in no table", field=field, **where)
    text = texts[one]
    if text is None:
        raise DataError(f"item {one!r:.80} has no text, and AutoTrain trains on texts", field=field, **where)
    return text


def _check_rows(rows: Sequence[Mapping[str, Any]], task: str, name: str, data_format: str) -> None:
    if not rows:
        if name == "train":
            raise DataError("no rows; the training part has no pairs", file=name)
        return
    for column in TASKS[task]:
        values = [row[column] for row in rows]
        if column == "target":
            continue
        # pandas makes a number of a column in which every cell looks like one.
        if all(_looks_like_a_number(value) for value in values):
            message = "every text looks like a number, and pandas would read numbers; give texts with a word in them"
            raise DataError(message, file=name, field=column)
        if data_format == "csv":
            nothing = next((row for row, value in enumerate(values) if value in _NO_VALUES), None)
            if nothing is not None:
                message = f"found {values[nothing]!r}, which pandas reads from CSV as nothing; write jsonl"
                raise DataError(message, file=name, row=nothing, field=column)
    if task == "pair_class" and len({row["target"] for row in rows}) < len(CLASSES):
        raise DataError(f"only one class; AutoTrain needs both of {CLASSES} in each part", file=name, field="target")


def _looks_like_a_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    if path.suffix == ".jsonl":
        jsonl.write(path, (dict(row) for row in rows))
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_base(folder: str, place: Path) -> None:
    model = load_model(folder, device="cpu")
    kinds = [type(module).__name__ for module in model]
    if set(getattr(model, "modalities", ("text",))) != {"text"} or kinds[:1] != ["Transformer"]:
        raise AutoTrainError(
            f"{folder} is {' and '.join(kinds)} of {', '.join(map(str, model.modalities))}; AutoTrain trains texts"
        )
    save_model(model, place)
    older = (place / "modules.json").read_text(encoding="utf-8")
    if "sentence_transformers.models." not in older:
        raise AutoTrainError(
            f"{folder} has modules that sentence-transformers 3.3 does not know; take a plain text model"
        )
