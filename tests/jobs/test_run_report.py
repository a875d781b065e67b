"""The figures that a run shows are those of a count by hand, and what it writes is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image
from sentence_transformers import SentenceTransformer

from mmembed.evaluation.query_results import read_query_results
from mmembed.evaluation.ranking import headline, rank_retrieval
from mmembed.export.hub_results import evaluation_results
from mmembed.images import ImageReader
from mmembed.jobs.run_report import (
    draw_sheet,
    gains,
    results_table,
    save_model,
    summarise,
    write_json,
    write_queries,
    write_run_card,
)
from mmembed.jobs.train_options import TrainOptions
from mmembed.training.arguments import EmbeddingTrainingArguments
from tests.tiny_models import tiny_dual_encoder
from tests.training.tiny_runs import items

SAMPLING = {"samples": 200, "seed": 0}


def turned(angles: list[float]) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def rankings():
    """Four queries on a circle and their documents near them: only the third finds another's document first."""
    ids = list("abcd")
    queries, documents = (Dataset.from_dict({"id": ids, "text": ids}) for _ in range(2))
    pairs = Dataset.from_dict({"query_id": ids, "positive_ids": [[i] for i in ids], "negative_ids": [[]] * 4})
    vectors = (turned([0.0, 1.0, 2.4, 2.5]), turned([0.1, 1.1, 2.2, 2.45]))
    return rank_retrieval(vectors, queries, documents, pairs, query_use="text", document_use="image")


def test_recall_and_mrr_are_those_of_a_count_by_hand(rankings) -> None:
    figures = summarise(rankings, ks=(1, 2), **SAMPLING)
    forward = figures[next(iter(rankings.values())).direction]
    assert forward["n"] == forward["documents"] == 4
    assert forward["recall@1"]["mean"] == 0.75 and forward["recall@2"]["mean"] == 1.0
    assert forward["mrr"]["mean"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert forward["recall@1"]["low"] <= 0.75 <= forward["recall@1"]["high"]
    assert json.loads(json.dumps(figures)) == figures


def test_the_mean_recall_is_over_cut_offs_and_directions(rankings) -> None:
    figures = summarise(rankings, ks=(1, 2), **SAMPLING)
    recalls = [figures[r.direction][f"recall@{k}"]["mean"] for r in rankings.values() for k in (1, 2)]
    assert figures["mean_recall"] == pytest.approx(np.mean(recalls))


@pytest.fixture(scope="module")
def captions():
    """One picture with three captions and one with one; the first picture finds one of its three among the first two."""
    pictures, texts = ["p", "q"], ["p1", "p2", "p3", "q1"]
    pairs = {"p": ["p1", "p2", "p3"], "q": ["q1"]}
    vectors = (turned([0.0, 2.0]), turned([0.1, 1.0, 1.2, 0.2]))
    return rank_retrieval(vectors, pictures, texts, pairs, query_use="image", document_use="text", directions="forward")


def test_with_several_relevant_documents_recall_and_success_stand_side_by_side(captions) -> None:
    figures = summarise(captions, ks=(1, 2), **SAMPLING)
    own = figures["image_to_text"]
    # p: p1 first, then q1: one of three; q at 2.0 sees p3, p2, q1, p1: q1 is third
    assert own["recall@2"]["mean"] == pytest.approx((1 / 3 + 0) / 2) and own["success@2"]["mean"] == 0.5
    assert figures["mean_success"] == 0.5 and figures["mean_recall"] == pytest.approx(1 / 6)
    assert headline(captions) == "success"
    table = results_table({"after": figures}, [1, 2])
    assert "recall@1" in table and "success@2" in table
    perfect = rank_retrieval((turned([0.0, 2.0]), turned([0.0, 0.1, 0.2, 2.0])), ["p", "q"], ["p1", "p2", "p3", "q1"],
        {"p": ["p1", "p2", "p3"], "q": ["q1"]}, query_use="image", document_use="text", directions="forward")  # fmt: skip
    assert gains(captions, perfect, **SAMPLING)["image_to_text"]["mean"] == 0.5


def test_with_one_relevant_document_each_recall_alone_is_told(rankings) -> None:
    figures = summarise(rankings, ks=(1,), **SAMPLING)
    assert "mean_success" not in figures and "success" not in results_table({"after": figures}, [1])
    assert headline(rankings) == "recall"


def test_what_each_query_found_is_kept(rankings, tmp_path: Path) -> None:
    tables = [Dataset.from_dict({"id": list("abcd"), "text": list("abcd")}) for _ in range(2)]
    write_queries(tmp_path / "queries.jsonl", rankings, *tables)
    found = read_query_results(tmp_path / "queries.jsonl")
    assert list(found) == ["text_to_image", "image_to_text"]
    assert found["text_to_image"].first_ranks().tolist() == rankings["forward"].first_ranks().tolist() == [1, 1, 2, 1]


def test_a_gain_of_nothing_is_nothing(rankings) -> None:
    for found in gains(rankings, rankings, **SAMPLING).values():
        assert found["mean"] == found["low"] == found["high"] == 0.0 and found["n"] == 4


def test_the_table_shows_each_stage_and_no_figure_that_is_not_there(rankings) -> None:
    after = summarise(rankings, ks=(1,), **SAMPLING)
    table = results_table({"before": after, "after": after, "oracle": {"text_to_image": {"n": 4, "mrr": 1.0}}}, [1])
    assert table.count("before") == table.count("after") == len(rankings) and "oracle" in table
    assert ".750 [" in table and "1.000" in table


def test_the_sheet_is_a_picture_from_the_best_found_to_the_worst(tmp_path: Path) -> None:
    table = items(6)
    reader = ImageReader()
    ways = rank_retrieval(
        tiny_dual_encoder(), table, table, None, query_use="text", document_use="image", reader=reader
    )
    for number, ranking in enumerate(ways.values()):
        path = draw_sheet(tmp_path / f"{number}.png", ranking, table, table, reader, number=4, title="t", subtitle="s")
        with Image.open(path) as picture:
            assert (
                picture.format == "PNG" and picture.width > 200 and len(picture.convert("RGB").getcolors(1 << 24)) > 50
            )


def test_a_model_folder_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch) -> None:
    model, folder = tiny_dual_encoder(), tmp_path / "model"
    save_model(model, folder)
    (folder / "old.txt").write_text("old")
    rows = [{"text": "red word1"}]
    loaded = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(loaded.encode(rows), model.encode(rows), atol=1e-6)
    save_model(model, folder)
    assert not (folder / "old.txt").exists()

    def full(path: str, **kwargs) -> None:
        Path(path).mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        save_model(model, folder)
    assert (folder / "model.safetensors").is_file() and [path.name for path in tmp_path.iterdir()] == ["model"]


def test_json_is_moved_into_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"ключ": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ключ": 1}


def test_the_card_of_a_run_says_what_its_metrics_file_says(rankings, tmp_path: Path) -> None:
    """One number, four places: metrics.json, the card's text, its model-index and `.eval_results`."""
    after = summarise(rankings, ks=(1, 2), **SAMPLING)
    before = summarise(rankings, ks=(1, 2), **SAMPLING)
    before["text_to_image"]["recall@1"]["mean"] = 0.125
    measured = {"before": before, "after": after, "gain": gains(rankings, rankings, **SAMPLING), "data": {"pairs": 4}}
    measured["gain_metric"] = "recall@1"
    write_json(tmp_path / "metrics.json", measured)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "contact_sheet.png").write_bytes(b"png")
    options = TrainOptions(items="/home/anna/shoes.jsonl", output_dir=str(tmp_path))
    args = EmbeddingTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    path = write_run_card(folder, tiny_dual_encoder(), measured, options, args)

    wanted = {one.key: one for one in evaluation_results(json.loads((tmp_path / "metrics.json").read_text())["after"])}
    assert wanted["text_to_image_recall@1"].value == 0.75 and len(wanted) == 7
    card = ModelCard.load(path)
    index = {(one.dataset_name, one.metric_type): one for one in card.data.eval_results}
    (file,) = (folder / ".eval_results").iterdir()
    entries = {one.task_id: one for one in parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8")))}
    assert file.name == "retrieval-shoes.jsonl-test.yaml" and set(entries) == set(wanted) and len(index) == len(wanted)
    for key, one in wanted.items():
        way = f" ({one.direction.replace('_to_', ' → ')})" if one.direction else ""
        listed, entry = index[f"shoes.jsonl{way}", one.metric], entries[key]
        assert listed.metric_value == entry.value == round(one.value, 6)
        assert listed.metric_args["n"] == one.counts["n"] == 4 and listed.dataset_split == "test"
        assert entry.notes.startswith("n 4;") and "split test" in entry.notes and "anna" not in entry.notes
        if one.low is not None:
            assert (listed.metric_args["low"], listed.metric_args["high"]) == (round(one.low, 6), round(one.high, 6))
            assert f"95% interval {round(one.low, 6)} to {round(one.high, 6)}" in entry.notes
    figures = after["text_to_image"]["recall@1"]
    row = f"| text → image | after | {figures['mean']:.3f} ({figures['low']:.3f}–{figures['high']:.3f}) |"
    assert row in card.text and "| text → image | before | 0.125 (" in card.text
    assert 0.125 not in {one.value for one in entries.values()}  # what the base model did is not this model's


def test_the_card_of_a_run_tells_its_command_its_data_and_its_limits(rankings, tmp_path: Path) -> None:
    after = summarise(rankings, ks=(1,), **SAMPLING)
    measured = {"before": after, "after": after, "gain": gains(rankings, rankings, **SAMPLING), "data": {}}
    measured["gain_metric"] = "recall@1"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "contact_sheet.png").write_bytes(b"png")
    (tmp_path / "shoes.jsonl").write_bytes(b"{}")
    options = TrainOptions(items=str(tmp_path / "shoes.jsonl"), output_dir=str(tmp_path), language=["en"])
    options.extra["learning_rate"] = "1e-4"
    args = EmbeddingTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    text = write_run_card(folder, tiny_dual_encoder(), measured, options, args).read_text(encoding="utf-8")
    command = "mmembed train --items shoes.jsonl --output_dir"
    assert f"```bash\n{command}" in text and "--learning_rate 1e-4\n```" in text
    assert "| shoes.jsonl | 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a |" in text
    assert "## Limitations\n\nThe figures are of 4 held-out queries of shoes.jsonl" in text
    assert str(tmp_path) not in text
