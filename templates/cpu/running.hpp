// Values that run along the walk: folds over the pairs of a row that were met before, or that are yet
// to be met. A sum is kept in two numbers, and what is ahead is what all pairs come to (a walk before
// finds that) less what was met.
#pragma once
#include "blocks.hpp"

namespace attnc {

template <class K>
struct Running : Blocks<K> {
    using Base = Blocks<K>;
    using Grid = typename K::Grid;
    using Desk = typename Base::Desk;
    using Run = typename Base::Run;

    // a + b; `beneath` gets what its rounding lost (Knuth), nothing where the sum is not finite.
    static ATTNC_INLINE Real sum_of_two(Real a, Real b, Real& beneath) {
        const Real sum = a + b, back = sum - a, lost = (a - (sum - back)) + (b - back);
        beneath = beneath + select(lost == lost, lost, Real(0));
        return sum;
    }

    // What runs along the walk, for each pair of the block, one value after the other: a later one
    // may be made of earlier ones. Rows of a run lie upwards, whichever way the walk goes.
    template <class Loop, int N, bool MASKED>
    static void run_along(const Grid& grid, Desk& desk, const Run& run) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int v = run.v0; v < run.v1; v++) {
            const int lane = v * LANES;
            Real sum = load(desk.running[N] + lane), beneath = load(desk.beneath[N] + lane);
            for (int n = 0; n < run.count; n++) {
                const int r = run.at + (Loop::UPWARD ? n : run.count - 1 - n);
                Real product[Loop::PRODUCTS + Loop::RUNNING + 1];
                Base::template load_pair<Loop>(desk, r, lane, product);
                const Real own = Loop::template running<N, MASKED>(grid, *desk.held, walked, HeldLanes{lane, r}, product);
                Acc* at = desk.along[N] + r * TILE + lane;
                if (!Loop::inclusive[N]) store(at, Loop::summed[N] ? sum + beneath : sum);
                if (Loop::summed[N]) sum = sum_of_two(sum, own, beneath);
                else sum = Loop::template joined<N>(sum, own);
                if (Loop::inclusive[N]) store(at, Loop::summed[N] ? sum + beneath : sum);
            }
            store(desk.running[N] + lane, sum);
            store(desk.beneath[N] + lane, beneath);
        }
    }
    // The terms of what is ahead, and what those of the block come to.
    template <class Loop, int N, bool MASKED>
    static void take_portion(const Grid& grid, Desk& desk, const Run& run) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int v = run.v0; v < run.v1; v++) {
            const int lane = v * LANES;
            Real sum = load(desk.portion[N] + lane);
            for (int r = run.at; r < run.at + run.count; r++) {
                Real product[Loop::PRODUCTS + Loop::RUNNING + 1];
                Base::template load_pair<Loop>(desk, r, lane, product);
                const Real own = Loop::template running<N, MASKED>(grid, *desk.held, walked, HeldLanes{lane, r}, product);
                sum = sum + own;
                store(desk.along[N] + r * TILE + lane, own);
            }
            store(desk.portion[N] + lane, sum);
        }
    }
    // What is ahead of each pair: what is left after the block, and the pairs of the block that the
    // walk meets later, summed from the last one on.
    template <class Loop, int N>
    static void look_back(Desk& desk, const Run& run) {
        for (int v = run.v0; v < run.v1; v++) {
            const int lane = v * LANES;
            Real sum = load(desk.portion[N] + lane);
            for (int n = 0; n < run.count; n++) {
                Acc* at = desk.along[N] + (run.at + (Loop::UPWARD ? run.count - 1 - n : n)) * TILE + lane;
                const Real after = sum;
                sum = sum + load(at);
                store(at, Loop::inclusive[N] ? sum : after);
            }
            store(desk.portion[N] + lane, sum);
        }
    }
    // running + beneath, more or less the block's portion.
    template <int N>
    static void settle_portion(Desk& desk, bool takes) {
        for (int lane = 0; lane < desk.vectors * LANES; lane += LANES) {
            const Real part = load(desk.portion[N] + lane);
            Real beneath = load(desk.beneath[N] + lane);
            const Real sum = sum_of_two(load(desk.running[N] + lane), takes ? Real(0) - part : part, beneath);
            store(desk.running[N] + lane, sum);
            store(desk.beneath[N] + lane, beneath);
            store(desk.portion[N] + lane, takes ? sum + beneath : Real(0));
        }
    }
    template <class Loop, int N, bool REHEARSAL>
    static void run_ahead(const Grid& grid, Desk& desk) {
        for (int l = 0; l < TILE; l++) desk.portion[N][l] = 0;
        for (int k = 0; k < desk.run_count; k++) {
            if (desk.runs[k].masked) take_portion<Loop, N, true>(grid, desk, desk.runs[k]);
            else take_portion<Loop, N, false>(grid, desk, desk.runs[k]);
        }
        settle_portion<N>(desk, !REHEARSAL);
        if (REHEARSAL) return;
        for (int k = desk.run_count - 1; k >= 0; k--) look_back<Loop, N>(desk, desk.runs[k]);
    }
    template <class Loop, bool REHEARSAL = false>
    static void run_all(const Grid& grid, Desk& desk) {
        for_each<Loop::RUNNING>([&](auto place) {
            constexpr int n = decltype(place)::value;
            if constexpr (Loop::ahead[n]) return run_ahead<Loop, n, REHEARSAL>(grid, desk);
            for (int k = 0; k < desk.run_count; k++) {
                if (desk.runs[k].masked) run_along<Loop, n, true>(grid, desk, desk.runs[k]);
                else run_along<Loop, n, false>(grid, desk, desk.runs[k]);
            }
        });
    }
    // Begins what runs along a walk, after a walk for what is ahead.
    template <class Loop>
    static void begin_running(const Grid& grid, Desk& desk, int64_t first, int rows) {
        const auto begin = [&](auto place) {
            constexpr int n = decltype(place)::value;
            for (int l = 0; l < TILE; l++) {
                desk.running[n][l] = Loop::running_unit[n];
                desk.beneath[n][l] = 0;
            }
        };
        for_each<Loop::RUNNING>(begin);
        if constexpr (Loop::REHEARSED) {
            Base::template visit<Loop>(grid, desk, first, rows, [&] {
                if (!desk.run_count) return;
                Base::template fill_walked<Loop>(grid, desk);
                Base::template multiply<Loop>(grid, desk);
                run_all<Loop, true>(grid, desk);
                desk.run_count = desk.used = 0;
            });
            for_each<Loop::RUNNING>([&](auto place) {
                if constexpr (!Loop::ahead[decltype(place)::value]) begin(place);
            });
        }
    }
};

}  // namespace attnc
