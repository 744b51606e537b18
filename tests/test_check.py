"""The checker: every spec of the language becomes a Spec, and Specs say what the text says."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.build import build
from attnc.check import check_spec
from attnc.errors import SpecError
from attnc.expressions.canonical import canonical
from attnc.expressions.text import expression_text
from attnc.expressions.tree import Expr, postorder
from attnc.parser import parse
from attnc.resources import library_names, read_library
from attnc.source import Source
from attnc.spec import Block, Definition, Repeat, Spec
from attnc.spec_text import print_spec

SPECS = Path(__file__).resolve().parent / "language"
NAMES = sorted(path.stem for path in SPECS.glob("*.attn"))


def check(text: str, **statics: float) -> Spec:
    source = Source(text, "text.attn")
    return check_spec(parse(source), source, statics=statics, search=())


def load(name: str, **statics: float) -> Spec:
    path = SPECS / f"{name}.attn"
    source = Source(path.read_text(encoding="utf-8"), str(path))
    return check_spec(parse(source), source, statics=statics)


def attention(**clauses: str) -> Spec:
    """`attention f(q, k, v)` with some of its clauses replaced; `lines` stand before them."""
    lines = clauses.pop("lines", "")
    known = {
        "mask": "j <= i",
        "score": "dot(q[i], k[j]) * scale",
        "normalize": "softmax(j: score)",
    }
    body = "".join(f"    {kind}: {text}\n" for kind, text in {**known, **clauses}.items())
    return check(f"attention f(q, k, v):\n{lines}{body}")


def definitions(block: Block) -> list[Definition]:
    found: list[Definition] = []
    for statement in block.statements:
        if isinstance(statement, Block):
            found += definitions(statement)
        elif isinstance(statement, Repeat):
            found += statement.statements
        else:
            found.append(statement)
    return [*found, *block.updates, block.result, *block.emits, *block.offered]


def named(spec: Spec, name: str) -> Definition:
    return next(each for each in definitions(spec.root) if each.array.name == name)


def axes(definition: Definition) -> list[str]:
    return [index.axis.name for index in definition.array.indices]


def text(expr: Expr) -> str:
    return expression_text(expr, outer=False)


# ---------------------------------------------------------------------------------- all of them


def test_the_specs_are_there() -> None:
    assert len(NAMES) == 49


@pytest.mark.parametrize("name", NAMES)
def test_spec_of_the_language(name: str) -> None:
    spec = load(name)
    assert spec.name == name
    assert not spec.warnings
    assert f"operator {name}" in print_spec(spec)


@pytest.mark.parametrize("name", NAMES)
def test_expressions_are_closed(name: str) -> None:
    """Free in an equation are only the indices of its array (and, in update, the row)."""
    spec = load(name)
    for block in blocks(spec.root):
        steps = {id(line) for line in block.updates}
        repeated = {
            id(line): statement.index
            for statement in block.statements
            if isinstance(statement, Repeat)
            for line in statement.statements
        }
        own = [each for each in block.statements if isinstance(each, Definition)]
        lines = [s for r in block.statements if isinstance(r, Repeat) for s in r.statements]
        for each in (*own, *lines, *block.updates, block.result, *block.emits, *block.offered):
            free = each.expr.free - set(each.array.indices)
            if id(each) in repeated:
                free -= {repeated[id(each)]}
            if id(each) in steps:
                free -= {block.rows[-1]}
            assert not free, f"{each.array.name}: {free}"


@pytest.mark.parametrize("name", NAMES)
def test_kinds_are_exact(name: str) -> None:
    """Operands of one operation are of one kind, and an array is of the kind of its equation."""
    spec = load(name)
    for each in definitions(spec.root):
        assert each.expr.kind == each.array.kind, each.array.name
        for node in postorder(each.expr):
            if node.op in ("add", "sub", "mul", "div", "min", "max", "lt", "le", "gt", "ge"):
                assert len({arg.kind for arg in node.args}) == 1, text(node)
            if node.op == "fold":
                assert node.args[0].kind == "bool"


@pytest.mark.parametrize("name", NAMES)
def test_names_and_numbers_are_unique(name: str) -> None:
    spec = load(name)
    axis_names = [axis.name for axis in spec.axes]
    assert len(set(axis_names)) == len(axis_names)
    bound: dict[object, bytes] = {}
    for node in postorder(*(each.expr for each in definitions(spec.root))):
        for index in node.bound:
            known = bound.setdefault((index.name, index.number), index.axis.name.encode())
            assert known == index.axis.name.encode()


@pytest.mark.parametrize("name", NAMES)
def test_checking_twice_gives_the_same(name: str) -> None:
    assert print_spec(load(name)) == print_spec(load(name))


def blocks(block: Block) -> list[Block]:
    inner = [each for each in block.statements if isinstance(each, Block)]
    return [block, *(deeper for each in inner for deeper in blocks(each))]


# A call of every def of the library: in mask, score, normalize or read.
CALLS: dict[str, dict[str, str]] = {
    "core": {
        "relu": "score: relu(S)",
        "sigmoid": "score: sigmoid(S)",
        "silu": "score: silu(S)",
        "gelu": "score: gelu(S)",
        "softplus": "score: softplus(S)",
        "leaky": "score: leaky(S, slope = 0.1)",
        "clamp": "score: clamp(S, -1, 1)",
        "ratio": "score: ratio(S, 2)",
        "mean": "read: mean(j: v[j])",
        "variance": "read: variance(j: v[j])",
        "any": "read: v[0] * where(any(j: score > 0), 1, 0)",
        "all": "read: v[0] * where(all(j: score > 0), 1, 0)",
        "lse": "read: v[0] * lse(j: score)",
        "entropy": "read: v[0] * entropy(j: weight)",
        "dot": "score: dot(q[i], k[j])",
        "l2norm": "score: l2norm(d: q[i]) @ k[j]",
        "rmsnorm": "score: rmsnorm(d: q[i]) @ k[j]",
        "layernorm": "score: layernorm(d: q[i]) @ k[j]",
        "rotary": "score: rotary(d: q[i], i) @ rotary(d: k[j], j)",
        "softmax": "normalize: softmax(j: score)",
        "softmax_sink": "normalize: softmax_sink(j: score, 1)",
        "softmax_by": "normalize: softmax_by(j: score, j // 4)",
        "by_sum": "normalize: by_sum(j: score)",
        "sparsemax": "normalize: sparsemax(j: score)",
        "entmax": "normalize: entmax(j: score)",
        "stick_breaking": "normalize: stick_breaking(j: score)",
        "top_mass": "normalize: top_mass(j: score, 0.9)",
        "sinkhorn": "normalize: sinkhorn(i, j: score)",
        "dropout": "normalize: dropout(softmax(j: score), 0.1)",
        "merge": "read: merge(r < 2: v[0] * r, 1.0 * r)",
    },
    "grid": {
        "window": "mask: window(i, j, 4)",
        "same": "mask: same(i, j, 4)",
        "shifted": "mask: shifted(i, j, len(j), 4, 2)",
        "near": "mask: near(i, j, len(j), 5)",
        "near_past": "mask: near_past(i, j, len(j), 5)",
        "tent": "score: tent(S)",
        "correlate": "score: correlate(y < 4, x < 4, u < 3, w < 3: 1.0 * y + x, 0.1 * u * w, 1, 2)",
        "bilinear": "score: bilinear(y < 4, x < 4: 1.0 * y + x, S, S)",
    },
    "sequence": {
        "flip": "read: flip(j: v[j])[0]",
        "shift": "read: shift(j: v[j])[0]",
        "prefix": "read: prefix(j: v[j])[0]",
        "convolve": "read: convolve(j: v[j], exp(-j))[0]",
        "pool": "read: pool(j: v[j], 0, 4)",
        "segment": "mask: segment(i, len(i), 3) == segment(j, len(j), 3)",
    },
    "masks": {
        "causal": "mask: causal(i, j)",
        "band": "mask: band(i, j, 4, 2)",
        "dilated": "mask: dilated(i, j, 4, 2)",
        "in_chunk": "mask: in_chunk(i, j, 4)",
        "on_stride": "mask: on_stride(i, j, 4)",
        "fixed_blocks": "mask: fixed_blocks(i, j, 4, 1)",
        "same_block": "mask: same_block(i, j, 4)",
        "block_causal": "mask: block_causal(i, j, 4)",
        "prefixed": "mask: prefixed(i, j, 4)",
        "is_sink": "mask: is_sink(i, j, 4)",
        "same_document": "mask: same_document(i // 3, j // 3)",
        "disc": "mask: disc(i - j, i - j, 3)",
    },
    "scores": {
        "capped": "score: capped(S, 50)",
        "polynomial": "score: polynomial(S, 2)",
        "cosine_similarity": "score: cosine_similarity(d: q[i], k[j])",
        "squared_distance": "score: -squared_distance(d: q[i], k[j])",
        "hidden_layer": "score: hidden_layer(d: q[i], k[j], 1.0)",
        "slope": "score: S * slope(h, len(h))",
        "alibi_bias": "score: S + alibi_bias(i, j, h, len(h))",
        "spread": "score: S + spread(abs(i - j), 16, 32, 128)",
        "bucket": "score: S + bucket(i, j)",
        "bucket_past": "score: S + bucket_past(i, j)",
    },
    "normalizers": {
        "softmax1": "normalize: softmax1(j: score)",
        "by_length": "normalize: by_length(j: score)",
        "by_clamped_sum": "normalize: by_clamped_sum(j: score)",
        "power_relu": "normalize: power_relu(score, 2)",
        "elu1": "normalize: elu1(score)",
    },
    "positional": {
        "rotary_pairs": "score: rotary_pairs(d: q[i], i) @ k[j]",
        "rotary_part": "score: rotary_part(d: q[i], i, 4) @ k[j]",
        "rotary_grid": "score: rotary_grid(d: q[i], i // 8, i % 8) @ k[j]",
    },
    "elementary": {
        "tan": "score: tan(S)",
        "cosh": "score: cosh(S)",
        "sinh": "score: sinh(S)",
        "atanh": "score: atanh(tanh(S))",
        "acosh": "score: acosh(1 + S * S)",
        "asinh": "score: asinh(S)",
        "angle": "score: angle(S, i - j)",
    },
}


@pytest.mark.parametrize("name", library_names())
def test_library_file(name: str) -> None:
    """Every def of the library is called in an operator; its operators are checked themselves."""
    source = Source(read_library(name), f"std/{name}.attn")
    file = parse(source)
    assert {each.name.name for each in file.defs} == set(CALLS.get(name, {}))
    for operator in file.operators:
        assert check_spec(file, source, operator.name.name, search=()).name == operator.name.name
    for function, line in CALLS.get(name, {}).items():
        kind, _, expression = line.partition(": ")
        known = f"attention f(q, k, v):\n{_lines(kind, expression)}"
        names = ", ".join(CALLS[name])
        spec = check(known if name == "core" else f"from {name} import {names}\n{known}")
        assert spec.name == "f", function


def _lines(kind: str, expression: str) -> str:
    clauses = {"mask": "true", "score": "dot(q[i], k[j])", "normalize": "softmax(j: score)"}
    clauses[kind] = expression.replace("S", "dot(q[i], k[j])")
    return "".join(f"    {name}: {each}\n" for name, each in clauses.items())


# --------------------------------------------------------------------------------- one at a time


def test_causal_softmax() -> None:
    spec = load("causal_softmax")
    source = spec.root.sources[0]
    assert [index.name for index in spec.root.rows] == ["i"]
    assert [given.name for given in spec.inputs if given.positional] == ["q", "k", "v"]
    assert source.mask is not None and source.score is not None and source.weight is not None
    assert text(named(spec, "j.mask").expr) == "j <= i"
    assert axes(named(spec, "out")) == ["b", "h", "i", "e"]
    assert text(named(spec, "lse").expr) == "log(sum(j if j.mask[i, j]: exp(j.score[i, j])))"
    group = "h // (len(h) // len(hk))"
    assert f"k[b, {group}, j, d]" in expression_text(named(spec, "j.score").expr)


def test_offered_emits() -> None:
    spec = load("causal_softmax")
    names = [each.array.name for each in spec.root.offered]
    assert names == ["lse", "max", "argmax", "entropy", "colsum", "weight", "score"]
    assert text(named(spec, "weight").expr) == "where(j.mask[i, j], j.weight[i, j], 0.0)"
    assert text(named(spec, "score").expr) == "where(j.mask[i, j], j.score[i, j], -inf)"


def test_rotary_reads_the_other_half() -> None:
    spec = load("rope")
    reads = [
        text(node)
        for node in postorder(named(spec, "j.score").expr)
        if node.op == "read" and node.array.name == "q"
    ]
    assert sorted(reads) == ["q[i, d + len(d) // 2]", "q[i, d - len(d) // 2]", "q[i, d]"]
    conditions = [n.args[0] for n in postorder(named(spec, "j.score").expr) if n.op == "fold"]
    assert all(text(condition) == "true" for condition in conditions)


def test_a_def_reads_its_argument_at_another_index() -> None:
    spec = load("landmark")
    weights = text(named(spec, "p").expr)
    assert "where(own[i, j'" in weights and "== where(own[i, j] or mark[j], -1, j // 64)" in weights


def test_two_sources_share_one_normalizer() -> None:
    spec = load("memory_slots")
    assert [[index.name for index in source.keys] for source in spec.root.sources] == [["j"], ["m"]]
    for name in ("j.weight", "m.weight"):
        below = [n for n in postorder(named(spec, name).expr) if n.op == "fold"]
        assert len(below) == 2, "the sum over both sources"


def test_a_pair_of_keys() -> None:
    spec = load("tensor_attention")
    weight = named(spec, "jl.weight")
    (total,) = [node for node in postorder(weight.expr) if node.op == "fold"]
    assert [index.axis.name for index in total.bound] == ["j", "j"]


def test_outer_axes_are_those_that_are_read() -> None:
    spec = load("lte_window")
    assert axes(named(spec, "r")) == ["b", "hk", "j"]
    spec = load("mixture_of_heads")
    assert axes(named(spec, "a")) == ["b", "i", "two"]
    assert axes(named(spec, "gate")) == ["b", "h", "i"]
    assert axes(named(spec, "out")) == ["b", "i", "m"]


def test_domains_of_equations() -> None:
    spec = load("mixture_of_heads")
    assert text(named(spec, "common").domain) == "h < 2"
    assert "topk" in text(named(spec, "routed").domain)


def test_recurrence() -> None:
    spec = load("gated_delta")
    (state,) = spec.root.states
    assert [axis.name for axis in state.array.axes] == ["b", "h", "d", "e"]
    assert [line.array.name for line in spec.root.updates] == ["S", "S"]
    assert not spec.root.reads_old
    early = check(
        "attention f(q, k, v) for t:\n    state S: real[d, e] = 0\n"
        "    read: q[t] @ S\n    update:\n        S = S + outer(k[t], v[t])\n"
    )
    assert early.root.reads_old


def test_a_recurrence_of_keys_alone_is_kept_on_their_heads() -> None:
    spec = check(
        "attention f(q, k, v) for t:\n    state S: real[d, e] = 0\n    update:\n"
        "        S = S + outer(k[t], v[t])\n    read: q[t] @ S\n"
    )
    assert [axis.name for axis in spec.root.states[0].array.axes] == ["b", "hk", "d", "e"]
    assert axes(named(spec, "out")) == ["b", "h", "t", "e"]


def test_several_rows() -> None:
    scan = next(block for block in blocks(load("ss2d").root) if block.name == "scan")
    assert [axis.name for axis in scan.states[0].array.axes] == ["b", "r", "c", "s"]
    assert [axis.name for axis in scan.result.array.axes] == ["b", "r", "n", "c"]


def test_gradients() -> None:
    spec = load("titans_linear")
    (node,) = [n for line in spec.root.updates for n in postorder(line.expr) if n.op == "grad"]
    assert node.array.name == "M0"
    assert text(node.args[0]) == "sum(e: miss[e] * miss[e])"


def test_repeat() -> None:
    spec = load("sinkhorn")
    (repeat,) = [each for each in spec.root.statements if isinstance(each, Repeat)]
    assert text(repeat.count) == "2"
    assert [line.array.name for line in repeat.statements] == ["sinkhorn.g", "sinkhorn.f"]


def test_solve() -> None:
    spec = load("sparsemax")
    tau = named(spec, "sparsemax.tau")
    assert axes(tau) == ["b", "h", "i"]
    assert tau.expr.op == "solve"


def test_a_called_operator_is_a_block() -> None:
    spec = load("sea")
    assert [block.name for block in blocks(spec.root)] == ["sea", "performer", "sparse"]
    assert axes(named(spec, "kept")) == ["b", "i", "c"]


def test_statics_are_numbers() -> None:
    assert text(named(load("landmark"), "own").expr) == "j // 64 == i // 64"
    assert text(named(load("landmark", size=8), "own").expr) == "j // 8 == i // 8"


def test_equal_folds_are_one() -> None:
    weight = named(attention(normalize="by_sum(j: exp(score))"), "j.weight")
    assert len([node for node in postorder(weight.expr) if node.op == "fold"]) == 1


def test_a_masked_score_is_minus_infinity_elsewhere() -> None:
    spec = attention(lines="    up[j] = max(i: score)\n")
    assert text(named(spec, "up").expr) == "max(i: where(j.mask[i, j], j.score[i, j], -inf))"
    assert axes(named(spec, "up")) == ["b", "h", "j"]


def test_scale_may_be_bound() -> None:
    spec = attention(lines="    param scale: real = 0.5\n")
    assert "scale" in text(named(spec, "j.score").expr)


# ----------------------------------------------------------------------------------------- domains


def test_a_read_of_rows_on_keys_is_a_check_of_the_call() -> None:
    spec = load("document_mask")
    conditions = [text(check.condition) for check in spec.checks]
    assert "len(i) <= 0 or len(i) + start(i) <= len(j) + start(j)" in conditions


def test_masks_prove_reads() -> None:
    spec = attention(mask="1 <= j <= i", score="dot(q[i], k[j - 1])")
    (check,) = spec.checks  # with a key offset, the key before the first is none
    assert "start(j) <= 0" in text(check.condition)


@pytest.mark.parametrize(
    "score",
    [
        "dot(q[i], k[j // 2])",
        "dot(q[i], k[len(j) - 1 - j])",
        "dot(q[i], k[min(j + 1, len(j) - 1)])",
        "where(j > 2, dot(q[i], k[j - 3]), 0.5)",
        "sum(l in j if l <= j: dot(q[i], k[j - l]))",
        "dot(q[i], k[j - 1] else 0)",
    ],
)
def test_reads_that_are_proved(score: str) -> None:
    lines = (
        "attention f(q, k, v):\n    input q: real[b, h, n, d]\n    input k, v: real[b, h, m, d]\n"
        "    axis j < len(m)\n    axis i < len(n)\n"
    )
    clauses = f"    score: {score.replace('len(j)', 'len(m)')}\n    normalize: softmax(j: score)\n"
    assert not check(lines + clauses).checks


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("dot(q[i], k[j - 1])", "reads -1 at j = 0"),
        ("dot(q[i], k[j + 1])", "reads len(j) at j = len(j) - 1"),
        ("dot(q[i], k[-1])", "reads -1 at every point"),
    ],
)
def test_reads_that_are_refuted(score: str, said: str) -> None:
    with pytest.raises(SpecError) as raised:
        attention(mask="true", score=score)
    assert said in str(raised.value)


# ------------------------------------------------------------------------------------------ limits


def test_long_sums() -> None:
    spec = attention(score=" + ".join(["dot(q[i], k[j])"] + ["scale"] * 10_000))
    assert spec.name == "f"


def test_long_conjunctions() -> None:
    spec = attention(mask=" and ".join(f"i - j != {n}" for n in range(1, 2_000)))
    assert spec.name == "f"


def test_deep_nesting_is_an_error() -> None:
    with pytest.raises(SpecError):
        attention(score="relu(" * 60 + "dot(q[i], k[j])" + ")" * 60)


def test_nested_parameters_are_evaluated_once() -> None:
    spec = attention(score="gelu(" * 12 + "dot(q[i], k[j])" + ")" * 12)
    assert spec.name == "f"


def test_all_errors_come_in_one_run() -> None:
    with pytest.raises(SpecError) as raised:
        attention(mask="j <= i + a1", score="a2", normalize="a3", read="a4")
    assert [one.code for one in raised.value.diagnostics] == ["unknown-name"] * 4


LOCALS = {
    "t = s / 1.5\n    return softmax(j: t)": "exp(score / 1.5) / sum(j: exp(score / 1.5))",
    "t = s * s\n    return t / sum(j: t)": "score * score / sum(j: score * score)",
    "t = s * s\n    u = t + 1\n    return u / max(j: u * t)": (
        "(score * score + 1) / max(j: (score * score + 1) * (score * score))"
    ),
    "t = s * s\n    return t / sum(l in j if l <= j: t[l])": (
        "score * score / sum(l in j if l <= j: score[i, l] * score[i, l])"
    ),
}


@pytest.mark.parametrize("body", LOCALS)
def test_a_local_of_a_def_is_its_text_where_an_index_is_bound_again(body: str) -> None:
    """`sum(j: t)` sums t over the keys: t is not kept at the key where the def stands."""
    head = "attention f(q, k, v):\n    mask: j <= i\n    score: dot(q[i], k[j]) * scale\n"
    short = check(f"def own(j: s):\n    {body}\n{head}    normalize: own(j: score)\n")
    long = check(f"{head}    normalize: {LOCALS[body]}\n")
    one, other = (canonical(build(spec).outputs[0].expr) for spec in (short, long))
    assert one == other


def test_an_outer_axis_that_an_array_has_twice_is_filled_by_each_name() -> None:
    lines = "    input w: real[h, a in h]\n    m[i] = sum(a in h: w * q[h = a, i])\n"
    spec = attention(lines=lines, score="dot(m[i], k[j]) * scale")
    reads = [one for one in postorder(named(spec, "m").expr) if one.op == "read"]
    (w,) = (one for one in reads if one.array.name == "w")
    assert len({expression_text(at) for at in w.args}) == 2
