// Random numbers: Philox4x32-10 (Salmon et al., SC 2011), key seed + ordinal, counter
// (j // 4, i, h, b), word j % 4, of which the upper 24 bits count, in units of 2^-24. One call gives
// the numbers of four keys, so where lanes are rows the words are kept until the fifth.
#pragma once
#include "reads.hpp"

namespace attnc {

struct PhiloxKey {
    uint32_t low, high;
    ATTNC_INLINE PhiloxKey(int64_t seed, int64_t ordinal) {
        const uint64_t mixed = uint64_t(seed) + uint64_t(ordinal);
        low = uint32_t(mixed), high = uint32_t(mixed >> 32);
    }
    ATTNC_INLINE void next() { low += 0x9E3779B9u, high += 0xBB67AE85u; }
};
constexpr Acc ULP = Acc(5.9604644775390625e-8);  // 2^-24

inline Acc random_at(PhiloxKey key, int64_t b, int64_t h, int64_t i, int64_t j) {
    uint32_t c[4] = {uint32_t(floor_div(j, 4)), uint32_t(i), uint32_t(h), uint32_t(b)};
    for (int round = 0; round < 10; round++, key.next()) {
        const uint64_t left = uint64_t(0xD2511F53u) * c[0], right = uint64_t(0xCD9E8D57u) * c[2];
        const uint32_t c0 = uint32_t(right >> 32) ^ c[1] ^ key.low, c2 = uint32_t(left >> 32) ^ c[3] ^ key.high;
        c[0] = c0, c[1] = uint32_t(right), c[2] = c2, c[3] = uint32_t(left);
    }
    return Acc(c[floor_mod(j, 4)] >> 8) * ULP;
}

// ---- lanes: words of 32 bits in the lower halves of 64; what the upper halves hold is not looked at

constexpr int HALVES = SINGLE ? 2 : 1;  // registers of such words: of even and of odd lanes
typedef uint64_t Wide __attribute__((vector_size(REGISTER_BYTES)));

ATTNC_INLINE Wide wide_product(Wide a, uint32_t by) {
    const Wide factor = Wide{} + uint64_t(by);
#if ATTNC_ISA >= 3
    return (Wide)_mm512_mul_epu32((__m512i)a, (__m512i)factor);
#elif ATTNC_ISA == 2
    return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)factor);
#else
    return (a & 0xffffffffu) * factor;
#endif
}

struct Words {  // one word for each lane
    Wide v[HALVES];
    Words() = default;
    ATTNC_INLINE Words(int64_t x) {
        for (int p = 0; p < HALVES; p++) v[p] = Wide{} + uint64_t(x);
    }
    ATTNC_INLINE Words(Integer x) {
        if constexpr (SINGLE) {
            typedef int32_t Lanes __attribute__((vector_size(LANES * 4)));
            const Lanes lanes = __builtin_convertvector(x.v, Lanes);
            std::memcpy(v, &lanes, sizeof lanes);
            v[HALVES - 1] = v[0] >> 32;
        } else {
            std::memcpy(v, &x.v, sizeof v);
        }
    }
    ATTNC_INLINE Real uniform() const {
        if constexpr (SINGLE) {
            typedef uint32_t Lanes __attribute__((vector_size(REGISTER_BYTES)));
            const Lanes upper = (Lanes)((v[0] & 0xffffffffu) | (v[HALVES - 1] << 32)) >> 8;
            return Real(__builtin_convertvector((BitVector)upper, AccVector), 0) * Real(ULP);
        } else {
            const BitVector upper = (BitVector)((v[0] & 0xffffffffu) >> 8);
            return Real(__builtin_convertvector(upper, AccVector), 0) * Real(ULP);
        }
    }
};

// The words of ten rounds, in place of the counter.
ATTNC_INLINE void philox(PhiloxKey key, Words& c0, Words& c1, Words& c2, Words& c3) {
    ATTNC_UNROLL for (int round = 0; round < 10; round++, key.next()) {
        ATTNC_UNROLL for (int p = 0; p < HALVES; p++) {
            const Wide left = wide_product(c0.v[p], 0xD2511F53u), right = wide_product(c2.v[p], 0xCD9E8D57u);
            c0.v[p] = (right >> 32) ^ c1.v[p] ^ (Wide{} + key.low);
            c2.v[p] = (left >> 32) ^ c3.v[p] ^ (Wide{} + key.high);
            c1.v[p] = right, c3.v[p] = left;
        }
    }
}
inline __attribute__((noinline)) void philox_lanes(PhiloxKey key, Words b, Words h, Words i, Words block, Real* four) {
    philox(key, block, i, h, b);
    four[0] = block.uniform(), four[1] = i.uniform(), four[2] = h.uniform(), four[3] = b.uniform();
}

template <class B, class H, class I, class J>
ATTNC_INLINE auto random(int64_t seed, int64_t ordinal, B b, H h, I i, J j) {
    const PhiloxKey key(seed, ordinal);
    if constexpr (std::is_same_v<B, int64_t> && std::is_same_v<H, int64_t> && std::is_same_v<I, int64_t> && std::is_same_v<J, int64_t>) {
        return random_at(key, b, h, i, j);
    } else {
        Real four[4];
        philox_lanes(key, Words(b), Words(h), Words(i), Words(floor_div(j, int64_t(4))), four);
        const auto word = floor_mod(j, int64_t(4));
        const auto is = [&](int w) { return word == decltype(word)(w); };
        return Real(select(is(0), four[0], select(is(1), four[1], select(is(2), four[2], four[3]))));
    }
}

// The numbers of four keys for every held position, as they were last drawn.
template <int N>
struct Drawn {
    alignas(64) Acc number[4][N];
    int64_t block[N / LANES];
    bool known[N / LANES];
    ATTNC_INLINE void forget(int at) { known[at / LANES] = false; }
};
// random(...) of lanes of held positions at one key; b and h are the same for all pairs of the tile.
template <int N>
ATTNC_INLINE Real random_held(Drawn<N>& drawn, int lane, int64_t seed, int64_t ordinal, int64_t b, int64_t h, Integer i, int64_t j) {
    const int64_t block = floor_div(j, int64_t(4)), slot = lane / LANES;
    if (!drawn.known[slot] || drawn.block[slot] != block) {
        Real four[4];
        philox_lanes(PhiloxKey(seed, ordinal), Words(b), Words(h), Words(i), Words(block), four);
        for (int w = 0; w < 4; w++) store(drawn.number[w] + lane, four[w]);
        drawn.block[slot] = block;
        drawn.known[slot] = true;
    }
    return load(drawn.number[floor_mod(j, int64_t(4))] + lane);
}
// The same where lanes are walked positions: four rows make no use of it.
template <int N, class I, class J>
ATTNC_INLINE Real random_held(Drawn<N>&, int, int64_t seed, int64_t ordinal, int64_t b, int64_t h, I i, J j) {
    return spread(random(seed, ordinal, b, h, i, j));
}

}  // namespace attnc
