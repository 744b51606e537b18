"""The gallery: each spec against a reference of its own, its mutants, kernels, and its README.

An operator is verified when the oracle agrees with a short reference written from the paper's
equations, every mutant of its text disagrees somewhere, and the CPU and Triton kernels agree with
the oracle.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attnc.backends.numpy_oracle import evaluate as evaluate_oracle
from equivalents import EQUIVALENT
from gallery_cases import (
    EXAMPLES,
    SETTINGS,
    calls,
    has_kernels,
    load,
    lowered,
    of_one_width,
    setting_of,
    spec_paths,
)
from mutants import Mutant, checked, mutants_of
from references import REFERENCES

from attnc.errors import AttncError, UnsupportedError
from attnc.spec import Spec

for family in ("softmax", "positional", "window", "grid", "segment", "normalizer"):
    importlib.import_module(f"references.{family}_family")
importlib.import_module("references.variants")
importlib.import_module("references.recurrent_family")
importlib.import_module("references.edit_family")
importlib.import_module("references.pipeline_family")
importlib.import_module("references.summary_family")
importlib.import_module("references.choice_family")
importlib.import_module("references.kept_family")
importlib.import_module("references.map_family")
importlib.import_module("references.linear_family")
REFERENCES["causal"] = REFERENCES["causal_softmax"]

_spec = importlib.util.spec_from_file_location("gallery", EXAMPLES / "gallery.py")
assert _spec is not None and _spec.loader is not None
gallery = importlib.util.module_from_spec(_spec)
sys.modules["gallery"] = gallery
_spec.loader.exec_module(gallery)

TOLERANCE = 1e-10
FEWEST_MUTANTS = 5
MOST_MUTANTS = 12  # of an operator in a run, a second or two; all of them under -m torture

PATHS = spec_paths()
every_spec = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])


@cache
def answers(path: Path) -> list[tuple[Any, dict[str, Any], dict[str, np.ndarray]]]:
    """The calls of an operator, with what its reference says of the result and of emits."""
    setting = setting_of(path.stem)
    reference = REFERENCES[path.stem]
    found = []
    for case, numbers in calls(load(path), setting, seed=11):
        said = reference(case.tensors, numbers, case.shape.offset)
        said = said if isinstance(said, tuple) else (said,)
        found.append((case, numbers, dict(zip(("out", *setting.emits), said, strict=True))))
    return found


def oracle(spec: Spec, case: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The oracle's result and emits."""
    emit = [name for name in names if name != "out"]
    return evaluate_oracle(spec, case.tensors, case.numbers, emit=emit, **case.extras)


def differs(spec: Spec, case: Any, expected: dict[str, np.ndarray]) -> bool:
    """Whether the oracle's answer is not the reference's; an error of the call is one."""
    try:
        found = oracle(spec, case, expected)
    except AttncError:
        return True
    if any(found[name].shape != one.shape for name, one in expected.items()):
        return True
    return not all(
        np.allclose(found[name], one, rtol=TOLERANCE, atol=TOLERANCE)
        for name, one in expected.items()
    )


@every_spec
def test_oracle_agrees_with_the_reference(path: Path) -> None:
    spec = load(path)
    for case, _, expected in answers(path):
        found = oracle(spec, case, expected)
        for name, one in expected.items():
            np.testing.assert_allclose(found[name], one, TOLERANCE, TOLERANCE, err_msg=str(case))


@every_spec
def test_mutants_die(path: Path, pytestconfig: pytest.Config) -> None:
    """Mutants are caught by some call, but for those listed as equivalent with the reason; of many
    some are tried, as the run's seed chooses."""
    chance = random.Random(f"{pytestconfig.option.seed} {path.stem}")
    check_mutants(path, MOST_MUTANTS, chance)


@pytest.mark.torture
@every_spec
def test_every_mutant_dies(path: Path) -> None:
    check_mutants(path)


def check_mutants(path: Path, most: float = math.inf, chance: random.Random | None = None) -> None:
    """most: how many at least are tried, if there are as many, in an order by chance."""
    cases = answers(path)
    statics = dict(setting_of(path.stem).statics)
    named: dict[str, list[Mutant]] = {}
    for mutant in mutants_of(path.read_text(), str(path)):
        named.setdefault(mutant.name, []).append(mutant)
    names = list(named)
    if chance is not None:
        chance.shuffle(names)
    dead: list[str] = []
    alive: list[str] = []
    for name in names:
        if len(dead) + len(alive) >= most:
            break
        for spec in filter(None, (checked(one, str(path), statics) for one in named[name])):
            dies = any(differs(spec, case, expected) for case, _, expected in cases)
            (dead if dies else alive).append(name)
    equivalent = EQUIVALENT.get(path.stem, {}).keys()
    unexpected = sorted({*alive} - equivalent)
    assert not unexpected, "\n".join(unexpected)
    unused = {*dead} & equivalent - {*alive}
    assert not unused, f"listed as equivalent, but killed: {unused}"
    assert len(dead) + len(alive) >= FEWEST_MUTANTS, f"only {len(dead)} mutants"


# kernels ----------------------------------------------------------------------------------------

# Of a few rows the worst is a matter of luck: errors under eight roundings of float32 pass too.
ROUNDINGS = 8 * 2.0**-23


def compare_kernels(path: Path, backend: str, most: int | None = None) -> list[str]:
    """The first calls of an operator on one backend whose result is further from the oracle than
    allowed; of one that has no kernels, none."""
    import torch

    from attnc.errors import UnsupportedError
    from attnc.operator import Operator
    from attnc.verification import LARGEST_RATIO, compare

    spec = load(path)
    try:
        run, eager = Operator(spec, backend), Operator(spec, "eager")
    except UnsupportedError:
        refusal = lowered(path).refusal
        assert refusal is not None and refusal.feature
        return []
    emit = ("lse",) if any(one.array.name == "lse" for one in spec.root.offered) else ()
    emit += setting_of(path.stem).emits
    wrong = []
    for case, _ in islice(calls(spec, of_one_width(setting_of(path.stem)), seed=11), most):
        verdict = compare(spec, case, run, eager, torch.float32, emit=emit, backend=backend)
        for one in verdict.comparisons:
            ratio = max(one.frobenius_ratio, one.worst_row_ratio)
            if not (ratio <= LARGEST_RATIO or max(one.frobenius, one.worst_row) <= ROUNDINGS):
                wrong.append(f"{path.stem}: {one} in {case}")
    return wrong


@pytest.mark.usefixtures("quick_build")
@every_spec
def test_cpu_kernels_agree_with_the_oracle(path: Path) -> None:
    """Or there are none, for what is named."""
    assert not compare_kernels(path, "cpu")


# Triton reads TRITON_INTERPRET when it is imported, so its kernels run in processes of their own.
PORTIONS = 4
MOST_CALLS = 2  # of an operator in a run; all of them under -m torture


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_triton_kernels_agree_with_the_oracle(portion: int) -> None:
    compare_on_triton(PATHS[portion::PORTIONS], str(MOST_CALLS))


@pytest.mark.torture
def test_every_call_on_triton() -> None:
    compare_on_triton(PATHS, "all")


def compare_on_triton(paths: list[Path], most: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, __file__, most, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# gradients --------------------------------------------------------------------------------------

# What the catalogue says of gradients is tried on these in every run, on all under -m torture.
SAMPLE = ("sliding_window", "relative_bias", "aaren", "gated_delta")
REFUSED = {
    row.name: row.gradient.removeprefix("refused: ")
    for row in gallery.read_rows()
    if row.gradient.startswith("refused: ")
}


def compare_gradients_of(path: Path, most: int) -> list[str]:
    """The first calls of an operator whose gradients on the CPU are further from autograd in
    float64 than allowed. Raises UnsupportedError where it has none."""
    import torch

    from attnc.operator import Operator
    from attnc.verification_gradients import compare_gradients

    spec = load(path)
    run, eager = Operator(spec, "cpu"), Operator(spec, "eager")
    wrong = []
    for case, _ in islice(calls(spec, of_one_width(setting_of(path.stem)), seed=11), most):
        verdict = compare_gradients(spec, case, run, eager, torch.float64)
        wrong += [f"{path.stem}: {one} in {case}" for one in verdict.comparisons if not one.passed]
    return wrong


def check_gradients(path: Path, most: int) -> None:
    """They are verified, or refused for what the catalogue says."""
    if path.stem not in REFUSED:
        assert not compare_gradients_of(path, most)
        return
    with pytest.raises(UnsupportedError, match=re.escape(REFUSED[path.stem])):
        compare_gradients_of(path, most)


@pytest.mark.usefixtures("quick_build")
@pytest.mark.parametrize("name", SAMPLE)
def test_gradients_of_a_sample(name: str) -> None:
    check_gradients(next(path for path in PATHS if path.stem == name), 1)


@pytest.mark.torture
@every_spec
def test_gradients(path: Path) -> None:
    if has_kernels(path):
        check_gradients(path, 3)


def test_refused_gradients_are_of_operators_with_kernels() -> None:
    assert all(has_kernels(path) for path in PATHS if path.stem in REFUSED)
    assert REFUSED.keys() <= {path.stem for path in PATHS}


# the page ---------------------------------------------------------------------------------------

# What is shipped, with a verified operator of the gallery that needs it.
SHOWN_BY = {
    "additive_score": "additive",
    "axis_softmax": "selective_lookups",
    "bias_function": "cosine_window",
    "bias_table": "relative_bias",
    "bias_tensor": "perturbed_logits",
    "bilinear_gather": "deformable_keys",
    "block_bitmap": "block_sparse",
    "block_topk": "nsa",
    "branch_merge": "nsa",
    "bucketing": "routing_kmeans",
    "cache_policy": "index_reuse_topk",
    "causal": "causal_softmax",
    "channel_decay": "gla",
    "column_norm": "sinkhorn",
    "concat_kv": "concat_kv",
    "constant_decay": "constant_decay",
    "conv_stage": "jetblock",
    "cross_lengths": "softmax",
    "custom_backward": "natsl",
    "decode_cache": "causal_softmax",
    "delta_rule": "delta_rule",
    "elementwise": "pixel_gate",
    "feature_map": "feature_sum",
    "free_head_dim": "softmax",
    "gather_scatter": "bilevel_routing",
    "gqa": "causal_softmax",
    "gradient_state": "titans_linear",
    "grid_axes": "relative_bias",
    "grouped_softmax": "landmark",
    "head_weights": "head_mixing",
    "key_only_score": "aaren",
    "key_padding": "additive",
    "keyless_weights": "slot_mixture",
    "learned_param": "memory_slots",
    "learned_query": "aaren",
    "linear_state": "linear_attention",
    "logit_function": "soft_cap",
    "logit_scale": "cosine_window",
    "long_conv": "hyena",
    "lse_merge": "concat_kv",
    "lti_ssm": "diag_ssm",
    "map_stage": "combiner",
    "mask_tensor": "per_head_mask",
    "mlp_stage": "box_bias",
    "multi_scan": "ss2d",
    "multi_term_score": "mvpa",
    "nd_neighborhood": "neighborhood_3d",
    "out_colstats": "attention_export",
    "out_weights": "pointer",
    "output_gate": "decoupled_target",
    "output_norm": "exp_gated_norm",
    "pair_embedding": "query_relative",
    "pair_predicate": "interval_mask",
    "per_head_mask": "duo_heads",
    "pipeline": "agent",
    "pooling_stage": "pooled_kv",
    "qk_norm": "qk_rmsnorm",
    "query_carry": "additive_feedback",
    "query_subset": "attention_rollout",
    "rope": "rope",
    "row_sum": "softplus",
    "scalar_decay": "gated_delta",
    "segment_ids": "document_mask",
    "segment_table": "segment_relation",
    "selective_ssm": "mamba",
    "separate_sources": "positional_only",
    "simplex_projection": "sparsemax",
    "sink_keys": "sink_window",
    "sliding_window": "sliding_window",
    "state_io": "gated_delta",
    "token_axis": "axial",
    "token_topk": "probsparse",
    "two_pass": "softplus_reweighted",
    "unnormalised": "unnormalised_attention",
    "vector_scan": "hgrn",
    "weight_edit": "manhattan_decay",
    "window_partition": "shifted_window",
}


def test_each_shipped_feature_is_shown_by_a_verified_operator() -> None:
    wanted = set(SHOWN_BY.values())
    shown = {path.stem for path in PATHS if path.stem in wanted and has_kernels(path)}
    assert gallery.read_shipped().keys() == SHOWN_BY.keys()
    assert shown == wanted


def test_the_page_is_the_printed_one() -> None:
    """After a change of specs, features or kernels: make gallery."""
    assert (EXAMPLES / "README.md").read_text() == gallery.print_page(gallery.read_rows())


def test_every_spec_is_in_the_catalogue_and_every_row_says_what_it_lacks() -> None:
    rows = gallery.read_rows()
    assert {row.name for row in rows if row.path} == {path.stem for path in PATHS}
    for row in rows:
        assert row.path or gallery.missing(row), row.name


def test_specs_that_count_have_graphs_of_their_own() -> None:
    """No operator is there twice: texts that differ but for comments and names of files."""
    bodies: dict[str, str] = {}
    for path in PATHS:
        lines = [line.split("#")[0].rstrip() for line in path.read_text().splitlines()]
        body = "\n".join(line for line in lines if line).replace(path.stem, "_")
        if path.stem != "causal":
            assert body not in bodies, f"{path.stem} is {bodies[body]}"
            bodies[body] = path.stem


def test_pictures_are_small() -> None:
    assert all(path.stat().st_size < 2048 for path in (EXAMPLES / "pictures").glob("*.png"))


def test_settings_name_specs() -> None:
    assert SETTINGS.keys() <= {path.stem for path in PATHS}


if __name__ == "__main__":
    import triton_interpreter  # noqa: F401

    most = None if sys.argv[1] == "all" else int(sys.argv[1])
    failures = [
        line for path in map(Path, sys.argv[2:]) for line in compare_kernels(path, "triton", most)
    ]
    print("\n".join(failures))
    sys.exit(bool(failures))
