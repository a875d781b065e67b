"""The word pieces of Chinese-CLIP, against the original's own ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, BertTokenizerFast

from mmembed.conversion.checkpoint_reading import ConversionError
from mmembed.conversion.chinese_clip_tokenizer import bert_tokenizer
from tests.conversion import tiny_chinese_clip as tiny

# The tokens of bert-base-chinese's vocabulary that the golden cases use, at their places.
KNOWN = """0:[PAD] 100:[UNK] 101:[CLS] 102:[SEP] 103:[MASK] 106:! 107:" 138:[ 140:] 511:。 671:一 687:丘 749:了 791:今 800:他
1305:卡 1372:只 1377:可 1400:后 1762:在 1900:壳 1921:天 1962:好 1975:妙 2094:子 2225:尼 2797:手 3266:暗 3322:机 3345:杰
3698:气 3844:测 4197:然 4263:爱 4638:的 4649:皮 4696:真 4717:睡 4905:种 5166:紫 5682:色 6032:蛙 6230:觉 6407:试 6432:说
6624:走 7270:长 7991:龟 8024:， 8038:： 8051:ａ 8118:##s 8210:iphone 8376:pro 8377:cafe 8572:world 8621:max 8701:hello
8717:##14 8857:##ive 8929:##２ 8939:##１ 9089:##３ 9463:sep 9673:##gb 9745:256 10165:cat 10675:##ｃ 11469:na 12641:##ｂ
12847:cl""".split()


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    lines = [f"[unused{number}]" for number in range(21128)]
    for entry in KNOWN:
        number, token = entry.split(":", 1)
        lines[int(number)] = token
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(("key", "straight"), [("ids", False), ("ids_after_preprocess_text", True)])
def test_the_ids_are_the_originals(
    key: str, straight: bool, vocabulary: Path, shared_data: Path, tmp_path: Path
) -> None:
    golden = json.loads((shared_data / "parity" / "chinese_clip" / "tokenize_golden.json").read_text(encoding="utf-8"))
    made = bert_tokenizer(vocabulary, vocab_size=21128, max_length=52, straight_quotes=straight)
    made.save_pretrained(tmp_path / "saved")
    for words in (made, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        for case in golden["cases"]:
            features = words(case["text"], padding="max_length", truncation=True)
            assert features["input_ids"] == case[key], case["text"]
            assert features["attention_mask"] == [int(number != 0) for number in case[key]]
        assert words.model_max_length == golden["context_length_default"] == 52


def test_a_word_of_200_characters_is_still_read(tmp_path: Path) -> None:
    path = tiny.write_tokenizer(tmp_path)
    words = bert_tokenizer(path, vocab_size=len(tiny.VOCABULARY), max_length=500)
    words.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for made in (words, again):
        assert len(made("b" * 200, add_special_tokens=False)["input_ids"]) == 200
        assert made("b" * 201, add_special_tokens=False)["input_ids"] == [made.unk_token_id]


def test_whatever_holds_the_vocabulary_gives_the_same_ids(tmp_path: Path) -> None:
    path = tiny.write_tokenizer(tmp_path)
    size = len(tiny.VOCABULARY)
    plain = bert_tokenizer(path, vocab_size=size, max_length=52)
    # as on the Hub: bert-base-chinese does not lower-case
    BertTokenizerFast(vocab=str(path), do_lower_case=False).save_pretrained(tmp_path / "folder")
    (tmp_path / "with_vocab").mkdir()
    tiny.write_tokenizer(tmp_path / "with_vocab")
    for source in (tmp_path / "folder", tmp_path / "folder" / "tokenizer.json", tmp_path / "with_vocab"):
        made = bert_tokenizer(source, vocab_size=size, max_length=52)
        assert made("A RED Mug 红色")["input_ids"] == plain("a red mug 红色")["input_ids"]
        assert plain.unk_token_id not in made("A RED Mug 红色")["input_ids"]


def test_what_is_no_such_vocabulary_is_refused(tmp_path: Path) -> None:
    size = len(tiny.VOCABULARY)
    path = tiny.write_tokenizer(tmp_path)
    with pytest.raises(ConversionError, match=rf"{size} tokens and the checkpoint's {size - 1}"):
        bert_tokenizer(path, vocab_size=size - 1, max_length=52)
    (tmp_path / "other.txt").write_text("<s>\n</s>\n[UNK]\n")
    with pytest.raises(ConversionError, match=r"no \[PAD\], \[CLS\], \[SEP\]; is it BERT's"):
        bert_tokenizer(tmp_path / "other.txt", vocab_size=9, max_length=52)
    (tmp_path / "late.txt").write_text("[CLS]\n[SEP]\n[UNK]\n[PAD]\n")
    with pytest.raises(ConversionError, match=r"\[PAD\] at 3 instead of 0"):
        bert_tokenizer(tmp_path / "late.txt", vocab_size=9, max_length=52)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConversionError, match="no UTF-8 text"):
        bert_tokenizer(tmp_path / "binary.txt", vocab_size=9, max_length=52)
    Tokenizer(models.BPE({"a": 0}, [])).save(str(tmp_path / "bpe.json"))
    with pytest.raises(ConversionError, match="of the kind BPE"):
        bert_tokenizer(tmp_path / "bpe.json", vocab_size=9, max_length=52)
    with pytest.raises(ConversionError, match="absent is no BERT tokenizer"):
        bert_tokenizer(tmp_path / "absent", vocab_size=9, max_length=52)
