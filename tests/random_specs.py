"""Random operators as text: masks, scores and normalizers put together from the language itself.

`random_spec(rng)` gives the text of an operator that kernels should run; what it is made of is
drawn, so the compiler
meets combinations that nobody wrote.
"""

from __future__ import annotations

import random

HEAD = "attention drawn(q, k, v):"


def random_spec(rng: random.Random) -> str:
    """One operator named `drawn`."""
    inputs: list[str] = []
    numbers: list[str] = []
    equations: list[str] = []
    score = _score(rng, inputs, numbers, equations)
    mask = _mask(rng, inputs, numbers)
    normalizer = _normalizer(rng, inputs, numbers)
    result = _read(rng, inputs)
    lines = [
        *(f"input {one}" for one in dict.fromkeys(inputs)),
        *(f"param {one}" for one in dict.fromkeys(numbers)),
        *equations,
        *([f"mask: {mask}"] if mask else []),
        f"score: {score}",
        f"normalize: {normalizer}",
        *result,
    ]
    return "\n".join([HEAD, *(f"    {line}" for line in lines)]) + "\n"


def _mask(rng: random.Random, inputs: list[str], numbers: list[str], depth: int = 0) -> str:
    if depth == 0 and rng.random() < 0.1:
        return ""
    if depth < 2 and rng.random() < 0.45:
        left, right = (_mask(rng, inputs, numbers, depth + 1) for _ in range(2))
        return f"({left} {rng.choice(('and', 'and', 'or'))} {right})"
    if depth < 2 and rng.random() < 0.08:
        return f"not ({_mask(rng, inputs, numbers, depth + 1)})"
    return _atom(rng, inputs, numbers)


def _atom(rng: random.Random, inputs: list[str], numbers: list[str]) -> str:
    size = rng.choice((1, 2, 3, 5, 16, 17, 40))
    step = rng.choice((2, 3, 7, 16))
    kind = rng.randrange(11)
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
        inputs.append("doc: int[b, j]")
        inputs.append("own: int[b, i]")
        return "own[i] == doc[j]"
    if kind == 7:
        inputs.append("keep: bool[b, j]")
        return "keep[j]"
    if kind == 8:
        numbers.append("size: int = 9")
        return "i - j < size"
    if kind == 9:
        return (
            f"{rng.choice((1, 2, 3))} * i - {rng.choice((1, 2, 3))} * j >= {rng.randint(-20, 20)}"
        )
    inputs.append("reach: real[b, h, i]")
    return f"abs(j - {size} * reach[i]) <= {step}"


def _score(rng: random.Random, inputs: list[str], numbers: list[str], equations: list[str]) -> str:
    query, key = "q[i]", "k[j]"
    if rng.random() < 0.25:
        equations += ["turned[i] = l2norm(d: q[i], 0.01)", "facing[j] = l2norm(d: k[j], 0.01)"]
        query, key = "turned[i]", "facing[j]"
    score = f"dot({query}, {key}) * {rng.choice(('scale', 'scale', '0.25', '(2 * scale)'))}"
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        score = _scored(rng, score, inputs, numbers)
    return score


def _scored(rng: random.Random, score: str, inputs: list[str], numbers: list[str]) -> str:
    kind = rng.randrange(7)
    if kind == 0:
        inputs.append("slope: real[h]")
        return f"{score} - slope * abs(i - j) / 8"
    if kind == 1:
        numbers.append("cap: real = 5.0")
        return f"cap * tanh(({score}) / cap)"
    if kind == 2:
        inputs.append("row: real[b, h, i]")
        return f"({score}) * (1 + row[i] / 4)"
    if kind == 3:
        inputs.append("column: real[b, j]")
        return f"{score} + column[j]"
    if kind == 4:
        inputs.append("bias: real[h, i, j]")
        return f"{score} + bias[i, j]"
    if kind == 5:
        return f"where((i + j) % 3 == 0, {score}, 0.5 * ({score}))"
    return f"{score} + cos((i - j) / 7)"


def _normalizer(rng: random.Random, inputs: list[str], numbers: list[str]) -> str:
    kind = rng.randrange(11)
    if kind < 3:
        return "softmax(j: score)"
    if kind == 3:
        inputs.append("sink: real[h]")
        return "softmax_sink(j: score, sink)"
    if kind == 4:
        return "sigmoid(score - 2)"
    if kind == 5:
        return "by_sum(j: relu(score) ** 2)"
    if kind == 6:
        return "exp(score) / (1 + sum(j: exp(score)))"
    if kind == 7:
        return "by_sum(j: softplus(score))"
    if kind == 8:
        return "softmax(j: score) ** 2"
    if kind == 9:
        inputs.append("share: real[h]")
        return "softmax(j: score) - share * softmax(j: dot(q[i], k[j]) * scale / 2)"
    return "softmax(j: score) * (1 + 0.25 * cos(i - j))"


def _read(rng: random.Random, inputs: list[str]) -> list[str]:
    kind = rng.randrange(7)
    if kind == 0:
        inputs.append("gate: real[b, h, i]")
        return ["read: sigmoid(gate[i]) * sum(j: weight * v[j])"]
    if kind == 1:
        inputs.append("worth: real[b, j]")
        return ["read: sum(j: weight * worth[j] * v[j])"]
    if kind in (2, 3):
        return [f"read: {('rmsnorm', 'layernorm')[kind - 2]}(e: sum(j: weight * v[j]))"]
    return []
