"""The ranking losses against sentence-transformers' own, against a brute-force mask, and cached against plain."""

from __future__ import annotations

import math

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from torch import nn

from mmembed.losses.ranking import CachedMaskedRankingLoss, MaskedRankingLoss

VARIANTS = [
    {},
    {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")},
    {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
]


class Tower(nn.Module):
    """The least that a cached loss needs of a model: features in, an embedding out; with dropout, as real ones have."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.dropout = nn.Linear(6, 8), nn.Dropout(dropout)

    def forward(self, features: dict) -> dict:
        return {**features, "sentence_embedding": self.linear(self.dropout(features["input_ids"].float()))}

    def __getitem__(self, index: int) -> nn.Module:
        return self.linear

    def get_embedding_dimension(self) -> int:
        return 8


def unit_rows(rows: int, dim: int, seed: int) -> torch.Tensor:
    return nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)))


def batch(rows: int = 6, columns: int = 3, seed: int = 1) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [{"input_ids": torch.randint(1, 9, (rows, 6), generator=generator)} for _ in range(columns)]


def keys_of(rows: int = 6, columns: int = 3) -> torch.Tensor:
    keys = torch.zeros(rows, columns, 3, dtype=torch.int64)
    keys[:, :, 0] = torch.arange(1, rows + 1)[:, None] * 10
    keys[:, 2, 0] = 1000 + torch.arange(rows)
    keys[3, :2, 0] = 10  # row 3 is of row 0's group
    keys[1, 1, 2] = keys[4, 1, 2] = 77  # rows 1 and 4 have the same image
    return keys


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_keys_it_is_sentence_transformers_loss(variant: dict) -> None:
    model = Tower()
    features = batch()
    ours, theirs = MaskedRankingLoss(model, **variant), MultipleNegativesRankingLoss(model, **variant)
    torch.testing.assert_close(ours(features, None), theirs(features, None))


def test_mask_equals_a_loss_written_out_by_hand() -> None:
    keys = keys_of()[:, :2]
    embeddings = [unit_rows(6, 4, i) for i in (0, 1)]
    loss = MaskedRankingLoss(nn.Identity(), scale=5.0).compute_loss_from_embeddings(embeddings, keys)
    same = {(0, 3), (3, 0), (1, 4), (4, 1)}
    expected = 0.0
    for i in range(6):
        logits = {j: 5.0 * float(embeddings[0][i] @ embeddings[1][j]) for j in range(6) if (i, j) not in same}
        expected += -logits[i] + math.log(sum(math.exp(v) for v in logits.values()))
    assert loss.item() == pytest.approx(expected / 6, abs=1e-5)


def test_no_gradient_flows_between_masked_rows() -> None:
    embeddings = [torch.randn(2, 4, requires_grad=True) for _ in range(2)]
    keys = torch.tensor([[[3, 0, 0]] * 2] * 2)
    MaskedRankingLoss(nn.Identity()).compute_loss_from_embeddings(embeddings, keys).backward()
    assert all(torch.equal(e.grad, torch.zeros_like(e)) for e in embeddings)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mini_batch_size", [1, 2, 5, 64])
def test_cached_gives_the_plain_loss_and_gradients(variant: dict, mini_batch_size: int) -> None:
    results = []
    learnt = "query_to_query" not in variant.get("directions", ())
    for make in (
        lambda m: MaskedRankingLoss(m, scale=7.0, learnable_temperature=learnt, **variant),
        lambda m: CachedMaskedRankingLoss(
            m, scale=7.0, learnable_temperature=learnt, mini_batch_size=mini_batch_size, **variant
        ),
    ):
        model = Tower()
        loss = make(model)
        value = loss(batch(), keys_of()) / 3  # as under gradient accumulation
        value.backward()
        results.append(
            [value, model.linear.weight.grad, *(p.grad for p in getattr(loss, "loss", loss)._parameters.values())]
        )
    for plain, cached in zip(*results):
        torch.testing.assert_close(plain, cached, atol=1e-6, rtol=1e-5)


def test_cached_accumulates_the_temperature_gradient_over_two_batches() -> None:
    model = Tower()
    loss = CachedMaskedRankingLoss(model, scale=7.0, learnable_temperature=True, mini_batch_size=4)
    for seed in (1, 2):
        (loss(batch(seed=seed), keys_of()) / 2).backward()
    plain_model = Tower()
    plain = MaskedRankingLoss(plain_model, scale=7.0, learnable_temperature=True)
    (sum(plain(batch(seed=seed), keys_of()) for seed in (1, 2)) / 2).backward()
    torch.testing.assert_close(loss.loss.log_scale.grad, plain.log_scale.grad)


def test_cached_replays_dropout() -> None:
    model = Tower(dropout=0.5)
    loss = CachedMaskedRankingLoss(model, mini_batch_size=2)
    torch.manual_seed(3)
    loss(batch(), keys_of()).backward()
    first = model.linear.weight.grad.clone()
    model.zero_grad()
    torch.manual_seed(3)
    loss(batch(), keys_of()).backward()
    assert torch.equal(first, model.linear.weight.grad) and first.abs().sum() > 0


def test_matryoshka_around_plain_and_cached_agree() -> None:
    values = []
    for make in (MaskedRankingLoss, lambda m: CachedMaskedRankingLoss(m, mini_batch_size=2)):
        model = Tower()
        loss = MatryoshkaLoss(model, make(model), [8, 4], [1, 0.5])
        value = loss(batch(), keys_of())
        value.backward()
        values.append((value, model.linear.weight.grad))
    torch.testing.assert_close(values[0], values[1], atol=1e-6, rtol=1e-5)


def test_the_learnt_temperature_stays_within_its_bounds() -> None:
    loss = MaskedRankingLoss(nn.Identity(), scale=50.0, learnable_temperature=True)
    for value, expected in ((9.0, math.log(100)), (-3.0, 0.0)):
        with torch.no_grad():
            loss.log_scale.fill_(value)
        loss.compute_loss_from_embeddings([torch.eye(2)] * 2, None).backward()
        assert loss.log_scale.item() == pytest.approx(expected)
    assert loss.log_scale.shape == (1,)
    with pytest.raises(ValueError, match="scale=200"):
        MaskedRankingLoss(nn.Identity(), scale=200.0, learnable_temperature=True)


def test_directions_that_would_make_the_temperature_nan_are_refused() -> None:
    with pytest.raises(ValueError, match="query_to_query"):
        MaskedRankingLoss(nn.Identity(), learnable_temperature=True, directions=("query_to_doc", "query_to_query"))


def test_zero_vectors_give_no_nan() -> None:
    embeddings = [torch.zeros(3, 4, requires_grad=True) for _ in range(2)]
    loss = MaskedRankingLoss(nn.Identity()).compute_loss_from_embeddings(embeddings, None)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3)) and not torch.isnan(embeddings[0].grad).any()
