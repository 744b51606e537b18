"""Values that run along the keys of a row: both ways in one walk, where tiles are left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attnc
from attnc.errors import UnsupportedError

# Rows without keys, documents between, and a window; a product fixes which way the walk goes.
BOTH_WAYS = """
attention both_ways(q, k, v):
    param window: int
    input document: int[b, j]
    mask: abs(i - j) < window and document[j] != 1 and i % 7 != 3
    score: dot(q[i], k[j]) * scale
    before[i, j] = sum(l in j if l < j: sigmoid(score[i, l]))
    after[i, j] = sum(l in j if l >= j: sigmoid(score[i, l]))
    rest[i, j] = prod(l in j if l > j: sigmoid(-score[i, l]))
    normalize: softmax(j: score - before / 9) * (1 + after) + rest
"""
TWICE = """
attention twice(q, k, v):
    score: dot(q[i], k[j]) * scale
    back[i, j] = sum(l in j if l > j: sigmoid(score[i, l]))
    forth[i, j] = sum(l in j if l < j: back[i, l])
    normalize: softmax(j: score + sum(l in j if l < j: forth[i, l]))
"""
FORGETTING = """
attention forgetting(q, k, v):
    input gate: real[b, h, j]
    past[j] = sum(l in j if l <= j: log(sigmoid(gate[l])))
    mask: j <= i
    score: dot(q[i], k[j]) * scale + past[i] - past[j]
    normalize: softmax(j: score)
"""
LIMIT = 2e-6  # of float32, relative to the largest entry


@pytest.mark.usefixtures("quick_build")
def test_sums_both_ways_and_products_along_the_keys() -> None:
    run = attnc.compile(BOTH_WAYS, backend="cpu")
    for rows, keys, window in ((1, 1, 1), (63, 65, 20), (65, 200, 500)):
        random = np.random.default_rng(rows)
        q, k, v = (random.normal(size=(2, h, n, 8)) for h, n in ((4, rows), (2, keys), (2, keys)))
        document = random.integers(0, 3, size=(2, keys))
        at = {"window": window, "offset": keys - rows, "document": torch.from_numpy(document)}
        tensors = [torch.from_numpy(x).float() for x in (q, k, v)]
        found = run(*tensors, **at).numpy()
        wanted = np.asarray(run.reference(*tensors, **at))
        assert np.abs(found - wanted).max() <= LIMIT * max(1.0, np.abs(wanted).max())


def test_sums_both_ways_of_sums_both_ways_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="both ways"):
        attnc.compile(TWICE, backend="cpu")


def test_what_runs_alike_for_every_row_is_summed_once_before() -> None:
    """Else each row would walk all keys again, those that no row sees too."""
    told = attnc.compile(FORGETTING, backend="cpu").explain()
    assert "a cumulative sum" in told
    assert "runs along" not in told
    assert "refused" not in told
