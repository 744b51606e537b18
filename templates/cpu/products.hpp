// Products of tiles. A held tile stands transposed: [depth][TILE], lanes are held positions; a
// walked operand is broadcast number by number. So neither needs packing, and what follows along a
// walked position needs no sum over lanes.
#pragma once
#include "amx.hpp"
#include "lanes.hpp"

namespace attnc {

constexpr int TILE = 256 / int(sizeof(Acc));  // held positions of a tile
constexpr int VECTORS = TILE / LANES;
constexpr int GROUP = ATTNC_ISA >= 3 ? 4 : 2;  // vectors of a register tile
constexpr int BLOCK = 128;                     // walked positions of a block
constexpr int STRIP = 16;                      // walked positions of a strip of a mixed block
// bfloat16 pairs: two products and a sum in float32 at once
constexpr bool PAIRS = ATTNC_ISA >= 4 && std::is_same_v<Element, bf16>;
// What a product reads: pairs of bfloat16, or accumulation numbers.
using Unit = std::conditional_t<PAIRS, uint32_t, Acc>;
constexpr int FOLD = PAIRS ? 2 : 1;  // numbers of depth in a unit

template <int N>
struct Place {  // a number as a type
    static constexpr int value = N;
};

ATTNC_INLINE Real multiply_add(const void* one, Real lanes, Real sum) {
#if ATTNC_ISA >= 4
    if constexpr (PAIRS) {
        int pair;
        std::memcpy(&pair, one, 4);
        return Real((AccVector)_mm512_dpbf16_ps((__m512)sum.v, (__m512bh)_mm512_set1_epi32(pair),
                                                (__m512bh)lanes.v), 0);
    }
#endif
    Acc x;
    std::memcpy(&x, one, sizeof x);
    return fused(Real(x), lanes, sum);
}

// The rounding of a sum grows with the length of its chain, so a long one is made of parts, added up
// in order. An element has the same bits wherever it stands in a product, and whichever operand is
// held: other kernels may form it again. (Not so pairs of bfloat16, whose rounding is that of their
// inputs.)
constexpr int PART = 32, CHAIN = PAIRS ? 128 : PART;

// A walked operand of a product: number (i, d) stands at `at + i * row + d * step` (bytes).
struct WalkedOperand {
    const char* at;
    int64_t row, step;
    ATTNC_INLINE const char* number(int64_t i, int64_t d) const { return at + i * row + d * step; }
    ATTNC_INLINE WalkedOperand from(int64_t i, int64_t d) const {
        return {number(i, d), row, step};
    }
};

// One walked position: units would wait for one chain of sums, so four parts run beside each other.
template <int N, int HELD>
ATTNC_INLINE void single(bool add_to, const WalkedOperand& walked, const Acc* held, int depth,
                         Acc* out) {
    constexpr int PARTS = 4;
    Real all[N];
    ATTNC_UNROLL for (int v = 0; v < N; v++) all[v] = add_to ? load(out + v * LANES) : Real(Acc(0));
    for (int from = 0; from < depth; from += PARTS * PART) {
        Real sum[PARTS][N];
        ATTNC_UNROLL for (int c = 0; c < PARTS; c++)
            ATTNC_UNROLL for (int v = 0; v < N; v++) sum[c][v] = Real(Acc(0));
        const auto add = [&](int c, int d) __attribute__((always_inline)) {
            ATTNC_UNROLL for (int v = 0; v < N; v++)
                sum[c][v] = multiply_add(walked.number(0, d), load(held + d * HELD + v * LANES),
                                         sum[c][v]);
        };
        if (from + PARTS * PART <= depth) {
            for (int d = from; d < from + PART; d++)
                ATTNC_UNROLL for (int c = 0; c < PARTS; c++) add(c, d + c * PART);
        } else {
            ATTNC_UNROLL for (int c = 0; c < PARTS; c++)
                for (int d = from + c * PART; d < depth && d < from + (c + 1) * PART; d++) add(c, d);
        }
        ATTNC_UNROLL for (int c = 0; c < PARTS; c++)
            ATTNC_UNROLL for (int v = 0; v < N; v++) all[v] = all[v] + sum[c][v];
    }
    ATTNC_UNROLL for (int v = 0; v < N; v++) store(out + v * LANES, all[v]);
}

// out[i][v] (+)= sum over d < depth of walked(i, d) * held[d][v], for i < M and v < N.
// HELD and OUT: numbers from one d, and from one i, to the next.
template <int M, int N, int HELD, int OUT>
ATTNC_INLINE void product(bool add, const WalkedOperand& walked, const Acc* held, int depth,
                          Acc* out) {
    if constexpr (M == 1) {
        single<N, HELD>(add, walked, held, depth, out);
        return;
    }
    if (add)  // a panel may be far away, and is met at the end of a chain
        ATTNC_UNROLL for (int i = 0; i < M; i++)
            ATTNC_UNROLL for (int v = 0; v < N; v++) __builtin_prefetch(out + i * OUT + v * LANES, 1);
    int from = 0;
    do {
        const int to = from + CHAIN < depth ? from + CHAIN : depth;
        Real sum[M][N];
        ATTNC_UNROLL for (int i = 0; i < M; i++)
            ATTNC_UNROLL for (int v = 0; v < N; v++) sum[i][v] = Real(Acc(0));
#pragma GCC unroll 2
        for (int d = from; d < to; d++) {
            Real lanes[N];
            ATTNC_UNROLL for (int v = 0; v < N; v++) lanes[v] = load(held + d * HELD + v * LANES);
            ATTNC_UNROLL for (int i = 0; i < M; i++)
                ATTNC_UNROLL for (int v = 0; v < N; v++)
                    sum[i][v] = multiply_add(walked.number(i, d), lanes[v], sum[i][v]);
        }
        ATTNC_UNROLL for (int i = 0; i < M; i++)
            ATTNC_UNROLL for (int v = 0; v < N; v++) {
                Acc* at = out + i * OUT + v * LANES;
                store(at, add || from ? load(at) + sum[i][v] : sum[i][v]);
            }
        from = to;
    } while (from < depth);
}

// Strides and `add` are numbers of the call: constants would double the code that a first call
// waits for, and the loops run no faster with them.
template <int N, int HELD, int OUT>
__attribute__((noinline)) void products(bool add, const WalkedOperand& walked, const Acc* held,
                                        int depth, Acc* out, int rows) {
    constexpr int M = N >= 4 ? 6 : GROUP == 2 ? 6 : 8;
    int i = 0;
    while (rows - i >= M && (M != 6 || (rows - i) % M != 2)) {
        product<M, N, HELD, OUT>(add, walked.from(i, 0), held, depth, out + i * OUT);
        i += M;
    }
    for (; rows - i >= 4; i += 4)
        product<4, N, HELD, OUT>(add, walked.from(i, 0), held, depth, out + i * OUT);
    for (; i < rows; i++)
        product<1, N, HELD, OUT>(add, walked.from(i, 0), held, depth, out + i * OUT);
}

// The same over the vectors first .. last of the tile.
template <int HELD, int OUT>
void products_of_vectors(bool add, int first, int last, const WalkedOperand& walked,
                         const Acc* held, int depth, Acc* out, int rows) {
    while (first < last) {
        const int now = last - first < GROUP ? last - first : GROUP;
        const auto some = [&](auto vectors) __attribute__((always_inline)) {
            products<decltype(vectors)::value, HELD, OUT>(add, walked, held + first * LANES, depth,
                                                          out + first * LANES, rows);
        };
        if (now == 1) some(Place<1>{});
        else if (now == 2) some(Place<2>{});
        else if constexpr (GROUP == 4) {
            if (now == 3) some(Place<3>{});
            else some(Place<4>{});
        }
        first += now;
    }
}

// The same; through tile registers as far as they are filled, where the depth of a walked operand
// lies together.
template <int HELD = TILE, int OUT = TILE>
void products_between(bool add, int first, int last, const WalkedOperand& walked, const Acc* held,
                      int depth, Acc* out, int rows) {
    const auto rest = [&](bool add_to, int i, int d, int count) {
        if (count && (!add_to || d < depth))
            products_of_vectors<HELD, OUT>(add_to, first, last, walked.from(i, d),
                                           held + int64_t(d) * HELD, depth - d,
                                           out + int64_t(i) * OUT, count);
    };
    int tall = 0;
#if ATTNC_ISA >= 5
    if (TILED && walked.step == int64_t(sizeof(Unit))) {
        const int deep = depth / TILE_ROWS * TILE_ROWS;
        tall = deep ? rows / TILE_ROWS * TILE_ROWS : 0;
        if (tall) {
            tile_products(add, first, last, walked.at, walked.row, (const char*)held,
                          HELD * sizeof(Acc), deep, (char*)out, OUT * sizeof(Acc), tall);
            rest(true, 0, deep, tall);
        }
    }
#endif
    rest(add, tall, 0, rows - tall);
}

// out = products of any depth, in parts of the held operand that stay in the first cache.
constexpr int DEEP = 128;
inline void products_in_parts(int first, int last, const WalkedOperand& walked, const Acc* held,
                              int depth, Acc* out, int rows) {
    for (int d = 0; d == 0 || d < depth; d += DEEP)
        products_between(d > 0, first, last, walked.from(0, d), held + int64_t(d) * TILE,
                         depth - d < DEEP ? depth - d : DEEP, out, rows);
}

// ---- transposes of 32-bit (64-bit) units

#if ATTNC_ISA >= 3
ATTNC_INLINE void transpose16(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    __m512 r[16], t[16];
    ATTNC_UNROLL for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(from + i * from_stride);
    ATTNC_UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    ATTNC_UNROLL for (int i = 0; i < 16; i += 4)
        ATTNC_UNROLL for (int k = 0; k < 2; k++) {
            const __m512d a = _mm512_castps_pd(t[i + k]), b = _mm512_castps_pd(t[i + k + 2]);
            r[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    ATTNC_UNROLL for (int h = 0; h < 16; h += 8)
        ATTNC_UNROLL for (int i = 0; i < 4; i++) {
            t[h + i] = _mm512_shuffle_f32x4(r[h + i], r[h + i + 4], 0x88);
            t[h + i + 4] = _mm512_shuffle_f32x4(r[h + i], r[h + i + 4], 0xdd);
        }
    ATTNC_UNROLL for (int i = 0; i < 8; i++) {
        _mm512_storeu_ps(to + i * to_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88));
        _mm512_storeu_ps(to + (i + 8) * to_stride, _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd));
    }
}
#endif
// to[c][r] = from[r][c] for r < rows, c < columns
template <class T>
void transpose(const T* from, int64_t from_stride, T* to, int64_t to_stride, int rows, int columns) {
    int r0 = 0;
#if ATTNC_ISA >= 3
    if constexpr (sizeof(T) == 4)
        for (; r0 + 16 <= rows; r0 += 16) {
            int c = 0;
            for (; c + 16 <= columns; c += 16)
                transpose16((const float*)from + r0 * from_stride + c, from_stride,
                            (float*)to + c * to_stride + r0, to_stride);
            for (; c < columns; c++)
                for (int r = r0; r < r0 + 16; r++) to[c * to_stride + r] = from[r * from_stride + c];
        }
#endif
    for (int r = r0; r < rows; r++)
        for (int c = 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
}

// ---- staging: what does not lie as a product wants it is converted block by block

template <class T>
ATTNC_INLINE void stage_row(const T* from, int64_t step, int width, Acc* to) {
    if (step == 1) {
        int c = 0;
        for (; c + LANES <= width; c += LANES) store(to + c, load_elements(from + c));
        if (c < width) {
            const Real rest = load_elements(from + c, width - c);
            for (int l = 0; c + l < width; l++) to[c + l] = rest.v[l];
        }
        return;
    }
    for (int c = 0; c < width; c++) to[c] = Acc(widen(from[c * step]));
}
// Pairs along the row: (x[2c], x[2c + 1]), the last one filled with 0.
inline void stage_pairs(const bf16* from, int64_t step, int width, uint32_t* to) {
    if (step == 1) {
        std::memcpy(to, from, size_t(width) * 2);
        if (width & 1) reinterpret_cast<uint16_t*>(to)[width] = 0;
        return;
    }
    for (int c = 0; c < width; c += 2)
        to[c / 2] = from[c * step].bits | (c + 1 < width ? uint32_t(from[(c + 1) * step].bits) << 16 : 0);
}
// Pairs across two rows: (x[c], y[c]); y may be absent (0).
inline void interleave_rows(const bf16* x, const bf16* y, int64_t step, int width, uint32_t* to) {
    int c = 0;
#if ATTNC_ISA >= 3
    if (step == 1)
        for (; c + 16 <= width; c += 16) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(x + c)));
            __m512i both = low;
            if (y) {
                const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(y + c)));
                both = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
            }
            _mm512_storeu_si512(to + c, both);
        }
#endif
    for (; c < width; c++) to[c] = x[c * step].bits | (y ? uint32_t(y[c * step].bits) << 16 : 0);
}
// Two rows of weights as pairs of bfloat16, rounded to nearest.
ATTNC_INLINE Real paired(Real a, Real b) {
#if ATTNC_ISA >= 4
    const __m512i x = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)a.v));
    const __m512i y = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)b.v));
    return Real((AccVector)_mm512_or_si512(x, _mm512_slli_epi32(y, 16)), 0);
#else
    return a;
#endif
}

}  // namespace attnc
