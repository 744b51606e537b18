"""Philox4x32-10: the counter-based generator behind `random()`.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A number depends
on its counter and key alone, so tiles, splits and threads cannot change it. What attnc promises:

    key      (seed + ordinal) mod 2**64, low word first; ordinal counts the `random()` of the text
    counter  (j // 4, i, h, b), each mod 2**32; i and j are positions, b and h rows of their axes
    number   word j % 4 of the output, its upper 24 bits times 2**-24: exact in float32, in [0, 1)

An index that the place has not counts as 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Words, ...]:
    """The four output words (uint64 below 2**32) of counters and keys that broadcast together."""
    c0, c1, c2, c3 = (np.asarray(word).astype(np.uint64) & LOW for word in counter)
    k0, k1 = (np.asarray(word).astype(np.uint64) & LOW for word in key)
    for _ in range(ROUNDS):
        left = np.uint64(MULTIPLIERS[0]) * c0
        right = np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (right >> HALF) ^ c1 ^ k0,
            right & LOW,
            (left >> HALF) ^ c3 ^ k1,
            left & LOW,
        )
        k0, k1 = (k0 + np.uint64(WEYL[0])) & LOW, (k1 + np.uint64(WEYL[1])) & LOW
    return c0, c1, c2, c3


def uniform(
    seed: int, ordinal: int, b: npt.ArrayLike, h: npt.ArrayLike, i: npt.ArrayLike, j: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """The uniform numbers of `random()` number `ordinal` at integer positions that broadcast."""
    b, h, i, j = np.broadcast_arrays(*(np.asarray(at, dtype=np.int64) for at in (b, h, i, j)))
    mixed = (seed + ordinal) % 2**64
    words = philox((j // 4, i, h, b), (mixed % 2**32, mixed // 2**32))
    word = np.choose(j % 4, words) if j.size else np.zeros(j.shape, dtype=np.uint64)
    return (word >> np.uint64(8)).astype(np.float64) * 2.0**-24
