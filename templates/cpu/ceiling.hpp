// The rate that no product exceeds: the multiplication of products.hpp on registers alone, in as
// many chains as it takes to fill the units. Operations are the two of a multiply-add.
#pragma once
#include "products.hpp"

namespace attnc {

constexpr int CHAINS = ATTNC_ISA >= 3 ? 16 : 12;  // more than an addition takes cycles, all in registers

__attribute__((noinline)) Acc chains(int64_t rounds, const void* one, const Acc* lanes) {
    const Real factor = load(lanes);
    Real sum[CHAINS];
    ATTNC_UNROLL for (int n = 0; n < CHAINS; n++) sum[n] = Real(Acc(n));  // or they were one
    for (int64_t round = 0; round < rounds; round++)
        ATTNC_UNROLL for (int n = 0; n < CHAINS; n++) sum[n] = multiply_add(one, factor, sum[n]);
    ATTNC_UNROLL for (int n = 1; n < CHAINS; n++) sum[0] = sum[0] + sum[n];
    Acc kept[LANES];
    store(kept, sum[0]);
    return kept[0];
}

}  // namespace attnc

// Operations done by `threads` threads in `rounds` rounds each.
extern "C" __attribute__((visibility("default"))) double attnc_ceiling(int64_t threads, int64_t rounds) {
    using namespace attnc;
    const Acc zeros[LANES] = {};
    volatile Acc kept = 0;  // what is read of the sums, so that they are made
    parallel_tasks(threads, threads, [&](int64_t, int64_t) {
        kept = chains(rounds, zeros, zeros);
    });
    return double(threads) * double(rounds) * CHAINS * LANES * FOLD * 2;
}
