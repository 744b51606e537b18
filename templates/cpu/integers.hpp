// Integers outside of lanes: floor division, and bounds that saturate where int64 would wrap.
#pragma once
#include "call.hpp"

namespace attnc {

ATTNC_INLINE int64_t floor_div(int64_t a, int64_t b) {
    if (b == 0) return 0;
    if (b == -1) return int64_t(0 - uint64_t(a));
    const int64_t q = a / b;
    return q - ((a % b != 0) & ((a < 0) != (b < 0)));
}
ATTNC_INLINE int64_t floor_mod(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return 0;
    const int64_t r = a % b;
    return r + ((r != 0) & ((r < 0) != (b < 0)) ? b : 0);
}

// An integer bound of a region: arithmetic saturates at +-LIMIT, which stands for "no bound".
struct Bound {
    static constexpr int64_t LIMIT = int64_t(1) << 62;
    int64_t at;
    ATTNC_INLINE Bound(int64_t x) : at(x > LIMIT ? LIMIT : x < -LIMIT ? -LIMIT : x) {}
    ATTNC_INLINE bool endless() const { return at == LIMIT || at == -LIMIT; }
    friend ATTNC_INLINE Bound operator+(Bound a, Bound b) {
        return a.endless() ? a : b.endless() ? b : Bound(a.at + b.at);
    }
    friend ATTNC_INLINE Bound operator-(Bound a) { return Bound(-a.at); }
    friend ATTNC_INLINE Bound operator-(Bound a, Bound b) { return a + -b; }
    friend ATTNC_INLINE Bound operator*(Bound a, Bound b) {
        int64_t out;
        if (__builtin_mul_overflow(a.at, b.at, &out))
            return (a.at < 0) != (b.at < 0) ? -LIMIT : LIMIT;
        return out;
    }
    friend ATTNC_INLINE bool operator<(Bound a, Bound b) { return a.at < b.at; }
    friend ATTNC_INLINE bool operator<=(Bound a, Bound b) { return a.at <= b.at; }
    friend ATTNC_INLINE bool operator>(Bound a, Bound b) { return a.at > b.at; }
    friend ATTNC_INLINE bool operator>=(Bound a, Bound b) { return a.at >= b.at; }
    friend ATTNC_INLINE bool operator==(Bound a, Bound b) { return a.at == b.at; }
    friend ATTNC_INLINE bool operator!=(Bound a, Bound b) { return a.at != b.at; }
    friend ATTNC_INLINE Bound floor_div(Bound a, Bound b) {
        return a.endless() ? (b.at < 0 ? -a : a) : Bound(floor_div(a.at, b.at));
    }
    friend ATTNC_INLINE Bound floor_mod(Bound a, Bound b) { return floor_mod(a.at, b.at); }
    friend ATTNC_INLINE Bound minimum(Bound a, Bound b) { return a.at < b.at ? a : b; }
    friend ATTNC_INLINE Bound maximum(Bound a, Bound b) { return a.at > b.at ? a : b; }
    friend ATTNC_INLINE Bound absolute(Bound a) { return a.at < 0 ? -a : a; }
    friend ATTNC_INLINE Bound select(bool c, Bound a, Bound b) { return c ? a : b; }
};

// Bounds of an integer formula under interval arithmetic, and whether all of it fits 32-bit lanes.
struct Span {
    static constexpr int64_t LANE = (int64_t(1) << 31) - 1;
    Bound low, high;
    bool fits;
    ATTNC_INLINE Span(int64_t x) : Span(Bound(x), Bound(x), true) {}
    ATTNC_INLINE Span(Bound l, Bound h, bool f = true)
        : low(l), high(h), fits(f && l.at >= -LANE && h.at <= LANE) {}
    static Span hull(bool fits, Bound a, Bound b, Bound c, Bound d) {
        return Span(minimum(minimum(a, b), minimum(c, d)), maximum(maximum(a, b), maximum(c, d)),
                    fits);
    }
    friend Span operator+(Span a, Span b) {
        return Span(a.low + b.low, a.high + b.high, a.fits && b.fits);
    }
    friend Span operator-(Span a) { return Span(-a.high, -a.low, a.fits); }
    friend Span operator-(Span a, Span b) { return a + -b; }
    friend Span operator*(Span a, Span b) {
        return hull(a.fits && b.fits, a.low * b.low, a.low * b.high, a.high * b.low,
                    a.high * b.high);
    }
    friend Span floor_div(Span a, Span b) {  // |a // b| <= |a| + 1
        const Bound far = maximum(absolute(a.low), absolute(a.high)) + 1;
        return Span(-far, far, a.fits && b.fits);
    }
    friend Span floor_mod(Span a, Span b) {
        const Bound far = maximum(absolute(b.low), absolute(b.high));
        return Span(-far, far, a.fits && b.fits);
    }
    friend Span minimum(Span a, Span b) {
        return Span(minimum(a.low, b.low), minimum(a.high, b.high), a.fits && b.fits);
    }
    friend Span maximum(Span a, Span b) {
        return Span(maximum(a.low, b.low), maximum(a.high, b.high), a.fits && b.fits);
    }
    friend Span absolute(Span a) { return maximum(a, -a); }
    friend Span either(Span a, Span b) {  // the value of a choice
        return Span(minimum(a.low, b.low), maximum(a.high, b.high), a.fits && b.fits);
    }
};

}  // namespace attnc
