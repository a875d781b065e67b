"""Every trap, tripped: each guard raises on the fault that it is for, and only TRL's own behaviour shows that it is one."""

from __future__ import annotations

import copy

import pytest
from datasets import Dataset

from mmembed.data.schema import DataError
from mmembed.interactive.preference_checks import (
    PreferenceTrainingError,
    check_preference_arguments,
    check_preference_batch,
    check_preference_processor,
    check_preference_rows,
    check_target_modules,
    probe_rows,
)
from mmembed.interactive.preference_trainer import LANGUAGE_MODEL, PairCollator, preference_arguments
from tests.interactive.tiny_questioner import colour_pairs, tiny_model, tiny_processor


def changed(change, rows=None):
    """A table of rows of which the second one was changed in place."""
    records = [copy.deepcopy(dict(row)) for row in (rows or colour_pairs(2, shown=2))]
    change(records[1])
    return Dataset.from_list(records)


def set_text(record, column, text):
    record[column][0]["content"][0]["text"] = text


def test_good_rows_pass():
    check_preference_rows(colour_pairs(2))
    check_preference_rows(colour_pairs(2, shown=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["images"].pop(), r"row 1: field 'images': 1 images for 2 image blocks"),
        (lambda row: row["images"].append(row["images"][0]), r"3 images for 2 image blocks"),
        (lambda row: row.update(images=[]), r"0 images for 2"),
        (lambda row: row.update(rejected=copy.deepcopy(row["chosen"])), "row 1: field 'rejected': chosen and rejected are the same"),
        (lambda row: set_text(row, "chosen", "  "), "row 1: field 'chosen': an empty question"),
        (lambda row: row.update(prompt=[]), "row 1: field 'prompt': found list"),
        (lambda row: row["prompt"][0].update(role="assistant"), "the last message is of string 'assistant'"),
        (lambda row: row["chosen"][0].update(role="user"), "row 1: field 'chosen': expected one message of assistant"),
        (lambda row: row["chosen"].append(copy.deepcopy(row["chosen"][0])), "expected one message of assistant"),
        (lambda row: row["prompt"][0]["content"][0].update(type="video"), "a block of type string 'video'"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_trained_on(change, message):
    with pytest.raises(DataError, match=message):
        check_preference_rows(changed(change))


def test_an_image_key_in_a_block_is_refused_even_where_it_is_null():
    def null_images(row):
        for block in row["prompt"][0]["content"]:
            block["image"] = None

    rows = changed(null_images)
    with pytest.raises(DataError, match="row 0: field 'prompt': a block has the key 'image'"):
        check_preference_rows(rows)  # Arrow has given the key to every row
    with pytest.raises(ValueError, match="placeholders"):  # and this is what TRL would have said
        PairCollator(processor=tiny_processor()).torch_call([dict(rows[0])])


def test_texts_instead_of_blocks_are_refused():
    rows = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": "Ask."}], "chosen": [{"role": "assistant", "content": "A?"}],
          "rejected": [{"role": "assistant", "content": "B?"}], "images": []}]
    )  # fmt: skip
    with pytest.raises(DataError, match="expected a list of blocks"):
        check_preference_rows(rows)


def test_columns_and_rows_must_be_there():
    rows = colour_pairs(2)
    with pytest.raises(DataError, match="'chosen': no such column"):
        check_preference_rows(rows.remove_columns("chosen"))
    with pytest.raises(DataError, match="wrap each image in a list"):
        check_preference_rows(rows.remove_columns("images").add_column("image", [None] * 2))
    with pytest.raises(DataError, match="no rows"):
        check_preference_rows(rows.select([]))


def test_a_processor_is_one_of_images():
    processor = tiny_processor()
    check_preference_processor(processor)
    with pytest.raises(PreferenceTrainingError, match="is no processor of images and texts"):
        check_preference_processor(processor.tokenizer)
    with pytest.raises(PreferenceTrainingError, match="is no processor of images and texts"):
        check_preference_processor(None)
    processor.chat_template = None
    with pytest.raises(PreferenceTrainingError, match="no chat template"):
        check_preference_processor(processor)
    processor = tiny_processor()
    processor.tokenizer.eos_token = None
    with pytest.raises(PreferenceTrainingError, match="no eos_token"):
        check_preference_processor(processor)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing")
def test_arguments(tmp_path):
    args = preference_arguments(str(tmp_path), use_cpu=True)
    check_preference_arguments(args)
    assert args.max_length is None and args.use_cpu and not args.bf16
    with pytest.raises(PreferenceTrainingError, match="max_length=1024 would cut"):
        check_preference_arguments(preference_arguments(str(tmp_path), use_cpu=True, max_length=1024))
    args.bf16 = True
    with pytest.raises(PreferenceTrainingError, match="on a CPU train in float32"):
        check_preference_arguments(args)
    with pytest.raises(PreferenceTrainingError, match="remove_unused_columns"):
        check_preference_arguments(preference_arguments(str(tmp_path), use_cpu=True, remove_unused_columns=False))
    with pytest.raises(PreferenceTrainingError, match="label_smoothing=0.5 is the share"):
        check_preference_arguments(
            preference_arguments(str(tmp_path), loss="robust", use_cpu=True, label_smoothing=0.5)
        )
    with pytest.raises(PreferenceTrainingError, match="precompute_reference does the same"):
        check_preference_arguments(preference_arguments(str(tmp_path), use_cpu=True, precompute_ref_log_probs=True))
    with pytest.raises(PreferenceTrainingError, match="pads no batch with images"):
        check_preference_arguments(preference_arguments(str(tmp_path), use_cpu=True, pad_to_multiple_of=8))
    synced = preference_arguments(str(tmp_path), use_cpu=True, sync_ref_model=True)
    check_preference_arguments(synced)
    with pytest.raises(PreferenceTrainingError, match="sync_ref_model moves the reference"):
        check_preference_arguments(synced, precompute_reference=True)
    with pytest.raises(ValueError, match="loss='dpo'; the losses are sigmoid, robust, ipo"):
        preference_arguments(str(tmp_path), loss="dpo")


def test_adapters_stay_off_the_head_and_out_of_nowhere():
    model = tiny_model()
    check_target_modules(model, LANGUAGE_MODEL)
    check_target_modules(model, ["q_proj", "v_proj"])
    check_target_modules(model, "all-linear")
    for modules in (["q_proj", "lm_head"], r".*(q_proj|lm_head)"):
        with pytest.raises(PreferenceTrainingError, match="an adapter on lm_head: TRL computes log-probabilities"):
            check_target_modules(model, modules)
    for modules in (["nowhere"], r".*nowhere"):
        with pytest.raises(PreferenceTrainingError, match="match no layer of the Idefics3ForConditionalGeneration"):
            check_target_modules(model, modules)
    with pytest.raises(PreferenceTrainingError, match="no regular expression"):
        check_target_modules(model, "(")
    with pytest.raises(PreferenceTrainingError, match="not given"):
        check_target_modules(model, None)


def test_the_default_adapter_is_in_the_language_model_alone():
    import re

    names = [name for name, _ in tiny_model().named_modules()]
    found = [name for name in names if re.fullmatch(LANGUAGE_MODEL, name)]
    assert found and all("text_model" in name for name in found)
    plain = [name for name in names if name.endswith(("q_proj", "v_proj"))]
    assert any("vision_model" in name for name in plain)  # which is why plain names are not the default


def test_a_completion_that_was_cut_away_is_found():
    rows, processor, model = colour_pairs(2), tiny_processor(), tiny_model()
    whole = PairCollator(processor=processor).torch_call([dict(row) for row in rows])
    check_preference_batch(whole, model)
    prompt = int((whole["completion_mask"].cumsum(1) == 0).sum(1).min())
    cut = PairCollator(processor=processor, max_length=prompt).torch_call([dict(row) for row in rows])
    assert int(cut["completion_mask"].sum()) == 0  # TRL trains on this without a word
    with pytest.raises(PreferenceTrainingError, match="4 of 4 questions have no token left"):
        check_preference_batch(cut, model)


def test_a_sequence_longer_than_the_model_is_found():
    rows, processor, model = colour_pairs(2), tiny_processor(), tiny_model()
    batch = PairCollator(processor=processor).torch_call([dict(row) for row in rows])
    model.config.text_config.max_position_embeddings = 50
    with pytest.raises(PreferenceTrainingError, match="tokens and the model takes 50"):
        check_preference_batch(batch, model)


def test_a_batch_without_pixels_is_found():
    rows, processor, model = colour_pairs(2), tiny_processor(), tiny_model()
    batch = dict(PairCollator(processor=processor).torch_call([dict(row) for row in rows]))
    for name in [name for name in batch if name.startswith("pixel")]:
        del batch[name]
    with pytest.raises(PreferenceTrainingError, match="no pixels"):
        check_preference_batch(batch, model)


def test_the_longest_rows_are_probed():
    rows = [dict(row) for row in colour_pairs(6, shown=1)]
    set_text(rows[3], "chosen", "Is it " + "very " * 50 + "red?")
    many = dict(colour_pairs(2, shown=4)[1])
    found = probe_rows(Dataset.from_list([*rows, many]), most=2)
    assert sorted(len(row["images"]) for row in found) == [1, 4]
    assert any("very very" in row["chosen"][0]["content"][0]["text"] for row in found)
    assert len(probe_rows(Dataset.from_list(rows[:1]))) == 1
