"""`mmembed evaluate`: the right rows, the library's own numbers, one page, and clear words where the data does not allow it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mmembed.data.catalogue import demo_catalogue
from mmembed.data.collection import Collection
from mmembed.data.named_formats import write_collection
from mmembed.data.reading import read_items
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.evaluation.query_results import read_query_results
from mmembed.evaluation.retrieval import evaluate_retrieval, rank_retrieval
from mmembed.images import ImageError, ImagePolicy, ImageReader
from mmembed.jobs.evaluate import main
from mmembed.jobs.evaluate_options import EvaluateOptions
from mmembed.jobs.evaluation_data import class_column, evaluation_data, label_columns
from mmembed.jobs.options import OptionsError
from mmembed.models import DualEncoderConfig  # noqa: F401  # registers the family
from mmembed.models.dual_encoder.building import build_dual_encoder
from mmembed.models.loading import load_model
from mmembed.statistics import paired_bootstrap
from tests.jobs.tiny_jobs import MODEL, THINGS, WORDS, write_shop

DRAWN = {"products": 60, "size": 48, "photos": 2, "num_workers": 0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models that were never trained: their numbers are as good as any to compare."""
    import torch

    folder = tmp_path_factory.mktemp("models")
    saved = {}
    for name, seed in (("old", 1), ("new", 2)):
        model, generator = build_dual_encoder([*WORDS, *THINGS], **MODEL), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(str(folder / name))
        saved[name] = str(folder / name)
    return saved


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    kinds = {row: ["hat", "mug", "sofa"][row % 3] for row in range(48)}
    return write_shop(tmp_path / "shop", 48, type=kinds, language={row: ["en", "ru"][row % 2] for row in range(48)})


def evaluate(what: str, output: Path, *words: str, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"output_dir": str(output), "bootstrap_samples": 100, "batch_size": 16, **options}
    written = list(words)
    for name, value in given.items():
        written += [
            f"--{name}",
            *(value if isinstance(value, list) else [value if isinstance(value, str) else json.dumps(value)]),
        ]
    assert main([what, *written, "--no_show_progress_bar"]) == 0
    found: dict[str, Any] = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_all_of_the_drawn_catalogue(models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = {**DRAWN, "cache_dir": str(tmp_path / "cache")}
    numbers = evaluate("all", tmp_path / "report", model=models["new"], catalogue=drawn, map_points=50)
    assert list(numbers["sections"]) == ["retrieval", "matching", "probes", "zero-shot", "health", "data"]
    for section in numbers["sections"].values():
        assert section["primary"] in section["metrics"]
    catalogue = demo_catalogue(**drawn)
    held_out = (
        [row for row in catalogue.products if row["split"] == "test"]
        if "split" in catalogue.products.column_names
        else None
    )
    n = numbers["sections"]["retrieval"]["metrics"]["text_to_image_n"]
    assert 5 < n < 30 and (held_out is None or n == len(held_out))
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<section id=") == 9  # six, the summary, the map and how it was made
    assert f"mmembed evaluate all --output_dir {tmp_path}/report" in page
    files = {path.name for path in (tmp_path / "report" / "report_files").iterdir()}
    assert {"summary.csv", "retrieval-recall.png", "retrieval-recall.csv", "map-fused-vectors.png"} <= files
    said = capsys.readouterr().out
    assert "Product matching" in said and str(tmp_path / "report" / "report.html") in said


def test_retrieval_gives_the_librarys_numbers_of_the_test_part(
    models: dict[str, str], shop: Path, tmp_path: Path
) -> None:
    numbers = evaluate("retrieval", tmp_path / "report", model=models["new"], data=str(shop), ks=["1", "3"])
    assert list(numbers["sections"]) == ["retrieval"]
    items = read_items(shop)
    test = items.select([row for row, part in enumerate(items["split"]) if part == "test"])
    model, reader = load_model(models["new"]), ImageReader(ImagePolicy(root=shop.parent))
    wanted = evaluate_retrieval(
        model, test, test, ks=(1, 3), bootstrap_samples=100, cluster_by_group=True, reader=reader
    )
    found = numbers["sections"]["retrieval"]["metrics"]
    assert found["text_to_image_n"] == len(test) == 12
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key


def test_embeddings_stand_in_for_the_model(models: dict[str, str], shop: Path, tmp_path: Path) -> None:
    items, model = read_items(shop), load_model(models["new"])
    reader = ImageReader(ImagePolicy(root=shop.parent))
    for use in ("text", "image"):
        vectors = encode_items(model, items, use=use, reader=reader)  # type: ignore[arg-type]
        Embeddings(items["id"][:], vectors).save(tmp_path / "vectors" / use)
    one = evaluate("all", tmp_path / "a", model=models["new"], data=str(shop), check_data=False)
    two = evaluate("all", tmp_path / "b", model=str(tmp_path / "vectors"), data=str(shop), check_data=False)
    first, second = (numbers["sections"]["retrieval"]["metrics"] for numbers in (one, two))
    assert {key: pytest.approx(value, abs=1e-6) for key, value in first.items()} == second
    assert "zero-shot" in one["sections"] and "zero-shot" not in two["sections"]
    assert "zero-shot, as the names of the classes are to be encoded" in two["facts"]["not measured"]
    with pytest.raises(OptionsError, match="holds embeddings of text, image, and fused is needed"):
        evaluate("retrieval", tmp_path / "c", model=str(tmp_path / "vectors"), data=str(shop), query_use="fused")


def test_before_and_after_are_compared_in_pairs(models: dict[str, str], shop: Path, tmp_path: Path) -> None:
    numbers = evaluate(
        "retrieval", tmp_path / "report", model=models["new"], base_model=models["old"], data=str(shop), part="all"
    )
    items, reader = read_items(shop), ImageReader(ImagePolicy(root=shop.parent))
    values = [
        rank_retrieval(load_model(models[name]), items, items, reader=reader)["forward"].per_query(["recall@1"])[
            "recall@1"
        ]
        for name in ("new", "old")
    ]
    clusters = [f"group {group}" for group in items["group"]]
    wanted = paired_bootstrap(*values, samples=100, clusters=clusters)
    found = numbers["differences"]["retrieval"]["text_to_image_recall@1"]
    assert found["n"] == 48 and found["mean"] == pytest.approx(wanted.mean)
    assert found["p_value"] == pytest.approx(wanted.p_value)
    assert numbers["names"] == {"before": "old", "after": "new"}
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "better than before" in page and "worse than before" in page


def test_what_each_query_found_is_kept_and_compared_without_the_model(
    models: dict[str, str], shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mmembed.jobs.compare import main as compare

    report = tmp_path / "report"
    numbers = evaluate(
        "retrieval", report, model=models["new"], base_model=models["old"], data=str(shop), part="all", labels=["type"]
    )
    kept = read_query_results(report / "queries.jsonl")
    assert list(kept) == ["text_to_image", "image_to_text"] and set(kept["text_to_image"].labels[0]) == {"type"}
    recall = kept["text_to_image"].per_query(["recall@1"])["recall@1"].mean()
    assert recall == pytest.approx(numbers["sections"]["retrieval"]["metrics"]["text_to_image_recall@1"])
    words = [str(report / "queries_before.jsonl"), str(report), "--output_dir", str(tmp_path / "compared")]
    assert compare([*words, "--bootstrap_samples", "100"]) == 0
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text(encoding="utf-8"))
    one = next(m for m in compared["metrics"] if (m["direction"], m["metric"]) == ("text_to_image", "recall@1"))
    found = numbers["differences"]["retrieval"]["text_to_image_recall@1"]
    assert one["difference"]["mean"] == pytest.approx(found["mean"]) and one["difference"]["n"] == 48
    assert "verdict" in capsys.readouterr().out


def test_every_direction_is_measured_where_it_is_a_search(models: dict[str, str], shop: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    same = evaluate("retrieval", tmp_path / "a", model=models["new"], data=str(shop), directions="every", part="all")
    metrics = same["sections"]["retrieval"]["metrics"]
    ways = {name.removesuffix("_mrr") for name in metrics if name.endswith("_mrr")}
    uses = ("text", "image", "fused")
    assert ways == {f"{one}_to_{other}" for one in uses for other in uses if one != other}
    assert any("fused vector holds" in note for note in same["sections"]["retrieval"]["notes"])
    alone = evaluate("retrieval", tmp_path / "b", model=models["new"], data=str(shop), part="all")
    for way in ("text_to_image", "image_to_text"):
        assert metrics[f"{way}_mrr"] == pytest.approx(alone["sections"]["retrieval"]["metrics"][f"{way}_mrr"])

    items = read_items(shop)
    rows = {"query_id": ["s0", "s1"], "positive_ids": [["s6"], ["s2", "s3"]], "negative_ids": [[], []]}
    write_collection(Collection(items, items, Dataset.from_dict(rows)), tmp_path / "tables", "mmembed")
    others = evaluate("retrieval", tmp_path / "c", model=models["new"], data=str(tmp_path / "tables"),
        directions="every", exclude_same_id=True, part="all")["sections"]["retrieval"]  # fmt: skip
    metrics = others["metrics"]
    assert {name.removesuffix("_mrr") for name in metrics if name.endswith("_mrr")} == {
        f"{one}_to_{other}" for one in uses for other in uses
    }
    assert not any("fused vector holds" in note for note in others["notes"])


def test_the_models_own_card_tells_the_numbers_where_it_is_asked_for(
    models: dict[str, str], shop: Path, tmp_path: Path
) -> None:
    import shutil

    from huggingface_hub import ModelCard, parse_eval_result_entries

    folder = tmp_path / "model"
    shutil.copytree(models["new"], folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Hats\n", encoding="utf-8")
    before = (folder / "README.md").read_text(encoding="utf-8")
    evaluate("retrieval", tmp_path / "a", model=str(folder), data=str(shop))
    assert (folder / "README.md").read_text(encoding="utf-8") == before and not (folder / ".eval_results").exists()
    numbers = evaluate("all", tmp_path / "b", model=str(folder), data=str(shop), update_card=True)
    card = ModelCard.load(folder / "README.md")
    wanted = numbers["sections"]["retrieval"]["metrics"]["text_to_image_recall@1"]
    told = {one.metric_name: one for one in card.data.eval_results}
    assert told["text_to_image_recall@1"].metric_value == pytest.approx(wanted, abs=1e-4)
    kinds = {one.task_name for one in card.data.eval_results}
    assert len(kinds) == len(numbers["sections"]) - 1  # the checks of the data are none of the model
    files = sorted((folder / ".eval_results").iterdir())
    assert len(files) == len(kinds)
    for file in files:
        assert parse_eval_result_entries(yaml.safe_load(file.read_text(encoding="utf-8")))
    with pytest.raises(OptionsError, match="no folder of a saved model"):
        evaluate("retrieval", tmp_path / "c", model="owner/name", data=str(shop), update_card=True)


def test_vectors_are_encoded_once(
    models: dict[str, str], shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate("retrieval", tmp_path / "report", model=models["new"], data=str(shop))
    monkeypatch.setattr("mmembed.dataset_encoding.encode_items", lambda *_, **__: pytest.fail("encoded again"))
    second = evaluate("retrieval", tmp_path / "report", model=models["new"], data=str(shop))
    assert first["sections"] == second["sections"]


def test_a_folder_of_tables_is_read_by_itself_and_a_format_by_its_name(
    models: dict[str, str], shop: Path, tmp_path: Path
) -> None:
    items = read_items(shop)
    rows = {"query_id": ["s0", "s1"], "positive_ids": [["s0", "s6"], ["s1"]], "negative_ids": [[], []]}
    from datasets import Dataset

    write_collection(Collection(items, items, Dataset.from_dict(rows)), tmp_path / "tables", "mmembed")
    for words in ({}, {"format": "mmembed"}):
        numbers = evaluate(
            "retrieval", tmp_path / "report", model=models["new"], data=str(tmp_path / "tables"), part="all", **words
        )
        metrics = numbers["sections"]["retrieval"]["metrics"]
        assert metrics["text_to_image_n"] == 2 and metrics["text_to_image_documents"] >= 3


def test_the_part_that_is_measured_is_the_one_that_was_asked_for(shop: Path, tmp_path: Path) -> None:
    def read(**options: Any) -> Any:
        return evaluation_data(
            EvaluateOptions(data=str(shop), output_dir=tmp_path / "out", show_progress_bar=False, **options)
        )

    assert len(read().measured.queries) == 12 and read().part == "test"
    assert len(read(part="train").measured.queries) == 36
    every = read(part="all")
    assert len(every.measured.queries) == 48 and set(every.parts) == {"train", "test"}
    unsplit = read(split_column=None)
    assert unsplit.part == "all" and "flatter" in unsplit.notes[0]
    with pytest.raises(DataError, match="no row falls into the part 'validation'; there are train, test"):
        read(part="validation")


def test_thresholds_are_chosen_on_other_groups_than_those_that_are_measured(
    models: dict[str, str], tmp_path: Path
) -> None:
    shop = write_shop(tmp_path / "shop", 96, group={row: f"g{row // 8}" for row in range(96)})
    numbers = evaluate("matching", tmp_path / "report", model=models["new"], data=str(shop))
    section = numbers["sections"]["matching"]
    assert "There is no validation part of its own" in section["notes"][0]
    chosen, measured = (int(section["metrics"][key]) for key in ("n_validation", "n"))
    assert chosen + measured == 24 and min(chosen, measured) > 3
    assert chosen % 2 == measured % 2 == 0  # whole groups: the test part has two rows of each
    assert len(list((tmp_path / "report" / "vectors").iterdir())) <= 3  # the halves are not encoded again


def test_what_the_data_does_not_allow_is_said(models: dict[str, str], shop: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="no two rows share a group"):
        evaluate("matching", tmp_path / "report", model=models["new"], data=str(shop))
    assert not (tmp_path / "report" / "report.html").exists()
    numbers = evaluate("all", tmp_path / "report", model=models["new"], data=str(shop), check_data=False)
    assert "matching, as no two rows share a group" in numbers["facts"]["not measured"]
    with pytest.raises(OptionsError, match="no column 'colour'"):
        evaluate("zero-shot", tmp_path / "report", model=models["new"], data=str(shop), class_column="colour")
    with pytest.raises(OptionsError, match="language of the class 'hat' is 'en' in one row and 'ru' in another"):
        evaluate("all", tmp_path / "report", model=models["new"], data=str(shop), part="all", class_levels=["language"])
    with pytest.raises(OptionsError, match="--labels: no column 'languag'; did you mean 'language'"):
        evaluate("retrieval", tmp_path / "report", model=models["new"], data=str(shop), labels=["languag"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["retrieval"], "--model: name the model"),
        (["retreival", "--model", "x"], "--what: .*retreival"),
        (["all", "--modle", "x"], "did you mean --model"),
        (["all", "--model", "x", "--ks", "0"], "--ks"),
        (["all", "--model", "x", "--query_use", "any"], "--query_use any"),
        (["all", "--model", "x", "--data", "d", "--items", "i"], "--data holds items"),
        (["all", "--model", "x", "--format", "mmembed"], "--format is of --data"),
        (["all", "--model", "x", "--batch_size", "0"], "--batch_size: found 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=message):
        main([*words, "--output_dir", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_a_missing_file_and_a_broken_image_are_named(models: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        evaluate("all", tmp_path / "report", model=models["new"], data=str(tmp_path / "nowhere.jsonl"))
    shop = write_shop(tmp_path / "shop")
    (shop.parent / "images" / "4.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match="s4"):
        evaluate("retrieval", tmp_path / "report", model=models["new"], data=str(shop))
    assert not (tmp_path / "report" / "report.html").exists()


@pytest.mark.security
def test_a_hostile_catalogue_makes_a_harmless_page(models: dict[str, str], tmp_path: Path) -> None:
    evil = '"><script>window.hacked=1</script><img src=x onerror=alert(1)>'
    rows = {row: f"{evil} {row}" for row in range(24)}
    shop = write_shop(tmp_path / "shop", 24, text=rows, kind={row: evil + str(row % 2) for row in range(24)})
    evaluate("all", tmp_path / "report", model=models["new"], data=str(shop), part="all", title=evil, check_data=False)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;window.hacked" in page
    assert not re.search(r"<script>window|<img src=x", page)
    assert len(re.findall(r"<script", page)) == 2  # the map's data and the page's own


def test_labels_and_classes_are_found_by_their_names() -> None:
    from datasets import Dataset

    rows = {
        "id": [str(n) for n in range(120)],
        "text": [f"t{n}" for n in range(120)],
        "brand": [f"b{n % 70}" for n in range(120)],
        "usage": [["a", "b", "c"][n % 3] for n in range(120)],
        "articleType": [["hat", "mug"][n % 2] for n in range(120)],
        "language": [["en", None, "ru", "zh"][n % 4] for n in range(120)],
        "price": np.arange(120.0).tolist(),
    }
    items = Dataset.from_dict(rows)
    assert label_columns(items, None) == ["language", "articleType", "usage"]
    assert label_columns(items, ["brand"]) == ["brand"]
    assert class_column(items) == "articleType"
