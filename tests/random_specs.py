"""Random operators as text, put together from the language itself.

`random_spec(rng)` gives the text of an operator that kernels should run. What it is made of is
drawn, so the compiler meets combinations that nobody wrote: blocks of attention, blocks with
further sources of keys, pipelines whose blocks feed or choose for one another, and recurrences.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Draft:
    """A body that grows: declarations and equations are asked for by what uses them."""

    rng: random.Random
    imports: list[str] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    equations: list[str] = field(default_factory=list)

    def declare(self, line: str) -> None:
        if line not in self.declared:
            self.declared.append(line)

    def define(self, line: str) -> None:
        if line not in self.equations:
            self.equations.append(line)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def text(self, head: str, clauses: list[str]) -> str:
        axes_first = sorted(self.declared, key=lambda line: not line.startswith("axis"))
        lines = [*axes_first, *self.equations, *clauses]
        return "\n".join([*self.imports, head, *(f"    {line}" for line in lines)]) + "\n"


def random_spec(rng: random.Random) -> str:
    """One operator named `drawn`."""
    kind = rng.random()
    draft = Draft(rng)
    if kind < 0.62:
        return draft.text("attention drawn(q, k, v):", block(draft))
    if kind < 0.72:
        return two_sources(draft)
    if kind < 0.86:
        return pipeline(draft)
    return recurrence(draft)


def block(draft: Draft) -> list[str]:
    """The clauses of one block of attention over the keys `j`."""
    made = score(draft)
    seen = mask(draft)
    weights = normalizer(draft)
    return [
        *([f"mask: {seen}"] if seen else []),
        f"score: {made}",
        f"normalize: {weights}",
        *read(draft),
    ]


# --- Masks ------------------------------------------------------------------------------------


def mask(draft: Draft, depth: int = 0) -> str:
    if depth == 0 and draft.chance(0.1):
        return ""
    if depth < 2 and draft.chance(0.45):
        left, right = mask(draft, depth + 1), mask(draft, depth + 1)
        return f"({left} {draft.rng.choice(('and', 'and', 'or'))} {right})"
    if depth < 2 and draft.chance(0.08):
        return f"not ({mask(draft, depth + 1)})"
    return visible(draft)


def visible(draft: Draft) -> str:
    """A condition of a row and a key."""
    rng = draft.rng
    size = rng.choice((1, 2, 3, 5, 16, 17, 40))
    step = rng.choice((2, 3, 7, 16))
    kind = rng.randrange(13)
    if kind == 0:
        return "j <= i"
    if kind == 1:
        return f"0 <= i - j < {size}"
    if kind == 2:
        return f"abs(i - j) {rng.choice(('<', '<=', '>'))} {size}"
    if kind == 3:
        return f"j < {size}"
    if kind == 4:
        return f"i // {step} {rng.choice(('==', '>=', '!='))} j // {step}"
    if kind == 5:
        return f"(i - j) % {step} {rng.choice(('==', '!='))} {rng.randrange(step)}"
    if kind == 6:
        draft.declare("input doc: int[b, j]")
        draft.declare("input own: int[b, i]")
        return "own[i] == doc[j]"
    if kind == 7:
        draft.declare("input keep: bool[b, j]")
        return "keep[j]"
    if kind == 8:
        draft.declare("param size: int = 9")
        return "i - j < size"
    if kind == 9:
        slopes = rng.choice((1, 2, 3)), rng.choice((1, 2, 3))
        return f"{slopes[0]} * i - {slopes[1]} * j >= {rng.randint(-20, 20)}"
    if kind == 10:
        draft.declare("input reach: real[b, h, i]")
        return f"abs(j - {size} * reach[i]) <= {step}"
    if kind == 11:
        draft.declare("input window: int[h]")
        return "i - j < window"
    draft.declare(f"axis part{step} < (len(j) + {step - 1}) // {step}")
    draft.declare(f"input picked{step}: bool[b, h, i, part{step}]")
    return f"picked{step}[i, j // {step}]"


# --- Scores -----------------------------------------------------------------------------------


def score(draft: Draft) -> str:
    rng = draft.rng
    query, key = "q[i]", "k[j]"
    kind = rng.random()
    if kind < 0.15:
        draft.define("turned[i] = l2norm(d: q[i], 0.01)")
        draft.define("facing[j] = l2norm(d: k[j], 0.01)")
        query, key = "turned[i]", "facing[j]"
    elif kind < 0.25:
        draft.define("turned[i] = q[i] * cos(i / 5) - 0.5")
        draft.define("facing[j] = (k[j] + (k[j - 1] else 0)) / 2")
        query, key = "turned[i]", "facing[j]"
    elif kind < 0.35:
        axes = rng.choice(("b, j", "j", "b", "hk, j", "j, d", "d"))
        draft.declare(f"input stretch: real[{axes}]")
        key = "(stretch[j] * k[j])" if "j" in axes else "(stretch * k[j])"
        key = rng.choice((key, f"l2norm(d: {key}, 0.01)"))
    factor = rng.choice(("scale", "scale", "0.25", "(2 * scale)"))
    made = f"dot({query}, {key}) * {factor}"
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        made = scored(draft, made)
    return made


def scored(draft: Draft, made: str) -> str:
    """A score with one more term or factor, or under a function."""
    kind = draft.rng.randrange(12)
    if kind == 0:
        draft.declare("input slope: real[h]")
        return f"{made} - slope * abs(i - j) / 8"
    if kind == 1:
        draft.declare("param cap: real = 5.0")
        return f"cap * tanh(({made}) / cap)"
    if kind == 2:
        draft.declare("input row: real[b, h, i]")
        return f"({made}) * (1 + row[i] / 4)"
    if kind == 3:
        draft.declare("input column: real[b, j]")
        return f"{made} + column[j]"
    if kind == 4:
        draft.declare("input bias: real[h, i, j]")
        return f"{made} + bias[i, j]"
    if kind == 5:
        return f"where((i + j) % 3 == 0, {made}, 0.5 * ({made}))"
    if kind == 6:
        return f"{made} + cos((i - j) / 7)"
    if kind == 7:
        near(draft)
        draft.declare("input table: real[h, lag]")
        return f"{made} + table[near]"
    if kind == 8:
        near(draft)
        draft.declare("input turn: real[lag, d]")
        return f"{made} + dot(q[i], turn[near]) * scale"
    if kind == 9:
        draft.declare("input hidden: real[h, d]")
        return f"{made} + sum(d: hidden * tanh(q[i] + k[j])) / 4"
    if kind == 10:
        draft.declare("input forget: real[b, h, j]")
        draft.define("kept[j] = sum(l in j if l > j: log(sigmoid(forget[l])))")
        return f"{made} + kept[j]"
    return f"({made}) * max({made}, -1) / 4"


def near(draft: Draft) -> None:
    draft.declare("axis lag in -4 .. 5")
    draft.define("near[i, j] = clamp(i - j, -4, 4)")


# --- Normalizers --------------------------------------------------------------------------------


def normalizer(draft: Draft) -> str:
    kind = draft.rng.randrange(20)
    if kind < 4:
        return "softmax(j: score)"
    if kind == 4:
        draft.declare("input sink: real[h]")
        return "softmax_sink(j: score, sink)"
    if kind == 5:
        return "sigmoid(score - 2)"
    if kind == 6:
        return "by_sum(j: relu(score) ** 2)"
    if kind == 7:
        return "exp(score) / (1 + sum(j: exp(score)))"
    if kind == 8:
        return "by_sum(j: softplus(score))"
    if kind == 9:
        return "softmax(j: score) ** 2"
    if kind == 10:
        draft.declare("input share: real[h]")
        return "softmax(j: score) - share * softmax(j: dot(q[i], k[j]) * scale / 2)"
    if kind == 11:
        return "softmax(j: score) * (1 + 0.25 * cos(i - j))"
    if kind == 12:
        return "sparsemax(j: score)"
    if kind == 13:
        return "entmax(j: score)"
    if kind == 14:
        return "stick_breaking(j: score)"
    if kind == 15:
        draft.define("part[i, j] = softmax(j: score)")
        return "by_sum(j: relu(part - 1 / (2 * sum(j: 1))))"
    if kind == 16:
        return draft.rng.choice(("softmax(i: score)", "by_sum(j: softmax(i: score))"))
    if kind == 17:
        return "softmax_by(j: score, j // 5) * softmax(j: score / 2)"
    if kind == 18:
        return "dropout(softmax(j: score), 0.25)"
    return "sinkhorn(i, j: score, 1)"


# --- Results ----------------------------------------------------------------------------------


def read(draft: Draft) -> list[str]:
    kind = draft.rng.randrange(12)
    if kind == 0:
        draft.declare("input gate: real[b, h, i]")
        return ["read: sigmoid(gate[i]) * sum(j: weight * v[j])"]
    if kind == 1:
        draft.declare("input worth: real[b, j]")
        kinds = (
            "worth[j] * v[j]",
            "(worth[j] * v[j])",
            "relu(worth[j] + v[j])",
            "abs(v[j] - worth[j])",
        )
        return [f"read: sum(j: weight * {draft.rng.choice(kinds)})"]
    if kind in (2, 3):
        return [f"read: {('rmsnorm', 'layernorm')[kind - 2]}(e: sum(j: weight * v[j]))"]
    if kind == 4:
        draft.define("held[j] = (v[j] + v[j - 1] else 0)")
        return ["read: sum(j: weight * held[j])"]
    if kind == 5:
        draft.declare("input u: real[b, hk, j, e]")
        return ["read: sum(j: weight * v[j]) * tanh(sum(j: weight * u[j]))"]
    if kind == 6:
        near(draft)
        draft.declare("input moved: real[lag, e]")
        return ["read: sum(j: weight * (v[j] + moved[near]))"]
    if kind == 7:
        return ["read: sum(j: weight * v[j]) / (1 + sum(j: weight ** 2))"]
    return []


# --- Blocks with two sources of keys -----------------------------------------------------------


def two_sources(draft: Draft) -> str:
    draft.declare("input mk: real[h, m, d], mv: real[h, m, e]")
    seen = mask(draft)
    made = score(draft)
    clauses = [
        *([f"mask[j]: {seen}"] if seen else []),
        f"score[j]: {made}",
        f"score[m]: {draft.rng.choice(('dot(q[i], mk[m]) * scale', 'tanh(dot(q[i], mk[m]))'))}",
        "normalize: "
        + draft.rng.choice(("softmax(j | m: score)", "by_sum(j | m: softplus(score))")),
        "read: sum(j: weight * v[j]) + sum(m: weight * mv[m])",
    ]
    return draft.text("attention drawn(q, k, v) for i over j | m:", clauses)


# --- Pipelines ---------------------------------------------------------------------------------


def pipeline(draft: Draft) -> str:
    """Two blocks: one over pooled keys, which the other's choice or result is made with."""
    rng = draft.rng
    size = rng.choice((2, 3, 8))
    draft.declare(f"axis c < (len(j) + {size - 1}) // {size}")
    draft.define(f"kc[c] = {rng.choice(('mean', 'mean', 'sum'))}(j if j // {size} == c: k[j])")
    inner = Draft(rng, declared=draft.declared)
    body = block(inner)
    kind = rng.randrange(3)
    if kind == 0:  # the first block chooses what the second sees
        share = f"min({rng.choice((1, 2, 3))}, len(c))"
        draft.define(f"chosen[i, c] = topk(c if c * {size} <= i: coarse.weight[i, c], {share})")
        seen = f"chosen[i, j // {size}]"
        if body[0].startswith("mask: "):
            seen += f" and ({body.pop(0)[6:]})"
        body.insert(0, f"mask: {seen}")
        result = "fine[i]"
    else:
        draft.define(f"vc[c] = mean(j if j // {size} == c: v[j])")
        draft.define("answer[i] = sum(c: coarse.weight[i, c] * vc[c])")
        result = "rmsnorm(e: fine[i]) + silu(answer[i])"
    if kind == 1:  # the results are joined by a gate
        draft.declare("input mix: real[b, h, i]")
        result = "sigmoid(mix[i]) * fine[i] + (1 - sigmoid(mix[i])) * answer[i]"
    lines = [
        "attention coarse for i over c:",
        *(f"    {line}" for line in coarse(draft, size)),
        "attention fine for i over j:",
        *(f"    {line}" for line in (*inner.equations, *body)),
        f"read: {result}",
    ]
    return draft.text("pipeline drawn(q, k, v) for i:", lines)


def coarse(draft: Draft, size: int) -> list[str]:
    rng = draft.rng
    seen = rng.choice((f"(c + 1) * {size} - 1 <= i", f"c * {size} <= i", ""))
    return [
        *([f"mask: {seen}"] if seen else []),
        "score: dot(q[i], kc[c]) * scale",
        "normalize: " + rng.choice(("softmax(c: score)", "sigmoid(score)", "sparsemax(c: score)")),
        "read: sum(c: weight * kc[c])",
    ]


# --- Recurrences -------------------------------------------------------------------------------


def recurrence(draft: Draft) -> str:
    """A state that decays, is corrected or is a maximum, and is read before or after its update."""
    if draft.chance(0.25):
        return running(draft)
    key, value = "k[t]", "v[t]"
    if draft.chance(0.5):
        draft.define("facing[t] = l2norm(d: k[t], 0.01)")
        key = "facing[t]"
    if draft.chance(0.2):
        draft.define("held[t] = silu(v[t] + (v[t - 1] else 0) / 2)")
        value = "held[t]"
    kind = draft.rng.randrange(4)
    decay = decayed(draft)
    states = ["state S: real[d, e] = 0"]
    update = [f"S = {decay}S + outer({key}, {value})"]
    result = "q[t] @ S * scale"
    if kind == 1:  # what the state says of a key is corrected
        draft.declare("input beta: real[b, h, t]")
        update = [f"S = {decay}S", f"S = S + sigmoid(beta[t]) * outer({key}, {value} - {key} @ S)"]
    if kind == 2:  # what it is divided by is a state too
        draft.imports.append("from normalizers import elu1")
        states.append("state z: real[d] = 0")
        update = [f"S = {decay}S + outer(elu1({key}), {value})", f"z = {decay}z + elu1({key})"]
        result = "(elu1(q[t]) @ S) / (dot(elu1(q[t]), z) + 1)"
    if kind == 3:
        draft.declare("input erase: real[b, h, t, d]")
        erased = f"outer({key}, ({key} * sigmoid(erase[t])) @ S)"
        update = [f"S = {decay}S - {erased} / (1 + dot({key}, {key})) + outer({key}, {value})"]
    return recurrent(draft, states, update, result)


def running(draft: Draft) -> str:
    """States whose entries keep apart: an average, or a maximum that sinks."""
    draft.declare("input x: real[b, h, t, n], a: real[b, h, t, n]")
    update = "S = sigmoid(a[t]) * S + (1 - sigmoid(a[t])) * x[t]"
    if draft.chance(0.5):
        update = "S = max(S - abs(a[t]), x[t])"
    return recurrent(draft, ["state S: real[n] = 0"], [update], "v[t] + sum(n: S * abs(S))")


def recurrent(draft: Draft, states: list[str], update: list[str], result: str) -> str:
    first = [f"read: {result}"] if draft.chance(0.2) else []
    last = [] if first else [f"read: {result}"]
    clauses = [*states, *first, "update:", *(f"    {line}" for line in update), *last]
    return draft.text("attention drawn(q, k, v) for t:", clauses)


def decayed(draft: Draft) -> str:
    """What a state is multiplied by."""
    kind = draft.rng.randrange(5)
    if kind == 0:
        return ""
    if kind == 1:
        return "0.9 * "
    if kind == 2:
        draft.declare("input g: real[b, h, t]")
        return "sigmoid(g[t]) * "
    if kind == 3:
        draft.declare("input steady: real[h]")
        return "exp(-abs(steady)) * "
    draft.declare("input fresh: bool[b, t]")
    return "where(fresh[t], 0, 0.8) * "
