// The stream kernel: a held tile of TILE positions stays, carried loops walk other positions in
// blocks, and what is carried stands transposed, [width][TILE]. All algebra comes from the printed
// class K (see templates/README.md): values, exponent, lifted terms, regions, finish.
//
// The reference of a row moves only when an exponent exceeds it by more than SLACK: a block is
// lifted against the reference it finds, its largest exponent is taken on the way, and in the rare
// case that it was too large the block is done again after the move. Once that has happened, the
// largest exponent is looked for beforehand, until a block does not move the reference.
#pragma once
#include "products.hpp"
#include "reads.hpp"

namespace attnc {

constexpr Acc SLACK = 8;

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
// tend to be those nearby: then the reference is right from the start.)
template <class Region, class Whole, class Strip>
void bisect(const Region& region, int64_t low, int64_t high, const Whole& whole, const Strip& strip) {
    int64_t size = STRIP;
    while (size < high) size *= 2;
    struct Node {
        int64_t first, size;
    } stack[96];
    int depth = 0;
    int64_t from = -1, to = -1;  // a whole range not yet reported
    stack[depth++] = {0, size};
    while (depth) {
        const Node node = stack[--depth];
        const int64_t a = node.first > low ? node.first : low;
        const int64_t b = node.first + node.size < high ? node.first + node.size : high;
        if (a >= b || !region.possible(a, b - 1)) continue;
        if (region.certain(a, b - 1)) {
            if (from == b) {
                from = a;
                continue;
            }
            if (to > from) whole(from, to);
            from = a;
            to = b;
            continue;
        }
        if (node.size > STRIP) {
            stack[depth++] = {node.first, node.size / 2};
            stack[depth++] = {node.first + node.size / 2, node.size / 2};
            continue;
        }
        if (to > from) whole(from, to);
        from = to = -1;
        strip(a, b);
    }
    if (to > from) whole(from, to);
}

template <class K>
struct Stream {
    using Grid = typename K::Grid;
    using Held = typename K::template Held<TILE>;
    static constexpr int STATISTICS = K::STATISTICS > 0 ? K::STATISTICS : 1;
    static constexpr int TILES = K::TILES > 0 ? K::TILES : 1;

    struct Run {  // walked rows first .. first + count, lanes of vectors v0 .. v1, block rows from at
        int64_t first;
        int count, at, v0, v1;
        bool masked;
    };

    // What one worker keeps while it does a tile.
    struct Desk {
        Held* held;
        typename K::Finish* finish;
        Acc* reference;  // in base 2
        Acc* limit;      // exponents above it move the reference; -inf: there is none yet
        Acc* top;        // largest exponent so far
        Acc* peak;       // of the block
        Acc* factor;
        Acc* statistic[STATISTICS];
        Acc* partial[STATISTICS];  // of the block
        Acc* tile[TILES];
        Acc* query[K::PRODUCTS_MOST];  // held operands, transposed
        Acc* score[K::LAYERS_MOST];    // products, then weights in their place
        Acc* staged;                   // an operand of a block
        Acc* line;                     // rows on their way in and out
        void* walked;
        Run runs[BLOCK / 2 + 2];
        int run_count, used, vectors;
        bool fresh;   // nothing in the tiles yet
        bool careful; // leave out masked pairs one by one: an operand is not finite
        bool moving;  // the last block moved the reference: look for the next peak beforehand
    };

    static constexpr int widest() {
        int most = 1;
        for (int w : K::widths) most = w > most ? w : most;
        return most;
    }
    static Desk lay_out(Arena& arena) {
        Desk desk;
        desk.held = arena.template take<Held>(1);
        desk.finish = arena.template take<typename K::Finish>(1);
        for (Acc** row : {&desk.reference, &desk.limit, &desk.top, &desk.peak, &desk.factor})
            *row = arena.template take<Acc>(TILE);
        for (int s = 0; s < K::STATISTICS; s++) {
            desk.statistic[s] = arena.template take<Acc>(TILE);
            desk.partial[s] = arena.template take<Acc>(TILE);
        }
        for (int t = 0; t < K::TILES; t++)
            desk.tile[t] = arena.template take<Acc>(int64_t(K::tile_width[t]) * TILE);
        for (int p = 0; p < K::PRODUCTS_MOST; p++)
            desk.query[p] = arena.template take<Acc>(int64_t(widest() + 1) * TILE);
        for (int p = 0; p < K::LAYERS_MOST; p++)
            desk.score[p] = arena.template take<Acc>(int64_t(BLOCK) * TILE);
        desk.staged = arena.template take<Acc>(int64_t(BLOCK) * (widest() + 1));
        desk.line = arena.template take<Acc>(int64_t(TILE) * (round_up(widest(), LANES) + LANES));
        desk.walked = arena.template take<typename K::WalkedMost>(1);
        return desk;
    }

    // ---- the held side

    template <class R>
    static void pack_held(const R& rows, int64_t first, int count, int width, Acc* to, Acc* line) {
        const int units = (width + FOLD - 1) / FOLD, stride = units;
        if (count < TILE) std::memset(to, 0, sizeof(Acc) * size_t(units) * TILE);
        for (int r = 0; r < count; r++) {
            if constexpr (PAIRS) stage_pairs(rows.row(first + r), rows.step, width, (uint32_t*)line + r * stride);
            else stage_row(rows.row(first + r), rows.step, width, line + r * stride);
        }
        transpose((const Unit*)line, stride, (Unit*)to, TILE, count, units);
    }

    // ---- one block

    template <class Loop>
    static void multiply(const Grid& grid, Desk& desk) {
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            if constexpr (!Loop::product_wanted[p]) return;
            constexpr int width = Loop::depth[p], units = (width + FOLD - 1) / FOLD;
            const auto rows = Loop::template right<p>(grid);
            using T = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
            constexpr bool native = std::is_same_v<T, std::conditional_t<PAIRS, bf16, Acc>>;
            const bool direct = native && rows.step == 1 && width % FOLD == 0;
            for (int k = 0; k < desk.run_count; k++) {
                const Run& run = desk.runs[k];
                const char* walked = (const char*)rows.row(run.first);
                int64_t by_row = rows.stride * int64_t(sizeof(T));
                if (!direct) {
                    for (int r = 0; r < run.count; r++) {
                        if constexpr (PAIRS) stage_pairs(rows.row(run.first + r), rows.step, width, (uint32_t*)desk.staged + r * units);
                        else stage_row(rows.row(run.first + r), rows.step, width, desk.staged + r * units);
                    }
                    walked = (const char*)desk.staged;
                    by_row = int64_t(units) * sizeof(Unit);
                }
                products_in_parts<units, 0, int(sizeof(Unit))>(run.v0, run.v1, walked, by_row, desk.query[p], desk.score[p] + run.at * TILE, run.count);
            }
        });
    }

    template <class Loop, bool MASKED>
    static void find_peak(const Grid& grid, Desk& desk, const Run& run) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int v = run.v0; v < run.v1; v++) {
            Real peak = load(desk.peak + v * LANES);
            for (int r = run.at; r < run.at + run.count; r++) {
                Real product[Loop::PRODUCTS + 1];
                ATTNC_UNROLL for (int p = 0; p < Loop::PRODUCTS; p++)
                    product[p] = load(desk.score[p] + r * TILE + v * LANES);
                peak = raise(peak, Loop::template exponent<MASKED>(grid, *desk.held, walked, HeldLanes{v * LANES, r}, product));
            }
            store(desk.peak + v * LANES, peak);
        }
    }

    template <class Loop, bool MASKED>
    static void lift(const Grid& grid, Desk& desk, const Run& run) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int v = run.v0; v < run.v1; v++) {
            const int lane = v * LANES;
            Real peak = load(desk.peak + lane), sums[STATISTICS];
            const Real reference = load(desk.reference + lane);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) sums[s] = load(desk.partial[s] + lane);
            const auto one = [&](int r, Real* weight) __attribute__((always_inline)) {
                Real product[Loop::PRODUCTS + 1];
                ATTNC_UNROLL for (int p = 0; p < Loop::PRODUCTS; p++)
                    product[p] = load(desk.score[p] + r * TILE + lane);
                Loop::template lift<MASKED>(grid, *desk.held, walked, HeldLanes{lane, r}, reference, product, peak, weight, sums);
            };
            const int end = run.at + run.count;
            if constexpr (PAIRS) {
                int r = run.at;
                for (; r < end; r += 2) {
                    Real a[Loop::TERMS + 1], b[Loop::TERMS + 1];
                    one(r, a);
                    if (r + 1 < end) one(r + 1, b);
                    else ATTNC_UNROLL for (int t = 0; t < Loop::TERMS; t++) b[t] = Real(0);
                    ATTNC_UNROLL for (int t = 0; t < Loop::TERMS; t++)
                        store(desk.score[t] + r / 2 * TILE + lane, paired(a[t], b[t]));
                }
            } else {
                for (int r = run.at; r < end; r++) {
                    Real weight[Loop::TERMS + 1];
                    one(r, weight);
                    ATTNC_UNROLL for (int t = 0; t < Loop::TERMS; t++)
                        store(desk.score[t] + r * TILE + lane, weight[t]);
                }
            }
            store(desk.peak + lane, peak);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) store(desk.partial[s] + lane, sums[s]);
        }
    }

    // Multiplies by exp2(old - new reference) what is kept relative to it.
    static void rescale(Desk& desk) {
        for (int s = 0; s < K::STATISTICS; s++)
            if (K::statistic_rescaled[s])
                for (int v = 0; v < desk.vectors; v++) {
                    Acc* at = desk.statistic[s] + v * LANES;
                    store(at, load(at) * load(desk.factor + v * LANES));
                }
        if (desk.fresh) return;
        for (int t = 0; t < K::TILES; t++) {
            if (!K::tile_rescaled[t]) continue;
            for (int v = 0; v < desk.vectors; v++) {
                const Real factor = load(desk.factor + v * LANES);
                for (int c = 0; c < K::tile_width[t]; c++) {
                    Acc* at = desk.tile[t] + c * TILE + v * LANES;
                    store(at, load(at) * factor);
                }
            }
        }
    }
    static bool exceeded(const Desk& desk) {
        Truth any(false);
        for (int v = 0; v < desk.vectors; v++)
            any = any | (load(desk.peak + v * LANES) > load(desk.limit + v * LANES));
        return any.any();
    }
    static void move_reference(Desk& desk) {
        for (int v = 0; v < desk.vectors; v++) {
            const int lane = v * LANES;
            const Real peak = load(desk.peak + lane), limit = load(desk.limit + lane);
            const Real old = load(desk.reference + lane);
            const Truth moves = peak > limit, first = limit == Real(-INFINITE);
            const Real next = select(moves, peak, old);
            store(desk.factor + lane, select(moves & !first, exp2(old - next), Real(1)));
            store(desk.reference + lane, next);
            store(desk.limit + lane, select(moves, next + Real(SLACK), limit));
        }
        rescale(desk);
    }

    static void begin_block(Desk& desk) {
        for (int l = 0; l < TILE; l++) desk.peak[l] = -INFINITE;
        for (int s = 0; s < K::STATISTICS; s++)
            for (int l = 0; l < TILE; l++) desk.partial[s][l] = K::statistic_unit[s];
    }
    template <class Loop>
    static void lift_runs(const Grid& grid, Desk& desk) {
        begin_block(desk);
        for (int k = 0; k < desk.run_count; k++) {
            if (desk.runs[k].masked) lift<Loop, true>(grid, desk, desk.runs[k]);
            else lift<Loop, false>(grid, desk, desk.runs[k]);
        }
    }

    template <class Loop>
    static void fill_walked(const Grid& grid, Desk& desk) {
        auto& walked = *(typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int k = 0; k < desk.run_count; k++)
            for (int r = 0; r < desk.runs[k].count; r++)
                Loop::fill(grid, walked, desk.runs[k].at + r, desk.runs[k].first + r);
    }

    template <class Loop>
    static __attribute__((noinline)) void flush(const Grid& grid, Desk& desk) {
        if (!desk.run_count) return;
        fill_walked<Loop>(grid, desk);
        multiply<Loop>(grid, desk);
        if constexpr (Loop::EXPONENT) {
            bool unset = desk.moving;
            for (int l = 0; l < desk.vectors * LANES; l++) unset |= desk.limit[l] == -INFINITE;
            if (unset) {
                begin_block(desk);
                for (int k = 0; k < desk.run_count; k++) {
                    if (desk.runs[k].masked) find_peak<Loop, true>(grid, desk, desk.runs[k]);
                    else find_peak<Loop, false>(grid, desk, desk.runs[k]);
                }
                desk.moving = exceeded(desk);
                if (desk.moving) move_reference(desk);
            }
        }
        lift_runs<Loop>(grid, desk);
        if constexpr (Loop::EXPONENT) {
            if (__builtin_expect(exceeded(desk), 0)) {
                desk.moving = true;
                move_reference(desk);
                multiply<Loop>(grid, desk);
                lift_runs<Loop>(grid, desk);
            }
            for (int v = 0; v < desk.vectors; v++)
                store(desk.top + v * LANES, raise(load(desk.top + v * LANES), load(desk.peak + v * LANES)));
        }
        join_statistics(desk);
        accumulate<Loop>(grid, desk);
        desk.run_count = desk.used = 0;
    }
    static void join_statistics(Desk& desk) {  // with those of the block
        for (int s = 0; s < K::STATISTICS; s++)
            for (int v = 0; v < desk.vectors; v++) {
                Acc* at = desk.statistic[s] + v * LANES;
                store(at, K::combine(s, load(at), load(desk.partial[s] + v * LANES)));
            }
    }

    template <class Loop>
    static void accumulate(const Grid& grid, Desk& desk) {
        if (desk.fresh)
            for (int t = 0; t < K::TILES; t++)
                std::memset(desk.tile[t], 0, sizeof(Acc) * size_t(K::tile_width[t]) * TILE);
        desk.fresh = false;
        for_each<Loop::TERMS>([&](auto place) {
            constexpr int t = decltype(place)::value;
            if constexpr (!Loop::term_wanted[t]) return;
            constexpr int width = K::tile_width[Loop::target[t]];
            const Acc* weights = desk.score[Loop::layer[t]];
            if constexpr (Loop::pairwise[t]) {
                for (int k = 0; k < desk.run_count; k++)
                    for (int v = desk.runs[k].v0; v < desk.runs[k].v1; v++)
                        add_vectors<Loop, t>(grid, desk, desk.runs[k], v * LANES, width, weights, desk.tile[Loop::target[t]]);
                return;
            } else {
            const auto rows = Loop::template operand<t>(grid);
            using T = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
            for (int k = 0; k < desk.run_count; k++) {
                const Run& run = desk.runs[k];
                if (__builtin_expect(desk.careful, 0)) {
                    add_seen(rows, run, width, weights, desk.tile[Loop::target[t]]);
                    continue;
                }
                const char* walked = (const char*)rows.row(run.first);
                int64_t step = rows.stride * int64_t(sizeof(T));
                const int depth = (run.count + FOLD - 1) / FOLD;
                if constexpr (PAIRS) {
                    for (int r = 0; r < run.count; r += 2)
                        interleave_rows(rows.row(run.first + r), r + 1 < run.count ? rows.row(run.first + r + 1) : nullptr, rows.step, width, (uint32_t*)desk.staged + r / 2 * width);
                } else if (!std::is_same_v<T, Acc> || rows.step != 1) {
                    for (int r = 0; r < run.count; r++)
                        stage_row(rows.row(run.first + r), rows.step, width, desk.staged + r * width);
                }
                if (PAIRS || !std::is_same_v<T, Acc> || rows.step != 1) {
                    walked = (const char*)desk.staged;
                    step = width * int64_t(sizeof(Unit));
                }
                products_between<true, int(sizeof(Unit)), 0>(run.v0, run.v1, walked, 0, step, weights + run.at / FOLD * TILE, depth, desk.tile[Loop::target[t]], width);
            }
            }
        });
    }

    // A vector of each pair times its weight, into the tile; what is masked (weight -0) is left out.
    template <class Loop, int T>
    static __attribute__((noinline)) void add_vectors(const Grid& grid, const Desk& desk, const Run& run, int lane, int width, const Acc* weights, Acc* tile) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int r = run.at; r < run.at + run.count; r++) {
            Real weight = load(weights + r / FOLD * TILE + lane);
            if constexpr (PAIRS)
                for (int l = 0; l < LANES; l++) {
                    const uint32_t pair = float_to_bits(float(weight.v[l]));
                    weight.v[l] = bits_to_float(r & 1 ? pair & 0xffff0000 : pair << 16);
                }
            const Truth seen = is_weight(weight);
            if (!seen.any()) continue;
            for (int c = 0; c < width; c++) {
                Acc* at = tile + c * TILE + lane;
                const Real entry = Loop::template vector<T>(grid, *desk.held, walked, HeldLanes{lane, r}, int64_t(c));
                store(at, fused(select(seen, weight, Real(0)), select(seen, entry, Real(0)), load(at)));
            }
        }
    }

    // The product of weights and an operand without the pairs that are masked (weight -0), so that
    // 0 * inf and 0 * NaN do not arise. Slow, and only for tiles that are not finite otherwise.
    template <class R>
    static __attribute__((noinline)) void add_seen(const R& rows, const Run& run, int width, const Acc* weights, Acc* tile) {
        for (int l = run.v0 * LANES; l < run.v1 * LANES; l++)
            for (int c = 0; c < width; c++) {
                Acc sum = 0;
                for (int r = 0; r < run.count; r++) {
                    Acc weight;
                    if constexpr (PAIRS) {
                        const uint32_t pair = float_to_bits(weights[(run.at + r) / 2 * TILE + l]);
                        weight = bits_to_float(r & 1 ? pair & 0xffff0000 : pair << 16);
                    } else {
                        weight = weights[(run.at + r) * TILE + l];
                    }
                    if (weight == 0 && std::signbit(weight)) continue;
                    sum = fused(weight, Acc(widen(rows.row(run.first + r)[c * rows.step])), sum);
                }
                tile[c * TILE + l] += sum;
            }
    }
    static bool finite(const Desk& desk) {
        Real sum(Acc(0));
        if (!desk.fresh)
            for (int t = 0; t < K::TILES; t++)
                for (int c = 0; c < K::tile_width[t]; c++)
                    for (int v = 0; v < desk.vectors; v++) sum = fused(load(desk.tile[t] + c * TILE + v * LANES), Real(0), sum);
        return !(sum != sum).any();
    }

    // Adds rows [first, last) to the block, from the last, and flushes it whenever it is full.
    template <class Flush>
    static void add(Desk& desk, int64_t first, int64_t last, int v0, int v1, bool masked, const Flush& flush) {
        while (first < last) {
            const int room = BLOCK - desk.used;
            const int now = last - first < room ? int(last - first) : room;
            last -= now;
            desk.runs[desk.run_count++] = {last, now, desk.used, v0, v1, masked};
            desk.used = int(round_up(desk.used + now, 2));  // pairs begin at even rows
            if (desk.used >= BLOCK) flush();
        }
    }

    template <class Loop>
    struct Ask {
        const Grid& grid;
        int64_t low, high, start;  // held bounds; position of walked row 0
        bool possible(int64_t a, int64_t b) const { return Loop::possible(grid, low, high, start + a, start + b); }
        bool certain(int64_t a, int64_t b) const { return Loop::certain(grid, low, high, start + a, start + b); }
    };

    // Every walked row that the held rows first .. first + rows meet, in blocks.
    template <class Loop, class Flush>
    static void visit(const Grid& grid, Desk& desk, int64_t first, int rows, const Flush& flush) {
        const int64_t count = Loop::count(grid);
        if constexpr (!Loop::MASK) {
            add(desk, 0, count, 0, desk.vectors, false, flush);
        } else {
            const int64_t held = K::start(grid) + first, start = Loop::start(grid);
            const Ask<Loop> all{grid, held, held + rows - 1, start};
            bisect(all, 0, count,
                [&](int64_t a, int64_t b) { add(desk, a, b, 0, desk.vectors, false, flush); },
                [&](int64_t a, int64_t b) {
                    int v0 = desk.vectors, v1 = 0;
                    const auto part = [&](int from, int to) {
                        const int64_t end = to * LANES < rows ? to * LANES : rows;
                        return Ask<Loop>{grid, held + from * LANES, held + end - 1, start};
                    };
                    for (int v = 0; v < desk.vectors; v++)
                        if (part(v, v + 1).possible(a, b - 1)) {
                            v0 = v < v0 ? v : v0;
                            v1 = v + 1;
                        }
                    if (v0 < v1) add(desk, a, b, v0, v1, !part(v0, v1).certain(a, b - 1), flush);
                });
        }
        flush();
    }
    template <class Loop>
    static void walk(const Grid& grid, Desk& desk, int64_t first, int rows) {
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            if constexpr (!Loop::product_wanted[p]) return;
            pack_held(Loop::template left<p>(grid), first, rows, Loop::depth[p], desk.query[p], desk.line);
        });
        visit<Loop>(grid, desk, first, rows, [&] { flush<Loop>(grid, desk); });
    }

    // ---- the end of a tile

    static void settle(Desk& desk) {  // the reference becomes the largest exponent itself
        for (int v = 0; v < desk.vectors; v++) {
            const int lane = v * LANES;
            const Real limit = load(desk.limit + lane), old = load(desk.reference + lane), top = load(desk.top + lane);
            const Truth met = limit > Real(-INFINITE);
            store(desk.factor + lane, select(met & (top != old), exp2(old - top), Real(1)));
            store(desk.reference + lane, top);
        }
        rescale(desk);
    }

    static void finish(const Grid& grid, Desk& desk, int64_t first, int rows) {
        if (desk.fresh) {
            for (int t = 0; t < K::TILES; t++)
                std::memset(desk.tile[t], 0, sizeof(Acc) * size_t(K::tile_width[t]) * TILE);
            desk.fresh = false;
        }
        if constexpr (K::REFERENCE) settle(desk);
        for (int v = 0; v < desk.vectors; v++) {
            const HeldLanes at{v * LANES, 0};
            Real statistic[STATISTICS];
            for (int s = 0; s < K::STATISTICS; s++) statistic[s] = load(desk.statistic[s] + v * LANES);
            K::end(grid, *desk.held, at, load(desk.reference + v * LANES), statistic, desk.tile, *desk.finish);
        }
        for_each<K::STORES>([&](auto place) {
            constexpr int s = decltype(place)::value;
            constexpr int width = K::store_width[s];
            const auto out = K::template target<s>(grid);
            if (!out.data) return;  // not asked for
            for (int c0 = 0; c0 < width; c0 += LANES) {
                const int wide = width - c0 < LANES ? width - c0 : LANES;
                Acc* lines = desk.line;
                for (int c = 0; c < wide; c++)
                    for (int v = 0; v < desk.vectors; v++) {
                        Real tile[TILES];
                        ATTNC_UNROLL for (int t = 0; t < K::TILES; t++)
                            tile[t] = c0 + c < K::tile_width[t] ? load(desk.tile[t] + (c0 + c) * TILE + v * LANES) : Real(0);
                        store(lines + c * TILE + v * LANES, K::template store_at<s>(grid, *desk.held, *desk.finish, HeldLanes{v * LANES, 0}, tile, c0 + c));
                    }
                Acc* turned = desk.line + LANES * TILE;
                transpose(lines, TILE, turned, LANES, LANES, TILE);
                using T = std::remove_pointer_t<decltype(out.data)>;
                for (int r = 0; r < rows; r++) {
                    T* to = const_cast<std::remove_const_t<T>*>(out.row(first + r)) + c0 * out.step;
                    write_row(const_cast<std::remove_const_t<T>*>(to), out.step, turned + r * LANES, wide);
                }
            }
        });
    }
    template <class T>
    static ATTNC_INLINE void write_row(T* to, int64_t step, const Acc* from, int wide) {
        if (step == 1) return store_elements(to, load(from), wide);
        for (int c = 0; c < wide; c++) to[c * step] = narrow<T>(from[c]);
    }

    template <class... Loops>
    static void walk_all(Sequence<Loops...>, const Grid& grid, Desk& desk, int64_t first, int rows) {
        (walk<Loops>(grid, desk, first, rows), ...);
    }

    static __attribute__((noinline)) void tile(const Grid& grid, Desk& desk, int64_t first, int rows) {
        desk.vectors = (rows + LANES - 1) / LANES;
        for (int l = 0; l < TILE; l++)  // spare lanes repeat the last row
            K::fill(grid, *desk.held, l, first + (l < rows ? l : rows - 1));
        for (bool careful : {false, true}) {
            desk.careful = careful;
            desk.run_count = desk.used = 0;
            desk.fresh = true;
            desk.moving = false;
            for (int l = 0; l < TILE; l++) {
                desk.reference[l] = 0;
                desk.limit[l] = l < rows ? -INFINITE : INFINITE;
                desk.top[l] = -INFINITE;
                for (int s = 0; s < K::STATISTICS; s++) desk.statistic[s][l] = K::statistic_unit[s];
            }
            walk_all(typename K::Loops{}, grid, desk, first, rows);
            if (finite(desk)) break;
        }
        finish(grid, desk, first, rows);
    }

    static int64_t desk_bytes() {
        Arena arena{nullptr};
        lay_out(arena);
        return round_up(arena.used, 4096) + 64;
    }

    // ---- one call

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
                K::enter(call, number, grid);
                if (rule.owner(grid)) summarize(rule, grid, made);
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

    // What a call needs of the workspace.
    static int64_t bytes(const Call& call) {
        Arena arena{nullptr};
        typename K::Shared shared;
        make_summaries(call, shared, arena, true);
        return arena.used + 64 + call.threads * desk_bytes();
    }
    static void run(const Call& call, char* scratch) {
        const int64_t grids = K::grid_count(call);
        if (!grids) return;
        Arena common{scratch};
        typename K::Shared shared;
        make_summaries(call, shared, common, false);
        char* desks = scratch + round_up(common.used, 64);
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t rows = K::count(probe), tiles = (rows + TILE - 1) / TILE, size = desk_bytes();
        parallel_tasks(call.threads, grids * tiles, [&](int64_t worker, int64_t task) {
            Arena arena{desks + worker * size};
            Desk desk = lay_out(arena);
            Grid grid;
            K::enter(call, task / tiles, grid);
            grid.shared = &shared;
            const int64_t first = (tiles - 1 - task % tiles) * TILE;  // long causal rows first
            tile(grid, desk, first, int(rows - first < TILE ? rows - first : TILE));
        });
    }
};

}  // namespace attnc
