"""The mask against a brute-force definition, and the exactness of keys that travel as floats."""

from __future__ import annotations

import itertools

import pytest
import torch

from mmembed.losses.masks import MASKED_SCORE, MaskedSimilarity, tag_rows


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b.T


def masked_pairs(keys: torch.Tensor, column_a: int, column_b: int) -> set[tuple[int, int]]:
    """Which (i, j) are masked between two columns, by the definition in words."""

    def things(row: int, column: int, kind: int) -> set[int]:
        columns = [column] if column > 1 else [0, 1]
        return {int(keys[row, c, kind]) for c in columns} - {0}

    masked = set()
    for i, j in itertools.product(range(len(keys)), repeat=2):
        if i == j and column_a <= 1 and column_b <= 1:
            continue  # a row's own query and positive
        if any(things(i, column_a, kind) & things(j, column_b, kind) for kind in range(3)):
            masked.add((i, j))
    return masked


@pytest.mark.parametrize("seed", range(5))
def test_mask_equals_its_definition_for_every_pair_of_columns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(0, 6, (7, 4, 3), generator=generator) * (2**60 + 12345)
    embeddings = [torch.randn(7, 5, generator=generator) for _ in range(4)]
    tagged = tag_rows(embeddings, keys)
    for a, b in itertools.product(range(4), repeat=2):
        if a > 1 and b > 1:
            continue  # negatives are never compared with negatives
        scores = MaskedSimilarity(dot)(tagged[a], tagged[b])
        expected = masked_pairs(keys, a, b)
        got = {(i, j) for i, j in itertools.product(range(7), repeat=2) if scores[i, j] == MASKED_SCORE}
        assert got == expected
        open_cells = scores != MASKED_SCORE
        torch.testing.assert_close(scores[open_cells], dot(embeddings[a], embeddings[b])[open_cells])


def test_keys_that_differ_in_one_bit_stay_different() -> None:
    base = 2**62 + 2**41 + 2**20 + 1
    for bit in range(63):
        keys = torch.tensor([[[base, 0, 0]] * 2, [[base ^ (1 << bit), 0, 0]] * 2])
        tagged = tag_rows([torch.ones(2, 1), torch.ones(2, 1)], keys)
        assert (MaskedSimilarity(dot)(tagged[0], tagged[1]) != MASKED_SCORE).all()


def test_rows_of_other_ranks_are_other_rows() -> None:
    keys = torch.tensor([[[5, 0, 0], [5, 0, 0]]])
    here = tag_rows([torch.ones(1, 2)] * 2, keys, rank=0)
    there = tag_rows([torch.ones(1, 2)] * 2, keys, rank=1)
    assert MaskedSimilarity(dot)(here[0], here[1]).item() == 2.0  # its own positive
    assert MaskedSimilarity(dot)(here[0], there[1]).item() == MASKED_SCORE  # the same thing on another rank


def test_half_precision_embeddings_keep_exact_keys() -> None:
    keys = torch.tensor([[[2**62 + 1, 0, 0]] * 2, [[2**62, 0, 0]] * 2])
    tagged = tag_rows([torch.ones(2, 2, dtype=torch.bfloat16)] * 2, keys)
    assert (MaskedSimilarity(dot)(tagged[0], tagged[1]) != MASKED_SCORE).all()


def test_wrong_shape_names_what_is_expected() -> None:
    with pytest.raises(ValueError, match=r"expected \(2, 2, 3\)"):
        tag_rows([torch.ones(2, 2)] * 2, torch.zeros(2, 3, 3, dtype=torch.int64))
