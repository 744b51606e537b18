"""Recurrences of the gallery, and some of the language alone, against flash-linear-attention's
naive forms: loops over tokens and chunks in torch, in float32.

Its package loads Triton kernels when it is imported, so the files of the naive forms are loaded
alone. What it names otherwise is renamed here. Differences that are none of ours: it scales queries
by 1/sqrt(d) where the papers of the delta rule and of retention do not; norms, sigmoids and
softplus of gates are layers before it and part of the specs here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from math import sqrt
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attnc.backends.numpy_oracle import evaluate
from gallery_cases import EXAMPLES, defaults
from recurrences import SPECS
from torch import Tensor

from attnc.cases import Shape, draw_case
from attnc.compiler import lower
from attnc.front import load_source, read_spec
from attnc.source import Source
from attnc.spec import Spec

SHAPE = Shape(32, 32, 4, 3, 2, 1, 2)  # rows, keys, widths, batch, key heads, group
Tensors = dict[str, Tensor]
Said = tuple[Tensor, Tensor | None]  # what a naive form gives: the result, the last state


@cache
def naive(name: str) -> ModuleType:
    """fla.ops.NAME, of torch and einops alone."""
    path = Path(str(distribution("fla-core").locate_file("fla"))) / "ops" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"naive_{path.parent.name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def by_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """[batch, heads, length, ...] -> [batch, length, heads, ...]"""
    return tuple(x.transpose(1, 2) for x in tensors)


def feature(x: Tensor) -> Tensor:
    return F.elu(x) + 1


def log_decay(t: Tensors) -> Tensor:
    return -t["a"].exp()[:, None] * F.softplus(t["x"] + t["bias"][:, None])


GALLERY: dict[str, Callable[[Tensors], Said]] = {}
LANGUAGE: dict[str, tuple[str, Callable[[Tensors], Said]]] = {}
Form = Callable[[Tensors], Said]


def gallery(path: str) -> Callable[[Form], Form]:
    """Enters what a naive form says of a spec; several may say it of one."""

    def enter(form: Form) -> Form:
        GALLERY[f"{path}: {form.__name__}"] = form
        return form

    return enter


def language(text: str) -> Callable[[Form], Form]:
    """The same for a text of the language that is no operator of the gallery."""

    def enter(form: Form) -> Form:
        LANGUAGE[form.__name__] = (text, form)
        return form

    return enter


@gallery("delta/delta_rule")
def tokens(t: Tensors) -> Said:
    beta = t["beta"].sigmoid()
    module = naive("delta_rule/naive")
    return module.delta_rule_recurrence(t["q"] * sqrt(4), unit(t["k"]), t["v"], beta)


@gallery("delta/delta_rule")
def chunks(t: Tensors) -> Said:
    beta = t["beta"].sigmoid()
    module = naive("delta_rule/naive")
    return module.delta_rule_chunkwise(t["q"] * sqrt(4), unit(t["k"]), t["v"], beta, 16)


def gated_delta(t: Tensors, values: Tensor, scale: float | None, form: str, **more: int) -> Said:
    rows = by_rows(unit(t["q"]), unit(t["k"]), values)
    beta, g = by_rows(t["beta"].sigmoid(), log_decay(t))
    run = getattr(naive("gated_delta_rule/naive"), form)
    out, last = run(*rows, beta=beta, g=g, scale=scale, output_final_state=True, **more)
    return out.transpose(1, 2), last


@gallery("delta/gated_delta")
def gated_tokens(t: Tensors) -> Said:
    return gated_delta(t, t["v"], None, "naive_recurrent_gated_delta_rule")


@gallery("delta/gated_delta")
def gated_chunks(t: Tensors) -> Said:
    return gated_delta(t, t["v"], None, "naive_chunk_gated_delta_rule", chunk_size=8)


@gallery("delta/jetblock")
def mixed_values(t: Tensors) -> Said:
    earlier = [F.pad(t["v"], (0, 0, u, 0))[:, :, :32] for u in range(t["taps"].shape[3])]
    mixed = F.silu(sum(t["taps"][:, :, :, u] * x for u, x in enumerate(earlier)))
    return gated_delta(t, mixed, 1.0, "naive_recurrent_gated_delta_rule")


@gallery("delta/rwkv7")
def diagonal_plus_low_rank(t: Tensors) -> Said:
    rate = t["a"].sigmoid()
    removed = unit(t["k"] * t["removal"][:, None])
    added = t["k"] * (1 + (rate - 1) * t["replacement"][:, None])
    logs = -(torch.tensor(-0.5).exp()) * t["w"].sigmoid()
    run = naive("generalized_delta_rule/dplr/naive").dplr_recurrence
    out, last = run(t["r"] * sqrt(4), added, t["v"], -removed, rate * removed, logs)
    own = (t["r"] * added * t["bonus"][:, None]).sum(-1, keepdim=True)
    return out + own * t["v"], last


@gallery("decay/gla")
def channel_decay(t: Tensors) -> Said:
    rows = by_rows(t["q"], t["k"], t["v"], F.logsigmoid(t["g"]) / 16)
    out, last = naive("gla/naive").naive_recurrent_gla(*rows, output_final_state=True)
    return out.transpose(1, 2), last


@gallery("decay/constant_decay")
def retention(t: Tensors) -> Said:
    """Its decays are 1 - 2 ** -(5 + head)."""
    t["slope"][:] = -torch.log1p(-(2.0 ** -(5 + torch.arange(2.0))))
    return naive("retention/naive").naive_retention(t["q"] * sqrt(4), t["k"], t["v"]), None


@gallery("decay/gated_linear_normalized")
def quotient(t: Tensors) -> Said:
    q, k, v, g = by_rows(feature(t["q"]), feature(t["k"]), t["v"], F.logsigmoid(t["g"]))
    run = naive("simple_gla/naive").naive_recurrent_simple_gla
    above, last = run(q, k, v, g)
    below, _ = run(q, k, torch.ones_like(v), g)
    return (above / below).transpose(1, 2), last


@gallery("linear/linear_attention")
def normalized(t: Tensors) -> Said:
    rows = by_rows(feature(t["q"]), feature(t["k"]), t["v"])
    run = naive("linear_attn/naive").naive_recurrent_linear_attn
    out, (last, _) = run(*rows, normalize=True, output_final_state=True)
    return out.transpose(1, 2), last


@gallery("linear/learned_normalizer")
def plain(t: Tensors) -> Said:
    rows = by_rows(t["q"], t["k"], t["v"])
    run = naive("linear_attn/naive").naive_recurrent_linear_attn
    out, last = run(*rows, scale=1.0, output_final_state=True)
    return out.transpose(1, 2) * (-t["x"]).exp()[..., None], last


@gallery("linear/taylor_linear")
def series(t: Tensors) -> Said:
    return naive("based/naive").naive_parallel_based(t["q"], t["k"], t["v"]), None


@gallery("ssm/hgrn")
def elementwise(t: Tensors) -> Said:
    keep = t["bound"].sigmoid() + (1 - t["bound"].sigmoid()) * t["f"].sigmoid()
    run = naive("hgrn/naive").naive_recurrent_hgrn
    return run((1 - keep) * t["x"], keep.log(), output_final_state=True)


@gallery("ssm/mamba2")
def one_decay_a_head(t: Tensors) -> Said:
    step = F.softplus(t["dt"] + t["bias"][:, None])
    keys, queries = (t[name].repeat_interleave(2, 1) for name in ("B", "C"))
    rows = by_rows(queries, keys, t["x"] * step[..., None], -step * t["A"].exp()[:, None])
    run = naive("simple_gla/naive").naive_chunk_simple_gla
    out, last = run(*rows, chunk_size=8, scale=1.0, output_final_state=True)
    return out.transpose(1, 2) + t["D"][:, None, None] * t["x"], last


@gallery("summary/abc")
def bounded_memory(t: Tensors) -> Said:
    return naive("abc/naive").naive_cumsum_abc(t["q"], t["k"], t["v"], t["s"])[0], None


@language(SPECS["rwkv6"][1])
def rwkv6(t: Tensors) -> Said:
    run = naive("rwkv6/recurrent_naive").naive_recurrent_rwkv6
    rows = (t["q"], t["k"], t["v"], -t["w"].exp(), t["u"])
    return run(*rows, scale=1.0, output_final_state=True)


@language("""
attention kda(q, k, v) for t:
    input g: real[b, h, t, d], beta: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = exp(-softplus(g[t])) * S
        S = S + sigmoid(beta[t]) * outer(l2norm(d: k[t]), v[t] - l2norm(d: k[t]) @ S)
    read: (q[t] @ S) * scale
""")
def kda(t: Tensors) -> Said:
    rows = by_rows(t["q"], unit(t["k"]), t["v"], -F.softplus(t["g"]), t["beta"].sigmoid())
    out, last = naive("kda/naive").naive_recurrent_kda(*rows, output_final_state=True)
    return out.transpose(1, 2), last


@language("""
attention comba(q, k, v) for t:
    input g, beta: real[b, h, t], p: real[b, h, t, d]
    state S: real[d, e] = 0
    update:
        S = exp(-softplus(g[t])) * S
        S = S + sigmoid(beta[t]) * outer(l2norm(d: k[t]), v[t] - l2norm(d: p[t]) @ S)
    read: (q[t] @ S) * scale
""")
def comba(t: Tensors) -> Said:
    rows = by_rows(t["q"], unit(t["k"]), t["v"], unit(t["p"]))
    beta, g = by_rows(t["beta"].sigmoid(), -F.softplus(t["g"]))
    run = naive("comba/naive").naive_recurrent_comba
    out, last = run(*rows, beta, g, output_final_state=True)
    return out.transpose(1, 2), last


@language("""
attention two_householders(q, k, v) for t:
    input g, b1, b2: real[b, h, t], k2: real[b, h, t, d], v2: real[b, h, t, e]
    state S: real[d, e] = 0
    update:
        S = exp(-softplus(g[t])) * S
        S = S + 2 * sigmoid(b1[t]) * outer(l2norm(d: k[t]), v[t] - l2norm(d: k[t]) @ S)
        S = S + 2 * sigmoid(b2[t]) * outer(l2norm(d: k2[t]), v2[t] - l2norm(d: k2[t]) @ S)
    read: (q[t] @ S) * scale
""")
def products_of_householders(t: Tensors) -> Said:
    def both(one: Tensor, other: Tensor) -> Tensor:
        return torch.stack(by_rows(one, other), 2).flatten(1, 2)

    keys, values = both(unit(t["k"]), unit(t["k2"])), both(t["v"], t["v2"])
    beta = 2 * both(t["b1"], t["b2"]).sigmoid()
    q, g = by_rows(t["q"], -F.softplus(t["g"]))
    run = naive("gated_delta_product/naive").naive_recurrent_gated_delta_product
    out, last = run(q, keys, values, g, beta, 0.5, num_householder=2)
    return out.transpose(1, 2), last


@language("""
attention gated_slots(q, k, v) for t:
    input f: real[b, h, t, n]
    state K: real[n, d] = 0, V: real[n, e] = 0
    update:
        K = sigmoid(f[t]) * K + outer(1 - sigmoid(f[t]), k[t])
        V = sigmoid(f[t]) * V + outer(1 - sigmoid(f[t]), v[t])
    read: sum(n: softmax(n: (K[n] @ q[t]) * scale) * V[n])
""")
def gated_slots(t: Tensors) -> Said:
    rows = by_rows(t["q"], t["k"], t["v"], (-t["f"]).sigmoid(), F.logsigmoid(t["f"]))
    return naive("gsa/naive").naive_recurrent_gsa(*rows)[0].transpose(1, 2), None


@language("""
attention momentum_delta(q, k, v) for t:
    input alpha, mu, beta, eta: real[b, h, t], p: real[b, h, t, d]
    state S, M: real[d, e] = 0
    update:
        M = sigmoid(mu[t]) * M - sigmoid(eta[t]) * outer(k[t], v[t] - l2norm(d: p[t]) @ S)
        S = sigmoid(alpha[t]) * S - sigmoid(beta[t]) * M
    read: (q[t] @ S) * scale
""")
def momentum(t: Tensors) -> Said:
    rows = by_rows(t["q"], t["k"], t["v"], F.logsigmoid(t["alpha"]), F.logsigmoid(t["mu"]))
    p, beta, eta = by_rows(unit(t["p"]), t["beta"].sigmoid(), t["eta"].sigmoid())
    run = naive("momentum_delta_rule/naive").recurrent_momentum_delta_rule_ref
    out, last = run(*rows, p, beta, eta, output_final_state=True)
    return out.transpose(1, 2), last[0]


@language("""
attention forgetting(q, k, v):
    input f: real[b, h, i]
    total[i] = sum(l in i if l <= i: -softplus(-f[l]))
    mask: j <= i
    score: dot(q[i], k[j]) * scale + total[i] - total[j]
    normalize: softmax(j: score)
""")
def forgetting(t: Tensors) -> Said:
    rows = by_rows(t["q"], t["k"], t["v"], F.logsigmoid(t["f"]))
    return naive("forgetting_attn/naive").naive_forgetting_attn(*rows).transpose(1, 2), None


@language("""
attention stick(q, k, v):
    mask: j < i
    score: dot(q[i], k[j]) * scale
    normalize: stick_breaking(j: score)
""")
def sticks(t: Tensors) -> Said:
    rows = by_rows(t["q"], t["k"], t["v"])
    return naive("stickbreaking_attn/naive").naive_stickbreaking_attn(*rows)[0].transpose(
        1, 2
    ), None


@language("""
attention balanced(q, k, v):
    score: dot(q[i], k[j]) * scale
    normalize: sinkhorn(i, j: score, rounds = 2)
""")
def rows_and_columns(t: Tensors) -> Said:
    """It begins with columns, here with rows: a row step first changes nothing of what follows."""
    scores = t["q"] @ t["k"].mT / 2
    return naive("utils/sinkhorn/naive").naive_sinkhorn(scores.softmax(-1).log(), 2) @ t["v"], None


def compare(spec: Spec, form: Form) -> None:
    """The oracle's result and last state (the first declared) against a naive form's."""
    arrays = draw_case(spec, SHAPE, 5, {}).tensors
    t = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    for name in {"k", "v"} & t.keys():  # a naive form knows no groups
        t[name] = t[name].repeat_interleave(2 // t[name].shape[1], 1)
    expected, last = form(t)  # which may settle numbers that it fixes
    given = {name: t[name].numpy().astype(float) for name in arrays}
    states = [state.array.name for state in spec.root.states[:1]] if last is not None else []
    found = evaluate(spec, given, defaults(spec), emit=states)
    np.testing.assert_allclose(found["out"], expected.numpy(), rtol=2e-4, atol=2e-5)
    for name in states:
        np.testing.assert_allclose(found[name], last.numpy(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", GALLERY)
def test_gallery(name: str) -> None:
    path = EXAMPLES / f"{name.partition(':')[0]}.attn"
    compare(read_spec(load_source(path)), GALLERY[name])


@pytest.mark.parametrize("name", LANGUAGE)
def test_language(name: str) -> None:
    text, form = LANGUAGE[name]
    spec = read_spec(Source(text, f"{name}.attn"))
    compare(spec, form)
    assert not spec.root.states or lower(spec).refusal is None
