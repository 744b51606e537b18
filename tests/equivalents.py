"""Mutants of gallery specs that mean the same, each with the reason."""

from __future__ import annotations

STOPPED = "only gradients stop at the memory"
CANCELS = "a factor of all weights of a row cancels in their sum"

EQUIVALENT: dict[str, dict[str, str]] = {
    "linear_attention": {"def feature: > -> >=": "both branches are 1 at 0"},
    "linear_noncausal": {"def feature: > -> >=": "both branches are 1 at 0"},
    "gated_linear_normalized": {"def feature: > -> >=": "both branches are 1 at 0"},
    "rwkv7": {"removed: k[t] -> (-k[t])": "it stands on both sides of a product"},
    "channel_gram": {
        "normalize: max(a: score) - score -> (max(a: score) - score + 1)": "softmax has no shift",
        "normalize: max -> min": "softmax has no shift",
    },
    "transformer_xl": {
        (
            "held[j]: where(j < memory, stop(k[j]), k[j]) -> where(j < memory, k[j], stop(k[j]))"
        ): STOPPED,
        "held[j]: < -> <=": STOPPED,
        (
            "read: where(j < memory, stop(v[j]), v[j]) -> where(j < memory, v[j], stop(v[j]))"
        ): STOPPED,
        "read: < -> <=": STOPPED,
    },
    "gaussian_local": {"mask: <= -> <": "a centre is at no exact distance from a key"},
    "value_sign_flip": {"mask[n]: kind[i] -> (-kind[i])": "it is compared with 0"},
    "landmark": {"p[i, j]: 1 -> 2": "any group below 0 is one of its own"},
    "feature_sum": {
        "score: dot(fq[i], fk[j]) -> (-dot(fq[i], fk[j]))": CANCELS,
        "score: fq[i] -> (-fq[i])": CANCELS,
        "score: fk[j] -> (-fk[j])": CANCELS,
    },
    "polynomial": {
        "score: * -> /": CANCELS,
        "score: dot(q[i], k[j]) * scale -> (dot(q[i], k[j]))": CANCELS,
        "score: dot(q[i], k[j]) -> (-dot(q[i], k[j]))": CANCELS,
        "score: q[i] -> (-q[i])": CANCELS,
        "score: k[j] -> (-k[j])": CANCELS,
    },
}
