"""The reranker's loss: by hand, by sentence-transformers' own, by FlagEmbedding's recorded numbers, and in its trainer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import ListNetLoss
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from mmembed.losses.reranking import CandidateScoringLoss, candidate_scoring_loss
from tests.models.tiny_models import BERT, tokenizer

QUERIES = ["a red mug", "green hat"]
CANDIDATES = [["red mug", "wool hat"], ["desk lamp", "the quick brown fox"], ["a dog", "mug"]]
TEACHER = [[3.0, 1.0, -2.0], [0.5, 0.0, 1.0]]


def reranker(folder: Path, num_labels: int = 1) -> CrossEncoder:
    torch.manual_seed(3)
    words = tokenizer()
    config = BertConfig(**BERT, vocab_size=len(words), num_labels=num_labels, hidden_dropout_prob=0.0)
    config.attention_probs_dropout_prob = 0.0
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu")


def test_it_is_its_formula() -> None:
    logits = torch.tensor([[0.3, -1.2, 2.0], [1.5, 0.1, 0.2]])
    for scores in (None, torch.tensor(TEACHER)):
        expected = 0.0
        for i, row in enumerate(logits.tolist()):
            logs = [v - math.log(sum(math.exp(u) for u in row)) for v in row]
            expected -= logs[0]
            if scores is not None:
                weights = [math.exp(v) for v in TEACHER[i]]
                expected -= sum(w / sum(weights) * v for w, v in zip(weights, logs))
        assert candidate_scoring_loss(logits, scores).item() == pytest.approx(expected / 2, abs=1e-5)


@pytest.mark.parametrize("mini_batch_size", [None, 1, 4, 64])
@pytest.mark.parametrize("teacher", [False, True])
def test_it_is_two_of_sentence_transformers_list_losses(tmp_path, teacher: bool, mini_batch_size: int | None) -> None:
    results = []
    for ours in (True, False):
        model = reranker(tmp_path)
        if ours:
            labels = [torch.tensor(row) for row in TEACHER] if teacher else None
            loss = CandidateScoringLoss(model, mini_batch_size)([QUERIES, *CANDIDATES], labels)
        else:
            documents = [list(row) for row in zip(*CANDIDATES)]
            picked = [torch.tensor([0.0, -1e4, -1e4])] * 2
            loss = ListNetLoss(model)([QUERIES, documents], picked)
            if teacher:
                loss = loss + ListNetLoss(model)([QUERIES, documents], [torch.tensor(row) for row in TEACHER])
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scored", [True, False])
def test_the_trainer_of_sentence_transformers_trains_with_it(tmp_path, scored: bool) -> None:
    model = reranker(tmp_path / "model")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    table: dict = {"query": QUERIES, "positive": CANDIDATES[0], "negative_1": CANDIDATES[1]}
    if scored:
        table["label"] = [row[:2] for row in TEACHER]
    args = CrossEncoderTrainingArguments(
        str(tmp_path / "run"), use_cpu=True, report_to="none", max_steps=2, learning_rate=1e-2, disable_tqdm=True,
        save_strategy="no", per_device_train_batch_size=2,
    )  # fmt: skip
    CrossEncoderTrainer(model, args, Dataset.from_dict(table), loss=CandidateScoringLoss(model)).train()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert not [name for name in still if "key.bias" not in name]


def test_what_cannot_be_meant_is_refused(tmp_path) -> None:
    model = reranker(tmp_path / "one")
    with pytest.raises(ValueError, match="takes a model with 1 label, got one with 3"):
        CandidateScoringLoss(reranker(tmp_path / "three", num_labels=3))
    with pytest.raises(ValueError, match="mini_batch_size=0"):
        CandidateScoringLoss(model, mini_batch_size=0)
    loss = CandidateScoringLoss(model)
    with pytest.raises(ValueError, match="got 2 columns.*mine negatives"):
        loss([QUERIES, CANDIDATES[0]])
    for labels in (torch.zeros(2), torch.zeros(2, 2), [torch.zeros(3)], [torch.zeros(3), torch.zeros(2)]):
        with pytest.raises(ValueError, match="teacher's scores, 3 a row"):
            loss([QUERIES, *CANDIDATES], labels)
    with pytest.raises(ValueError, match="row 1 of the batch is not finite"):
        loss([QUERIES, *CANDIDATES], torch.tensor([[0.0, 0, 0], [0, float("inf"), 0]]))


def test_flag_embeddings_reranker_and_its_losses(shared_data, tmp_path) -> None:
    folder = shared_data / "parity" / "bge_reranker"
    about = json.loads((folder / "config.json").read_text())
    roberta = XLMRobertaForSequenceClassification(XLMRobertaConfig(**about["model_config"]))
    roberta.load_state_dict(load_file(folder / "original_state_dict.safetensors"))
    roberta.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = CrossEncoder(str(tmp_path), device="cpu").eval()
    inputs, outputs = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))
    teacher = inputs.pop("teacher_scores").view(about["train_batch_size"], -1)
    logits = model(dict(inputs))["scores"]
    torch.testing.assert_close(logits, outputs["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.sigmoid().flatten(), outputs["normalized_scores"], atol=1e-4, rtol=0)
    grouped = logits.view_as(teacher)
    loss = candidate_scoring_loss(grouped)
    assert loss.item() == pytest.approx(outputs["loss"].item(), abs=1e-4)
    with_teacher = candidate_scoring_loss(grouped, teacher)
    assert with_teacher.item() == pytest.approx(outputs["loss_with_teacher"].item(), abs=1e-4)
    weight = model.model.classifier.out_proj.weight
    found = [torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss, with_teacher)]
    assert min((grad - outputs["grad_classifier_out_proj"]).abs().max().item() for grad in found) < 1e-4
