"""FlagEmbedding's embedder losses: by hand, by its own recorded numbers, and over two processes."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score, pairwise_cos_sim
from torch import nn
from transformers import BertConfig, BertModel

from mmembed.losses.candidates import CandidateRankingLoss, ScoreDistillationLoss
from mmembed.losses.ranking import MaskedRankingLoss
from mmembed.models.loading import load_model
from tests.models.tiny_models import tokenizer

T = 0.05


def unit_rows(rows: int, dim: int, seed: int) -> torch.Tensor:
    return nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def columns(rows: int = 4, negatives: int = 2, dim: int = 6) -> list[torch.Tensor]:
    return [unit_rows(rows, dim, seed).requires_grad_() for seed in range(2 + negatives)]


def teacher(rows: int = 4, candidates: int = 3) -> torch.Tensor:
    return torch.randn(rows, candidates, generator=torch.Generator().manual_seed(9)) * 2


def log_softmax(target: float, all_of_them: list[float]) -> float:
    return target - math.log(sum(math.exp(v - max(all_of_them)) for v in all_of_them)) - max(all_of_them)


def by_hand(embeddings: list[torch.Tensor], scores: torch.Tensor | None, kind: str, in_batch: bool) -> float:
    """The formulas, row by row in plain floats."""
    queries, candidates = embeddings[0].tolist(), [column.tolist() for column in embeddings[1:]]
    rows, k = len(queries), len(candidates)
    dot = lambda a, b: sum(x * y for x, y in zip(a, b)) / T  # noqa: E731
    total = 0.0
    for i in range(rows):
        own = [dot(queries[i], candidates[c][i]) for c in range(k)]
        others = (
            [dot(queries[i], candidates[c][j]) for c in range(k) for j in range(rows) if j != i] if in_batch else []
        )
        if scores is not None:
            weights = [math.exp(v) for v in scores[i].tolist()]
            weights = [w / sum(weights) for w in weights]
        if kind == "m3_kd":
            total -= sum(weights[c] * log_softmax(own[c], own[c:] + others) for c in range(k))
            continue
        total -= log_softmax(own[0], own + others)
        if kind == "kl_div":
            total -= sum(weights[c] * log_softmax(own[c], own) for c in range(k))
    return total / rows


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("kind", ["kl_div", "m3_kd"])
@pytest.mark.parametrize("negatives", [1, 3])
def test_distillation_is_its_formula(kind: str, in_batch: bool, negatives: int) -> None:
    embeddings, scores = columns(negatives=negatives), teacher(candidates=1 + negatives)
    loss = ScoreDistillationLoss(nn.Identity(), T, kind, in_batch)
    assert loss.compute_loss_from_embeddings(embeddings, scores).item() == pytest.approx(
        by_hand(embeddings, scores, kind, in_batch), abs=1e-5
    )


def test_ranking_over_own_candidates_is_its_formula() -> None:
    loss = CandidateRankingLoss(nn.Identity(), T)
    assert loss.compute_loss_from_embeddings(columns(), None).item() == pytest.approx(
        by_hand(columns(), None, "", False), abs=1e-5
    )


def gradients(value: torch.Tensor, embeddings: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, embeddings))


def test_kl_div_trains_as_sentence_transformers_two_losses_do() -> None:
    """The values differ by the entropy of the teacher alone, the gradients by nothing."""
    embeddings, scores = columns(), teacher()
    ours = ScoreDistillationLoss(nn.Identity(), T).compute_loss_from_embeddings(embeddings, scores)
    ranking = MultipleNegativesRankingLoss(nn.Identity(), scale=1 / T).compute_loss_from_embeddings(embeddings, None)
    distilling = DistillKLDivLoss(nn.Identity(), pairwise_cos_sim, student_temperature=T, teacher_temperature=1.0)
    theirs = ranking + distilling.compute_loss_from_embeddings(embeddings, scores) / T**2
    torch.testing.assert_close(gradients(ours, embeddings), gradients(theirs, embeddings), atol=1e-4, rtol=1e-4)
    p = scores.softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    assert (ours - theirs).item() == pytest.approx(entropy.item(), abs=1e-4)


def test_own_candidates_keep_other_rows_out() -> None:
    embeddings = columns()
    loss = CandidateRankingLoss(nn.Identity(), T).compute_loss_from_embeddings([e[:1] for e in embeddings], None)
    rest = gradients(loss, embeddings)
    assert all(torch.equal(g[1:], torch.zeros_like(g[1:])) for g in rest) and rest[0][0].abs().sum() > 0


def test_half_precision_stays_finite() -> None:
    for kind in ("kl_div", "m3_kd"):
        embeddings = [e.detach().to(torch.float16).requires_grad_() for e in columns()]
        loss = ScoreDistillationLoss(nn.Identity(), T, kind).compute_loss_from_embeddings(embeddings, teacher())
        assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients(loss, embeddings))


def test_an_integer_teacher_is_a_teacher() -> None:
    loss = ScoreDistillationLoss(nn.Identity(), T)
    whole = torch.tensor([[2, 1, 0]] * 4)
    assert torch.equal(
        loss.compute_loss_from_embeddings(columns(), whole), loss.compute_loss_from_embeddings(columns(), whole.float())
    )


# --- what cannot be meant -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"teacher's scores as labels, of shape \(4, 3\).*Got none"),
        (torch.zeros(4), r"Got torch.float32 of shape \(4,\)"),
        (torch.zeros(4, 2), r"Got torch.float32 of shape \(4, 2\)"),
        (torch.zeros(4, 3, 3, dtype=torch.int64), r"Got torch.int64 of shape \(4, 3, 3\)"),
        (torch.tensor([[0.0, 0, 0]] * 3 + [[0, float("nan"), 0]]), "row 3 of the batch is not finite"),
    ],
)
def test_labels_that_are_no_scores_are_refused(labels: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreDistillationLoss(nn.Identity()).compute_loss_from_embeddings(columns(), labels)


def test_arguments_that_cannot_be_meant_are_refused() -> None:
    for bad in (0, -1, float("inf"), float("nan"), True, "cold"):
        for make in (CandidateRankingLoss, ScoreDistillationLoss):
            with pytest.raises(ValueError, match="must be a number above 0"):
                make(nn.Identity(), temperature=bad)
    with pytest.raises(ValueError, match="distillation='kl' is not known; known: kl_div, m3_kd"):
        ScoreDistillationLoss(nn.Identity(), distillation="kl")
    with pytest.raises(ValueError, match="nothing to gather"):
        ScoreDistillationLoss(nn.Identity(), in_batch_negatives=False, gather_across_devices=True)
    for loss in (CandidateRankingLoss(nn.Identity()), ScoreDistillationLoss(nn.Identity())):
        with pytest.raises(ValueError, match="got 2 columns.*mine negatives"):
            loss.compute_loss_from_embeddings(columns()[:2], None)


def test_the_configuration_names_every_argument() -> None:
    assert ScoreDistillationLoss(nn.Identity(), 0.1, "m3_kd").get_config_dict() == {
        "temperature": 0.1, "distillation": "m3_kd", "in_batch_negatives": True, "similarity_fct": "cos_sim",
        "gather_across_devices": False,
    }  # fmt: skip
    assert CandidateRankingLoss(nn.Identity(), 0.1).get_config_dict() == {
        "temperature": 0.1,
        "similarity_fct": "cos_sim",
    }


# --- two processes --------------------------------------------------------------------------------------------------


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    whole, scores = columns(), teacher()
    mine = [column.detach()[2 * rank : 2 * rank + 2].requires_grad_() for column in whole]
    told: dict[str, Any] = {}
    for kind in ("kl_div", "m3_kd"):
        loss = ScoreDistillationLoss(nn.Identity(), T, kind, gather_across_devices=True)
        value = loss.compute_loss_from_embeddings(mine, scores[2 * rank : 2 * rank + 2])
        told[kind] = [value.detach(), gradients(value, mine)]
    torch.save(told, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for kind in ("kl_div", "m3_kd"):
        embeddings = columns()
        value = ScoreDistillationLoss(nn.Identity(), T, kind).compute_loss_from_embeddings(embeddings, teacher())
        torch.testing.assert_close((told[0][kind][0] + told[1][kind][0]) / 2, value.detach())
        both = [torch.cat(parts) / 2 for parts in zip(told[0][kind][1], told[1][kind][1])]  # DDP takes the mean
        torch.testing.assert_close(both, gradients(value, embeddings), atol=1e-5, rtol=1e-4)


# --- FlagEmbedding's own numbers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceTransformer, dict[str, Any]]:
    """FlagEmbedding's model as one of sentence-transformers, and its batch: columns of tokens, scores, losses."""
    folder = shared_data / "parity" / "flag_embedder"
    about = json.loads((folder / "config.json").read_text())
    config = BertConfig(**about["model_config"], attn_implementation="eager")
    bert = BertModel(config)
    bert.load_state_dict(load_file(folder / "original_state_dict.safetensors"))
    place = tmp_path_factory.mktemp("flag")
    bert.save_pretrained(place)
    tokenizer(config.max_position_embeddings).save_pretrained(place)
    pooling = about["sentence_pooling_method"].replace("last_token", "lasttoken")
    model = load_model(place, device="cpu", pooling=pooling)
    inputs = load_file(folder / "inputs.safetensors")
    groups = about["group_size"]
    tokens = [{name: inputs[f"query_{name}"] for name in ("input_ids", "attention_mask")}]
    for k in range(groups):
        tokens.append({name: inputs[f"passage_{name}"][k::groups] for name in ("input_ids", "attention_mask")})
    return model, {
        **about,
        "tokens": tokens,
        "teacher": inputs["teacher_scores"].view(-1, groups),
        "outputs": load_file(folder / "outputs.safetensors"),
    }


def value_of(loss: nn.Module, batch: dict[str, Any], labels: torch.Tensor | None = None) -> float:
    return loss([dict(column) for column in batch["tokens"]], labels).item()


def test_flag_embeddings_vectors(recorded) -> None:
    model, batch = recorded
    with torch.no_grad():
        vectors = [model(dict(column))["sentence_embedding"] for column in batch["tokens"]]
    torch.testing.assert_close(vectors[0], batch["outputs"]["q_reps"], atol=1e-5, rtol=0)
    passages = torch.stack(vectors[1:], dim=1).flatten(0, 1)
    torch.testing.assert_close(passages, batch["outputs"]["p_reps"], atol=1e-5, rtol=0)


def test_flag_embeddings_losses_that_sentence_transformers_has(recorded) -> None:
    model, batch = recorded
    out, scale = batch["outputs"], 1 / batch["temperature"]
    for make in (MultipleNegativesRankingLoss, MaskedRankingLoss):
        for similarity in ({}, {"similarity_fct": dot_score}):
            loss = make(model, scale=scale, **similarity)
            assert value_of(loss, batch) == pytest.approx(out["loss_in_batch"].item(), abs=1e-4)
    dims = batch["mrl_dims"]
    mrl = MatryoshkaLoss(model, MaskedRankingLoss(model, scale=scale), dims, [1 / len(dims)] * len(dims))
    assert value_of(mrl, batch) == pytest.approx(out["loss_mrl"].item(), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "recorded_name"),
    [
        ("CandidateRankingLoss", {}, "loss_no_in_batch"),
        ("ScoreDistillationLoss", {}, "loss_in_batch_kl_div"),
        ("ScoreDistillationLoss", {"in_batch_negatives": False}, "loss_no_in_batch_kl_div"),
        ("ScoreDistillationLoss", {"distillation": "m3_kd"}, "loss_in_batch_m3_kd"),
    ],
)
def test_flag_embeddings_other_losses(recorded, name: str, arguments: dict, recorded_name: str) -> None:
    model, batch = recorded
    loss = {"CandidateRankingLoss": CandidateRankingLoss, "ScoreDistillationLoss": ScoreDistillationLoss}[name](
        model, temperature=batch["temperature"], **arguments
    )
    labels = batch["teacher"] if name == "ScoreDistillationLoss" else None
    assert value_of(loss, batch, labels) == pytest.approx(batch["outputs"][recorded_name].item(), abs=1e-4)
