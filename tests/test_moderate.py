"""Calls that `verify` draws: unstable recurrences get inputs of one sign, others stay as drawn."""

from __future__ import annotations

import numpy as np
from attnc.backends.numpy_oracle import evaluate

from attnc.cases import Shape, draw_case
from attnc.front import load_source, read_spec
from attnc.moderate import LARGEST, Moderation

POLE = """
attention pole(x) for t:
    input x: real[b, t, c], step, gain: real[c]
    state s: real[c] = 0
    update:
        s = exp({decay}) * s + gain * x[t]
    read: s
"""
SHAPE = Shape(rows=257, keys=257, width=3, value_width=3, batch=1, key_heads=1)


def test_steps_get_the_sign_that_keeps_a_call_moderate() -> None:
    for decay, word in (("step", "step below 0"), ("-step", "step above 0")):
        spec = read_spec(load_source(POLE.format(decay=decay).lstrip()))
        drawn = draw_case(spec, SHAPE, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            assert not np.abs(evaluate(spec, drawn.tensors, drawn.numbers)["out"]).max() <= LARGEST
        case = Moderation(spec).of(drawn, 0)
        assert np.abs(evaluate(spec, case.tensors, case.numbers)["out"]).max() <= LARGEST
        assert case.note == word
        assert all(np.array_equal(case.tensors[n], drawn.tensors[n]) for n in ("x", "gain"))


def test_stable_calls_stay_as_drawn() -> None:
    spec = read_spec(load_source(POLE.format(decay="-abs(step)").lstrip()))
    drawn = draw_case(spec, SHAPE, 0)
    assert Moderation(spec).of(drawn, 0) is drawn
