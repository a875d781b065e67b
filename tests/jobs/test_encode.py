"""`mmembed encode` from words to folders: whose vectors they are, of which rows, and what is refused before the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmembed.data.reading import read_items
from mmembed.data.schema import DataError
from mmembed.embeddings import Embeddings
from mmembed.encode import encode_items
from mmembed.images import ImageError, ImagePolicy, ImageReader
from mmembed.jobs.encode import main
from mmembed.jobs.evaluate import main as evaluate
from mmembed.jobs.options import OptionsError
from mmembed.models.loading import load_model
from tests.jobs.tiny_jobs import write_shop
from tests.tiny_models import tiny_bert, tiny_dual_encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_dual_encoder().save_pretrained(str(folder))
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path / "shop", 12)


def words(model: Any, output: Path, /, **options: Any) -> list[str]:
    given = {"model": str(model), "output_dir": str(output), "show_progress_bar": False, **options}
    listed = []
    for name, value in given.items():
        listed += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return listed


def expected(model: Path, shop: Path, use: Any) -> np.ndarray:
    reader = ImageReader(ImagePolicy(root=str(shop.parent)))
    return encode_items(load_model(model, device="cpu"), read_items(str(shop)), use=use, reader=reader)


def test_each_use_has_a_folder_that_evaluate_reads(model: Path, shop: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "vectors"
    assert main(words(model, out, items=str(shop))) == 0
    assert sorted(path.name for path in out.iterdir()) == ["fused", "image", "text"]
    for use in ("text", "image", "fused"):
        found = Embeddings.load(out / use)
        assert found.ids == [f"s{row}" for row in range(12)] and found.manifest["use"] == use
        assert found.manifest["model"] == str(model)
        np.testing.assert_allclose(np.asarray(found.vectors), expected(model, shop, use), atol=1e-6)
    said = capsys.readouterr().out
    assert f"12 vectors of 8 numbers, float32: {out / 'fused'}\n" in said
    assert main(words(model, out, items=str(shop), batch_size=5)) == 0
    assert capsys.readouterr().out.count("whole already") == 3
    assert evaluate([
        "retrieval", "--model", str(out), "--data", str(shop), "--output_dir", str(tmp_path / "report"),
        "--part", "all", "--bootstrap_samples", "20", "--map_points", "0", "--no_show_progress_bar",
    ]) == 0  # fmt: skip
    assert (tmp_path / "report" / "report.html").is_file()


def test_one_use_is_the_folder_itself(model: Path, shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    assert main(words(model, out, data=str(shop), use="fused", dtype="float16", shard_rows=5, prompt="a red ")) == 0
    found = Embeddings.load(out)
    assert found.vectors.dtype == np.float16 and len(found.manifest["shards"]) == 3
    assert (found.manifest["prompt"], found.manifest["shard_rows"]) == ("a red ", 5)
    reader = ImageReader(ImagePolicy(root=str(shop.parent)))
    vectors = encode_items(
        load_model(model, device="cpu"), read_items(str(shop)), use="fused", reader=reader, prompt="a red "
    )
    np.testing.assert_allclose(np.asarray(found.vectors, np.float32), vectors, atol=1e-3)
    with pytest.raises(DataError, match="another use: 'fused' there, 'text' now"):
        main(words(model, out, data=str(shop), use="text"))
    assert main(words(model, tmp_path / "two", items=str(shop), use=["text", "fused"])) == 0
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["fused", "text"]


def test_columns_are_named_as_everywhere(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "goods.csv"
    file.write_text("sku,brand,title\n7,Palm,red mug\n8,Oak,blue lamp\n")
    out = tmp_path / "vectors"
    named = {"id_column": "sku", "text_template": "{brand}: {title}", "image_column": "null", "use": "text"}
    assert main(words(model, out, items=str(file), **named)) == 0
    found = Embeddings.load(out)
    rows = [{"text": "Palm: red mug"}, {"text": "Oak: blue lamp"}]
    np.testing.assert_allclose(np.asarray(found.vectors), load_model(model, device="cpu").encode(rows), atol=1e-6)
    assert found.ids == ["7", "8"]


def tables(folder: Path, shared_id: str | None = None) -> Path:
    folder.mkdir()
    for name, letter, count in (("queries", "q", 3), ("documents", "d", 5)):
        with open(folder / f"{name}.jsonl", "w") as file:
            for n in range(count):
                one = shared_id if shared_id and n == 2 else f"{letter}{n}"
                file.write(json.dumps({"id": one, "text": f"{name} {n} red"}) + "\n")
    with open(folder / "pairs.jsonl", "w") as file:
        file.write(json.dumps({"query_id": "q0", "positive_ids": ["d0"]}) + "\n")
    return folder


def test_a_named_format_gives_its_documents_its_queries_or_both(model: Path, tmp_path: Path) -> None:
    folder = tables(tmp_path / "tables")
    for table, ids in [
        ("documents", [f"d{n}" for n in range(5)]),
        ("queries", [f"q{n}" for n in range(3)]),
        ("all", [f"q{n}" for n in range(3)] + [f"d{n}" for n in range(5)]),
    ]:
        out = tmp_path / f"of-{table}"
        assert main(words(model, out, data=str(folder), table=table, use="text")) == 0
        assert Embeddings.load(out).ids == ids
    both = Embeddings.load(tmp_path / "of-all")
    one = Embeddings.load(tmp_path / "of-queries")
    np.testing.assert_allclose(both.vectors[both.rows(one.ids)], np.asarray(one.vectors), atol=1e-6)
    again = tables(tmp_path / "again", shared_id="x2")
    with pytest.raises(DataError, match="'x2' is the id of a query and of a document"):
        main(words(model, tmp_path / "twice", data=str(again), table="all", use="text"))


def test_a_bad_image_stops_it_by_name_or_is_replaced_or_left_out(model: Path, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", 8)
    (shop.parent / "images" / "5.png").write_bytes(b"<html>")
    out = tmp_path / "vectors"
    with pytest.raises(ImageError, match="image of id 's5': not an image"):
        main(words(model, out, items=str(shop), use="image"))
    grey = {"on_bad_image": "replace", "max_bad_fraction": 0.5}
    assert main(words(model, out, items=str(shop), use="image", **grey)) == 0  # and the folder begun is gone on with
    assert len(Embeddings.load(out)) == 8
    record = tmp_path / "vectors-bad_samples.jsonl"
    assert [json.loads(line)["id"] for line in record.read_text().splitlines()] == ["s5"]
    assert (
        main(words(model, tmp_path / "less", items=str(shop), use="image", on_bad_image="skip", max_bad_fraction=0.5))
        == 0
    )
    assert Embeddings.load(tmp_path / "less").ids == [f"s{row}" for row in range(8) if row != 5]


def test_what_cannot_be_meant_is_said_before_anything_is_read(model: Path, shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors"
    for given, message in [
        (["--output_dir", str(out)], "--model: name the embedding model"),
        (["--model", str(model)], "--output_dir: name the folder"),
        (words(model, out, items=str(shop), data=str(shop)), "--data holds the items; give it, or --items"),
        (words(model, out, items=str(shop), format="mmembed"), "--format is of --data"),
        (words(model, out, items=str(shop), use=["text", "text"]), "--use: text text names one twice"),
        (words(model, out, items=str(shop), use="both"), "--use"),
        (words(model, out, items=str(shop), batch_size=0), "--batch_size: found 0, wanted at least 1"),
        (words(model, out, items=str(shop), num_workers=-1), "--num_workers: found -1"),
        (words(model, out, itms=str(shop)), "unknown option --itms; did you mean --items"),
        (words(model, out, data=str(tmp_path / "none")), "there is no such file or folder"),
        (words(model, out, data=str(shop), format="mmembd"), "did you mean 'mmembed'"),
    ]:
        with pytest.raises((OptionsError, DataError), match=message):
            main(given)
    assert not out.exists()


def test_rows_that_a_model_cannot_read_are_told(model: Path, tmp_path: Path) -> None:
    tiny_bert().save_pretrained(str(tmp_path / "bert"))
    shop = write_shop(tmp_path / "shop", 6, text={2: None})
    with pytest.raises(
        OptionsError, match=r"--use: some items have no text and some no image, or the model reads neither"
    ):
        main(words(tmp_path / "bert", tmp_path / "v", items=str(shop)))
    assert main(words(model, tmp_path / "v", items=str(shop))) == 0
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["image"]


def test_the_drawn_catalogue_is_encoded_where_nothing_is_named(model: Path, tmp_path: Path) -> None:
    drawn = {"products": 6, "size": 32, "photos": 2, "cache_dir": str(tmp_path / "cache"), "num_workers": 0}
    assert main(words(model, tmp_path / "v", catalogue=drawn, use="image")) == 0
    assert len(Embeddings.load(tmp_path / "v")) == 12
    assert main(words(model, tmp_path / "q", catalogue=drawn, use="text", table="queries")) == 0
    assert len(Embeddings.load(tmp_path / "q")) == 6


def test_vectors_of_others_are_taken_over(model: Path, shop: Path, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    file = tmp_path / "features.npz"
    np.savez(file, text=raw, img_features=raw[::-1].astype(np.float16))
    given = ["--vectors", str(file), "--normalise", "--items", str(shop)]
    assert main([*given, "--output_dir", str(tmp_path / "both")]) == 0
    text, image = (Embeddings.load(tmp_path / "both" / use) for use in ("text", "image"))
    assert text.ids == image.ids == [f"s{row}" for row in range(12)] and image.vectors.dtype == np.float16
    np.testing.assert_allclose(text.vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6)
    assert (text.manifest["use"], image.manifest["use"], text.manifest["source"]) == ("text", "image", "features.npz")
    one = [*given, "--use", "image", "--dtype", "float32", "--shard_rows", "5", "--output_dir", str(tmp_path / "one")]
    assert main([*one, "--model", "theirs"]) == 0
    found = Embeddings.load(tmp_path / "one")
    assert (
        found.vectors.dtype == np.float32 and found.manifest["model"] == "theirs" and len(found.manifest["shards"]) == 3
    )
    with pytest.raises(OptionsError, match="is a folder of vectors already; name another"):
        main(one)
    rows = tmp_path / "valid.img_feat.jsonl"
    rows.write_text('{"image_id": 5, "feature": [3, 4]}\n{"image_id": 6, "feature": [0, 0]}\n')
    words = ["--vectors", str(rows), "--output_dir", str(tmp_path / "rows"), "--normalise", "--zeros", "drop"]
    assert main(words) == 0 and Embeddings.load(tmp_path / "rows").ids == ["5"]
    assert evaluate([
        "retrieval", "--model", str(tmp_path / "both"), "--data", str(shop), "--output_dir", str(tmp_path / "report"),
        "--part", "all", "--bootstrap_samples", "20", "--map_points", "0", "--no_show_progress_bar",
    ]) == 0  # fmt: skip


def test_vectors_that_may_be_several_things_are_asked_about(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.eye(2, dtype=np.float32), b=np.eye(2, dtype=np.float32), ids=np.array(["x", "y"]))
    out = ["--output_dir", str(tmp_path / "out")]
    vectors = ["--vectors", str(tmp_path / "v.npz"), *out]
    for given, message in [
        (vectors, "--array: .* holds several arrays of vectors, a, b; name the one"),
        ([*vectors, "--use", "text"], "--array: .* holds several arrays"),
        ([*vectors, "--use", "text", "image", "--array", "a"], "--array a is one, and --use names text image"),
        (["--vectors", str(tmp_path / "none.npz"), *out], "no such file"),
        (["--model", "x", "--normalise", *out], "--normalise is of --vectors, which is not given"),
    ]:
        with pytest.raises((OptionsError, DataError), match=message):
            main(given)
    assert not (tmp_path / "out").exists()
    assert main([*vectors, "--use", "text", "--array", "b"]) == 0
    assert Embeddings.load(tmp_path / "out").manifest["use"] == "text"


@pytest.mark.slow
def test_an_export_encodes_as_its_model(model: Path, shop: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from mmembed.export.onnx import export_onnx

    export_onnx(load_model(model, device="cpu"), tmp_path / "onnx", verbs=["text"], show_progress_bar=False)
    assert main(words(tmp_path / "onnx", tmp_path / "v", items=str(shop), use="text")) == 0
    found = Embeddings.load(tmp_path / "v")
    np.testing.assert_allclose(np.asarray(found.vectors), expected(model, shop, "text"), atol=1e-5)
    with pytest.raises(DataError, match="another model"):
        main(words(model, tmp_path / "v", items=str(shop), use="text"))
    with pytest.raises(OptionsError, match="is an export, which computes as it was written"):
        main(words(tmp_path / "onnx", tmp_path / "w", items=str(shop), precision="float16"))
