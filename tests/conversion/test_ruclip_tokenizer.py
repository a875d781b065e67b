"""ruCLIP's tokenizer, against the original's ids and against YouTokenToMe's rules written down plainly."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.conversion.ruclip_tokenizer import read_bpe_model, ruclip_tokenizer
from tests.conversion import tiny_ruclip as tiny


def plain_ids(text: str, path: Path) -> list[int]:
    """YouTokenToMe's encoding, straight from its file: one merge at a time, the earliest rule's first place."""
    lines = [[int(value) for value in line.split()] for line in path.read_text().splitlines()]
    characters, merges = lines[0]
    ids = {chr(code): number for code, number in lines[1 : characters + 1]}
    rules = [tuple(line) for line in lines[characters + 1 : characters + 1 + merges]]
    unknown = lines[-1][0]
    for space in "\t\n\v\f\r▁":
        text = text.replace(space, " ")
    result = []
    for word in text.lower().split(" "):
        if not word:
            continue
        tokens: list[int] = [ids["▁"]]
        for letter in word:
            if letter in ids:
                tokens.append(ids[letter])
            elif tokens[-1] != -1:
                tokens.append(-1)
        while True:
            found = [
                (rank, place)
                for rank, (left, right, _) in enumerate(rules)
                for place in range(len(tokens) - 1)
                if (tokens[place], tokens[place + 1]) == (left, right)
            ]
            if not found:
                break
            rank, place = min(found)
            tokens[place : place + 2] = [rules[rank][2]]
        result += [unknown if token == -1 else token for token in tokens]
    return result


def test_the_ids_are_the_originals(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "parity" / "ruclip"
    golden = json.loads((folder / "tokenize_golden.json").read_text(encoding="utf-8"))
    length = json.loads((folder / "config.json").read_text())["config_json_in_published_folder"]["context_length"]
    made = ruclip_tokenizer(folder / "bpe.model", context_length=length)
    made.save_pretrained(tmp_path)
    for words in (made, AutoTokenizer.from_pretrained(tmp_path)):
        assert words.convert_ids_to_tokens(list(range(len(words)))) == golden["vocab"]
        for case in golden["cases"]:
            text = case["text"]
            assert words(text, padding="max_length", truncation=True)["input_ids"] == case["processor_ids"], text
            assert words(text, add_special_tokens=False)["input_ids"] == case["bpe_ids"], text
            assert words.decode(case["processor_ids"], skip_special_tokens=True) == case["decoded"], text


def test_random_texts_are_read_by_the_rules(shared_data: Path) -> None:
    path = shared_data / "parity" / "ruclip" / "bpe.model"
    words = ruclip_tokenizer(path, context_length=64)
    known = [token for token in words.get_vocab() if not token.startswith("<")]
    others = [
        " ",
        "  ",
        "\t",
        "\n",
        "\x0b",
        "\x0c",
        "\r",
        "▁",
        "\u00a0",
        "\u3000",
        "\x85",
        "\x1c",
        "!",
        "漢",
        "🐱",
        "Ж",
        "Σ",
    ]
    others += ["ё", "<UNK>", "<eos>", "é", "E", "a" * 5, "İ", "ß", "-", "кк"]
    draw = random.Random(0)
    for _ in range(1500):
        text = "".join(draw.choice(draw.choice((known, others))) for _ in range(draw.randint(0, 9)))
        assert words(text, add_special_tokens=False)["input_ids"] == plain_ids(text, path), repr(text)


def test_a_made_up_model_is_read_by_the_rules(tmp_path: Path) -> None:
    path = tiny.write_tokenizer(tmp_path)
    words = ruclip_tokenizer(path, context_length=20)
    for text in ("red mug", "redmug Кошка!!кот", "  машинамашина <EOS>", "", "é é éé reéd", "ΑΣ mugs"):
        assert words(text, add_special_tokens=False)["input_ids"] == plain_ids(text, path), text
    assert words("red")["input_ids"] == [2, *plain_ids("red", path), 3]
    batch = words(["red", "green hat dog"], padding=True)
    assert batch["input_ids"][0][-1] == words.pad_token_id == 0 and batch["attention_mask"][0][-1] == 0


def test_a_text_that_spells_a_control_token_is_a_text(tmp_path: Path) -> None:
    ruclip_tokenizer(tiny.write_tokenizer(tmp_path), context_length=40).save_pretrained(tmp_path / "saved")
    words = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in ("<EOS>", "red<EOS>mug", "<BOS> <PAD>"):
        assert not {0, 2, 3} & set(words(text)["input_ids"][1:-1]), text


HEAD = "3 2\n9601 4\n97 5\n98 6\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\x00PK", "expected whole numbers"),
        ("привет\n", "cannot be read as a bpe.model"),
        ("3\n9601 4\n", "bpe.model:1: expected the numbers of characters and of merges"),
        (HEAD + "4 5 7\n1 0 2 3\n", "has 6 lines where its first one announces 3 characters and 2 merges"),
        (HEAD + "4 5 7\n\n7 6 8\n1 0 2 3\n", "bpe.model:6: an empty line"),
        (HEAD + "4 5 7\n9 6 8\n1 0 2 3\n", "bpe.model:6: expected .*ids of lines above.*9, 6, 8"),
        (HEAD + "4 5 7\n7 6\n1 0 2 3\n", "bpe.model:6: expected"),
        (HEAD + "4 5 7\n7 6 7\n1 0 2 3\n", "bpe.model:6: id 7 is that of '▁a' already"),
        (HEAD + "4 5 7\n7 6 8\n1 0 2\n", "bpe.model:7: expected the ids of four special tokens"),
        (HEAD + "4 5 7\n7 6 8\n1 0 2 8\n", "the id 8 stands for two"),
        (HEAD + "4 5 7\n4 5 8\n1 0 2 3\n", "the token '▁a' stands for two"),
        ("1 0\n97 4\n1 0 2 3\n", "no character 9601"),
        ("1 0\n9999999 4\n1 0 2 3\n", "9999999 is no code point"),
    ],
)
def test_what_is_no_model_is_refused_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bpe.model"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConversionError, match=message):
        read_bpe_model(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="absent.model cannot be read"):
        read_bpe_model(tmp_path / "absent.model")
