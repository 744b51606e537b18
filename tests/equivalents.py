"""Mutants of gallery specs that mean the same, each with the reason."""

from __future__ import annotations

STOPPED = "only gradients stop at the memory"
CANCELS = "a factor of all weights of a row cancels in their sum"
EMITTED = "it is read by an emit alone"
DEALT = "however evenly the keys are dealt to the parts, they merge to the same"
ONE = "a factor of 1: only gradients see it"
ONLY = "only gradients see it"
SQUARED = "it is squared"
BORDER = "no sum of weights is exactly at a threshold"

SIZE = "its size alone counts"
SHIFT = "softmax has no shift"
NEVER = "a count of 0 is a score of -inf"
ORDER = "the order of what is chosen from stays"

EQUIVALENT: dict[str, dict[str, str]] = {
    "accumulated_eviction": {
        (
            "alive[j]: alive[j] and (i - j < recent or "
            "topk(l in j if alive[l]: mass[l], budget)[j]) -> "
            "(((i - j < recent or topk(l in j if alive[l]: mass[l], budget)[j])))"
        ): "what is recent is alive",
    },
    "attention_calibration": {"sink[h, j]: > -> >=": BORDER},
    "coverage_refined": {
        (
            "score: dot(q[i], k[j]) * scale - taken[i, j] -> "
            "(dot(q[i], k[j]) * scale - taken[i, j] + 1)"
        ): "softmax has no shift",
    },
    "spec_transforms": {
        "sx: x[t] -> (-x[t])": SIZE,
        "sb: B[t] -> (-B[t])": SIZE,
        "sc: C[t] -> (-C[t])": SIZE,
    },
    "rectified_sparse": {
        "known[h, r, s]: > -> >=": BORDER,
        "known[h, r, s]: dot(qm[r], km[s]) -> (-dot(qm[r], km[s]))": SIZE,
        "known[h, r, s]: qm[r] -> (-qm[r])": SIZE,
        "known[h, r, s]: km[s] -> (-km[s])": SIZE,
        "known[h, r, s]: dot(qs[r], km[s]) -> (-dot(qs[r], km[s]))": SIZE,
        "known[h, r, s]: qs[r] -> (-qs[r])": SIZE,
        "known[h, r, s]: dot(qm[r], ks[s]) -> (-dot(qm[r], ks[s]))": SIZE,
        "known[h, r, s]: ks[s] -> (-ks[s])": SIZE,
    },
    "dynamic_mask": {
        "mask: j <= i and chosen[i, j] -> ((chosen[i, j]))": "what is chosen is not after the row",
    },
    "namm": {
        "alive[hk, j]: >= -> >": BORDER,
        "even[j, f, c]: hamming[u] -> (-hamming[u])": SIZE,
        "even[j, f, c]: seen[j, f * hop + u] -> (-seen[j, f * hop + u])": SIZE,
        "moved[j, c]: even[j, f, c] -> (-even[j, f, c])": SIZE,
        "odd[j, f, c]: hamming[u] -> (-hamming[u])": SIZE,
        "odd[j, f, c]: seen[j, f * hop + u] -> (-seen[j, f * hop + u])": SIZE,
        "moved[j, c]: odd[j, f, c] -> (-odd[j, f, c])": SIZE,
    },
    "sdim": {
        "place[g, i]: > -> >=": "no product is exactly 0",
        "home[g, j]: > -> >=": "no product is exactly 0",
    },
    "speculative_verify": {
        "mask: < -> <=": "a row's first proposal is in its tree, or said not to be"
    },
    "probsparse": {
        (
            "worth[i]: max(u: s[i, u]) - sum(u: s[i, u]) / len(j) -> "
            "(max(u: s[i, u]) - sum(u: s[i, u]) / len(j) + 1)"
        ): ORDER,
        "mask: chosen[i] and (j <= i or not causal) -> (((j <= i or not causal)))": (
            "rows that are not chosen take another result"
        ),
    },
    "channel_gram": {
        "normalize: max(a: score) - score -> (max(a: score) - score + 1)": "softmax has no shift",
        "normalize: max -> min": "softmax has no shift",
    },
    "linear_attention": {"def feature: > -> >=": "both branches are 1 at 0"},
    "linear_noncausal": {"def feature: > -> >=": "both branches are 1 at 0"},
    "gated_linear_normalized": {"def feature: > -> >=": "both branches are 1 at 0"},
    "rwkv7": {"removed: k[t] -> (-k[t])": "it stands on both sides of a product"},
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
    "nsa": {"mass[i, s]: 0 -> 1": "pieces beyond the ends are of blocks that are always chosen"},
    "routing_kmeans": {
        (
            "mask: rows[m, i] and cols[m, j] and j <= i -> ((cols[m, j]) and (j <= i))"
        ): "the mean takes clusters of the row alone",
        "near[i]: dot(mu[m], qn[i]) -> (-dot(mu[m], qn[i]))": EMITTED,
        "near[i]: mu[m] -> (-mu[m])": EMITTED,
        "near[i]: qn[i] -> (-qn[i])": EMITTED,
    },
    "fourier_positions": {
        "feature[i, c]: phase[i, c] -> (-phase[i, c])": "the first half are cosines",
    },
    "flow_attention": {"source[j]: 1 -> 2": "a sum of what is positive is never below -1"},
    "index_reuse_topk": {"last: 1 -> 2": EMITTED},
    "lte_window": {
        "mask: > -> >=": "no gate is exactly 0",
        "read: * -> /": ONE,
        "read: weight * v[j] * (1 + r[j] - stop(r[j])) -> (weight * v[j])": ONE,
    },
    "outlook": {"read: 2 -> 3": "3 // 2 is 3 // 3"},
    "softmax_context_parallel": {
        "mask: j <= i and j * ranks // len(j) == r -> ((j <= i))": DEALT,
        "mask: == -> !=": DEALT,
        "mask: j * ranks -> (j)": DEALT,
    },
    "sink_redistribution": {
        (
            "edited[i]: seen[i] >= 0.2 and seen[i] - free[i] <= 0.5 * seen[i] and free[i] > 0 -> "
            "((seen[i] >= 0.2) and (seen[i] - free[i] <= 0.5 * seen[i]))"
        ): "it follows from the other two",
        "edited[i]: >= -> >": BORDER,
        "edited[i]: <= -> <": BORDER,
        "edited[i]: > -> >=": BORDER,
    },
    "gaussian_adaptive": {"g[n]: c[k] -> (-c[k])": SQUARED},
    "fftnet": {
        "r[f]: re[f] -> (-re[f])": SQUARED,
        "r[f]: im[f] -> (-im[f])": SQUARED,
        (
            "y[t]: (sum(f: kept[f] * re[f] * cos(2 * pi * f * t / len(t))) - sum(f: kept[f] * "
            "im[f] * sin(2 * pi * f * t / len(t)))) -> ((sum(f: kept[f] * re[f] * cos(2 * pi * f * "
            "t / len(t))) - sum(f: kept[f] * im[f] * sin(2 * pi * f * t / len(t)))) + 1)"
        ): "layernorm has no shift",
    },
    "polynomial": {
        "score: * -> /": CANCELS,
        "score: dot(q[i], k[j]) * scale -> (dot(q[i], k[j]))": CANCELS,
        "score: dot(q[i], k[j]) -> (-dot(q[i], k[j]))": CANCELS,
        "score: q[i] -> (-q[i])": CANCELS,
        "score: k[j] -> (-k[j])": CANCELS,
    },
    "lara": {
        (
            "score: dot(mu[c], q[i]) * scale + log_feature(q[i], w[c], scale) + gather.lse[c] - "
            "log_feature(mu[c], w[c], scale) -> (dot(mu[c], q[i]) * scale + "
            "log_feature(q[i], w[c], scale) + gather.lse[c] - log_feature(mu[c], w[c], scale) + 1)"
        ): SHIFT,
        "def log_feature: (dot(w, x) - dot(x, x) / 2) -> ((dot(w, x) - dot(x, x) / 2) + 1)": SHIFT,
    },
    "abc": {"new: s[t] -> (-s[t])": SHIFT, "gain: s[t] - new -> (s[t] - new + 1)": SHIFT},
    "codebook_logcount": {
        "count[s]: 1 -> 2": SHIFT,
        "beta[i, t]: dot(own, mixed[i, 0]) -> (-dot(own, mixed[i, 0]))": SHIFT,
        "beta[i, t]: 0 -> 0 + 1": SHIFT,
        "beta[i, t]: mixed[i, 0] -> (-mixed[i, 0])": SHIFT,
        "beta[i, t]: 0 -> 1": SHIFT,
        "mask: > -> >=": NEVER,
    },
    "vq_attention": {"mask[s]: > -> >=": NEVER},
    "natsl": {
        "linear[h, c]: > -> >=": "no two kinds are worth the same",
        "share[h, c]: + -> -": ONLY,
        (
            "share[h, c]: where(linear[c], 1, 0) + (p[c, 1] - stop(p[c, 1])) -> "
            "(where(linear[c], 1, 0))"
        ): ONLY,
    },
    "nystromformer": {
        "y[m, l in m]: 0 -> 1": "it is replaced before it is read",
        "s[m, l in m]: 0 -> 1": "it is replaced before it is read",
    },
    "recurrent_window": {"seen[u]: 0 -> 1": "a constant has no norm but 0"},
}
