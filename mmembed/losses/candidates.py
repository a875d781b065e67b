"""Ranking over a query's own candidates, and learning how a teacher ranks them, as FlagEmbedding trains its embedders.

What FlagEmbedding calls its other losses, sentence-transformers and `mmembed.losses.ranking` have already:

* in-batch negatives: `MultipleNegativesRankingLoss` (or `MaskedRankingLoss`) with scale = 1 / temperature;
* the same over devices: that with `gather_across_devices=True`;
* MRL: `MatryoshkaLoss` around any of them, each dimension weighted 1 / number of dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.util import all_gather_with_grad, cos_sim, get_rank, similarity_fct_name
from torch import Tensor, nn

from mmembed.losses.masks import MASKED_SCORE

Similarity = Callable[[Tensor, Tensor], Tensor]


class CandidateRankingLoss(nn.Module):
    """Each query picks its positive among its own candidates alone; other rows of the batch are no negatives.

    For query i, its candidates d_i0 (the positive), d_i1, …, similarity s and temperature t:

        loss_i = -log( exp(s(q_i, d_i0) / t) / sum_k exp(s(q_i, d_ik) / t) )

    It is FlagEmbedding's loss with `no_in_batch_neg_flag`, for data whose rows cannot serve as one another's negatives:
    classification, clustering, texts that mostly say the same (Xiao et al. 2023, C-Pack,
    https://huggingface.co/papers/2309.07597).

    Args:
        model: The model in training.
        temperature: What similarities are divided by, above 0.
        similarity_fct: Takes (n, dim) and (m, dim), returns (n, m) similarities, higher is closer.

    Inputs: columns query, positive, one or more negatives; no labels.

    Raises:
        ValueError: If the temperature is no number above 0, or there is no negative.

    Example:
        >>> loss = CandidateRankingLoss(nn.Identity(), temperature=1.0)
        >>> query, positive, negative = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> round(loss.compute_loss_from_embeddings([query, positive, negative], None).item(), 4)  # log(1 + 1/e)
        0.3133
    """

    def __init__(
        self, model: SentenceTransformer, temperature: float = 0.02, similarity_fct: Similarity = cos_sim
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = _checked_temperature(temperature)
        self.similarity_fct = similarity_fct

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        return self.compute_loss_from_embeddings(embed_columns(self.model, sentence_features), labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss, a scalar, of column embeddings, each of shape (batch, dim)."""
        scores, own = _scores(self, embeddings, gather=False)  # (batch, …), (batch, candidates)
        own_scores = scores.gather(1, own)
        return F.cross_entropy(own_scores, own_scores.new_zeros(len(own_scores), dtype=torch.int64))

    def get_config_dict(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "similarity_fct": similarity_fct_name(self.similarity_fct)}


class ScoreDistillationLoss(nn.Module):
    """Ranking in which a teacher's scores say how far each candidate of a query is the right one.

    For query i with candidates k = 0 (the positive), 1, …, scores s_ik = similarity / t, all candidates j of the batch,
    and p_i = softmax of the teacher's scores of i's candidates:

        kl_div:  loss_i = -log( exp(s_i0) / sum_j exp(s_ij) ) - sum_k p_ik log( exp(s_ik) / sum_l exp(s_il) )
        m3_kd:   loss_i = -sum_k p_ik log( exp(s_ik) / sum_{j not among i's first k} exp(s_ij) )

    j runs over the candidates of all rows, l over those of row i. `kl_div` (`DistillKLDivLoss` plus the teacher's entropy,
    which has no gradient, plus the ranking loss) and `m3_kd` (every candidate in turn is the positive, those before it
    left out) are FlagEmbedding's `kd_loss_type` kl_div and m3_kd_loss (Chen et al. 2024, M3-Embedding,
    https://huggingface.co/papers/2402.03216). Without in-batch negatives j runs over row i's candidates too;
    FlagEmbedding fails there with m3_kd_loss.

    Args:
        model: The model in training, the student.
        temperature: What the student's similarities are divided by, above 0. The teacher's scores are taken as they are.
        distillation: "kl_div" or "m3_kd".
        in_batch_negatives: Whether the candidates of other rows are negatives too.
        similarity_fct: Takes (n, dim) and (m, dim), returns (n, m) similarities, higher is closer.
        gather_across_devices: Take the candidates of all processes as negatives.

    Inputs: columns query, positive, one or more negatives; labels float (batch, 1 + negatives), the teacher's scores of
    the positive and of each negative, higher is closer.

    Raises:
        ValueError: If an argument is none of these, or the labels are no scores of the row's candidates.

    Example:
        >>> columns = [torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
        >>> unsure = torch.zeros(1, 2)  # the teacher holds both for equally right
        >>> loss = ScoreDistillationLoss(nn.Identity(), temperature=1.0)
        >>> round(loss.compute_loss_from_embeddings(columns, unsure).item(), 4)  # log(1 + 1/e) + (log(1 + 1/e) + .5)
        1.1265
        >>> loss = ScoreDistillationLoss(nn.Identity(), temperature=1.0, distillation="m3_kd")
        >>> round(loss.compute_loss_from_embeddings(columns, unsure).item(), 4)  # half of log(1 + 1/e)
        0.1566
    """

    def __init__(
        self,
        model: SentenceTransformer,
        temperature: float = 0.02,
        distillation: Literal["kl_div", "m3_kd"] = "kl_div",
        in_batch_negatives: bool = True,
        similarity_fct: Similarity = cos_sim,
        gather_across_devices: bool = False,
    ) -> None:
        super().__init__()
        if distillation not in ("kl_div", "m3_kd"):
            raise ValueError(f"distillation={distillation!r} is not known; known: kl_div, m3_kd.")
        if gather_across_devices and not in_batch_negatives:
            raise ValueError(
                "gather_across_devices=True with in_batch_negatives=False: no row is compared with another, so there is "
                "nothing to gather; set one of them the other way."
            )
        self.model = model
        self.temperature = _checked_temperature(temperature)
        self.distillation = distillation
        self.in_batch_negatives = in_batch_negatives
        self.similarity_fct = similarity_fct
        self.gather_across_devices = gather_across_devices

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        return self.compute_loss_from_embeddings(embed_columns(self.model, sentence_features), labels)

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """The loss, a scalar, of column embeddings, each of shape (batch, dim), and the teacher's scores."""
        scores, own = _scores(self, embeddings, gather=self.gather_across_devices)
        teacher = self._checked_labels(labels, own).softmax(dim=1)  # (batch, candidates)
        own_scores = scores.gather(1, own)
        if not self.in_batch_negatives:
            scores, own = own_scores, torch.arange(own.shape[1], device=own.device).expand_as(own)
        if self.distillation == "kl_div":
            return F.cross_entropy(scores, own[:, 0]) + F.cross_entropy(own_scores, teacher)
        loss = scores.new_zeros(())
        for k in range(own.shape[1]):
            loss = loss + (teacher[:, k] * F.cross_entropy(scores, own[:, k], reduction="none")).mean()
            scores = scores.scatter(1, own[:, k : k + 1], MASKED_SCORE)
        return loss

    def _checked_labels(self, labels: Tensor | None, own: Tensor) -> Tensor:
        if labels is None or labels.shape != own.shape:
            got = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise ValueError(
                f"ScoreDistillationLoss reads the teacher's scores as labels, of shape {tuple(own.shape)}: one for "
                f"the positive and for each negative of a row. Got {got}."
            )
        if not torch.isfinite(labels).all():
            row = int((~torch.isfinite(labels)).any(dim=1).nonzero()[0])
            raise ValueError(f"a teacher's score in row {row} of the batch is not finite: {labels[row].tolist()}.")
        return labels.detach().to(own.device, torch.float32)

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "distillation": self.distillation,
            "in_batch_negatives": self.in_batch_negatives,
            "similarity_fct": similarity_fct_name(self.similarity_fct),
            "gather_across_devices": self.gather_across_devices,
        }


def _scores(
    loss: CandidateRankingLoss | ScoreDistillationLoss, embeddings: list[Tensor], *, gather: bool
) -> tuple[Tensor, Tensor]:
    """Scores (batch, all candidates), float32, and int64 (batch, 1 + negatives): where each row's own candidates stand."""
    if len(embeddings) < 3:
        raise ValueError(
            f"{type(loss).__name__} takes a query, a positive and one or more negatives, got {len(embeddings)} columns. "
            "Over one candidate alone the loss is always 0; mine negatives first."
        )
    queries, candidates = embeddings[0], embeddings[1:]
    batch = len(queries)
    if gather:
        candidates = [all_gather_with_grad(column) for column in candidates]
    # float32: half precision cannot hold the score of a masked candidate.
    scores = loss.similarity_fct(queries, torch.cat(candidates)).float() / loss.temperature
    first = torch.arange(batch, device=scores.device) + (get_rank() * batch if gather else 0)
    columns = torch.arange(len(candidates), device=scores.device) * len(candidates[0])
    return scores, first[:, None] + columns


def _checked_temperature(temperature: float) -> float:
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r}; it must be a number above 0.")
    return float(temperature)
