// Lanes: a vector of LANES numbers of one register's width, one class each for reals (the
// accumulation type), integers and truths. Arithmetic keeps IEEE rules: NaN propagates, nothing is
// reassociated. Scalars (Acc, int64_t, bool) have functions of the same names, so that printed
// algebra does not care which of its operands are lanes.
#pragma once
#include "integers.hpp"

namespace attnc {

constexpr int REGISTER_BYTES = ATTNC_ISA >= 3 ? 64 : ATTNC_ISA == 2 ? 32 : 16;
constexpr int LANES = REGISTER_BYTES / int(sizeof(Acc));
constexpr bool SINGLE = std::is_same_v<Acc, float>;
constexpr Acc INFINITE = std::numeric_limits<Acc>::infinity();

using Int = std::conditional_t<(SINGLE && !ATTNC_WIDE), int32_t, int64_t>;
using AccBits = std::conditional_t<SINGLE, int32_t, int64_t>;
typedef Acc AccVector __attribute__((vector_size(LANES * sizeof(Acc))));
typedef Int IntVector __attribute__((vector_size(LANES * sizeof(Int))));
typedef AccBits BitVector __attribute__((vector_size(LANES * sizeof(AccBits))));

// ---- truths

#if ATTNC_ISA >= 3
struct Truth {
    uint16_t v;
    static constexpr uint16_t ALL = uint16_t((1u << LANES) - 1);
    Truth() = default;
    ATTNC_INLINE Truth(bool x) : v(x ? ALL : 0) {}
    explicit ATTNC_INLINE Truth(int bits, int) : v(uint16_t(bits)) {}
    friend ATTNC_INLINE Truth operator&(Truth a, Truth b) { return Truth(a.v & b.v, 0); }
    friend ATTNC_INLINE Truth operator|(Truth a, Truth b) { return Truth(a.v | b.v, 0); }
    friend ATTNC_INLINE Truth operator~(Truth a) { return Truth(~a.v & ALL, 0); }
    ATTNC_INLINE bool any() const { return v != 0; }
    ATTNC_INLINE bool at(int lane) const { return (v >> lane) & 1; }
    ATTNC_INLINE void put(int lane, bool x) { v = uint16_t((v & ~(1u << lane)) | (unsigned(x) << lane)); }
};
#else
struct Truth {
    BitVector v;
    Truth() = default;
    ATTNC_INLINE Truth(bool x) : v(BitVector{} - AccBits(x)) {}
    explicit ATTNC_INLINE Truth(BitVector bits, int) : v(bits) {}
    friend ATTNC_INLINE Truth operator&(Truth a, Truth b) { return Truth(a.v & b.v, 0); }
    friend ATTNC_INLINE Truth operator|(Truth a, Truth b) { return Truth(a.v | b.v, 0); }
    friend ATTNC_INLINE Truth operator~(Truth a) { return Truth(~a.v, 0); }
    ATTNC_INLINE bool any() const {
        AccBits all = 0;
        for (int l = 0; l < LANES; l++) all |= v[l];
        return all != 0;
    }
    ATTNC_INLINE bool at(int lane) const { return v[lane] != 0; }
    ATTNC_INLINE void put(int lane, bool x) { v[lane] = -AccBits(x); }
};
#endif
ATTNC_INLINE Truth operator!(Truth a) { return ~a; }
ATTNC_INLINE Truth operator==(Truth a, Truth b) { return (a & b) | ~(a | b); }
ATTNC_INLINE Truth operator!=(Truth a, Truth b) { return ~(a == b); }

// ---- reals and integers

#if ATTNC_ISA >= 3
#define ATTNC_COMPARE(Class, op, predicate_fp, predicate_int)                                   \
    friend ATTNC_INLINE Truth operator op(Class a, Class b) {                                   \
        return Truth(compare<predicate_fp, predicate_int>(a.v, b.v), 0);                        \
    }
template <int P, int>
ATTNC_INLINE int compare(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, P); }
template <int P, int>
ATTNC_INLINE int compare(__m512d a, __m512d b) { return _mm512_cmp_pd_mask(a, b, P); }
template <int, int P, class V>
ATTNC_INLINE int compare(V a, V b) {
    if constexpr (sizeof(V) == 128) {
        __m512i x[2], y[2];
        std::memcpy(x, &a, 128);
        std::memcpy(y, &b, 128);
        return _mm512_cmp_epi64_mask(x[0], y[0], P) | _mm512_cmp_epi64_mask(x[1], y[1], P) << 8;
    } else if constexpr (sizeof(a[0]) == 8) {
        return _mm512_cmp_epi64_mask((__m512i)a, (__m512i)b, P);
    } else {
        return _mm512_cmp_epi32_mask((__m512i)a, (__m512i)b, P);
    }
}
#else
#define ATTNC_COMPARE(Class, op, predicate_fp, predicate_int)                                   \
    friend ATTNC_INLINE Truth operator op(Class a, Class b) {                                   \
        return Truth(__builtin_convertvector(a.v op b.v, BitVector), 0);                        \
    }
#endif
#define ATTNC_COMPARES(Class)              \
    ATTNC_COMPARE(Class, ==, 0x00, 0)      \
    ATTNC_COMPARE(Class, !=, 0x04, 4)      \
    ATTNC_COMPARE(Class, <, 0x11, 1)       \
    ATTNC_COMPARE(Class, <=, 0x12, 2)      \
    ATTNC_COMPARE(Class, >, 0x1e, 6)       \
    ATTNC_COMPARE(Class, >=, 0x1d, 5)

struct Integer {
    IntVector v;
    Integer() = default;
    ATTNC_INLINE Integer(int64_t x) : v(IntVector{} + Int(x)) {}
    explicit ATTNC_INLINE Integer(IntVector x, int) : v(x) {}
    friend ATTNC_INLINE Integer operator+(Integer a, Integer b) { return Integer(a.v + b.v, 0); }
    friend ATTNC_INLINE Integer operator-(Integer a, Integer b) { return Integer(a.v - b.v, 0); }
    friend ATTNC_INLINE Integer operator*(Integer a, Integer b) { return Integer(a.v * b.v, 0); }
    friend ATTNC_INLINE Integer operator-(Integer a) { return Integer(-a.v, 0); }
    ATTNC_COMPARES(Integer)
};

struct Real {
    AccVector v;
    Real() = default;
    ATTNC_INLINE Real(Acc x) {
#if ATTNC_ISA >= 3
        if constexpr (SINGLE) v = (AccVector)_mm512_set1_ps(float(x));
        else v = (AccVector)_mm512_set1_pd(x);
#else
        for (int l = 0; l < LANES; l++) v[l] = x;
#endif
    }
    explicit ATTNC_INLINE Real(AccVector x, int) : v(x) {}
    friend ATTNC_INLINE Real operator+(Real a, Real b) { return Real(a.v + b.v, 0); }
    friend ATTNC_INLINE Real operator-(Real a, Real b) { return Real(a.v - b.v, 0); }
    friend ATTNC_INLINE Real operator*(Real a, Real b) { return Real(a.v * b.v, 0); }
    friend ATTNC_INLINE Real operator/(Real a, Real b) { return Real(a.v / b.v, 0); }
    friend ATTNC_INLINE Real operator-(Real a) { return Real(-a.v, 0); }
    ATTNC_COMPARES(Real)
};

#if ATTNC_ISA >= 3
ATTNC_INLINE Real select(Truth c, Real a, Real b) {
    if constexpr (SINGLE) return Real((AccVector)_mm512_mask_mov_ps((__m512)b.v, c.v, (__m512)a.v), 0);
    else return Real((AccVector)_mm512_mask_mov_pd((__m512d)b.v, __mmask8(c.v), (__m512d)a.v), 0);
}
template <class V>
ATTNC_INLINE V select_bits(int c, V a, V b) {
    __m512i x[2], y[2];
    if constexpr (sizeof(V) == 128) {
        std::memcpy(x, &a, 128);
        std::memcpy(y, &b, 128);
        x[0] = _mm512_mask_mov_epi64(y[0], __mmask8(c), x[0]);
        x[1] = _mm512_mask_mov_epi64(y[1], __mmask8(c >> 8), x[1]);
        std::memcpy(&a, x, 128);
        return a;
    } else if constexpr (sizeof(a[0]) == 8) {
        return (V)_mm512_mask_mov_epi64((__m512i)b, __mmask8(c), (__m512i)a);
    } else {
        return (V)_mm512_mask_mov_epi32((__m512i)b, __mmask16(c), (__m512i)a);
    }
}
ATTNC_INLINE Integer select(Truth c, Integer a, Integer b) {
    return Integer(select_bits(c.v, a.v, b.v), 0);
}
#else
ATTNC_INLINE Real select(Truth c, Real a, Real b) { return Real(c.v ? a.v : b.v, 0); }
ATTNC_INLINE Integer select(Truth c, Integer a, Integer b) {
    typedef Int Mask __attribute__((vector_size(LANES * sizeof(Int))));
    return Integer(__builtin_convertvector(c.v, Mask) ? a.v : b.v, 0);
}
#endif
ATTNC_INLINE Truth select(Truth c, Truth a, Truth b) { return (c & a) | (~c & b); }
template <class A, class B>
ATTNC_INLINE auto select(bool c, A a, B b) { return c ? a : b; }

ATTNC_INLINE Real to_real(Integer a) { return Real(__builtin_convertvector(a.v, AccVector), 0); }
ATTNC_INLINE Acc to_real(int64_t a) { return Acc(a); }
ATTNC_INLINE Integer to_int(Truth a) { return select(a, Integer(1), Integer(0)); }
ATTNC_INLINE int64_t to_int(bool a) { return a; }
ATTNC_INLINE Real to_real(Truth a) { return select(a, Real(1), Real(0)); }
ATTNC_INLINE Acc to_real(bool a) { return a ? Acc(1) : Acc(0); }

// Whether a weight counts: -0 says masked.
ATTNC_INLINE bool is_hidden(Acc a) { return a == 0 && std::signbit(a); }
ATTNC_INLINE Truth is_weight(Real a) { return (a != Real(0)) | (Real(1) / a > Real(0)); }

// ---- loads, stores, horizontal

template <class T>
ATTNC_INLINE T lanes_at(const void* at) {  // the LANES numbers that lie there
    T out;
    std::memcpy(&out.v, at, sizeof out.v);
    return out;
}
ATTNC_INLINE Real load(const Acc* at) { return lanes_at<Real>(at); }
ATTNC_INLINE void store(Acc* at, Real x) { std::memcpy(at, &x.v, sizeof x.v); }
ATTNC_INLINE Integer load(const Int* at) { return lanes_at<Integer>(at); }
ATTNC_INLINE Truth load(const bool* at) {
#if ATTNC_ISA >= 3
    int bits = 0;
    for (int l = 0; l < LANES; l++) bits |= int(at[l]) << l;
    return Truth(bits, 0);
#else
    BitVector v;
    for (int l = 0; l < LANES; l++) v[l] = -AccBits(at[l]);
    return Truth(v, 0);
#endif
}
ATTNC_INLINE Integer iota(int64_t first) {
    Integer out;
    for (int l = 0; l < LANES; l++) out.v[l] = Int(l);
    return out + Integer(first);
}

// `count` elements (at most LANES) as accumulation numbers; the rest is 0 and not touched.
template <class T>
ATTNC_INLINE Real load_elements(const T* at, int count = LANES) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) {
        const __mmask16 m = __mmask16((1u << count) - 1);
        if constexpr (std::is_same_v<T, float>)
            return Real((AccVector)(count == 16 ? _mm512_loadu_ps(at) : _mm512_maskz_loadu_ps(m, at)), 0);
        if constexpr (std::is_same_v<T, bf16>) {
            const __m256i half = count == 16 ? _mm256_loadu_si256((const __m256i*)at)
                                             : _mm256_maskz_loadu_epi16(m, at);
            return Real((AccVector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16), 0);
        }
        if constexpr (std::is_same_v<T, f16>) {
            const __m256i half = count == 16 ? _mm256_loadu_si256((const __m256i*)at)
                                             : _mm256_maskz_loadu_epi16(m, at);
            return Real((AccVector)_mm512_cvtph_ps(half), 0);
        }
    }
    if constexpr (std::is_same_v<T, double> && !SINGLE)
        return Real((AccVector)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), at), 0);
#elif ATTNC_ISA == 2
    if constexpr (std::is_same_v<T, f16> && SINGLE)
        if (count == LANES)
            return Real((AccVector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)at)), 0);
#endif
    Real out(Acc(0));
    if (count == LANES)
        for (int l = 0; l < LANES; l++) out.v[l] = Acc(widen(at[l]));
    else
        for (int l = 0; l < count; l++) out.v[l] = Acc(widen(at[l]));
    return out;
}
template <class T>
ATTNC_INLINE void store_elements(T* at, Real x, int count = LANES) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE && std::is_same_v<T, float>) {
        _mm512_mask_storeu_ps(at, __mmask16((1u << count) - 1), (__m512)x.v);
        return;
    }
    if constexpr (SINGLE && std::is_same_v<T, f16>) {
        _mm256_mask_storeu_epi16(at, __mmask16((1u << count) - 1), _mm512_cvtps_ph((__m512)x.v, 0));
        return;
    }
#endif
#if ATTNC_ISA >= 4
    if constexpr (SINGLE && std::is_same_v<T, bf16>) {
        _mm256_mask_storeu_epi16(at, __mmask16((1u << count) - 1),
                                 (__m256i)_mm512_cvtneps_pbh((__m512)x.v));
        return;
    }
#endif
    for (int l = 0; l < count; l++) at[l] = narrow<T>(Acc(x.v[l]));
}

// ---- pointwise functions

ATTNC_INLINE Real fused(Real a, Real b, Real c) {  // a * b + c, rounded once where the machine can
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) return Real((AccVector)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v), 0);
    else return Real((AccVector)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v), 0);
#elif ATTNC_ISA == 2
    if constexpr (SINGLE) return Real((AccVector)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v), 0);
    else return Real((AccVector)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v), 0);
#else
    return Real(a.v * b.v + c.v, 0);
#endif
}
ATTNC_INLINE Acc fused(Acc a, Acc b, Acc c) {
#if ATTNC_ISA >= 2
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
}
// The larger of two; a NaN wins (as in PyTorch).
ATTNC_INLINE Real maximum(Real a, Real b) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) {
        const __m512 m = _mm512_max_ps((__m512)a.v, (__m512)b.v);  // b where either is NaN
        return Real((AccVector)_mm512_mask_mov_ps(m, (a != a).v, (__m512)a.v), 0);
    }
#endif
    return select((a > b) | (a != a), a, b);
}
ATTNC_INLINE Real minimum(Real a, Real b) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) {
        const __m512 m = _mm512_min_ps((__m512)a.v, (__m512)b.v);
        return Real((AccVector)_mm512_mask_mov_ps(m, (a != a).v, (__m512)a.v), 0);
    }
#endif
    return select((a < b) | (a != a), a, b);
}
// The larger of two numbers; a NaN in x is passed over.
ATTNC_INLINE Real raise(Real peak, Real x) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) return Real((AccVector)_mm512_max_ps((__m512)x.v, (__m512)peak.v), 0);
    else return Real((AccVector)_mm512_max_pd((__m512d)x.v, (__m512d)peak.v), 0);
#else
    return select(x > peak, x, peak);
#endif
}
ATTNC_INLINE Acc maximum(Acc a, Acc b) { return (a > b) | (a != a) ? a : b; }
ATTNC_INLINE Acc minimum(Acc a, Acc b) { return (a < b) | (a != a) ? a : b; }
ATTNC_INLINE int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }
ATTNC_INLINE int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
ATTNC_INLINE Integer maximum(Integer a, Integer b) { return select(a > b, a, b); }
ATTNC_INLINE Integer minimum(Integer a, Integer b) { return select(a < b, a, b); }
ATTNC_INLINE Real absolute(Real a) {
    const BitVector clear = BitVector{} + std::numeric_limits<AccBits>::max();
    return Real((AccVector)((BitVector)a.v & clear), 0);
}
ATTNC_INLINE Acc absolute(Acc a) { return std::fabs(a); }
ATTNC_INLINE Integer absolute(Integer a) { return maximum(a, -a); }
ATTNC_INLINE int64_t absolute(int64_t a) { return a < 0 ? -a : a; }
ATTNC_INLINE Real sign(Real a) {
    return select(a > Real(0), Real(1), select(a < Real(0), Real(-1), a));  // 0 and NaN stay
}
ATTNC_INLINE Acc sign(Acc a) { return a > 0 ? Acc(1) : a < 0 ? Acc(-1) : a; }
ATTNC_INLINE Integer sign(Integer a) { return to_int(a > Integer(0)) - to_int(a < Integer(0)); }
ATTNC_INLINE int64_t sign(int64_t a) { return (a > 0) - (a < 0); }

ATTNC_INLINE Integer floor_div(Integer a, Integer b) {
    if constexpr (sizeof(Int) == 4) {  // a quotient of 31-bit numbers is exact in double
        typedef double Wide __attribute__((vector_size(LANES * 8)));
        const Wide q = __builtin_convertvector(a.v, Wide) / __builtin_convertvector(b.v, Wide);
        const Integer t(__builtin_convertvector(q, IntVector), 0), r = a - t * b;
        const Truth off = (r != Integer(0)) & ((r < Integer(0)) != (b < Integer(0)));
        return t - to_int(off);
    } else {
        Integer out;
        for (int l = 0; l < LANES; l++) out.v[l] = Int(floor_div(int64_t(a.v[l]), int64_t(b.v[l])));
        return out;
    }
}
// By a number that all lanes share: a shift, or a product with the reciprocal, put right by at most
// one.
ATTNC_INLINE Integer floor_div(Integer a, int64_t b) {
    if (b > 0 && (b & (b - 1)) == 0) return Integer(a.v >> int(__builtin_ctzll(b)), 0);
    if constexpr (sizeof(Int) == 4) {
        if (b > 0) {
            typedef double Wide __attribute__((vector_size(LANES * 8)));
            const Wide q = __builtin_convertvector(a.v, Wide) * (1.0 / double(b));
            const Integer t(__builtin_convertvector(q, IntVector), 0), r = a - t * Integer(b);
            return t - to_int(r < Integer(0)) + to_int(r >= Integer(b));
        }
    }
    return floor_div(a, Integer(b));
}
ATTNC_INLINE Integer floor_div(int64_t a, Integer b) { return floor_div(Integer(a), b); }
ATTNC_INLINE Integer floor_mod(Integer a, Integer b) { return a - floor_div(a, b) * b; }
ATTNC_INLINE Integer floor_mod(Integer a, int64_t b) {
    if (b > 0 && (b & (b - 1)) == 0) return Integer(a.v & Int(b - 1), 0);
    return a - floor_div(a, b) * Integer(b);
}
ATTNC_INLINE Integer floor_mod(int64_t a, Integer b) { return floor_mod(Integer(a), b); }

}  // namespace attnc
#include "functions.hpp"
