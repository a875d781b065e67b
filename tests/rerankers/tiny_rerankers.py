"""Folders of tiny random rerankers, with the tokenizers of BERT and of XLM-RoBERTa."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerBase,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaTokenizer,
)

from tests.models.tiny_models import BERT, WORDS

POSITIONS = 40


def bert_tokenizer() -> BertTokenizer:
    """Whole words, and pieces of what is no whole word."""
    words = sorted({word for text in WORDS for word in text.split() if word.isascii()} | set("红色杯子"))
    letters = "abcdefghijklmnopqrstuvwxyz,:/."
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{letter}" for letter in letters)]
    return BertTokenizer(vocab={name: number for number, name in enumerate(dict.fromkeys(names))})


def roberta_tokenizer() -> XLMRobertaTokenizer:
    """Pieces that are likeliest together, spaces among them."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(WORDS * 4, trainers.UnigramTrainer(vocab_size=90, show_progress=False))
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0)]
    learnt = [(piece, rank) for piece, rank in _pieces(trained) if piece != "<unk>"]
    return XLMRobertaTokenizer(vocab=[*special, *learnt, ("<mask>", 0.0)])


def tiny_reranker(folder: Path, kind: str = "xlm-roberta", labels: int = 1) -> Path:
    """A plain transformers folder of a reranker, as FlagEmbedding saves one."""
    torch.manual_seed(5)
    words: PreTrainedTokenizerBase = bert_tokenizer() if kind == "bert" else roberta_tokenizer()
    config = {**BERT, "vocab_size": len(words), "num_labels": labels, "pad_token_id": words.pad_token_id}
    config["max_position_embeddings"] = POSITIONS
    if kind == "bert":
        model = BertForSequenceClassification(BertConfig(**config))
    else:
        config |= {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2}
        model = XLMRobertaForSequenceClassification(XLMRobertaConfig(**config))
    # Wide apart, so that a pair cut elsewhere has another score.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _pieces(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    import json

    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
