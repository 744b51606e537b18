"""Specs with states, for the tests of recurrences: what each transition is, and its text.

Names are of the catalogue where the text is; others are made to meet one rule each."""

from __future__ import annotations

# name: (kinds of the transitions of its states in order, text)
SPECS: dict[str, tuple[tuple[str, ...], str]] = {
    "linear_attention": (("sum", "sum"), """
attention linear_attention(q, k, v) for t:
    state S: real[d, e] = 0, z: real[d] = 0
    fq[t] = where(q[t] > 0, q[t] + 1, exp(q[t]))
    fk[t] = where(k[t] > 0, k[t] + 1, exp(k[t]))
    update:
        S = S + outer(fk[t], v[t])
        z = z + fk[t]
    read: (fq[t] @ S) / (fq[t] @ z)
"""),
    "constant_decay": (("scalar",), """
attention constant_decay(q, k, v) for t:
    input slope: real[h]
    state S: real[d, e] = 0
    update:
        S = exp(-abs(slope)) * S + outer(k[t], v[t])
    read: q[t] @ S
"""),
    "gla": (("diagonal",), """
attention gla(q, k, v) for t:
    input g: real[b, h, t, d]
    state S: real[d, e] = 0
    update:
        S = exp(-softplus(g[t])) * S + outer(k[t], v[t])
    read: (q[t] @ S) * scale
"""),
    "value_decay": (("diagonal",), """
attention value_decay(q, k, v) for t:
    input g: real[b, h, t, e]
    state S: real[d, e] = 0
    update:
        S = sigmoid(g[t]) * S + outer(k[t], v[t])
    read: q[t] @ S
"""),
    "rwkv6": (("diagonal",), """
attention rwkv6(q, k, v) for t:
    input w: real[b, h, t, d], u: real[h, d]
    state S: real[d, e] = 0
    read: q[t] @ S + sum(d: q[t] * u * k[t]) * v[t]
    update:
        S = exp(-exp(w[t])) * S + outer(k[t], v[t])
"""),
    "delta_rule": (("low rank",), """
attention delta_rule(q, k, v) for t:
    input beta: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = S + sigmoid(beta[t]) * outer(l2norm(d: k[t]), v[t] - l2norm(d: k[t]) @ S)
    read: q[t] @ S
"""),
    "gated_delta": (("low rank",), """
attention gated_delta(q, k, v) for t:
    input beta, g: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = exp(-softplus(g[t])) * S
        S = S + sigmoid(beta[t]) * outer(l2norm(d: k[t]), v[t] - l2norm(d: k[t]) @ S)
    read: (q[t] @ S) * scale
"""),
    "rwkv7": (("diagonal plus low rank",), """
attention rwkv7(r, k, v) for t:
    input r, k, w, a, kk: real[b, h, t, d], bonus: real[h, d]
    state S: real[d, e] = 0
    update:
        gone = l2norm(d: kk[t])
        S = sigmoid(w[t]) * S - outer(sigmoid(a[t]) * gone, gone @ S) + outer(k[t], v[t])
    read: r[t] @ S + sum(d: r[t] * k[t] * bonus) * v[t]
"""),
    "householder": (("low rank",), """
attention householder(q, k, v) for t:
    input g, beta, gamma: real[b, h, t], k2: real[b, h, t, d], v2: real[b, h, t, e]
    state S: real[d, e] = 0
    update:
        S = exp(-softplus(g[t])) * S
        S = S + sigmoid(beta[t]) * outer(l2norm(d: k[t]), v[t] - l2norm(d: k[t]) @ S)
        S = S + 2 * sigmoid(gamma[t]) * outer(l2norm(d: k2[t]), v2[t] - l2norm(d: k2[t]) @ S)
    read: q[t] @ S
"""),
    "mamba": (("elementwise",), """
attention mamba(x) for t:
    input x, dt: real[b, t, c], B, C: real[b, t, n], A: real[c, n], D: real[c]
    state H: real[c, n] = 0
    update:
        H = exp(-softplus(dt[t]) * exp(A)) * H + outer(softplus(dt[t]) * x[t], B[t])
    read: H @ C[t] + D * x[t]
"""),
    "mamba2": (("scalar",), """
attention mamba2(x) for t:
    input x: real[b, h, t, p], dt: real[b, h, t], A, D: real[h], B, C: real[b, g, t, n]
    axis g of h
    state H: real[n, p] = 0
    update:
        H = exp(-softplus(dt[t]) * exp(A)) * H + outer(B[t], softplus(dt[t]) * x[t])
    read: C[t] @ H + D * x[t]
"""),
    "min_gru": (("elementwise",), """
attention min_gru(x) for t:
    input x, z: real[b, t, c], first: real[b, c]
    state s: real[c] = first
    update:
        s = (1 - sigmoid(z[t])) * s + sigmoid(z[t]) * x[t]
    read: s
"""),
    "rg_lru": (("elementwise",), """
attention rg_lru(x) for t:
    input x, r, g: real[b, t, c], lam: real[c]
    state s: real[c] = 0
    update:
        a = exp(-8 * softplus(lam) * sigmoid(r[t]))
        s = a * s + sqrt(1 - a * a) * (sigmoid(g[t]) * x[t])
    read: s
"""),
    "momentum": (("coupled", "coupled"), """
attention momentum(q, k, v) for t:
    input eta, alpha: real[b, h, t]
    state S, Z: real[d, e] = 0
    update:
        Z = sigmoid(eta[t]) * Z - outer(k[t], k[t] @ S - v[t]) / (1 + k[t] @ k[t])
        S = (1 - sigmoid(alpha[t])) * S + Z
    read: q[t] @ S
"""),
    "chunk_start": (("coupled", "coupled"), """
attention chunk_start(q, k, v) for t:
    input rate: real[b, h, t]
    state S, S0: real[d, e] = 0
    update:
        S0 = where(t % 3 == 0, S, S0)
        miss = l2norm(d: k[t]) @ S0 - v[t]
        S = S - sigmoid(rate[t]) * grad(miss @ miss, S0)
    read: q[t] @ S
"""),
    "exchange": (("coupled", "coupled"), """
attention exchange(x) for t:
    input x, y: real[b, t, c]
    state A, B: real[c] = 0
    update:
        old = A
        A = 0.5 * B + x[t]
        B = 0.5 * old + y[t]
    read: A - 2 * B
"""),
    "local_error": (("low rank", "coupled"), """
attention local_error(q, k, v) for t:
    input beta: real[b, h, t]
    state S: real[d, e] = 0
    update:
        miss = v[t] - l2norm(d: k[t]) @ S
        S = S + sigmoid(beta[t]) * outer(l2norm(d: k[t]), miss)
    read: q[t] @ S + miss
"""),
    "document_reset": (("scalar",), """
attention document_reset(q, k, v) for t:
    input doc: int[b, t], g: real[b, h, t]
    state S: real[d, e] = 0
    update:
        S = where(doc[t] == (doc[t - 1] else -1), exp(-softplus(g[t])), 0) * S + outer(k[t], v[t])
    read: q[t] @ S
"""),
    "lagged": (("sum",), """
attention lagged(q, k, v) for t:
    param window: int = 3
    state S: real[d, e] = 0
    update:
        S = S + outer(k[t], v[t]) - outer(k[t - window] else 0, v[t - window] else 0)
    read: q[t] @ S
"""),
    "shift_register": (("unstructured",), """
attention shift_register(x) for t:
    static taps: int = 4
    axis l < taps
    input x: real[b, t, c], w: real[l, c]
    state past: real[l, c] = 0
    update:
        past[l] = where(l == 0, x[t], past[l - 1] else 0)
    read: silu(sum(l: w[l] * past[l]))
"""),
    "mixing": (("unstructured",), """
attention mixing(x) for t:
    input x: real[b, t, c], A: real[c, n], w: real[n, lag]
    state s: real[n] = 1
    update:
        s[n] = 0.1 * sum(m in n: s[m] * w[m, 0] * cos(m * n)) + sum(c: x[t] * A)
    read: s[0] * x[t]
"""),
    "running_max": (("not affine", "not affine", "not affine"), """
attention running_max(q, k, v) for t:
    input q: real[h, d]
    state top: real = -inf, z: real = 0, S: real[e] = 0
    update:
        s = dot(q, k[t]) * scale
        best = max(top, s)
        S = exp(top - best) * S + exp(s - best) * v[t]
        z = exp(top - best) * z + exp(s - best)
        top = best
    read: S / z
"""),
    "nonlinear": (("not affine",), """
attention nonlinear(q, k, v) for t:
    state S: real[d, e] = 0
    update:
        S = tanh(S + outer(k[t], v[t]))
    read: q[t] @ S
"""),
    "counts": (("sum", "kept"), """
attention counts(q, k, v) for t:
    input flag: bool[b, t]
    state n: int = 0, last: bool = false
    update:
        n = n + where(flag[t], 1, 0)
        last = flag[t]
    read: where(last, v[t], n * v[t])
"""),
    "key_heads": (("sum",), """
attention key_heads(q, k, v) for t:
    state S: real[d, e] = 0
    update:
        S = S + outer(k[t], v[t])
    read: q[t] @ S
"""),
    "both_sides": (
        ("not affine",),
        """
attention both_sides(q, k, v) for t:
    input u: real[b, h, t, e]
    state S: real[d, e] = 0
    update:
        S = 0.5 * S + 0.1 * outer(S @ u[t], k[t] @ S) + outer(k[t], v[t])
    read: (q[t] @ S) * 0.1
""",
    ),
    "three_axes": (
        ("scalar",),
        """
attention three_axes(x) for t:
    input x: real[b, t, c], y: real[b, t, m], z: real[b, t, n]
    state H: real[c, m, n] = 0
    update:
        H[c, m, n] = 0.7 * H[c, m, n] + x[t, c] * y[t, m] * z[t, n]
    read[c]: sum(m, n: H[c, m, n] * y[t, m] * z[t, n])
""",
    ),
    "two_rows": (
        ("scalar",),
        """
attention two_rows(x) for r, t:
    input x: real[b, r, t, c], g: real[r, t]
    state s: real[c] = 1
    update:
        s = sigmoid(g[r, t]) * s + x[r, t]
    read: s
""",
    ),
    "short_convolution": (
        ("scalar",),
        """
attention short_convolution(x) for t:
    input x: real[b, t, c], w: real[l, c]
    state s: real[c] = 0
    update:
        s = 0.9 * s + silu(sum(l: w[l] * (x[t - l] else 0)))
    read: s
""",
    ),
}  # fmt: skip

# The same, of which fewer tests are made.
MORE: dict[str, tuple[tuple[str, ...], str]] = {
    "reflections": (("diagonal plus low rank",), """
attention reflections(q, k, v) for t:
    input g, a, c, e1: real[b, h, t, d]
    state S: real[d, e] = 0
    update:
        S = sigmoid(g[t]) * S
        S = S - 2 * outer(l2norm(d: a[t]), l2norm(d: a[t]) @ S)
        S = S - 2 * outer(l2norm(d: c[t]), l2norm(d: c[t]) @ S)
        S = S + outer(l2norm(d: k[t]), v[t] - l2norm(d: e1[t]) @ S)
    read: q[t] @ S
"""),
}  # fmt: skip
