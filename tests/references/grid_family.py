"""The grid family: tokens of a map are row-major."""

from __future__ import annotations

import numpy as np

from references import Pairs, reference, rotate, unit


def at(index, width):
    return divmod(index, width)


def patch(t, n, score):
    """Keys are the slots of a patch around the row's block; outside the map both k and v are 0."""
    p = Pairs(t)
    height, width, block, reach = n["height"], n["width"], n["block"], n["reach"]

    def pairs(b, h, i):
        y, x = at(i, width)
        found = []
        for u in range(block + 2 * reach):
            for w in range(block + 2 * reach):
                ky, kx = y // block * block - reach + u, x // block * block - reach + w
                inside = 0 <= ky < height and 0 <= kx < width
                key = p.key(b, h, ky * width + kx) if inside else np.zeros(p.width)
                value = p.value(b, h, ky * width + kx) if inside else np.zeros(p.v.shape[-1])
                found.append((score(p, b, h, i, key, ky - y, kx - x), value))
        return found

    return p.fold(pairs)


@reference
def halo(t, n, offset):
    origin = n["block"] + n["reach"] - 1

    def score(p, b, h, i, key, dy, dx):
        q = p.query(b, h, i)
        return q @ key * p.scale + q @ (t["row"][dy + origin] + t["column"][dx + origin])

    return patch(t, n, score)


@reference
def overlapping_window(t, n, offset):
    origin = n["size"] + n["reach"] - 1

    def score(p, b, h, i, key, dy, dx):
        bias = t["bias"][h, dy + origin, dx + origin]
        return p.query(b, h, i) @ key * p.scale + bias

    return patch(t, {**n, "block": n["size"]}, score)


@reference
def botnet(t, n, offset):
    p = Pairs(t, offset)
    height, width = n["height"], n["width"]

    def score(b, h, i, j):
        (yi, xi), (yj, xj) = at(i, width), at(j, width)
        r = t["row"][yi - yj + height - 1] + t["column"][xi - xj + width - 1]
        return p.query(b, h, i) @ (p.key(b, h, j) + r) * p.scale

    return p.attend(score)


def around(i, length, window, dilation=1, stride=1):
    """The keys of a neighborhood on one axis, in the rule of NATTEN, within i's residue class."""
    members = list(range(i % dilation, length, dilation))
    place, size = i // dilation, len(members)
    lead = min(place // stride * stride + stride // 2, size - 1)
    right = window // 2 + window % 2 - 1
    start = max(lead - window // 2, 0)
    if lead + right >= size:
        start += size - right - lead - 1
    return {members[m] for m in range(start, start + window) if 0 <= m < size}


def before(i, length, window, dilation=1, stride=1):
    """The same on a causal axis."""
    members = list(range(i % dilation, length, dilation))
    place = i // dilation
    lead = min(place // stride * stride + stride - 1, len(members) - 1)
    return {members[m] for m in range(max(lead - window + 1, 0), place + 1)}


def boxed(t, n, past=None, bias=True):
    p = Pairs(t)
    height, width = n["height"], n["width"]
    size, dilation, stride = n["size"], n.get("dilation", 1), n.get("stride", 1)
    origin = size * dilation - 1

    def place(i):
        frame, rest = divmod(i, height * width)
        return frame, *at(rest, width)

    def seen(b, h, i, j):
        (ti, yi, xi), (tj, yj, xj) = place(i), place(j)
        frames = past is None or tj in before(ti, n["frames"], past)
        return (
            frames
            and yj in around(yi, height, size, dilation, stride)
            and xj in around(xi, width, size, dilation, stride)
        )

    def score(b, h, i, j):
        if "bias" not in t:
            return p.logit(b, h, i, j)
        (_, yi, xi), (_, yj, xj) = place(i), place(j)
        return p.logit(b, h, i, j) + t["bias"][h, yi - yj + origin, xi - xj + origin]

    return p.attend(score, seen)


@reference
def neighborhood(t, n, offset):
    return boxed(t, n, past=n["size"])


@reference
def neighborhood_2d(t, n, offset):
    return boxed(t, n)


@reference
def neighborhood_3d(t, n, offset):
    return boxed(t, n, past=n["past"])


@reference
def neighborhood_1d(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(
        p.logit,
        lambda b, h, i, j: j in around(i, p.keys, n["size"], n["dilation"], n["stride"]),
    )


def square_bias(p, t, n):
    width, origin = n["width"], n["size"] - 1

    def score(b, h, i, j):
        (yi, xi), (yj, xj) = at(i, width), at(j, width)
        return p.logit(b, h, i, j) + t["bias"][h, yi - yj + origin, xi - xj + origin]

    return score


@reference
def window_partition(t, n, offset):
    p = Pairs(t, offset)
    size, width = n["size"], n["width"]

    def window(i):
        return i // width // size, i % width // size

    return p.attend(square_bias(p, t, n), lambda b, h, i, j: window(i) == window(j))


def region(i, n):
    """Window of a token in the rolled map, and the part of the map that it came from."""
    y, x = at(i, n["width"])
    height, width, size, shift = n["height"], n["width"], n["size"], n["shift"]
    rolled = ((y - shift) % height, (x - shift) % width)
    return rolled[0] // size, rolled[1] // size, y < shift, x < shift


@reference
def shifted_window(t, n, offset):
    p = Pairs(t, offset)
    return p.attend(square_bias(p, t, n), lambda b, h, i, j: region(i, n) == region(j, n))


@reference
def cosine_window(t, n, offset):
    p = Pairs(t, offset)

    def spaced(x):
        x = 8 * x / (n["trained"] - 1)
        return np.sign(x) * np.log2(1 + abs(x)) / np.log2(8)

    def score(b, h, i, j):
        (yi, xi), (yj, xj) = at(i, n["width"]), at(j, n["width"])
        hidden = np.maximum(t["wy"] * spaced(yi - yj) + t["wx"] * spaced(xi - xj) + t["c"], 0)
        bias = 16 / (1 + np.exp(-(t["out"][h] @ hidden)))
        tau = np.exp(min(t["temperature"][h], np.log(100)))
        return unit(p.query(b, h, i)) @ unit(p.key(b, h, j)) * tau + bias

    return p.attend(score, lambda b, h, i, j: region(i, n) == region(j, n))


@reference
def grid_partition(t, n, offset):
    p = Pairs(t, offset)

    def group(i):
        y, x = at(i, n["width"])
        return y % (n["height"] // n["groups"]), x % (n["width"] // n["groups"])

    return p.attend(p.logit, lambda b, h, i, j: group(i) == group(j))


@reference
def circular_window(t, n, offset):
    p = Pairs(t, offset)

    def seen(b, h, i, j):
        if t["text"][b, i] or t["text"][b, j]:
            return True
        dy = t["row"][b, i] - t["row"][b, j]
        dx = t["column"][b, i] - t["column"][b, j]
        return dy**2 + dx**2 < n["radius"] ** 2

    def score(b, h, i, j):
        turned = rotate(p.query(b, h, i), i) @ rotate(p.key(b, h, j), j)
        return turned * p.scale * n["stretch"]

    return p.attend(score, seen)


@reference
def neighbor_complement(t, n, offset):
    p = Pairs(t, offset)

    def seen(b, h, i, j):
        (yi, xi), (yj, xj) = at(i, n["width"]), at(j, n["width"])
        near = abs(yi - yj) <= n["rows"] // 2 and abs(xi - xj) <= n["columns"] // 2
        return not near

    return p.attend(p.logit, seen)


@reference
def axial(t, n, offset):
    p = Pairs(t, offset)
    width = n["width"]
    return p.attend(
        lambda b, h, i, j: p.logit(b, h, i, j) + t["bias"][h, i % width - j % width + width - 1],
        lambda b, h, i, j: i // width == j // width,
    )


@reference
def manhattan_decay(t, n, offset):
    p = Pairs(t, offset)
    out = np.zeros((p.batch, p.heads, p.rows, p.v.shape[-1]))
    for b, h, i in np.ndindex(p.batch, p.heads, p.rows):
        s = np.array(
            [rotate(p.query(b, h, i), i) @ rotate(p.key(b, h, j), j) for j in range(p.keys)]
        )
        weights = np.exp(s * p.scale) / np.exp(s * p.scale).sum()
        for j, w in enumerate(weights):
            (yi, xi), (yj, xj) = at(i, n["width"]), at(j, n["width"])
            decay = t["gamma"][h] ** (abs(xi - xj) + abs(yi - yj))
            out[b, h, i] += w * decay * p.value(b, h, j)
    return out
