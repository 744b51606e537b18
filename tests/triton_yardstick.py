"""The yardstick of gradients: errors against float64, as ratios to what eager PyTorch makes in the
same dtype."""

from __future__ import annotations

import torch

from attnc.verification import FLOOR
from attnc.verification_gradients import gradient_errors


def relative_errors(found: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """(Frobenius, worst row) as `attnc verify` has them, rows along the last axis."""
    return gradient_errors(found, exact, exact.dim() - 1)


def ratios(
    found: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Both errors as ratios to eager's."""
    own, theirs = relative_errors(found, exact), relative_errors(eager, exact)
    floors = FLOOR[dtype]
    return own[0] / max(theirs[0], floors[0]), own[1] / max(theirs[1], floors[1])
