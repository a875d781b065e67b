"""What AutoTrain is given: the rows of each task, a config it reads, data that pandas reads back, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from mmembed.data.schema import DataError
from mmembed.export.autotrain_project import (
    AutoTrainError,
    autotrain_rows,
    check_params,
    check_project_name,
    write_autotrain_project,
)
from mmembed.models.loading import load_model
from tests.tiny_models import tiny_bert, tiny_dual_encoder

ITEMS = Dataset.from_dict(
    {"id": ["q", "r", "a", "b", "c", "x"], "text": ["red?", "lamp?", "red mug", "mug, red", "a hat", None]}
)


def pairs(**columns: Any) -> Dataset:
    table = {"query_id": ["q", "r"], "positive_ids": [["a", "b"], ["c"]], "negative_ids": [["c", "a"], []]}
    return Dataset.from_dict({**table, **columns})


def rows(task: str, **options: Any) -> list[tuple]:
    return [tuple(row.values()) for row in autotrain_rows(options.pop("pairs", pairs()), ITEMS, ITEMS, task, **options)]


def test_each_task_has_its_rows() -> None:
    assert rows("pair") == rows("qa") == [("red?", "red mug"), ("red?", "mug, red"), ("lamp?", "a hat")]
    assert rows("triplet") == [("red?", "red mug", "a hat"), ("red?", "mug, red", "a hat")]
    assert len(rows("triplet", negatives=2)) == 4
    good = [("red?", "red mug", "match"), ("red?", "mug, red", "match")]
    assert rows("pair_class") == [*good, ("red?", "a hat", "other"), ("lamp?", "a hat", "match")]
    assert [row[2] for row in rows("pair_score")] == [1.0, 1.0, 0.0, 1.0]
    scored = pairs(positive_scores=[[0.9, 0.7], [0.8]], negative_scores=[[0.2, 0.1], []])
    assert [row[2] for row in rows("pair_score", pairs=scored, negatives=2)] == [0.9, 0.7, 0.2, 0.1, 0.8]
    assert rows("pair", pairs=pairs(prompt=["find: ", None]))[0] == ("find: red?", "red mug")


def test_rows_that_cannot_be_are_told() -> None:
    without = pairs(negative_ids=[[], []])
    for task in ("triplet", "pair_class"):
        with pytest.raises(DataError, match=f"pairs: field 'negative_ids': no query has negatives, and {task} learns"):
            rows(task, pairs=without)
    with pytest.raises(DataError, match="pairs: row 1: field 'positive_ids': item 'x' has no text"):
        rows("pair", pairs=pairs(positive_ids=[["a"], ["x"]]))
    with pytest.raises(DataError, match="row 0: field 'query_id': id 'z' is in no table"):
        rows("pair", pairs=pairs(query_id=["z", "q"]))
    with pytest.raises(ValueError, match="did you mean 'triplet'"):
        rows("triplets")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "bert"
    tiny_bert().save_pretrained(str(folder))
    return folder


def as_dicts(task: str) -> list[dict[str, Any]]:
    return list(autotrain_rows(pairs(), ITEMS, ITEMS, task))


def test_the_project_is_what_autotrain_reads(base: Path, tmp_path: Path) -> None:
    path = write_autotrain_project(
        tmp_path / "p", as_dicts("triplet"), as_dicts("triplet"), task="triplet", base_model=str(base),
        project_name="mugs-1", params={"lr": 1e-3, "epochs": 2, "warmup_ratio": 0},
    )  # fmt: skip
    config = yaml.safe_load(path.read_text())
    assert config == {
        "task": "sentence-transformers:triplet",
        "base_model": "base_model",
        "project_name": "mugs-1",
        "log": "none",
        "backend": "local",
        "data": {
            "path": "data",
            "train_split": "train",
            "valid_split": "validation",
            "column_mapping": {f"sentence{n}_column": f"sentence{n}" for n in (1, 2, 3)},
        },
        "params": {"lr": 0.001, "epochs": 2, "warmup_ratio": 0.0},
    }
    assert "hub" not in config and str(tmp_path) not in path.read_text()
    lines = [json.loads(line) for line in (tmp_path / "p" / "data" / "train.jsonl").read_text().splitlines()]
    assert lines == as_dicts("triplet")


def test_the_base_is_written_as_transformers_4_and_sentence_transformers_3_read_it(base: Path, tmp_path: Path) -> None:
    write_autotrain_project(tmp_path, as_dicts("pair"), [], task="pair", base_model=str(base), project_name="m")
    place = tmp_path / "base_model"
    read = {
        name: json.loads((place / name).read_text())
        for name in ("modules.json", "tokenizer_config.json", "1_Pooling/config.json", "sentence_bert_config.json")
    }
    assert read["tokenizer_config.json"]["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert [one["type"] for one in read["modules.json"]] == [
        f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")
    ]
    assert (
        read["1_Pooling/config.json"]["pooling_mode_mean_tokens"] is True
        and read["1_Pooling/config.json"]["word_embedding_dimension"] == 16
    )
    assert set(read["sentence_bert_config.json"]) == {"max_seq_length", "do_lower_case"}
    texts = ["red mug", "word3 colour3"]
    before, after = (load_model(folder, device="cpu").encode(texts) for folder in (base, place))
    assert (before == after).all()
    assert yaml.safe_load((tmp_path / "config.yml").read_text())["data"]["valid_split"] is None


def test_a_hub_name_is_passed_on_and_csv_is_written(tmp_path: Path) -> None:
    rows = [{"sentence1": 'a "red"\nmug', "sentence2": "кружка, 杯子"}, {"sentence1": "x", "sentence2": "y"}]
    path = write_autotrain_project(
        tmp_path, rows, [], task="pair", base_model="owner/model", project_name="m", data_format="csv"
    )
    assert yaml.safe_load(path.read_text())["base_model"] == "owner/model" and not (tmp_path / "base_model").exists()
    import csv

    with open(tmp_path / "data" / "train.csv", encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == rows


def test_what_autotrain_would_refuse_or_misread_is_told_before(base: Path, tmp_path: Path) -> None:
    for name in ("red_mugs", "", "-a", "a b", "ж", "a" * 51, "../x", "a/b"):
        with pytest.raises(AutoTrainError, match="project_name"):
            check_project_name(name)
    assert check_project_name("Red-Mugs-2") == "Red-Mugs-2"
    for params, message in [
        ({"epoch": 1}, "no parameter 'epoch'; did you mean 'epochs'"),
        ({"lr": "1e-5"}, "the parameter lr is '1e-5', and AutoTrain takes float"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"epochs": True}, "epochs is True"),
        ({"token": "hf_x"}, "token is not written into a project"),
        ({"push_to_hub": True}, "push_to_hub is not written"),
    ]:
        with pytest.raises(AutoTrainError, match=message):
            check_params(params)
    assert check_params({"mixed_precision": None}) == {"mixed_precision": None}
    given = {"task": "pair", "base_model": str(base), "project_name": "m"}
    texts = [{"sentence1": "NA", "sentence2": "y"}]
    with pytest.raises(DataError, match="train: row 0: field 'sentence1': found 'NA', which pandas reads from CSV"):
        write_autotrain_project(tmp_path, texts, [], **given, data_format="csv")
    with pytest.raises(DataError, match="field 'sentence1': every text looks like a number"):
        write_autotrain_project(tmp_path, [{"sentence1": "007", "sentence2": "y"}], [], **given)
    with pytest.raises(DataError, match="train: no rows"):
        write_autotrain_project(tmp_path, [], [], **given)
    one = [row for row in as_dicts("pair_class") if row["target"] == "match"]
    with pytest.raises(DataError, match="field 'target': only one class"):
        write_autotrain_project(tmp_path, one, [], **{**given, "task": "pair_class"})
    with pytest.raises(AutoTrainError, match="data_format='tsv'"):
        write_autotrain_project(tmp_path, as_dicts("pair"), [], **given, data_format="tsv")
    assert not list(tmp_path.iterdir())
    tiny_dual_encoder().save_pretrained(str(tmp_path / "dual"))
    with pytest.raises(AutoTrainError, match="AutoTrain trains texts"):
        write_autotrain_project(tmp_path / "p", as_dicts("pair"), [], **{**given, "base_model": str(tmp_path / "dual")})
