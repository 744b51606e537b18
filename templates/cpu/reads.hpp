// What printed algebra says beside arithmetic: logic, choices, reads of tensors. Each takes
// scalars and lanes alike.
#pragma once
#include "lanes.hpp"

namespace attnc {

// ---- a scalar as lanes, lanes as they are

ATTNC_INLINE Real spread(Real x) { return x; }
ATTNC_INLINE Real spread(Acc x) { return Real(x); }
ATTNC_INLINE Integer spread(Integer x) { return x; }
ATTNC_INLINE Integer spread(int64_t x) { return Integer(x); }
ATTNC_INLINE Truth spread(Truth x) { return x; }
ATTNC_INLINE Truth spread(bool x) { return Truth(x); }

ATTNC_INLINE bool both(bool a, bool b) { return a && b; }
ATTNC_INLINE Truth both(Truth a, Truth b) { return a & b; }
ATTNC_INLINE bool either(bool a, bool b) { return a || b; }
ATTNC_INLINE Truth either(Truth a, Truth b) { return a | b; }
ATTNC_INLINE bool negated(bool a) { return !a; }
ATTNC_INLINE Truth negated(Truth a) { return ~a; }
template <class A, class B>
ATTNC_INLINE auto choose(Truth c, A a, B b) { return select(c, spread(a), spread(b)); }
template <class A, class B>
ATTNC_INLINE auto choose(bool c, A a, B b) {
    if constexpr (std::is_same_v<A, B>) return c ? a : b;
    else if constexpr (std::is_same_v<A, Bound> || std::is_same_v<B, Bound>) return c ? Bound(a) : Bound(b);
    else return c ? spread(a) : spread(b);
}

ATTNC_INLINE Acc number(Acc x) { return x; }
ATTNC_INLINE Real number(Real x) { return x; }
ATTNC_INLINE Acc number(int64_t x) { return Acc(x); }
ATTNC_INLINE Real number(Integer x) { return to_real(x); }
ATTNC_INLINE Acc number(Bound x) { return Acc(x.at); }
ATTNC_INLINE Acc number(bool x) { return x ? Acc(1) : Acc(0); }
ATTNC_INLINE Real number(Truth x) { return to_real(x); }
ATTNC_INLINE int64_t whole_number(int64_t x) { return x; }
ATTNC_INLINE Integer whole_number(Integer x) { return x; }
ATTNC_INLINE int64_t whole_number(bool x) { return x; }
ATTNC_INLINE Integer whole_number(Truth x) { return to_int(x); }
ATTNC_INLINE int64_t whole_number(Acc x) { return whole(std::trunc(x)); }
ATTNC_INLINE Integer whole_number(Real x) {
    return select(x < Real(0), Integer(0) - floor_int(-x), floor_int(x));
}
ATTNC_INLINE Real floor_real(Real x) {
    for (int l = 0; l < LANES; l++) x.v[l] = std::floor(x.v[l]);
    return x;
}
ATTNC_INLINE Acc floor_real(Acc x) { return std::floor(x); }

// An integer into an array of lanes; one that 32-bit arithmetic may not carry is reported.
ATTNC_INLINE Int keep(int64_t x, int64_t* too_wide) {
    if constexpr (sizeof(Int) == 4)
        if (x > (int64_t(1) << 21) || x < -(int64_t(1) << 21)) *too_wide = 1;
    return Int(x);
}

ATTNC_INLINE void keep_lanes(Acc* at, Real x) { store(at, x); }
ATTNC_INLINE void keep_lanes(Int* at, Integer x) { std::memcpy(at, &x.v, sizeof x.v); }
ATTNC_INLINE void keep_lanes(bool* at, Truth x) {
    for (int l = 0; l < LANES; l++) at[l] = x.at(l);
}

// The first `count` lanes to columns that are `step` apart.
template <class T>
ATTNC_INLINE void store_columns(T* at, int64_t step, Real x, int64_t count) {
    count = count < LANES ? count : LANES;
    if (step == 1) return store_elements(at, x, int(count));
    for (int l = 0; l < count; l++) at[l * step] = narrow<T>(Acc(x.v[l]));
}

// ---- addresses: row * stride, in 64 bits

struct Offsets {
    int64_t v[LANES];
    friend ATTNC_INLINE Offsets operator+(Offsets a, const Offsets& b) {
        for (int l = 0; l < LANES; l++) a.v[l] += b.v[l];
        return a;
    }
    friend ATTNC_INLINE Offsets operator+(Offsets a, int64_t b) {
        for (int l = 0; l < LANES; l++) a.v[l] += b;
        return a;
    }
    friend ATTNC_INLINE Offsets operator+(int64_t a, const Offsets& b) { return b + a; }
};
template <class T>
ATTNC_INLINE T entry(const Tensor& tensor, int64_t at) {
    return static_cast<const T*>(tensor.data)[at * tensor.stride[0]];
}
// One row a lane, scaled: kept in two parts, so that small tables are gathered by 32-bit offsets.
struct Scaled {
    Integer row;
    int64_t stride, base;
    ATTNC_INLINE Offsets whole() const {
        Offsets out;
        for (int l = 0; l < LANES; l++) out.v[l] = int64_t(row.v[l]) * stride + base;
        return out;
    }
    friend ATTNC_INLINE Scaled operator+(Scaled a, int64_t b) { return {a.row, a.stride, a.base + b}; }
    friend ATTNC_INLINE Scaled operator+(int64_t a, Scaled b) { return b + a; }
    friend ATTNC_INLINE Offsets operator+(Scaled a, Scaled b) { return a.whole() + b.whole(); }
    friend ATTNC_INLINE Offsets operator+(Offsets a, Scaled b) { return a + b.whole(); }
};
ATTNC_INLINE int64_t times(int64_t row, int64_t stride) { return row * stride; }
ATTNC_INLINE int64_t times(Bound row, int64_t stride) { return row.at * stride; }  // where a tile is judged
ATTNC_INLINE Scaled times(Integer row, int64_t stride) { return {row, stride, 0}; }
template <class T>
ATTNC_INLINE auto fetched(T x) {  // as printed algebra sees it: Acc, int64_t or bool
    if constexpr (std::is_same_v<T, bool>) return x;
    else if constexpr (std::is_integral_v<T>) return int64_t(x);
    else return Acc(widen(x));
}
// The first where the call has an input, else the second.
template <bool GIVEN, class A, class B>
ATTNC_INLINE auto given_or(const A& a, const B& b) {
    if constexpr (GIVEN) return a;
    else return b;
}
// The entry at base + offset where `inside` holds, else 0; nothing is touched outside.
template <class T>
ATTNC_INLINE auto fetch(const T* base, bool inside, int64_t offset) {
    return inside ? fetched(base[offset]) : decltype(fetched(T{}))(0);
}
template <class T>
ATTNC_INLINE auto fetch(const T* base, Truth inside, int64_t offset) {
    return choose(inside, inside.any() ? fetched(base[offset]) : decltype(fetched(T{}))(0), decltype(fetched(T{}))(0));
}
template <class T>
ATTNC_INLINE auto fetch(const T* base, Truth inside, const Offsets& at) {
    using Scalar = decltype(fetched(T{}));
#if ATTNC_ISA >= 3
    if constexpr (SINGLE && std::is_same_v<T, float>) {
        const __m512i low = _mm512_loadu_si512(at.v), high = _mm512_loadu_si512(at.v + 8);
        const __m256 zero = _mm256_setzero_ps();
        const __m256 a = _mm512_mask_i64gather_ps(zero, __mmask8(inside.v), low, base, 4);
        const __m256 b = _mm512_mask_i64gather_ps(zero, __mmask8(inside.v >> 8), high, base, 4);
        return Real((AccVector)_mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1), 0);
    } else
#endif
    if constexpr (std::is_same_v<Scalar, bool>) {
        Truth out(false);
        for (int l = 0; l < LANES; l++)
            if (inside.at(l)) out.put(l, base[at.v[l]]);
        return out;
    } else {
        decltype(spread(Scalar(0))) out(Scalar(0));
        for (int l = 0; l < LANES; l++)
            if (inside.at(l)) out.v[l] = fetched(base[at.v[l]]);
        return out;
    }
}
template <class T>
ATTNC_INLINE auto fetch(const T* base, bool inside, const Offsets& at) {
    return fetch(base, Truth(inside), at);
}

#if ATTNC_ISA >= 3
// The elements of some lanes, which lie one after the other; the others are 0 and not touched.
template <class T>
ATTNC_INLINE Real load_where(const T* at, Truth inside) {
    if constexpr (std::is_same_v<T, double>) return Real((AccVector)_mm512_maskz_loadu_pd(__mmask8(inside.v), at), 0);
    else if constexpr (std::is_same_v<T, float>) return Real((AccVector)_mm512_maskz_loadu_ps(inside.v, at), 0);
    else {
        const __m256i half = _mm256_maskz_loadu_epi16(inside.v, at);
        if constexpr (std::is_same_v<T, f16>) return Real((AccVector)_mm512_cvtph_ps(half), 0);
        else return Real((AccVector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16), 0);
    }
}
#endif
template <class T>
ATTNC_INLINE auto fetch(const T* base, Truth inside, const Scaled& at) {
#if ATTNC_ISA >= 3
    if constexpr (!std::is_integral_v<T> && std::is_same_v<T, double> == !SINGLE) {
        // A gather costs many loads: most rows of a width, and of a table of offsets, are neighbours.
        const int64_t first = at.row.v[0];
        if (at.stride == 1 && !(at.row != iota(first)).any()) return load_where(base + at.base + first, inside);
    }
    // Rows inside an axis are below 2^21 where lanes have 32 bits (the call is told so otherwise).
    if constexpr (SINGLE && sizeof(Int) == 4 && std::is_same_v<T, float>)
        if (at.stride >= -512 && at.stride <= 512) {
            const __m512i offsets = (__m512i)(at.row * Integer(at.stride)).v;
            return Real((AccVector)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside.v, offsets, base + at.base, 4), 0);
        }
#endif
    return fetch(base, inside, at.whole());
}
template <class T>
ATTNC_INLINE auto fetch(const T* base, bool inside, const Scaled& at) {
    return fetch(base, Truth(inside), at);
}

// ---- tables of truths: what is true of all entries in a box, one span of rows a dimension

struct Row {
    int64_t offset;
    bool inside;
};
ATTNC_INLINE Row row_of(int64_t at, int64_t start, int64_t length, int64_t stride) {
    return {(at - start) * stride, at >= start && at - start < length};
}
// What rows of some dimensions leave of a table; nothing where they are outside.
template <class... Rows>
ATTNC_INLINE const bool* part_of(const bool* data, Rows... rows) {
    return (rows.inside && ...) ? data + (rows.offset + ...) : nullptr;
}
struct Span {
    int64_t low, high, stride;  // rows inside the table, inclusive
    bool whole;                 // whether the box does not leave the table here
};
ATTNC_INLINE Span span_of(Bound low, Bound high, int64_t start, int64_t length, int64_t stride) {
    const int64_t first = low.at - start, last = high.at - start;
    return {first < 0 ? 0 : first, last < length ? last : length - 1, stride, first >= 0 && last < length};
}
// Whether an entry of the box is `wanted`. The last span runs innermost.
ATTNC_INLINE bool found(const bool* data, bool wanted) { return *data == wanted; }
ATTNC_INLINE bool found(const bool* data, bool wanted, Span span) {
    const int64_t count = span.high - span.low + 1;
    data += span.low * span.stride;
    if (count == 1) return *data == wanted;
    if (span.stride == 1 && count > 16) return std::memchr(data, wanted, size_t(count));
    if (span.stride == 1) {  // words of bytes that are 0 or 1: no branch for each
        const char* at = (const char*)data;
        bool other = false;
        const auto take = [&](auto word) {
            using Word = decltype(word);
            std::memcpy(&word, at, sizeof word);
            other |= word != (wanted ? Word(0) : Word(0x0101010101010101));
            at += sizeof word;
        };
        if (count & 16) take(uint64_t()), take(uint64_t());
        if (count & 8) take(uint64_t());
        if (count & 4) take(uint32_t());
        if (count & 2) take(uint16_t());
        if (count & 1) take(uint8_t());
        return other;
    }
    for (int64_t k = 0; k < count; k++)
        if (data[k * span.stride] == wanted) return true;
    return false;
}
template <class... Spans>
ATTNC_INLINE bool found(const bool* data, bool wanted, Span span, Spans... inner) {
    for (int64_t row = span.low; row <= span.high; row++)
        if (found(data + row * span.stride, wanted, inner...)) return true;
    return false;
}
template <class... Spans>
ATTNC_INLINE bool some_of(const bool* data, Spans... spans) {
    return data && found(data, true, spans...);
}
template <class... Spans>
ATTNC_INLINE bool every_of(const bool* data, Spans... spans) {
    return data && (spans.whole && ...) && !found(data, false, spans...);
}

// A box whose entries lie in a row.
struct Entries {
    int64_t offset, step, count;
    bool known;  // false: it is no such box, or leaves the table
};
template <class... Spans>
ATTNC_INLINE Entries entries_of(Spans... spans) {
    Entries out{0, 0, 1, (spans.whole && ...)};
    const auto add = [&](const Span& span) {
        out.offset += span.low * span.stride;
        if (span.high == span.low) return;
        out.known &= out.count == 1 && span.high > span.low;
        out.count = span.high - span.low + 1;
        out.step = span.stride;
    };
    (add(spans), ...);
    return out;
}

// ---- summaries: bounds of a value over rows, blocks of STRIP rows under a binary tree

template <class T>
struct Summary {
    T* low;   // [slots][2 * leaves], the root at 1
    T* high;
    int64_t leaves, rows;
    static int64_t leaves_of(int64_t rows) {
        int64_t n = 1;
        while (n * 16 < rows) n *= 2;
        return n;
    }
    void fill(int64_t slot, int64_t block, T least, T most) const {
        low[slot * 2 * leaves + leaves + block] = least;
        high[slot * 2 * leaves + leaves + block] = most;
    }
    void grow(int64_t slot) const {
        T* l = low + slot * 2 * leaves;
        T* h = high + slot * 2 * leaves;
        for (int64_t k = leaves - 1; k >= 1; k--) {
            l[k] = l[2 * k] < l[2 * k + 1] ? l[2 * k] : l[2 * k + 1];
            h[k] = h[2 * k] > h[2 * k + 1] ? h[2 * k] : h[2 * k + 1];
        }
    }
    struct Bounds {
        T low, high;
    };
    Bounds over(int64_t slot, int64_t first, int64_t last) const {  // rows, inclusive
        const T* l = low + slot * 2 * leaves;
        const T* h = high + slot * 2 * leaves;
        int64_t a = first / 16 + leaves, b = last / 16 + leaves;
        Bounds out{l[a], h[a]};
        const auto meet = [&](int64_t k) {
            out.low = l[k] < out.low ? l[k] : out.low;
            out.high = h[k] > out.high ? h[k] : out.high;
        };
        meet(b);
        for (; a + 1 < b; a /= 2, b /= 2) {  // what lies strictly between
            if (!(a & 1)) meet(a + 1);
            if (b & 1) meet(b - 1);
        }
        return out;
    }
};

}  // namespace attnc
