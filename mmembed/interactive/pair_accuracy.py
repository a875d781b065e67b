"""How often does a model find the better of two questions likelier, on pairs that it was not trained on?"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm

from mmembed.statistics import bootstrap_interval


@dataclass(frozen=True)
class PairLogProbabilities:
    """ln P(question | prompt, images) of pairs.

    Args:
        chosen: float64 (pairs,).
        rejected: float64 (pairs,).
        chosen_tokens: int64 (pairs,), how many tokens each has, its end included.
        rejected_tokens: int64 (pairs,).
    """

    chosen: NDArray[np.float64]
    rejected: NDArray[np.float64]
    chosen_tokens: NDArray[np.int64]
    rejected_tokens: NDArray[np.int64]


def pair_log_probabilities(
    model: Any,
    processor: Any,
    rows: Dataset,
    *,
    batch_size: int = 8,
    with_adapter: bool = True,
    show_progress_bar: bool = False,
) -> PairLogProbabilities:
    """What a model thinks of the two questions of each pair, by plain log-softmax over its logits.

    Args:
        model: a transformers model of images and texts, or a `PeftModel` around one.
        processor: its processor.
        rows: pairs, see `mmembed.interactive.preference_rows`.
        batch_size: pairs a forward pass.
        with_adapter: False asks the model below its adapter.
        show_progress_bar: show a bar.

    Returns:
        The log-probabilities, in the order of the rows.
    """
    import torch

    from mmembed.interactive.preference_rows import plain_rows
    from mmembed.interactive.preference_trainer import PairCollator

    collator = PairCollator(processor=processor)
    rows = plain_rows(rows, processor)
    sums: list[NDArray[np.float64]] = []
    counts: list[NDArray[np.int64]] = []
    was_training = model.training
    model.eval()
    below = contextlib.nullcontext() if with_adapter else model.disable_adapter()
    bar = tqdm(total=len(rows), desc="weighing questions", unit="pair", disable=not show_progress_bar)
    with torch.no_grad(), below, bar:
        for start in range(0, len(rows), batch_size):
            part = rows.select(range(start, min(start + batch_size, len(rows))))
            batch = {
                name: one.to(model.device) for name, one in collator.torch_call([dict(row) for row in part]).items()
            }
            mask = batch.pop("completion_mask")[:, 1:].bool()  # (2 · pairs, length - 1)
            logits = model(**batch, use_cache=False).logits[:, :-1]
            own = torch.log_softmax(logits[mask].float(), dim=-1)
            own = own.gather(1, batch["input_ids"][:, 1:][mask][:, None])[:, 0].double()
            whole = torch.zeros(mask.shape, dtype=torch.float64, device=own.device)
            whole[mask] = own
            sums.append(whole.sum(1).cpu().numpy().reshape(2, -1))
            counts.append(mask.sum(1).cpu().numpy().reshape(2, -1))
            bar.update(len(part))
    if was_training:
        model.train()
    total = np.concatenate(sums, axis=1) if sums else np.zeros((2, 0))
    tokens = np.concatenate(counts, axis=1) if counts else np.zeros((2, 0), dtype=np.int64)
    return PairLogProbabilities(total[0], total[1], tokens[0], tokens[1])


def pair_accuracy(
    found: PairLogProbabilities,
    reference: PairLogProbabilities | None = None,
    *,
    clusters: Sequence[Hashable] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """The share of pairs whose chosen question is the likelier one; equal ones count half.

    Args:
        found: of the model.
        reference: of what it was trained from.
        clusters: (pairs,) labels of pairs that depend on each other, such as their target images.
        samples: resamples of the 95 % interval; with clusters whole clusters are drawn.
        seed: of the resampling.

    Returns:
        "accuracy" by the log-probability of the question; "accuracy a token" by its mean over the question's tokens, which
        does not prefer short ones; with a reference "implicit reward": by how much likelier each has become. Each with
        "mean", "low", "high" and "n". "margin": the mean difference of the log-probabilities, in nats. Empty without pairs.

    Example:
        >>> one = PairLogProbabilities(np.array([-1.0, -3.0]), np.array([-2.0, -2.0]), np.array([4, 4]), np.array([4, 4]))
        >>> pair_accuracy(one)["accuracy"]["mean"]
        0.5
    """
    if not len(found.chosen):
        return {}
    margins = {
        "accuracy": found.chosen - found.rejected,
        "accuracy a token": found.chosen / found.chosen_tokens - found.rejected / found.rejected_tokens,
    }
    if reference is not None:
        margins["implicit reward"] = margins["accuracy"] - (reference.chosen - reference.rejected)
    result: dict[str, dict[str, float]] = {}
    for name, margin in margins.items():
        right = np.where(np.abs(margin) < 1e-6, 0.5, margin > 0)
        interval = bootstrap_interval(right, samples=samples, seed=seed, clusters=clusters)
        result[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}
    spread = bootstrap_interval(margins["accuracy"], samples=samples, seed=seed, clusters=clusters)
    result["margin"] = {"mean": spread.mean, "low": spread.low, "high": spread.high, "n": spread.n}
    return result


def accuracy_line(figures: Mapping[str, Mapping[str, float]], name: str = "accuracy") -> str:
    """A figure with its interval and its n, for a table.

    Example:
        >>> accuracy_line({"accuracy": {"mean": 0.8125, "low": 0.7, "high": 0.9, "n": 320}})
        '.812 [.700, .900], n = 320'
    """
    found = figures[name]
    mean, low, high = (f"{found[key]:.3f}".replace("0.", ".", 1) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}], n = {int(found['n'])}"
