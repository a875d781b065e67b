"""Files become ITEMS and PAIRS, or an error that names the file, the line and the field."""

import json
import os
import random
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from mmembed.data.item_fields import ItemFields
from mmembed.data.reading import items_from_rows, read_items, read_pairs
from mmembed.data.schema import DataError, validate_items


def _jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _fails(path, message, *, line=None, row=None, field=None, **options):
    with pytest.raises(DataError, match=message) as caught:
        read_items(path, **options)
    error = caught.value
    assert (error.line, error.row, error.field) == (line, row, field), str(error)
    return error


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    return tmp_path


ROWS = [
    {"id": 1, "text": "Red skirt", "image": "images/a.jpg", "group": 7, "price": 10, "tags": ["x"]},
    {"id": "two", "text": None, "image": "images/b.jpg", "group": None, "price": 2.5, "tags": []},
    {"id": 3, "text": "hat", "image": None, "group": "7", "price": None, "tags": None},
]


def _expected(folder):
    image = lambda name: {"bytes": None, "path": os.path.realpath(folder / "images" / name)}  # noqa: E731
    return [
        {"id": "1", "text": "Red skirt", "image": image("a.jpg"), "group": "7", "price": 10.0, "tags": ["x"]},
        {"id": "two", "text": None, "image": image("b.jpg"), "group": None, "price": 2.5, "tags": []},
        {"id": "3", "text": "hat", "image": None, "group": "7", "price": None, "tags": None},
    ]


def test_json_lines(pictures):
    items = read_items(_jsonl(pictures / "items.jsonl", *ROWS))
    assert list(items) == _expected(pictures)
    assert items.features["image"] == Image(decode=False)
    assert validate_items(items).features == items.features


def test_csv_and_tsv(pictures):
    text = 'id,text,image,group,price,code,year\n1,"Red, ""big""\nskirt",images/a.jpg,7,10,007,2011\ntwo,,images/b.jpg,,2.5,08,\n'
    (pictures / "items.csv").write_text(text)
    first, second = read_items(pictures / "items.csv")
    assert (first["id"], first["text"], first["group"]) == ("1", 'Red, "big"\nskirt', "7")
    assert (first["price"], first["code"], first["year"]) == (10.0, "007", 2011)
    assert (second["text"], second["group"], second["price"], second["year"]) == (None, None, 2.5, None)
    (pictures / "items.tsv").write_text("id\ttext\n1\ta,b\n")
    assert read_items(pictures / "items.tsv")["text"][:] == ["a,b"]


def test_a_cell_is_a_number_only_where_every_cell_is_one_exactly(tmp_path):
    cells = {
        "a": ["1", "x"],
        "b": ["1", "1e3"],
        "c": ["12345678901234567890", "1"],
        "d": ["+1", "2"],
        "e": ["nan", "1"],
        "f": ["", "5"],
    }
    rows = zip(*cells.values(), strict=True)
    text = f"id,text,{','.join(cells)}\n" + "".join(f"{i},t,{','.join(row)}\n" for i, row in enumerate(rows))
    (tmp_path / "a.csv").write_text(text)
    found = read_items(tmp_path / "a.csv")
    assert {name: found[name][:] for name in cells} == {
        "a": ["1", "x"],
        "b": [1.0, 1000.0],
        "c": ["12345678901234567890", "1"],
        "d": ["+1", "2"],
        "e": ["nan", "1"],
        "f": [None, 5],
    }


def test_parquet_keeps_types_and_bytes(pictures):
    images = [{"bytes": b"jpg", "path": "/etc/passwd"}, {"bytes": None, "path": "images/b.jpg"}, None]
    table = pa.table(
        {
            "id": pa.array([1, 2, 3], pa.int32()),
            "text": pa.array(["a", None, "c"], pa.large_string()),
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "group": pa.array(["x", "x", None]).dictionary_encode(),
            "price": pa.array([1, None, 2], pa.int16()),
        }
    )
    pq.write_table(table, pictures / "items.parquet")
    items = read_items(pictures / "items.parquet")
    # The name beside the bytes is only a name: it is dropped and never opened.
    real = os.path.realpath(pictures / "images/b.jpg")
    assert items["image"][:] == [{"bytes": b"jpg", "path": None}, {"bytes": None, "path": real}, None]
    assert (items["id"][:], items["group"][:]) == (["1", "2", "3"], ["x", "x", None])
    assert items.features["price"] == Value("int16")
    binary = table.drop_columns(["image"]).append_column("image", pa.array([b"a", None, b"c"]))
    pq.write_table(binary.filter([True, False, True]), pictures / "b.parquet")
    assert read_items(pictures / "b.parquet")["image"][:] == [
        {"bytes": b"a", "path": None},
        {"bytes": b"c", "path": None},
    ]


def test_a_saved_dataset(pictures):
    features = Features(
        {"id": Value("string"), "text": Value("string"), "kind": ClassLabel(names=["x", "y"]), "photo": Image()}
    )
    photo = {"bytes": None, "path": "http://127.0.0.1:1/x.png"}
    saved = Dataset.from_dict(
        {"id": ["a"], "text": ["t"], "kind": [1], "photo": [{"bytes": b"p", "path": "p"}]}, features=features
    )
    saved.save_to_disk(pictures / "saved")
    items = read_items(pictures / "saved")
    assert items.features["kind"] == ClassLabel(names=["x", "y"])
    # An attribute declared an image by the file stays plain: looking at a row opens nothing.
    assert items.features["photo"] == {"bytes": Value("binary"), "path": Value("string")}
    assert photo is not None and items[0]["photo"] == {"bytes": b"p", "path": "p"}
    two = pictures / "splits"
    two.mkdir()
    (two / "dataset_dict.json").write_text('{"splits": ["train"]}')
    saved.save_to_disk(two / "train")
    _fails(two, r"several splits \['train'\]")


def test_mapping_columns(pictures):
    rows = [{"nm": 5, "title": "hat", "brand": "P", "pic": "a.jpg", "style": 3, "text": "own"}]
    path = _jsonl(pictures / "items.jsonl", *rows)
    options = {"id_column": "nm", "image_column": "pic", "group_column": "style", "image_root": pictures / "images"}
    [item] = read_items(path, text_template="{brand} {title}: {text}", **options)
    path_a = os.path.realpath(pictures / "images/a.jpg")
    image = {"bytes": None, "path": path_a}
    assert item == {"id": "5", "text": "P hat: own", "image": image, "group": "3", "title": "hat", "brand": "P"}
    [item] = read_items(path, text_column="title", keep_columns=["brand", "style"], **options)
    assert item == {"id": "5", "text": "hat", "image": image, "group": "3", "brand": "P", "style": 3}
    [item] = read_items(path, text_parts={"title": 0.9, "text": 0.1}, keep_columns=[], **options)
    assert (item["text"], item["text_parts"]) == (
        "hat",
        [{"text": "hat", "weight": 0.9}, {"text": "own", "weight": 0.1}],
    )
    [item] = read_items(path, text_column=None, **options)
    assert item["text"] is None and "text" in item
    _fails(path, "'text' would be hidden", field="text", text_column="title", **options)


def test_missing_columns_are_named_with_the_nearest(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", {"id": 1, "title": "x", "brand": "y"})
    _fails(
        path,
        r"asked for by text_column\); found \['id', 'title', 'brand'\]; did you mean 'title'",
        field="titel",
        text_column="titel",
    )
    _fails(path, "asked for by id_column", field="nm", id_column="nm", text_column="title")
    _fails(path, "neither a text nor an image column", field="text")
    _fails(path, "asked for by group_column", field="style", group_column="style", text_column="title")
    _fails(path, "did you mean 'brand'", field="brnd", text_template="{title} {brnd}")
    _fails(path, "asked for by keep_columns", field="price", text_column="title", keep_columns=["price"])
    near = _jsonl(tmp_path / "b.jsonl", {"id": 1, "text": "x", "Group": "1"})
    _fails(near, "but 'Group'; pass group_column='Group', or group_column=None", field="group")
    assert read_items(near, group_column=None)["group"][:] == [None]


@pytest.mark.parametrize(
    ("bad", "field", "message"),
    [
        ({"id": 1.5, "text": "x"}, "id", "found float 1.5"),
        ({"id": None, "text": "x"}, "id", "no id"),
        ({"text": "x"}, "id", "no id"),
        ({"id": "", "text": "x"}, "id", "empty id"),
        ({"id": 9, "text": 5}, "text", "found integer 5"),
        ({"id": 9, "text": ["x"]}, "text", "found list"),
        ({"id": 9, "text": " \t"}, "text", "a blank text and no image"),
        ({"id": 9}, "text", "no text and no image"),
        ({"id": 9, "text": "a\0"}, "text", "NUL"),
        ({"id": 9, "text": "x", "group": 1.0}, "group", "astype"),
        ({"id": 9, "text": "x", "price": "cheap"}, "price", "where earlier rows hold int64; make the column one type"),
        ({"id": 9, "text": "x", "price": True}, "price", "where earlier rows hold int64"),
        ({"id": 9, "text": "x", "price": 10**30}, "price", "64 bits"),
        ({"id": 9, "text": "x", "image": 5}, "image", "expected the path"),
        ({"id": 9, "text": "x", "image": {"bytes": "abc"}}, "image", "parquet holds bytes"),
        ({"id": 9, "text": "x", "image": {"file": "abc"}}, "image", "expected 'bytes' and 'path'"),
        ({"id": 9, "text": "x", "image": "images/c.jpg"}, "image", "did you mean '[ab].jpg'"),
        ({"id": 9, "text": "x", "image": "images"}, "image", "directory"),
        ({"id": 9, "text": "x", "a\0": 1}, None, "the column name .* has a NUL"),
        ({"id": 9, "text": "x", "\ud800": 1}, None, "the column name .* has a lone surrogate"),
        ({"id": 9, "text": "x", "size": {"a\udc00": 1}}, "size", "a lone surrogate"),
        ({"id": 2, "text": "x"}, "id", r"'2' already stands at .*a\.jsonl:2"),
    ],
)
def test_a_bad_row_is_named(pictures, bad, field, message):
    good = [{"id": i, "text": "x", "price": i} for i in range(1, 17)]
    path = _jsonl(pictures / "a.jsonl", *good, bad, {"id": 99, "text": "x"})
    _fails(path, message, line=17, field=field)


def test_a_bad_row_of_parquet_is_counted_from_0(tmp_path):
    pq.write_table(
        pa.table({"id": [str(i) for i in range(3000)], "text": ["x"] * 2500 + [""] + ["x"] * 499}),
        tmp_path / "a.parquet",
    )
    _fails(tmp_path / "a.parquet", "a blank text", row=2500, field="text")
    pq.write_table(pa.table({"id": ["a", "b", "a"], "text": ["x"] * 3}), tmp_path / "b.parquet")
    _fails(tmp_path / "b.parquet", r"'a' already stands at .*b\.parquet: row 0;", row=2, field="id")


@pytest.mark.security
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../etc/passwd",
        "images/../../x.png",
        "file:///etc/passwd",
        "local://x",
        "\\\\host\\share\\x.png",
        "C:\\x.png",
        "link.png",
        "hard.png",
        "a\0.png",
        "a" * 5000,
        "http://127.0.0.1:9/x.png",
        "https://169.254.169.254/x",
        "data:image/png;base64,AAAA",
        "s3://bucket/x.png",
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_hostile_image_paths_are_refused(pictures, monkeypatch, path, kind):
    os.symlink("/etc/passwd", pictures / "link.png")
    os.link(pictures / "images/a.jpg", pictures / "hard.png")
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a socket was opened"))
    file = pictures / f"items.{kind}"
    if kind == "jsonl":
        _jsonl(file, {"id": 1, "text": "x", "image": path})
    elif kind == "csv":
        file.write_text(f'id,text,image\n1,x,"{path}"\n')
    else:
        pq.write_table(pa.table({"id": [1], "text": ["x"], "image": [path]}), file)
    with pytest.raises(DataError) as caught:
        read_items(file)
    assert caught.value.field == "image" and "root:" not in str(caught.value)
    if path.startswith("http"):
        assert "fetch the images first" in str(caught.value)


def test_several_files(tmp_path):
    for name, ids in (("b", [3]), ("a", [1, 2])):
        _jsonl(tmp_path / f"{name}.jsonl", *({"id": i, "text": "x"} for i in ids))
    for path in (tmp_path, tmp_path / "*.jsonl", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]):
        assert read_items(path)["id"][:] == ["1", "2", "3"]
    _jsonl(tmp_path / "c.jsonl", {"id": 2, "text": "x"})
    error = _fails(tmp_path, r"'2' already stands at .*a\.jsonl:2", line=1, field="id")
    assert error.file.endswith("c.jsonl")


def test_rows_of_another_reader(tmp_path):
    items = items_from_rows([(4, {"id": 1, "text": "x"})], source="a.txt", fields=ItemFields())
    assert items["id"][:] == ["1"]
    with pytest.raises(DataError, match="^a.txt:9: field 'text': found integer 5"):
        items_from_rows([(9, {"id": 1, "text": 5})], source="a.txt", fields=ItemFields())


def test_many_rows_spill_to_disk_unchanged(tmp_path, monkeypatch):
    rows = [{"id": i, "text": f"text {i}", "n": i if i % 2 else i + 0.5} for i in range(10_000)]
    path = _jsonl(tmp_path / "a.jsonl", *rows)
    whole = read_items(path)
    monkeypatch.setattr("mmembed.data.tables.TableBuilder.__init__.__defaults__", (50_000,))
    spilled = read_items(path)
    assert spilled.cache_files and not whole.cache_files
    assert spilled.features == whole.features and spilled[:] == whole[:]


@pytest.mark.security
@pytest.mark.parametrize("extension", ["jsonl", "csv", "tsv", "parquet"])
def test_only_data_errors_escape(tmp_path, extension):
    generator = random.Random(0)
    seed = tmp_path / f"seed.{extension}"
    table = Dataset.from_dict({"id": ["1", "2"], "text": ["é", "x"], "price": [1.5, 2.0]})
    {"jsonl": table.to_json, "parquet": table.to_parquet}.get(extension, table.to_csv)(str(seed))
    original = seed.read_bytes()
    alphabet = b'{}[]":,\\\x00\xff\xef\xbb\xbf\r\n\t 0123456789eE+-.idtextnullNaNtrueu"d8'
    path = tmp_path / f"fuzz.{extension}"
    refused = 0
    for number in range(2000 if extension == "jsonl" else 500):
        if number % 3 == 0:
            data = bytes(generator.choice(alphabet) for _ in range(generator.randrange(60)))
        elif number % 3 == 1:
            data = generator.randbytes(generator.randrange(200))
        else:
            mutated = bytearray(original)
            for _ in range(generator.randrange(1, 6)):
                mutated[generator.randrange(len(mutated))] = generator.randrange(256)
            data = bytes(mutated[: generator.randrange(1, len(mutated) + 1)])
        path.write_bytes(data)
        try:
            read_items(path)
        except DataError:
            refused += 1
    assert refused > 100


# --- pairs -------------------------------------------------------------------------------------------------------


def _pairs_fail(path, message, *, line=None, field=None, **options):
    with pytest.raises(DataError, match=message) as caught:
        read_pairs(path, **options)
    assert (caught.value.line, caught.value.field) == (line, field), str(caught.value)


def test_pairs_of_json_lines_csv_and_parquet(tmp_path):
    expected = [
        {"query_id": "q", "positive_ids": ["1"], "negative_ids": ["2", "3"], "negative_scores": [0.5, 1.0]},
        {"query_id": "r", "positive_ids": ["a", "b"], "negative_ids": [], "negative_scores": None},
    ]
    rows = [
        {"query_id": "q", "positive_ids": [1], "negative_ids": ["2", 3], "negative_scores": [0.5, 1]},
        {"query_id": "r", "positive_ids": ["a", "b"]},
    ]
    assert list(read_pairs(_jsonl(tmp_path / "a.jsonl", *rows))) == expected
    text = 'query_id,positive_ids,negative_ids,negative_scores\nq,[1],"[""2"", 3]","[0.5, 1]"\nr,"[""a"", ""b""]",,\n'
    (tmp_path / "a.csv").write_text(text)
    assert list(read_pairs(tmp_path / "a.csv")) == expected
    pq.write_table(pa.Table.from_pylist(expected), tmp_path / "a.parquet")
    assert list(read_pairs(tmp_path / "a.parquet")) == expected


def test_other_columns_of_pairs_are_not_lost_in_silence(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", {"query_id": "q", "positive_ids": ["a"], "negative_id": ["b"], "margin": 0.5})
    _pairs_fail(path, "did you mean 'negative_ids'", field="negative_id")
    assert read_pairs(path, keep_columns=[]).column_names == ["query_id", "positive_ids", "negative_ids"]
    assert read_pairs(path, keep_columns=["margin"])[0]["margin"] == 0.5
    mapped = read_pairs(path, negative_ids_column="negative_id", keep_columns=[])
    assert mapped[0]["negative_ids"] == ["b"]


@pytest.mark.parametrize(
    ("bad", "field", "message"),
    [
        ({"positive_ids": "abc"}, "positive_ids", "expected a list of ids"),
        ({"positive_ids": []}, "positive_ids", "at least one"),
        ({"positive_ids": None}, "positive_ids", "expected a list"),
        ({"positive_ids": [1.5]}, "positive_ids", "element 0"),
        ({"negative_ids": ["a"]}, "negative_ids", "also a positive"),
        ({"positive_scores": [1, 2]}, "positive_scores", "2 scores for 1"),
        ({"positive_scores": ["1"]}, "positive_scores", "finite number"),
        ({"prompt": 5}, "prompt", "found integer 5"),
        ({"query_id": "q0"}, "query_id", "already stands at .*merge the two rows"),
    ],
)
def test_a_bad_pair_is_named(tmp_path, bad, field, message):
    row = {"query_id": "q9", "positive_ids": ["a"], "negative_ids": ["b"]}
    path = _jsonl(tmp_path / "a.jsonl", {**row, "query_id": "q0"}, {**row, **bad})
    _pairs_fail(path, message, line=2, field=field)


def test_missing_columns_of_pairs(tmp_path):
    path = _jsonl(tmp_path / "a.jsonl", {"query": "q", "positive_ids": ["a"]})
    _pairs_fail(path, "no such column", field="query_id")
    assert read_pairs(path, query_id_column="query")[0]["query_id"] == "q"
    _pairs_fail(path, "negative_ids_column", field="hard", query_id_column="query", negative_ids_column="hard")
    (tmp_path / "a.csv").write_text("query_id,positive_ids\nq,a|b\n")
    _pairs_fail(tmp_path / "a.csv", "expected a JSON array", line=2, field="positive_ids")
