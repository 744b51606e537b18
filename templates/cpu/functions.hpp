// Transcendental functions on lanes and on scalars. Errors are a few units in the last place of the
// accumulation type; arguments at infinity, NaN and 0 behave as in libm.
#pragma once
#include "lanes.hpp"

namespace attnc {

ATTNC_INLINE Real nearest(Real x) {  // |x| < 2^22 (2^51 in double)
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) return Real((AccVector)_mm512_roundscale_ps((__m512)x.v, 8), 0);
    else return Real((AccVector)_mm512_roundscale_pd((__m512d)x.v, 8), 0);
#else
    const Real magic(SINGLE ? Acc(12582912.0) : Acc(6755399441055744.0));
    return (x + magic) - magic;
#endif
}
// x * 2^n for whole n in [-bias, bias + 1]: 0 at the lower end, infinite at the upper.
ATTNC_INLINE Real scaled(Real x, Real n) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) return Real((AccVector)_mm512_scalef_ps((__m512)x.v, (__m512)n.v), 0);
    else return Real((AccVector)_mm512_scalef_pd((__m512d)x.v, (__m512d)n.v), 0);
#else
    constexpr int bias = SINGLE ? 127 : 1023, shift = SINGLE ? 23 : 52;
    BitVector bits;
    for (int l = 0; l < LANES; l++) bits[l] = AccBits(n.v[l]);
    return x * Real((AccVector)((bits + AccBits(bias)) << shift), 0);
#endif
}
// 2^f for 0 <= f < 1 (float; a minimax polynomial, error 1.3e-7), |f| <= 1/2 (double; Taylor)
ATTNC_INLINE Real exp2_core(Real f) {
    if constexpr (SINGLE) {
        Real p(Acc(0.0018775766948238015));
        p = fused(p, f, Real(Acc(0.008989340625703335)));
        p = fused(p, f, Real(Acc(0.05582631751894951)));
        p = fused(p, f, Real(Acc(0.24015361070632935)));
        p = fused(p, f, Real(Acc(0.6931530833244324)));
        return fused(p, f, Real(Acc(1)));  // 2^0 is 1
    } else {
        constexpr double c[14] = {1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158,
            0.009618129107628477, 0.0013333558146428443, 0.00015403530393381608,
            1.525273380405984e-05, 1.3215486790144307e-06, 1.0178086009239699e-07,
            7.054911620801123e-09, 4.4455382718708116e-10, 2.5678435993488202e-11,
            1.3691488853904128e-12};
        Real p{Acc(c[13])};
        ATTNC_UNROLL for (int k = 12; k >= 0; k--) p = fused(p, f, Real(Acc(c[k])));
        return p;
    }
}
// 2^x; results under 2^-100 (double: 2^-900) are 0. A weight that small counts for nothing beside the
// largest one, but its products would be subnormal numbers, which cost the machine a hundred cycles.
ATTNC_INLINE Real exp2(Real x) {
    constexpr Acc low = SINGLE ? Acc(-100) : Acc(-900), high = SINGLE ? Acc(128) : Acc(1024);
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) {
        const __m512 t = (__m512)x.v, f = _mm512_reduce_ps(t, 1);  // x - floor(x)
        const __mmask16 alive = _mm512_cmp_ps_mask(t, _mm512_set1_ps(low), _CMP_NLT_UQ);
        const AccVector p = exp2_core(Real((AccVector)f, 0)).v;
        return Real((AccVector)_mm512_maskz_scalef_ps(alive, (__m512)p, t), 0);
    }
#endif
    const Real t = select(x < Real(low), Real(low), select(x > Real(high), Real(high), x));
    const Real n = nearest(SINGLE ? t - Real(Acc(0.5)) : t);
    return select(x < Real(low), Real(0), scaled(exp2_core(t - n), n));
}
struct Reduced {  // e^x = 2^n (1 + m)
    Real n, m;
};
ATTNC_INLINE Reduced reduced_exp(Real x) {
    constexpr Acc high = SINGLE ? Acc(89) : Acc(710), low = SINGLE ? Acc(-104) : Acc(-746);
    const Real t = select(x > Real(high), Real(high), select(x < Real(low), Real(low), x));
    const Real n = nearest(t * Real(Acc(1.4426950408889634)));
    constexpr Acc head = SINGLE ? Acc(0.693145751953125) : Acc(0.6931471803691238);
    constexpr Acc tail = SINGLE ? Acc(1.42860677e-6) : Acc(1.9082149292705877e-10);
    const Real r = fused(n, Real(-tail), fused(n, Real(-head), t));
    constexpr int terms = SINGLE ? 7 : 13;
    Acc inverse[15] = {};
    inverse[0] = 1;
    for (int k = 1; k < 15; k++) inverse[k] = inverse[k - 1] / Acc(k);
    Real p{inverse[terms]};
    ATTNC_UNROLL for (int k = terms - 1; k >= 2; k--) p = fused(p, r, Real(inverse[k]));
    return {n, fused(p, r * r, r)};
}
ATTNC_INLINE Real exp(Real x) {
    const Reduced e = reduced_exp(x);
    constexpr Acc low = SINGLE ? Acc(-87.3) : Acc(-708.3);
#if ATTNC_ISA >= 3
    const Real out = scaled(e.m + Real(1), e.n);
#else
    const Real half = nearest(e.n * Real(Acc(0.5)));
    const Real out = scaled(scaled(e.m + Real(1), half), e.n - half);
#endif
    return select(x < Real(low), Real(0), select(x > Real(SINGLE ? Acc(88.73) : Acc(709.79)), Real(INFINITE), out));
}
// (e^2x - 1) / (e^2x + 1), with e^2x - 1 formed without cancellation
ATTNC_INLINE Real tanh(Real x) {
    const Real a = absolute(x), far(SINGLE ? Acc(10) : Acc(20));
    const Reduced e = reduced_exp(select(a > far, far, a) * Real(2));
    const Real two_n = scaled(Real(1), e.n), m = fused(two_n, e.m, two_n - Real(1));
    const Real t = m / (m + Real(2));
    return select(x != x, x, select(x < Real(0), -t, t));
}
// log of a positive normal number m * 2^e with m in [sqrt(1/2), sqrt(2)):
// e log 2 + 2 artanh((m - 1) / (m + 1))
ATTNC_INLINE Real log(Real x) {
    constexpr int shift = SINGLE ? 23 : 52;
    constexpr Acc tiny = std::numeric_limits<Acc>::min(), lift = SINGLE ? Acc(33554432.0) : Acc(18014398509481984.0);
    const Truth small = x < Real(tiny);
    const Real y = select(small, x * Real(lift), x);
    constexpr AccBits root = SINGLE ? AccBits(0x3f3504f3) : AccBits(0x3fe6a09e667f3bcdLL);
    const BitVector bits = (BitVector)y.v - root, power = bits >> shift;
    const Real m((AccVector)((BitVector)y.v - (power << shift)), 0);
    const Real e = Real(__builtin_convertvector(power, AccVector), 0) - select(small, Real(SINGLE ? Acc(25) : Acc(54)), Real(0));
    const Real f = m - Real(1), s = f / (m + Real(1)), z = s * s;
    constexpr int terms = SINGLE ? 5 : 11;
    Real p(Acc(2) / Acc(2 * terms + 1));
    ATTNC_UNROLL for (int k = terms - 1; k >= 1; k--) p = fused(p, z, Real(Acc(2) / Acc(2 * k + 1)));
    // 2 s = f - s f: the head f is exact, so that log(1 + small) keeps its digits
    const Real near = f + s * (z * p - f);
    constexpr Acc head = SINGLE ? Acc(0.693145751953125) : Acc(0.6931471803691238);
    constexpr Acc tail = SINGLE ? Acc(1.42860677e-6) : Acc(1.9082149292705877e-10);
    const Real out = fused(e, Real(head), fused(e, Real(tail), near));
    const Real edge = select(x == Real(0), Real(-INFINITE), select(x == Real(INFINITE), x, Real(std::numeric_limits<Acc>::quiet_NaN())));
    return select((x > Real(0)) & (x < Real(INFINITE)), out, edge);
}
ATTNC_INLINE Real log2(Real x) { return log(x) * Real(Acc(1.4426950408889634)); }
ATTNC_INLINE Real log1p(Real x) {
    const Real u = Real(1) + x;
    return select((u == Real(1)) | (x != x), x, select(u == Real(INFINITE), u, log(u) * (x / (u - Real(1)))));
}
ATTNC_INLINE Real softplus(Real x) { return maximum(x, Real(0)) + log1p(exp(-absolute(x))); }
ATTNC_INLINE Real sigmoid(Real x) { return Real(1) / (Real(1) + exp(-x)); }
ATTNC_INLINE Real sqrt(Real x) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) return Real((AccVector)_mm512_sqrt_ps((__m512)x.v), 0);
    else return Real((AccVector)_mm512_sqrt_pd((__m512d)x.v), 0);
#else
    for (int l = 0; l < LANES; l++) x.v[l] = std::sqrt(x.v[l]);
    return x;
#endif
}

// s + s^3 p(s^2), p interpolated at Chebyshev's points; about one unit in the last place.
template <int N> ATTNC_INLINE Real odd_polynomial(Real s, const double (&p)[N]) {
    const Real z = s * s;
    Real sum{Acc(p[N - 1])};
    ATTNC_UNROLL for (int k = N - 2; k >= 0; k--) sum = fused(sum, z, Real(Acc(p[k])));
    return fused(s * z, sum, s);
}
ATTNC_INLINE Real asin_core(Real s) {  // 0 <= s <= 1/2
    if constexpr (SINGLE)
        return odd_polynomial(s, {0.16666673123836517, 0.07498855143785477, 0.045001380145549774,
            0.026554541662335396, 0.03808502480387688});
    else
        return odd_polynomial(s, {0.1666666666666665, 0.07500000000020764, 0.044642857103423646,
            0.03038194736709848, 0.02237204763174451, 0.017355259955786323, 0.013929652902326633,
            0.011875494382636922, 0.0078029494773533175, 0.01603551434914882,
            -0.010749050339697808, 0.028169218060881414});
}
ATTNC_INLINE Real atan_core(Real s) {  // 0 <= s <= 1
    if constexpr (SINGLE)
        return odd_polynomial(s, {-0.3333333134651184, 0.19999739527702332, -0.1427856832742691,
            0.11033764481544495, -0.08656880259513855, 0.0625016912817955, -0.035871539264917374,
            0.01350777130573988, -0.0023869972210377455});
    else
        return odd_polynomial(s, {-0.3333333333333333, 0.1999999999999753, -0.14285714285384132,
            0.11111111093490827, -0.09090908590891934, 0.07692298971033217, -0.06666564699289104,
            0.05881506877793656, -0.052579733342841106, 0.04737749579527779,
            -0.04260356632601652, 0.03749486812535247, -0.031277189066996385,
            0.023696731580048622, -0.015535152475414177, 0.008368931178450162,
            -0.0034958859739163094, 0.0010496035084968515, -0.00019996189377901382,
            1.806195461861215e-05});
}
// pi / 2 - x, whose constant has a second part.
ATTNC_INLINE Real complement(Real x) {
    constexpr double rest = SINGLE ? -4.371139000186243e-08 : 6.123233995736766e-17;
    return Real(Acc(1.5707963267948966)) - (x - Real(Acc(rest)));
}
// Beyond 1/2: asin(x) = pi/2 - 2 asin(sqrt((1 - x) / 2)), and acos(x) is the last term; NaN beyond 1.
ATTNC_INLINE Real asin(Real x) {
    const Real a = absolute(x);
    const Truth near_one = a > Real(Acc(0.5));
    const Real core = asin_core(select(near_one, sqrt((Real(1) - a) * Real(Acc(0.5))), a));
    const Real out = select(near_one, complement(core + core), core);
    return select(x < Real(0), -out, out);
}
ATTNC_INLINE Real acos(Real x) {
    const Real a = absolute(x);
    const Truth near_one = a > Real(Acc(0.5)), below = x < Real(0);
    const Real core = asin_core(select(near_one, sqrt((Real(1) - a) * Real(Acc(0.5))), a));
    const Real twice = core + core, half = complement(core), other = half + half;
    return select(near_one, select(below, other, twice), complement(select(below, -core, core)));
}
ATTNC_INLINE Real atan(Real x) {
    const Real a = absolute(x);
    const Truth steep = a > Real(1);
    const Real core = atan_core(select(steep, Real(1) / a, a));
    const Real out = select(steep, complement(core), core);
    return select(x < Real(0), -out, out);
}

// Lane by lane in libm.
#define ATTNC_LANEWISE(name, call)                                    \
    inline __attribute__((noinline)) Real name(Real x) {              \
        for (int l = 0; l < LANES; l++) x.v[l] = Acc(call(x.v[l]));   \
        return x;                                                     \
    }
ATTNC_LANEWISE(far_sin, std::sin)
ATTNC_LANEWISE(far_cos, std::cos)
ATTNC_LANEWISE(erf, std::erf)
#undef ATTNC_LANEWISE

// sin(x + shift * pi/2) for |x| < 1.6e6: x less n quarter turns, in double also for floats, the turn
// in three parts of 33 bits (Cody and Waite), so that n times a part is exact below 2^20 turns; then
// polynomials on [-pi/4, pi/4] (Cephes for float; the Taylor series for double).
inline __attribute__((noinline)) Real sine(Real x, int shift) {
    typedef double Doubles __attribute__((vector_size(LANES * 8)));
    const Doubles wide = __builtin_convertvector(x.v, Doubles), magic = Doubles{} + 6755399441055744.0;
    const Doubles n = (wide * 0.63661977236758134 + magic) - magic;
    const Doubles rest = ((wide - n * 1.5707963267341256) - n * 6.0771005063039660e-11) - n * 2.0222662487959506e-21;
    const BitVector quarter = __builtin_convertvector(n, BitVector) + AccBits(shift);
    const Real r(__builtin_convertvector(rest, AccVector), 0), z = r * r;
    Real odd, even;  // sin r = r + r z odd, cos r = 1 - z / 2 + z^2 even
    if constexpr (SINGLE) {
        odd = fused(z, Real(Acc(-1.9515295891e-4)), Real(Acc(8.3321608736e-3)));
        odd = fused(z, odd, Real(Acc(-1.6666654611e-1)));
        even = fused(z, Real(Acc(2.443315711809948e-5)), Real(Acc(-1.388731625493765e-3)));
        even = fused(z, even, Real(Acc(4.166664568298827e-2)));
    } else {
        constexpr double s[8] = {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800,
            1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
        constexpr double c[8] = {1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600,
            -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
        odd = Real(Acc(s[7])), even = Real(Acc(c[7]));
        ATTNC_UNROLL for (int k = 6; k >= 0; k--) odd = fused(z, odd, Real(Acc(s[k]))), even = fused(z, even, Real(Acc(c[k])));
    }
    const Real sin = fused(r * z, odd, r), cos = fused(z * z, even, Real(1) - z * Real(Acc(0.5)));
    const BitVector turned = (quarter & 1) != 0, sign = (quarter & 2) << (8 * int(sizeof(Acc)) - 2);
    const BitVector bits = ((BitVector)cos.v & turned) | ((BitVector)sin.v & ~turned);
    return Real((AccVector)(bits ^ sign), 0);
}
ATTNC_INLINE Truth far(Real x) { return ~(absolute(x) < Real(Acc(1.6e6))); }
ATTNC_INLINE Real sin(Real x) { return far(x).any() ? far_sin(x) : sine(x, 0); }
ATTNC_INLINE Real cos(Real x) { return far(x).any() ? far_cos(x) : sine(x, 1); }
inline __attribute__((noinline)) Real power(Real x, Real y) {
    for (int l = 0; l < LANES; l++) x.v[l] = std::pow(x.v[l], y.v[l]);
    return x;
}
ATTNC_INLINE Acc power(Acc x, Acc y) { return std::pow(x, y); }
ATTNC_INLINE Real power_whole(Real x, int n) {  // n >= 0, known to the printer
    Real out(1), square = x;
    for (; n; n >>= 1, square = square * square)
        if (n & 1) out = out * square;
    return out;
}
ATTNC_INLINE Acc power_whole(Acc x, int n) {
    Acc out = 1, square = x;
    for (; n; n >>= 1, square = square * square)
        if (n & 1) out = out * square;
    return out;
}
ATTNC_INLINE int64_t power_whole(int64_t x, int64_t n) {
    uint64_t out = 1, square = uint64_t(x);
    for (; n > 0; n >>= 1, square *= square)
        if (n & 1) out *= square;
    return int64_t(out);
}
ATTNC_INLINE Acc exp(Acc x) { return std::exp(x); }
ATTNC_INLINE Acc exp2(Acc x) { return std::exp2(x); }
ATTNC_INLINE Acc log(Acc x) { return std::log(x); }
ATTNC_INLINE Acc log2(Acc x) { return std::log2(x); }
ATTNC_INLINE Acc log1p(Acc x) { return std::log1p(x); }
ATTNC_INLINE Acc sqrt(Acc x) { return std::sqrt(x); }
ATTNC_INLINE Acc sin(Acc x) { return std::sin(x); }
ATTNC_INLINE Acc cos(Acc x) { return std::cos(x); }
ATTNC_INLINE Acc asin(Acc x) { return std::asin(x); }
ATTNC_INLINE Acc acos(Acc x) { return std::acos(x); }
ATTNC_INLINE Acc atan(Acc x) { return std::atan(x); }
ATTNC_INLINE Acc tanh(Acc x) { return std::tanh(x); }
ATTNC_INLINE Acc erf(Acc x) { return std::erf(x); }
ATTNC_INLINE Acc softplus(Acc x) { return maximum(x, Acc(0)) + log1p(std::exp(-std::fabs(x))); }
ATTNC_INLINE Acc sigmoid(Acc x) { return Acc(1) / (Acc(1) + std::exp(-x)); }

// Whole numbers of reals: floor, ceil and round (ties to even) give integers.
ATTNC_INLINE int64_t whole(Acc x) { return x >= -9.2e18 && x <= 9.2e18 ? int64_t(x) : 0; }
ATTNC_INLINE int64_t floor_int(Acc x) { return whole(std::floor(x)); }
ATTNC_INLINE int64_t ceil_int(Acc x) { return whole(std::ceil(x)); }
ATTNC_INLINE int64_t round_int(Acc x) { return whole(std::nearbyint(x)); }
#define ATTNC_WHOLE(name)                                                       \
    inline Integer name(Real x) {                                               \
        Integer out;                                                            \
        for (int l = 0; l < LANES; l++) out.v[l] = Int(name(Acc(x.v[l])));      \
        return out;                                                             \
    }
ATTNC_WHOLE(floor_int)
ATTNC_WHOLE(ceil_int)
ATTNC_WHOLE(round_int)
#undef ATTNC_WHOLE

}  // namespace attnc
