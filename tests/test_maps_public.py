"""Operators of maps against the modules of transformers and torch's own interpolation.

What transformers names otherwise is renamed here: its maps are [batch, height, width, channels] and
its points are shares of a map, x first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gallery_cases import EXAMPLES
from torch import Tensor
from transformers import FocalNetConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    MultiScaleDeformableAttention,
)
from transformers.models.focalnet.modeling_focalnet import FocalNetModulation

from attnc.front import load_source, read_spec
from attnc.operator import Operator


def operator(path: str) -> Operator:
    return Operator(read_spec(load_source(Path(EXAMPLES / path))), "cpu")


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


def test_deformable_points() -> None:
    """Values and gradients: of the maps, of the weights, of the points."""
    maps = ((5, 4), (3, 2))
    count = sum(height * width for height, width in maps)
    v = draw(2, count, 3, 4).requires_grad_()
    logit = draw(2, 6, 3, 2, 4).requires_grad_()
    places = torch.rand(2, 6, 3, 2, 4, 2, dtype=torch.float64) * 1.4 - 0.2
    places.requires_grad_()
    first = torch.tensor([0, 20])
    weights = logit.flatten(3).softmax(-1).view_as(logit)
    shapes = torch.tensor(maps)
    theirs = MultiScaleDeformableAttention()(v, shapes, maps, first, places, weights, 64)

    sizes = shapes.to(torch.float64)
    own = places.permute(0, 2, 1, 3, 4, 5)
    ours = operator("sampling/deformable_points.attn")(
        v.transpose(1, 2),
        logit=logit.transpose(1, 2),
        py=own[..., 1] * sizes[:, 0, None] - 0.5,
        px=own[..., 0] * sizes[:, 1, None] - 0.5,
        first=first,
        rows=shapes[:, 0],
        cols=shapes[:, 1],
    )
    ours = ours.transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, theirs)
    inputs = (v, logit, places)
    slopes = [torch.autograd.grad(one.sin().sum(), inputs) for one in (ours, theirs)]
    for own_slope, their_slope in zip(*slopes, strict=True):
        torch.testing.assert_close(own_slope, their_slope)


def test_focal_modulation() -> None:
    height, width, c = 5, 6, 4
    config = FocalNetConfig(focal_windows=[3], focal_levels=[2])
    module = FocalNetModulation(config, 0, c).double()
    x = draw(2, height, width, c)
    into, bias = module.projection_in.weight.T, module.projection_in.bias
    maps = [layer[0].weight[:, 0].permute(1, 2, 0) for layer in module.focal_layers]
    context = module.projection_context
    found = operator("convolution/focal_modulation.attn")(
        x.reshape(2, -1, c),
        height=height,
        width=width,
        **dict(zip(("wq", "wz", "wg"), into.split((c, c, 3), 1), strict=True)),
        **dict(zip(("bq", "bz", "bg"), bias.split((c, c, 3)), strict=True)),
        **dict(zip(("t1", "t2"), maps, strict=True)),
        wh=context.weight[:, :, 0, 0].T,
        bh=context.bias,
        wo=module.projection_out.weight.T,
        bo=module.projection_out.bias,
    )
    torch.testing.assert_close(found.reshape(x.shape), module(x))


def test_attention_gate() -> None:
    """The coarse map is spread as torch's interpolation does, without aligned corners."""
    x, g = draw(2, 30, 4), draw(2, 6, 3)
    wx, wg, bias, psi, base = draw(4, 5), draw(3, 5), draw(5), draw(5), draw()
    found = operator("gate/attention_gate.attn")(
        x, g, height=6, width=5, rows=2, cols=3, wx=wx, wg=wg, bias=bias, psi=psi, base=base
    )
    signal = (g @ wg).transpose(1, 2).reshape(2, 5, 2, 3)
    up = torch.nn.functional.interpolate(signal, (6, 5), mode="bilinear", align_corners=False)
    hidden = (x @ wx + up.flatten(2).transpose(1, 2) + bias).relu()
    torch.testing.assert_close(found, (hidden @ psi + base).sigmoid()[..., None] * x)
