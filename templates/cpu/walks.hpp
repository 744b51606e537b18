// Which walked positions a tile visits: the bisection of a loop by its region, bounds of data over
// aligned blocks that regions ask for (summaries), and from which side values of pairs are read.
#pragma once
#include "products.hpp"
#include "reads.hpp"

namespace attnc {

// ---- the lanes of a pair

// Lanes are held positions, a walked position is a scalar.
struct HeldLanes {
    using F = Real;
    using I = Integer;
    using B = Truth;
    int lane, row;
    template <class T>
    ATTNC_INLINE auto held(const T* values) const { return load(values + lane); }
    ATTNC_INLINE Acc walked(const Acc* values) const { return values[row]; }
    ATTNC_INLINE int64_t walked(const Int* values) const { return values[row]; }
    ATTNC_INLINE bool walked(const bool* values) const { return values[row]; }
};
// Lanes are walked positions, a held position is a scalar.
struct WalkedLanes {
    using F = Real;
    using I = Integer;
    using B = Truth;
    int row, lane;
    template <class T>
    ATTNC_INLINE auto walked(const T* values) const { return load(values + lane); }
    ATTNC_INLINE Acc held(const Acc* values) const { return values[row]; }
    ATTNC_INLINE int64_t held(const Int* values) const { return values[row]; }
    ATTNC_INLINE bool held(const bool* values) const { return values[row]; }
};

template <class... Ts>
struct Sequence {
    static constexpr int count = sizeof...(Ts);
};
template <int N, class Body>
ATTNC_INLINE void for_each(const Body& body) {  // body(Place<0>), body(Place<1>), ...
    if constexpr (N > 0) {
        for_each<N - 1>(body);
        body(Place<N - 1>{});
    }
}

// ---- which walked positions a tile visits

// Asks `region` (a functor: held and walked bounds -> possible, certain) about rows [low, high) by
// bisection into aligned powers of two, and reports from high to low whole(first, last) and
// strip(first, last) with at most STRIP rows. (From high to low, since the largest exponents of a row
// tend to be those nearby: then the reference is right from the start.) UPWARD: from low to high.
template <bool UPWARD = false, class Region, class Whole, class Strip>
void bisect(const Region& region, int64_t low, int64_t high, const Whole& whole, const Strip& strip) {
    int64_t size = STRIP, root = low / STRIP * STRIP;
    while (root + size < high) {  // the least aligned range that holds them all
        size *= 2;
        root = low / size * size;
    }
    struct Node {
        int64_t first, size;
    } stack[96];
    int depth = 0;
    int64_t from = -1, to = -1;  // a whole range not yet reported
    stack[depth++] = {root, size};
    while (depth) {
        const Node node = stack[--depth];
        const int64_t a = node.first > low ? node.first : low;
        const int64_t b = node.first + node.size < high ? node.first + node.size : high;
        if (a >= b || !region.possible(a, b - 1)) continue;
        if (region.certain(a, b - 1)) {
            if (UPWARD ? to == a : from == b) {
                (UPWARD ? to : from) = UPWARD ? b : a;
                continue;
            }
            if (to > from) whole(from, to);
            from = a;
            to = b;
            continue;
        }
        if (node.size > STRIP) {
            const int64_t half = node.size / 2;
            stack[depth++] = {node.first + (UPWARD ? half : 0), half};
            stack[depth++] = {node.first + (UPWARD ? 0 : half), half};
            continue;
        }
        if (to > from) whole(from, to);
        from = to = -1;
        strip(a, b);
    }
    if (to > from) whole(from, to);
}

template <class Grid, class... Loops>
int64_t positions_walked(Sequence<Loops...>, const Grid& grid) {
    return (int64_t(0) + ... + Loops::length(grid));
}

// ---- bounds of data over blocks of rows, before a call begins

template <class K>
struct Summaries {
    using Grid = typename K::Grid;

    static void make_summaries(const Call& call, typename K::Shared& shared, Arena& arena, bool count_only) {
        const int64_t grids = K::grid_count(call);
        if (!grids) return;
        Grid probe;
        K::enter(call, 0, probe);
        for_each<K::SUMMARIES>([&](auto place) {
            constexpr int s = decltype(place)::value;
            const auto rule = K::template summary_rule<s>();
            using Value = typename std::remove_const_t<decltype(rule)>::Value;
            auto& made = K::template summary<s>(shared);
            made.rows = rule.rows(probe);
            made.leaves = attnc::Summary<Value>::leaves_of(made.rows);
            made.low = arena.template take<Value>(rule.slots(probe) * 2 * made.leaves);
            made.high = arena.template take<Value>(rule.slots(probe) * 2 * made.leaves);
            if (count_only) return;
            parallel_tasks(call.threads, grids, [&](int64_t, int64_t number) {
                Grid grid;
                for (int64_t turn = 0; turn < rule.turns(probe); turn++) {
                    K::enter(call, number, grid, turn);
                    if (rule.owner(grid)) summarize(rule, grid, made);
                }
            });
        });
    }
    template <class Rule, class Made>
    static void summarize(const Rule& rule, const Grid& grid, const Made& made) {
        using Value = typename Rule::Value;
        constexpr Value most = std::numeric_limits<Value>::max(), least = std::numeric_limits<Value>::lowest();
        for (int64_t block = 0; block < made.leaves; block++) {
            Value low = most, high = least;
            for (int64_t row = block * STRIP; row < made.rows && row < (block + 1) * STRIP; row++) {
                const Value x = rule.value(grid, row);
                if (x != x) low = least, high = most;  // NaN: nothing is known
                low = x < low ? x : low;
                high = x > high ? x : high;
            }
            made.fill(rule.slot(grid), block, low, high);
        }
        made.grow(rule.slot(grid));
    }
};

}  // namespace attnc
