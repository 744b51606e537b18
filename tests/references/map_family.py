"""Gates and mixers of maps, and points read between those of a map.

A map is [batch, height, width, channels] here; tokens are its points in row-major order.
"""

from __future__ import annotations

import math

import numpy as np

from references import reference, sigmoid, softmax

gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2, otypes=[float])


def relu(x):
    return np.maximum(x, 0)


def as_map(x, n, *names):
    """Tokens as a map of the call's numbers."""
    height, width = (n[name] for name in (names or ("height", "width")))
    return x.reshape(*x.shape[:-2], height, width, x.shape[-1])


def as_tokens(x):
    return x.reshape(*x.shape[:-3], -1, x.shape[-1])


def surroundings(x, taps, outside=0.0):
    """For each tap the map moved by it: [u, w, batch, height, width, c]."""
    tall, wide = taps
    height, width = x.shape[-3:-1]
    padding = [(0, 0)] * (x.ndim - 3) + [(tall // 2, tall), (wide // 2, wide), (0, 0)]
    padded = np.pad(x, padding, constant_values=outside)
    return np.array(
        [[padded[..., u : u + height, w : w + width, :] for w in range(wide)] for u in range(tall)]
    )


def depthwise(x, taps):
    """Each channel with its own taps [u, w, c]."""
    return np.einsum("uwbyxc,uwc->byxc", surroundings(x, taps.shape[:2]), taps)


def convolution(x, taps):
    """All channels into each, by taps [u, w, c, f]."""
    return np.einsum("uwbyxc,uwcf->byxf", surroundings(x, taps.shape[:2]), taps)


def between(x, y, z):
    """A map [height, width, c] read at (y, z): four corners by their nearness, outside 0."""
    total = np.zeros(x.shape[-1])
    for row in range(math.floor(y), math.floor(y) + 2):
        for col in range(math.floor(z), math.floor(z) + 2):
            if 0 <= row < len(x) and 0 <= col < x.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(z - col)) * x[row, col]
    return total


@reference
def conditioned_gate(t, n, offset):
    both = np.concatenate([t["x"].mean(1), t["side"]], 1)
    hidden = relu(both @ np.concatenate([t["w1"], t["ws"]]))
    return sigmoid(hidden @ t["w2"])[:, None] * t["x"]


@reference
def strip_gate(t, n, offset):
    x = as_map(t["x"], n)

    def gate(z):  # [batch, length, c]
        mixed = depthwise(z[:, :, None], t["taps"][:, None])[:, :, 0]
        parts = np.split(mixed, mixed.shape[2] // n["size"], axis=2)
        normed = [
            (part - part.mean((1, 2), keepdims=True))
            / np.sqrt(part.var((1, 2), keepdims=True) + 1e-5)
            for part in parts
        ]
        return sigmoid(np.concatenate(normed, 2) * t["gain"] + t["shift"])

    return as_tokens(x * gate(x.mean(2))[:, :, None] * gate(x.mean(1))[:, None])


@reference
def attention_gate(t, n, offset):
    out = np.zeros_like(t["x"])
    size, coarse = (n["height"], n["width"]), (n["rows"], n["cols"])
    for b in range(len(out)):
        low = as_map(t["g"][b], n, "rows", "cols")
        for at, (row, col) in enumerate(np.ndindex(*size)):
            place = [
                min(max((p + 0.5) * few / many - 0.5, 0), few - 1)
                for p, few, many in zip((row, col), coarse, size, strict=True)
            ]
            x = t["x"][b, at]
            hidden = relu(x @ t["wx"] + between(low, *place) @ t["wg"] + t["bias"])
            out[b, at] = sigmoid(hidden @ t["psi"] + t["base"]) * x
    return out


@reference
def pixel_gate(t, n, offset):
    x = as_map(t["x"], n)
    h = x
    for name in ("w1", "w2"):
        h = convolution(h, t[name])
        h = h * sigmoid(h)
    h = convolution(h, t["w3"])
    return as_tokens((h + x) * (sigmoid(h) - 0.5))


@reference
def gaussian_adaptive(t, n, offset):
    out = np.zeros_like(t["x"])
    for b, h in np.ndindex(t["x"].shape[:2]):
        x = t["x"][b, h, : t["length"][b]]
        variance = x.var(0, ddof=1) + n["eps"]
        weight = np.ones_like(x)
        for delta, c in zip(t["delta"][h], t["c"][h], strict=True):
            z = (x - x.mean(0) - delta) / np.sqrt(variance)
            weight *= np.exp(-(z**2) / (2 * c**2)) / np.sqrt(2 * np.pi * c**2)
        out[b, h, : len(x)] = x * weight / np.maximum(weight.sum(0), n["eps"])
    return out


@reference
def subspace_softmax(t, n, offset):
    x = as_map(t["x"], n)
    out = np.zeros_like(x)
    size = n["size"]
    z = relu(x * t["w1"] + t["shift1"])
    peak = surroundings(z, (3, 3), -np.inf).max((0, 1))
    for s in range(x.shape[-1] // size):
        part = slice(s * size, (s + 1) * size)
        for b in range(len(x)):
            logit = relu(peak[b, ..., part] @ t["w2"][part] * t["scale2"][s] + t["shift2"][s])
            a = softmax(logit.reshape(-1)).reshape(*logit.shape, 1)
            out[b, ..., part] = a * x[b, ..., part] + x[b, ..., part]
    return as_tokens(out)


@reference
def stream_fusion(t, n, offset):
    out = np.zeros_like(t["x"][:, 0])
    for b in range(len(out)):
        streams = t["x"][b]
        z = streams.sum(0).mean(0) @ t["w"]
        z = np.where(z > 0, z, t["slope"] * z)
        logits = np.array([z @ w for w in t["ws"]])
        for c in range(logits.shape[1]):
            out[b, :, c] = np.tensordot(softmax(logits[:, c]), streams[..., c], 1)
    return out


@reference
def fftnet(t, n, offset):
    x = t["x"]
    hidden = gelu(np.einsum("bhd,hdm->bhm", x.mean(2), t["w1"]))
    w = t["base"] + np.einsum("bhm,hmf->bhf", hidden, t["w2"])
    z = np.fft.fft(x, axis=2) * w[..., None]
    size = np.abs(z)
    kept = relu(size + t["bias"][:, None, None]) * z / np.where(size == 0, 1, size)
    y = x + np.fft.ifft(kept, axis=2).real
    normed = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return normed * t["gain"] + t["shift"]


@reference
def focal_modulation(t, n, offset):
    x = as_map(t["x"], n)
    gates = x @ t["wg"] + t["bg"]
    z = x @ t["wz"] + t["bz"]
    context = 0
    for level, taps in enumerate((t["t1"], t["t2"])):
        z = gelu(depthwise(z, taps))
        context = context + gates[..., level : level + 1] * z
    context = context + gates[..., 2:3] * gelu(z.mean((1, 2), keepdims=True))
    query = x @ t["wq"] + t["bq"]
    return as_tokens((query * (context @ t["wh"] + t["bh"])) @ t["wo"] + t["bo"])


@reference
def inception_mixer(t, n, offset):
    x1, x2, x3 = (as_map(t[name], n) for name in ("x1", "x2", "x3"))
    size = n["pool"]
    y1 = gelu(depthwise(x1 @ t["first"], t["taps"]))
    y2 = gelu(surroundings(x2, (3, 3), -np.inf).max((0, 1)) @ t["second"])
    y3 = np.zeros_like(x3)
    rows, cols = n["height"] // size, n["width"] // size
    for b in range(len(x3)):
        low = np.array(
            [
                x3[b, y * size : (y + 1) * size, z * size : (z + 1) * size].mean((0, 1))
                for y, z in np.ndindex(rows, cols)
            ]
        )
        mixed = np.zeros((rows * cols, x3.shape[-1]))
        for h in range(len(t["wo"])):
            q, k, v = (low @ into[h] for into in t["into"])
            weights = np.array([softmax(k @ each / np.sqrt(q.shape[1])) for each in q])
            mixed += weights @ v @ t["wo"][h]
        mixed = mixed.reshape(rows, cols, -1).repeat(size, 0).repeat(size, 1)
        y3[b, : len(mixed), : mixed.shape[1]] = mixed
    joined = np.concatenate([y1, y2, y3], -1)
    return as_tokens((joined + depthwise(joined, t["mix"])) @ t["wy"] + t["bias"])


@reference
def padded_window(t, n, offset):
    height, width, step, stride = n["height"], n["width"], n["dilation"], n["stride"]
    q, k, v = t["q"], t["k"], t["v"]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    group = q.shape[1] // k.shape[1]
    across = -(-width // stride)
    for b, h, i in np.ndindex(q.shape[:3]):
        scores, values = [], []
        for u in range(-n["reach"], n["reach"] + 1):
            for w in range(-n["reach"], n["reach"] + 1):
                y, x = i // across * stride + u * step, i % across * stride + w * step
                inside = 0 <= y < height and 0 <= x < width
                key = k[b, h // group, y * width + x] if inside else np.zeros(k.shape[-1])
                value = v[b, h // group, y * width + x] if inside else np.zeros(v.shape[-1])
                scores.append(q[b, h, i] @ key / np.sqrt(q.shape[-1]))
                values.append(value)
        out[b, h, i] = softmax(np.array(scores)) @ np.array(values)
    return out


@reference
def row_column_product(t, n, offset):
    out = np.zeros((*t["qy"].shape[:3], t["v"].shape[-1]))
    for b, h in np.ndindex(out.shape[:2]):
        k, v = as_map(t["k"][b, h], n), as_map(t["v"][b, h], n)
        factor = 1 / np.sqrt(k.shape[-1])
        ky = k.mean(1) * sigmoid(v.mean((0, 1)) @ t["wy"][h])
        kx = k.mean(0) * sigmoid(v.mean((0, 1)) @ t["wx"][h])
        for i in range(out.shape[2]):
            down = softmax(ky @ t["qy"][b, h, i] * factor)
            across = softmax(kx @ t["qx"][b, h, i] * factor)
            out[b, h, i] = np.tensordot(np.outer(down, across), v, 2)
    return out


@reference
def st_gated_fusion(t, n, offset):
    out = np.zeros_like(t["x"])
    sensors = n["sensors"]

    for b in range(len(out)):
        sides = []
        both = np.concatenate([t["x"][b], t["place"][b]], 1)
        for part, out_map, same in ((0, "ws", "time"), (1, "wt", "sensor")):
            side = np.zeros_like(out[b])
            for h in range(len(t["ws"])):
                w, u = t["w"][part, :, h], t["u"][part, :, h]
                q, k, v = (relu(both @ np.concatenate(pair)) for pair in zip(w, u, strict=True))
                for i in range(len(q)):
                    time, sensor = divmod(i, sensors)
                    if same == "time":
                        keys = [time * sensors + s for s in range(sensors)]
                    else:
                        keys = [s * sensors + sensor for s in range(time + 1)]
                    weights = softmax(k[keys] @ q[i] / np.sqrt(q.shape[1]))
                    side[i] += weights @ v[keys] @ t[out_map][h]
            sides.append(side)
        z = sigmoid(sides[0] @ t["g1"] + sides[1] @ t["g2"] + t["bias"])
        out[b] = (z * sides[0] + (1 - z) * sides[1]) @ t["wo"]
    return out


@reference
def deformable_points(t, n, offset):
    v, logit = t["v"], t["logit"]
    out = np.zeros((*logit.shape[:3], v.shape[-1]))
    for b, h, i in np.ndindex(out.shape[:3]):
        weights = softmax(logit[b, h, i].reshape(-1)).reshape(logit.shape[3:])
        for level, p in np.ndindex(weights.shape):
            first, rows, cols = (int(t[name][level]) for name in ("first", "rows", "cols"))
            one = v[b, h, first : first + rows * cols].reshape(rows, cols, -1)
            place = t["py"][b, h, i, level, p], t["px"][b, h, i, level, p]
            out[b, h, i] += weights[level, p] * between(one, *place)
    return out


@reference
def deformable_keys(t, n, offset):
    height, width, stride = n["height"], n["width"], n["stride"]
    x, q = as_map(t["x"], n), as_map(t["q"], n)
    rows, cols = -(-height // stride), -(-width // stride)
    out = np.zeros((*t["q"].shape[:3], t["wv"].shape[-1]))
    for b, h in np.ndindex(out.shape[:2]):
        mixed = gelu(depthwise(q[b, h][None], t["taps"])[0])
        places, found = [], []
        for r, s in np.ndindex(rows, cols):
            move = n["reach"] * np.tanh(mixed[r * stride, s * stride] @ t["to"])
            places.append((r * stride + move[0], s * stride + move[1]))
            found.append(between(x[b], *places[-1]))
        k, v = np.array(found) @ t["wk"][h], np.array(found) @ t["wv"][h]
        table = t["table"][h][..., None]
        for i, (row, col) in enumerate(np.ndindex(height, width)):
            query = t["q"][b, h, i]
            bias = [between(table, row - y + height - 1, col - z + width - 1)[0] for y, z in places]
            out[b, h, i] = softmax(k @ query / np.sqrt(len(query)) + np.array(bias)) @ v
    return out
