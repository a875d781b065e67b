"""Rows as TRL takes them: written, read, and held against what a questioner asks with."""

from __future__ import annotations

import copy

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from trl.data_utils import is_conversational, prepare_multimodal_messages

from mmembed.data.schema import DataError
from mmembed.interactive.preference_checks import COLUMNS, check_preference_rows
from mmembed.interactive.preference_filters import PairRule, PreferencePair
from mmembed.interactive.preference_rows import (
    plain_rows,
    preference_rows,
    read_preference_rows,
    rows_sha256,
    write_preference_rows,
)
from mmembed.interactive.preference_scores import score_questions
from tests.interactive.scripted_world import IDS, World, asks, state, views


def table(one=None, **options):
    one = one or state()
    scored = score_questions(
        one, [asks("Is it striped?"), asks("Is it made of zinc?")], [World(), World()], World(), targets=0
    )
    return preference_rows([PreferencePair(scored, *scored.questions)] * 2, [one], views(), **options)


def test_trl_takes_the_rows_as_they_are():
    rows = table()
    check_preference_rows(rows)
    row = rows[0]
    assert is_conversational({name: row[name] for name in COLUMNS})
    filled = prepare_multimodal_messages(row["prompt"], images=row["images"])
    assert [block["type"] for block in filled[0]["content"]] == ["image"] * 5 + ["text"]
    assert all("image" not in block for block in row["prompt"][0]["content"])


def test_the_prompt_is_the_questioners_own(tmp_path):
    from mmembed.interactive.vision_language_questioner import VisionLanguageQuestioner
    from tests.interactive.scripted_world import views as scripted_views
    from tests.rerankers.tiny_vision_language import tiny_vision_language

    one = state()
    items = scripted_views()._items
    questioner = VisionLanguageQuestioner(str(tiny_vision_language(tmp_path)), items, samples=1)
    _, pictures, messages = questioner._seen(one.state)
    row = table(one)[0]
    without_none = [{k: v for k, v in block.items() if v is not None} for block in row["prompt"][0]["content"]]
    assert messages[0]["content"] == without_none
    assert [picture.size for picture in pictures] == [picture.size for picture in row["images"]]


def test_a_parquet_file_and_back(tmp_path):
    rows = table()
    path = tmp_path / "pairs.parquet"
    write_preference_rows(rows, path)
    back = read_preference_rows(path)
    assert back.column_names == rows.column_names
    assert back.remove_columns("images")[:] == rows.remove_columns("images")[:]
    assert rows_sha256(back) == rows_sha256(rows)
    assert [image.tobytes() for image in back[0]["images"]] == [image.tobytes() for image in rows[0]["images"]]
    stock = load_dataset("parquet", data_files=[str(path)], split="train")
    assert stock[0]["images"][0].size == (40, 40)  # datasets alone knows that they are images


def test_fewer_pictures_fewer_blocks():
    row = table(num_shown=2)[0]
    assert len(row["images"]) == 2
    assert [block["type"] for block in row["prompt"][0]["content"]] == ["image", "image", "text"]


def test_a_pair_without_its_state_is_refused():
    one = state()
    scored = score_questions(one, [asks("Is it striped?"), asks("Is it red?")], [World()], World(), targets=0)
    with pytest.raises(DataError, match="no state 's'"):
        preference_rows([PreferencePair(scored, *scored.questions)], [state("other")], views())


def test_fingerprints_differ_by_text_and_by_picture():
    rows = table()
    assert rows_sha256(rows) != rows_sha256(rows.select([0]))
    other = table(state(shown=IDS[1:6]))
    assert rows_sha256(rows) != rows_sha256(other)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_preference_rows(tmp_path / "none.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a parquet file of pairs"):
        read_preference_rows(tmp_path / "damaged.parquet")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="'chosen': no such column"):
        read_preference_rows(tmp_path / "other.parquet")


@pytest.mark.security
def test_a_path_in_a_file_of_pairs_is_not_opened(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"never read")
    rows = [copy.deepcopy(dict(row)) for row in pq.read_table(_written(tmp_path)).to_pylist()]
    for row in rows:
        row["images"] = [{"bytes": None, "path": str(secret)}] * 5
    path = tmp_path / "hostile.parquet"
    schema = pq.read_schema(_written(tmp_path))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    with pytest.raises(DataError, match="an image that is a path or an address"):
        read_preference_rows(path)


def _written(folder):
    path = folder / "whole.parquet"
    if not path.exists():
        write_preference_rows(table(), path)
    return path


@pytest.mark.security
def test_control_tokens_of_the_model_are_taken_apart(tmp_path):
    from transformers import AutoProcessor

    from tests.rerankers.tiny_vision_language import tiny_vision_language

    processor = AutoProcessor.from_pretrained(tiny_vision_language(tmp_path))
    rows = [dict(row) for row in Dataset.from_list(list(table().select_columns(list(COLUMNS)).with_format(None)))]
    rows[0]["prompt"][0]["content"][-1]["text"] = "a <image> mug <end_of_utterance>"
    rows[0]["rejected"][0]["content"][0]["text"] = "Is it <row_1_col_1>?"
    plain = plain_rows(Dataset.from_list(rows), processor)
    texts = str(plain[0]["prompt"]) + str(plain[0]["rejected"])
    assert "<image>" not in texts and "<end_of_utterance>" not in texts and "<row_1_col_1>" not in texts
    assert [block["type"] for block in plain[0]["prompt"][0]["content"]] == ["image"] * 5 + ["text"]
    assert plain[1]["chosen"] == rows[1]["chosen"] and len(plain[1]["images"]) == 5
    untouched = table()
    assert plain_rows(untouched, processor)[:]["prompt"] == untouched[:]["prompt"]


def test_the_rule_is_written_beside_the_pairs():
    assert PairRule().min_chosen == pytest.approx(0.405465)
