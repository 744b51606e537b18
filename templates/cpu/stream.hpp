// The stream kernel: a held tile of TILE positions stays, carried loops walk other positions in
// blocks, and what is carried stands transposed, [width][TILE]. All algebra comes from the printed
// class K (see templates/README.md): values, exponent, lifted terms, regions, finish.
//
// The reference of a row moves only when an exponent exceeds it by more than SLACK: a block is
// lifted against the reference it finds, its largest exponent is taken on the way, and in the rare
// case that it was too large the block is done again after the move. Once that has happened, the
// largest exponent is looked for beforehand, until a block does not move the reference.
#pragma once
#include "carried.hpp"

namespace attnc {

template <class K>
struct Stream : Carried<K>, Summaries<K> {
    using Base = Carried<K>;
    using Grid = typename K::Grid;
    using Desk = typename Base::Desk;
    using Run = typename Base::Run;
    using Base::STATISTICS, Base::begin_block, Base::exceeded, Base::finish, Base::finite;
    using Base::join_statistics, Base::lay_out, Base::move_reference, Base::desk_bytes;
    using Summaries<K>::make_summaries;

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
                products_in_parts(run.v0, run.v1, {walked, by_row, sizeof(Unit)}, desk.query[p], units, desk.score[p] + run.at * TILE, run.count);
            }
        });
    }

    // Products of a vector of pairs, then what runs along the walk as they find it.
    template <class Loop>
    static ATTNC_INLINE void load_pair(const Desk& desk, int r, int lane, Real* product) {
        ATTNC_UNROLL for (int p = 0; p < Loop::PRODUCTS; p++)
            product[p] = load(desk.score[p] + r * TILE + lane);
        ATTNC_UNROLL for (int n = 0; n < Loop::RUNNING; n++)
            product[Loop::PRODUCTS + n] = load(desk.along[n] + r * TILE + lane);
    }

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
                load_pair<Loop>(desk, r, lane, product);
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
                load_pair<Loop>(desk, r, lane, product);
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
            visit<Loop>(grid, desk, first, rows, [&] {
                if (!desk.run_count) return;
                fill_walked<Loop>(grid, desk);
                multiply<Loop>(grid, desk);
                run_all<Loop, true>(grid, desk);
                desk.run_count = desk.used = 0;
            });
            for_each<Loop::RUNNING>([&](auto place) {
                if constexpr (!Loop::ahead[decltype(place)::value]) begin(place);
            });
        }
    }

    template <class Loop, bool MASKED>
    static void find_peak(const Grid& grid, Desk& desk, const Run& run) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int v = run.v0; v < run.v1; v++) {
            Real peak = load(desk.peak + v * LANES);
            for (int r = run.at; r < run.at + run.count; r++) {
                Real product[Loop::PRODUCTS + Loop::RUNNING + 1];
                load_pair<Loop>(desk, r, v * LANES, product);
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
                Real product[Loop::PRODUCTS + Loop::RUNNING + 1];
                load_pair<Loop>(desk, r, lane, product);
                Loop::template lift<MASKED>(grid, *desk.held, walked, HeldLanes{lane, r}, reference, product, peak, weight, sums);
            };
            const int end = run.at + run.count;
            if constexpr (PAIRS) {
                int r = run.at;
                for (; r < end; r += 2) {
                    Real a[Loop::LAYERS + 1], b[Loop::LAYERS + 1];
                    one(r, a);
                    if (r + 1 < end) one(r + 1, b);
                    else ATTNC_UNROLL for (int t = 0; t < Loop::LAYERS; t++) b[t] = Real(0);
                    ATTNC_UNROLL for (int t = 0; t < Loop::LAYERS; t++)
                        store(desk.score[t] + r / 2 * TILE + lane, paired(a[t], b[t]));
                }
            } else {
                for (int r = run.at; r < end; r++) {
                    Real weight[Loop::LAYERS + 1];
                    one(r, weight);
                    ATTNC_UNROLL for (int t = 0; t < Loop::LAYERS; t++)
                        store(desk.score[t] + r * TILE + lane, weight[t]);
                }
            }
            store(desk.peak + lane, peak);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) store(desk.partial[s] + lane, sums[s]);
        }
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

    // Whether the reference of a row may have to move before the block is lifted.
    static bool unsettled(const Desk& desk) {
        bool unset = desk.moving;
        for (int l = 0; l < desk.vectors * LANES; l++) unset |= desk.limit[l] == -INFINITE;
        return unset;
    }
    // Looks for the largest exponents of the block, and moves the reference where they ask for it.
    template <class Loop>
    static void look_ahead(const Grid& grid, Desk& desk) {
        begin_block(desk);
        for (int k = 0; k < desk.run_count; k++) {
            if (desk.runs[k].masked) find_peak<Loop, true>(grid, desk, desk.runs[k]);
            else find_peak<Loop, false>(grid, desk, desk.runs[k]);
        }
        desk.moving = exceeded(desk);
        if (desk.moving) move_reference(desk);
    }

    template <class Loop>
    static __attribute__((noinline)) void flush(const Grid& grid, Desk& desk) {
        if (!desk.run_count) return;
        fill_walked<Loop>(grid, desk);
        for (bool again = false;; again = true) {
            multiply<Loop>(grid, desk);
            if constexpr (Loop::RUNNING > 0)
                if (!again) run_all<Loop>(grid, desk);
            if constexpr (Loop::EXPONENT)
                if (!again && unsettled(desk)) look_ahead<Loop>(grid, desk);
            lift_runs<Loop>(grid, desk);
            if (!Loop::EXPONENT || again || __builtin_expect(!exceeded(desk), 1)) break;
            desk.moving = true;
            move_reference(desk);
        }
        if constexpr (Loop::EXPONENT)
            for (int v = 0; v < desk.vectors; v++)
                store(desk.top + v * LANES, raise(load(desk.top + v * LANES), load(desk.peak + v * LANES)));
        join_statistics(desk);
        accumulate<Loop>(grid, desk);
        desk.run_count = desk.used = 0;
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
                if (TILED && depth >= TILE_ROWS) {  // columns become rows, which tile registers take
                    constexpr int long_row = BLOCK / FOLD;
                    Unit* turned = (Unit*)desk.staged + long_row * width;
                    transpose((const Unit*)desk.staged, width, turned, long_row, depth, width);
                    products_between(true, run.v0, run.v1, {(const char*)turned, long_row * sizeof(Unit), sizeof(Unit)}, weights + run.at / FOLD * TILE, depth, desk.tile[Loop::target[t]], width);
                    continue;
                }
                if (PAIRS || !std::is_same_v<T, Acc> || rows.step != 1) {
                    walked = (const char*)desk.staged;
                    step = width * int64_t(sizeof(Unit));
                }
                products_between(true, run.v0, run.v1, {walked, sizeof(Unit), step}, weights + run.at / FOLD * TILE, depth, desk.tile[Loop::target[t]], width);
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
            for (int c = 0; c < width; c++)
                for (int from = 0; from < run.count; from += CHAIN) {  // parts as in any product
                    Acc sum = 0;
                    for (int r = from; r < run.count && r < from + CHAIN; r++) {
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
    // Adds rows [first, last) to the block, from the last (upwards: from the first), and flushes it
    // whenever it is full.
    template <bool UPWARD, class Flush>
    static void add(Desk& desk, int64_t first, int64_t last, int v0, int v1, bool masked, const Flush& flush) {
        while (first < last) {
            const int room = BLOCK - desk.used;
            const int now = last - first < room ? int(last - first) : room;
            if (!UPWARD) last -= now;
            desk.runs[desk.run_count++] = {UPWARD ? first : last, now, desk.used, v0, v1, masked};
            if (UPWARD) first += now;
            desk.used = int(round_up(desk.used + now, 2));  // pairs begin at even rows
            if (desk.used >= BLOCK) flush();
        }
    }

    template <class Loop>
    struct Ask {
        const Grid& grid;
        int64_t low, high, start;  // held bounds; position of walked row 0
        bool possible(int64_t a, int64_t b) const { return Loop::possible(grid, Bound::within(low), Bound::within(high), Bound::within(start + a), Bound::within(start + b)); }
        bool certain(int64_t a, int64_t b) const { return Loop::certain(grid, Bound::within(low), Bound::within(high), Bound::within(start + a), Bound::within(start + b)); }
    };

    // Every walked row that the held rows first .. first + rows meet, in blocks.
    template <class Loop, class Flush>
    static void visit(const Grid& grid, Desk& desk, int64_t first, int rows, const Flush& flush) {
        const int64_t count = Loop::count(grid);
        if constexpr (!Loop::MASK) {
            add<Loop::UPWARD>(desk, 0, count, 0, desk.vectors, false, flush);
        } else {
            const int64_t held = K::start(grid) + first, start = Loop::start(grid);
            const Ask<Loop> all{grid, held, held + rows - 1, start};
            bisect<Loop::UPWARD>(all, 0, count,
                [&](int64_t a, int64_t b) { add<Loop::UPWARD>(desk, a, b, 0, desk.vectors, false, flush); },
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
                    if (v0 < v1) add<Loop::UPWARD>(desk, a, b, v0, v1, !part(v0, v1).certain(a, b - 1), flush);
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
        begin_running<Loop>(grid, desk, first, rows);
        visit<Loop>(grid, desk, first, rows, [&] { flush<Loop>(grid, desk); });
    }

    template <class... Loops>
    static void walk_all(Sequence<Loops...>, const Grid& grid, Desk& desk, int64_t first, int rows) {
        (walk<Loops>(grid, desk, first, rows), ...);
    }

    static bool idle(const Desk& desk, int rows) {
        for (int l = 0; l < rows; l++)
            if (!K::idle(*desk.held, l)) return false;
        return true;
    }

    // Whether the tile was walked: where all its rows are idle, it stays as it is.
    static __attribute__((noinline)) bool tile(const Grid& grid, Desk& desk, int64_t first, int rows) {
        const TileSession session;
        desk.vectors = (rows + LANES - 1) / LANES;
        for (int l = 0; l < TILE; l++)  // spare lanes repeat the last row
            K::fill(grid, *desk.held, l, first + (l < rows ? l : rows - 1));
        if (K::IDLES && idle(desk, rows)) return false;
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
        return true;
    }

    // ---- one call

    // What a call needs of the workspace.
    static int64_t bytes(const Call& call) {
        Arena arena{nullptr};
        typename K::Shared shared;
        make_summaries(call, shared, arena, true);
        return arena.used + 64 + call.threads * desk_bytes();
    }
    // Whether any tile was walked.
    static bool run(const Call& call, char* scratch) {
        const int64_t grids = K::grid_count(call);
        if (!grids) return false;
        int walked = 0;
        Arena common{scratch};
        typename K::Shared shared;
        make_summaries(call, shared, common, false);
        char* desks = scratch + round_up(common.used, 64);
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t rows = K::count(probe), tiles = (rows + TILE - 1) / TILE, size = desk_bytes();
        parallel_tasks(Base::threads_worth(call, probe), grids * tiles, [&](int64_t worker, int64_t task) {
            Arena arena{desks + worker * size};
            Desk desk = lay_out(arena);
            Grid grid;
            K::enter(call, task / tiles, grid);
            grid.shared = &shared;
            const int64_t first = (tiles - 1 - task % tiles) * TILE;  // long causal rows first
            if (tile(grid, desk, first, int(rows - first < TILE ? rows - first : TILE)))
                __atomic_store_n(&walked, 1, __ATOMIC_RELAXED);
        });
        return walked;
    }
};

}  // namespace attnc
