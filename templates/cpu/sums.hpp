// Sums that leave a tile: rows into tables, one after another, and what tells whether a product may
// be taken over masked pairs.
#pragma once
#include "stream.hpp"

namespace attnc {

// Whether every number of rows [first, first + count) is finite.
template <class T>
bool all_finite(const Rows<T>& rows, int64_t first, int64_t count, int width) {
    Real sum(Acc(0));
    for (int64_t r = first; r < first + count; r++) {
        const T* row = rows.row(r);
        if (rows.step != 1) {
            for (int c = 0; c < width; c++) sum.v[0] += Acc(widen(row[c * rows.step])) * 0;
            continue;
        }
        for (int c = 0; c < width; c += LANES)
            sum = fused(load_elements(row + c, width - c < LANES ? width - c : LANES), Real(0), sum);
    }
    return !(sum != sum).any();
}

ATTNC_INLINE Acc sum_of(Real x) {
    Acc sum = 0;
    for (int l = 0; l < LANES; l++) sum += x.v[l];
    return sum;
}
ATTNC_INLINE Real reversed(Real x) {
    Real out;
    for (int l = 0; l < LANES; l++) out.v[l] = x.v[LANES - 1 - l];
    return out;
}

// table[at[l]] += terms[l] for each lane l < lanes whose place lies in [0, size). Lanes at
// neighbouring places (a table of differences of positions) are added at once.
ATTNC_INLINE void scatter_numbers(Acc* table, int64_t size, const Int* at, const Acc* terms, int lanes) {
    if (lanes == LANES) {
        const int64_t low = at[0], high = at[LANES - 1];
        const Integer places = load(at);
        if (low >= 0 && high == low + LANES - 1 && high < size && !(places != iota(low)).any()) {
            store(table + low, load(table + low) + load(terms));
            return;
        }
        if (high >= 0 && low == high + LANES - 1 && low < size && !(places != Integer(low) - iota(0)).any()) {
            store(table + high, load(table + high) + reversed(load(terms)));
            return;
        }
        if (low >= 0 && low < size && !(places != Integer(low)).any()) {
            table[low] += sum_of(load(terms));
            return;
        }
    }
    for (int l = 0; l < lanes; l++)
        if (at[l] >= 0 && at[l] < size) table[at[l]] += terms[l];
}

// One number for each pair: where it stands for held row 0 and walked row 0, and that of a masked one.
template <class T>
struct Plane {
    T* data;
    int64_t by_held, by_walked;
    Acc otherwise;
    T* at(int64_t held, int64_t walked) const { return data + held * by_held + walked * by_walked; }
    void clear(int64_t first, int64_t rows, int64_t walked) const {
        for (int64_t l = first; l < first + rows; l++)
            for (int64_t r = 0; r < walked; r++) *at(l, r) = narrow<T>(otherwise);
    }
    // terms[r][l] for r < rows and l < lanes, steps of TILE; masked ones (-0) become 0.
    void put(int64_t held, int64_t walked, int rows, int lanes, const Acc* terms) const {
        if (by_held == 1) {
            for (int r = 0; r < rows; r++)
                for (int l = 0; l < lanes; l += LANES)
                    store_elements(at(held + l, walked + r), load(terms + r * TILE + l) + Real(0), lanes - l < LANES ? lanes - l : LANES);
            return;
        }
        for (int l = 0; l < lanes; l++)
            for (int r = 0; r < rows; r++) *at(held + l, walked + r) = narrow<T>(terms[r * TILE + l] + Acc(0));
    }
};

// to[c] += term * row[c]; both are filled up to whole vectors.
template <int STRIDE>
ATTNC_INLINE void scatter_row(Acc* to, Acc term, const Acc* row) {
    const Real by(term);
    for (int c = 0; c < STRIDE; c += LANES) store(to + c, fused(by, load(row + c), load(to + c)));
}

}  // namespace attnc
