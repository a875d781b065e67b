"""Ranking a query's candidates with a pair scorer, and learning how a teacher ranks them, as FlagEmbedding trains rerankers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import CrossEncoder
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn


class CandidateScoringLoss(nn.Module):
    """A pair scorer picks each query's positive among its candidates, and agrees with a teacher where there is one.

    For query i, logits z_i0 (the positive), z_i1, … of its candidates and p_i = softmax of the teacher's scores:

        loss_i = -log( exp(z_i0) / sum_k exp(z_ik) )  [ - sum_k p_ik log( exp(z_ik) / sum_l exp(z_il) ) ]

    The first term alone is sentence-transformers' `ListNetLoss` for labels whose softmax is 1 at the positive, the second
    is `ListNetLoss` for the teacher's scores (Cao et al. 2007, https://dl.acm.org/doi/10.1145/1273496.1273513). Together,
    over one pass through the model, they are the loss that FlagEmbedding trains its rerankers with (Xiao et al. 2023,
    C-Pack, https://huggingface.co/papers/2309.07597).

    Args:
        model: The `CrossEncoder` in training, with one label.
        mini_batch_size: Pairs that are scored at a time, None for a whole column. It changes the padding, not the loss.

    Inputs: columns query, positive, one or more negatives, of texts; labels None, or the teacher's scores of each row's
    positive and negatives, floats (batch, 1 + negatives), higher is closer.

    Raises:
        ValueError: If the model has several labels, there is no negative, or a row has not one score a candidate.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0]])
        >>> round(candidate_scoring_loss(logits).item(), 4)  # log(1 + 1/e)
        0.3133
        >>> round(candidate_scoring_loss(logits, torch.zeros(1, 2)).item(), 4)  # and log(1 + 1/e) + .5
        1.1265
    """

    def __init__(self, model: CrossEncoder, mini_batch_size: int | None = None) -> None:
        super().__init__()
        if model.num_labels != 1:
            raise ValueError(f"CandidateScoringLoss takes a model with 1 label, got one with {model.num_labels}.")
        if mini_batch_size is not None and mini_batch_size < 1:
            raise ValueError(f"mini_batch_size={mini_batch_size}; it must be at least 1, or None.")
        self.model = model
        self.mini_batch_size = mini_batch_size

    def forward(
        self,
        inputs: Sequence[Sequence[str]],
        labels: Tensor | Sequence[Tensor] | None = None,
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor:
        if len(inputs) < 3:
            raise ValueError(
                f"CandidateScoringLoss takes a query, a positive and one or more negatives, got {len(inputs)} columns. "
                "Over one candidate alone the loss is always 0; mine negatives first."
            )
        queries, candidates = inputs[0], inputs[1:]
        # Row by row, as the pairs of one query are of about one length.
        pairs = [(query, column[row]) for row, query in enumerate(queries) for column in candidates]
        size = self.mini_batch_size or len(queries)
        logits = []
        for start in range(0, len(pairs), size):
            features = self.model.preprocess(pairs[start : start + size], prompt=prompt, task=task)
            logits.append(self.model(batch_to_device(features, self.model.device))["scores"].view(-1))
        scores = torch.cat(logits).float().view(len(queries), len(candidates))
        return candidate_scoring_loss(scores, self._checked_labels(labels, scores))

    def _checked_labels(self, labels: Tensor | Sequence[Tensor] | None, scores: Tensor) -> Tensor | None:
        if labels is None:
            return None
        counts = [row.numel() if row.ndim == 1 else -1 for row in labels]
        if counts != [scores.shape[1]] * len(scores):
            raise ValueError(
                f"the labels are the teacher's scores, {scores.shape[1]} a row for the positive and each negative; got "
                f"{len(counts)} rows, the first of shape {tuple(labels[0].shape) if counts else ()}."
            )
        teacher = torch.stack(list(labels)).to(scores.device, torch.float32)
        if not torch.isfinite(teacher).all():
            row = int((~torch.isfinite(teacher)).any(dim=1).nonzero()[0])
            raise ValueError(f"a teacher's score in row {row} of the batch is not finite: {teacher[row].tolist()}.")
        return teacher

    def get_config_dict(self) -> dict[str, Any]:
        return {"mini_batch_size": self.mini_batch_size}


def candidate_scoring_loss(logits: Tensor, teacher_scores: Tensor | None = None) -> Tensor:
    """The loss of `CandidateScoringLoss` from logits.

    Args:
        logits: Float (queries, candidates), the positive first.
        teacher_scores: Float (queries, candidates), or None.

    Returns:
        A scalar.
    """
    loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))
    if teacher_scores is None:
        return loss
    return loss + F.cross_entropy(logits, teacher_scores.detach().softmax(dim=1))
