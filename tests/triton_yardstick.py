"""The yardstick of gradients: errors against float64, as ratios to what eager PyTorch makes in the
same dtype."""

from __future__ import annotations

import torch

from attnc.verification import FLOOR


def relative_errors(found: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """(Frobenius, worst row), rows against their own norm or a typical one, as `attnc verify`
    does. Where all of a gradient cancels to 0, against the size of its terms, which is 1."""
    found, exact = found.double(), exact.double()
    if not exact.numel():
        return 0.0, 0.0
    rows = exact.reshape(-1, exact.shape[-1])
    typical = rows.norm(dim=-1).square().mean().sqrt()
    if typical < 1e-10:
        typical = torch.tensor(float(exact.shape[-1])).sqrt()
    misses = (found.reshape(rows.shape) - rows).norm(dim=-1)
    total = misses.norm() / (typical * len(rows) ** 0.5)
    worst = (misses / rows.norm(dim=-1).clamp_min(typical)).max()
    return total.item(), worst.item()


def ratios(
    found: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """Both errors as ratios to eager's."""
    own, theirs = relative_errors(found, exact), relative_errors(eager, exact)
    floors = FLOOR[dtype]
    return own[0] / max(theirs[0], floors[0]), own[1] / max(theirs[1], floors[1])
