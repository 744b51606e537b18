// What scan kernels need beside lanes: padded rows of a worker's arrays, sums across lanes, rows of
// tensors in and out.
#pragma once
#include "reads.hpp"

namespace attnc {

// Numbers computed by a call that is over sooner than another thread has begun: one decoding step.
constexpr int64_t WORTH_A_THREAD = 1 << 18;
// Numbers from which on rows are shared.
constexpr int64_t SHARED_WORK = 1 << 18;

// In how many shares the rows of few instances run: three, where one instance would leave all but
// one core idle. One walk and one sum, then two walks: two thirds of the time for two cores, four
// thirds for one.
inline int64_t shares_of_rows(int64_t count, int64_t rows, int64_t work) {
    return count == 1 && rows >= 3 * 64 && work >= SHARED_WORK ? 3 : 1;
}

// The width of an array's last axis in memory: whole registers, so that loads never leave it.
constexpr int64_t padded(int64_t width) { return (width + LANES - 1) / LANES * LANES; }

ATTNC_INLINE Acc across(Real x, Acc (*join)(Acc, Acc)) {
    Acc kept[LANES];
    store(kept, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) kept[l] = join(kept[l], kept[l + half]);
    return kept[0];
}
ATTNC_INLINE Acc join_sum(Acc a, Acc b) { return a + b; }
ATTNC_INLINE Acc join_prod(Acc a, Acc b) { return a * b; }
ATTNC_INLINE Acc join_max(Acc a, Acc b) { return maximum(a, b); }
ATTNC_INLINE Acc join_min(Acc a, Acc b) { return minimum(a, b); }

// Registers of one pass over a row: blocks of at most MOST registers, body(count, first lane).
template <int64_t WIDTH, int MOST = 8, class Body>
ATTNC_INLINE void blocks(const Body& body) {
    constexpr int64_t registers = padded(WIDTH) / LANES, whole = registers / MOST, rest = registers % MOST;
    for (int64_t block = 0; block < whole; block++)
        body(std::integral_constant<int, MOST>(), block * MOST * LANES);
    if constexpr (rest > 0) body(std::integral_constant<int, int(rest)>(), whole * MOST * LANES);
}

// A row of a tensor as accumulation numbers (or as it is), and back. Outside its array it is 0.
template <class Kept, class T>
ATTNC_INLINE void take_row(Kept* row, const T* base, bool inside, int64_t offset, int64_t stride, int64_t width) {
    if (!inside) {
        for (int64_t at = 0; at < width; at++) row[at] = Kept(0);
    } else if (stride == 1) {
        for (int64_t at = 0; at < width; at++) row[at] = Kept(fetched(base[offset + at]));
    } else {
        for (int64_t at = 0; at < width; at++) row[at] = Kept(fetched(base[offset + at * stride]));
    }
}
template <class T, class Kept>
ATTNC_INLINE void put_row(T* base, int64_t stride, const Kept* row, int64_t width) {
    if (stride == 1)
        for (int64_t at = 0; at < width; at++) base[at] = narrow<T>(row[at]);
    else
        for (int64_t at = 0; at < width; at++) base[at * stride] = narrow<T>(row[at]);
}
template <class T, class Kept>
ATTNC_INLINE void add_row(T* base, int64_t stride, const Kept* row, int64_t width) {
    for (int64_t at = 0; at < width; at++) base[at * stride] += row[at];
}
template <class T>
ATTNC_INLINE void clear(T* base, int64_t count) {
    for (int64_t at = 0; at < count; at++) base[at] = T(0);
}

}  // namespace attnc
