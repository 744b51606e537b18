// Integers outside of lanes: floor division, and bounds that saturate where int64 would wrap.
#pragma once
#include "call.hpp"

namespace attnc {

ATTNC_INLINE int64_t floor_div(int64_t a, int64_t b) {
    if (b == 0) return 0;
    if (b == -1) return int64_t(0 - uint64_t(a));
    if (__builtin_constant_p(b) && b > 0 && !(b & (b - 1))) return a >> __builtin_ctzll(uint64_t(b));
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
    static ATTNC_INLINE Bound within(int64_t x) {  // known to be below the limit, as positions are
        Bound out = LIMIT;
        out.at = x;
        return out;
    }
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
        return a.endless() ? (b.at < 0 ? -a : a) : within(floor_div(a.at, b.at));
    }
    friend ATTNC_INLINE Bound floor_mod(Bound a, Bound b) { return floor_mod(a.at, b.at); }
    friend ATTNC_INLINE Bound minimum(Bound a, Bound b) { return a.at < b.at ? a : b; }
    friend ATTNC_INLINE Bound maximum(Bound a, Bound b) { return a.at > b.at ? a : b; }
    friend ATTNC_INLINE Bound absolute(Bound a) { return a.at < 0 ? -a : a; }
    friend ATTNC_INLINE Bound select(bool c, Bound a, Bound b) { return c ? a : b; }
};

}  // namespace attnc
