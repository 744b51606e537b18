// The stream kernel for few held rows (decoding): lanes lie along walked positions for scores, along
// the width for carried tiles, so that keys and values are read once, as they lie, at the speed of
// memory. The printed class is the same as for stream.hpp; a held position is now the scalar.
//
// Walked positions are cut into shares of fixed size, joined afterwards in order: the result does not
// depend on the number of threads. Grid instances that read the same keys (heads of a group) go
// through a block of keys together.
#pragma once
#include "stream.hpp"

namespace attnc {

constexpr int FEW = 4;       // held rows of an instance, at most
constexpr int SHARE = 1024;  // walked positions of a task

// Lane i: the sum over the lanes of a[i].
ATTNC_INLINE Real sums_of(Real* a) {
#if ATTNC_ISA >= 3
    if constexpr (SINGLE) {
        __m512 t[8], u[4];
        ATTNC_UNROLL for (int i = 0; i < 8; i++) {
            const __m512 x = (__m512)a[2 * i].v, y = (__m512)a[2 * i + 1].v;
            t[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
        }
        ATTNC_UNROLL for (int i = 0; i < 4; i++) {
            const __m512d x = _mm512_castps_pd(t[2 * i]), y = _mm512_castps_pd(t[2 * i + 1]);
            u[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
        }
        ATTNC_UNROLL for (int i = 0; i < 2; i++)
            t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0x88), _mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0xdd));
        return Real((AccVector)_mm512_add_ps(_mm512_shuffle_f32x4(t[0], t[1], 0x88), _mm512_shuffle_f32x4(t[0], t[1], 0xdd)), 0);
    }
#endif
    Real out;
    for (int i = 0; i < LANES; i++) {
        Acc sum = 0;
        for (int l = 0; l < LANES; l++) sum += a[i].v[l];
        out.v[i] = sum;
    }
    return out;
}

// out[k] = <row first + k, query> for k < count; query is filled with 0 to whole vectors.
template <int WIDTH, class T>
void dots(const Rows<T>& rows, int64_t first, int count, const Acc* query, Acc* out) {
    constexpr int WHOLE = WIDTH / LANES * LANES;
    for (int k = 0; k < count; k += LANES) {
        Real a[LANES];
        ATTNC_UNROLL for (int l = 0; l < LANES; l++) {
            const T* row = rows.row(first + (k + l < count ? k + l : count - 1));
            Real sum(Acc(0));
            for (int c = 0; c < WHOLE; c += LANES) sum = fused(load_elements(row + c), load(query + c), sum);
            if (WHOLE < WIDTH) sum = fused(load_elements(row + WHOLE, WIDTH - WHOLE), load(query + WHOLE), sum);
            a[l] = sum;
        }
        store(out + k, sums_of(a));
    }
}

// tile[c] += sum over k < count of weight[k] * row(first + k)[c]
template <int WIDTH, int FROM, class T>
void weigh(const Rows<T>& rows, int64_t first, int count, const Acc* weight, Acc* tile) {
    constexpr int MOST = 8, left = (WIDTH - FROM + LANES - 1) / LANES, N = left < MOST ? left : MOST;
    constexpr int REST = WIDTH - FROM < N * LANES ? (WIDTH - FROM) % LANES : 0;  // of the last vector
    Real sum[N];
    ATTNC_UNROLL for (int v = 0; v < N; v++) sum[v] = Real(Acc(0));
    for (int k = 0; k < count; k++) {
        const T* row = rows.row(first + k) + FROM;
        if (is_hidden(weight[k])) continue;  // masked: not even 0 * NaN
        const Real w(weight[k]);
        ATTNC_UNROLL for (int v = 0; v < N; v++)
            sum[v] = fused(w, v + 1 == N && REST ? load_elements(row + v * LANES, REST) : load_elements(row + v * LANES), sum[v]);
    }
    ATTNC_UNROLL for (int v = 0; v < N; v++) {
        Acc* at = tile + FROM + v * LANES;
        store(at, load(at) + sum[v]);
    }
    if constexpr (FROM + MOST * LANES < WIDTH) weigh<WIDTH, FROM + MOST * LANES>(rows, first, count, weight, tile);
}

// SLOTS: rows of all instances that go together.
template <class K, int SLOTS = 16>
struct Few {
    using Whole = Stream<K>;
    using Grid = typename K::Grid;
    using Held = typename K::template Held<SLOTS>;

    static constexpr int64_t padded(int width) { return (width + LANES - 1) / LANES * LANES; }
    static constexpr int64_t padded_widest() { return padded(Whole::widest()); }

    struct Desk {
        Held* held;
        Grid* grids;  // of each slot
        Acc *reference, *limit;
        Acc* top;                           // [SLOTS][LANES]
        Acc* statistic[Whole::STATISTICS];  // [SLOTS][LANES]
        Acc* tile[Whole::TILES];            // [SLOTS][padded width]
        Acc* query[K::PRODUCTS_MOST];       // [SLOTS][padded width]
        Acc* score[K::PRODUCTS_MOST];       // [BLOCK] of one slot
        Acc* weight[K::LAYERS_MOST];
        Acc* staged;
        void* walked;
        int64_t row[SLOTS];  // the held row of each slot
        int slots;
    };
    static Desk lay_out(Arena& arena) {
        Desk desk;
        desk.held = arena.template take<Held>(1);
        desk.grids = arena.template take<Grid>(SLOTS);
        for (Acc** row : {&desk.reference, &desk.limit}) *row = arena.template take<Acc>(SLOTS);
        desk.top = arena.template take<Acc>(SLOTS * LANES);
        for (int s = 0; s < K::STATISTICS; s++) desk.statistic[s] = arena.template take<Acc>(SLOTS * LANES);
        for (int t = 0; t < K::TILES; t++) desk.tile[t] = arena.template take<Acc>(SLOTS * padded(K::tile_width[t]));
        for (int p = 0; p < K::PRODUCTS_MOST; p++) desk.query[p] = arena.template take<Acc>(SLOTS * padded_widest());
        for (int p = 0; p < K::PRODUCTS_MOST; p++) desk.score[p] = arena.template take<Acc>(BLOCK + LANES);
        for (int t = 0; t < K::LAYERS_MOST; t++) desk.weight[t] = arena.template take<Acc>(BLOCK + LANES);
        desk.staged = arena.template take<Acc>(BLOCK * padded_widest());
        desk.walked = arena.template take<typename K::WalkedMost>(1);
        return desk;
    }

    // ---- what a task leaves behind: reference, top, statistics, tiles of one row

    static constexpr int64_t record() {
        int64_t size = 2 + K::STATISTICS;
        for (int t = 0; t < K::TILES; t++) size += K::tile_width[t];
        return size;
    }

    template <class T>
    static Rows<Acc> stage(const Rows<T>& rows, int64_t first, int count, int width, Acc* to) {
        for (int k = 0; k < count; k++) stage_row(rows.row(first + k), rows.step, width, to + k * width);
        return {to - first * width, width, 1};
    }

    template <class Loop, bool MASKED>
    static void lift(Desk& desk, int slot, int64_t first, int count) {
        const Grid& grid = desk.grids[slot];
        auto& walked = *(typename Loop::template Walked<BLOCK>*)desk.walked;
        const auto each = [&](const auto& body) __attribute__((always_inline)) {
            for (int k = 0; k < count; k += LANES) {
                Real product[Loop::PRODUCTS + 1];
                ATTNC_UNROLL for (int p = 0; p < Loop::PRODUCTS; p++) product[p] = load(desk.score[p] + k);
                body(k, product, iota(k) < Integer(count));
            }
        };
        // As in stream.hpp: against the reference that is found, and again in the rare case that it was
        // too small for these exponents.
        Real peak(-INFINITE), total[Whole::STATISTICS];
        if (Loop::EXPONENT && desk.limit[slot] == -INFINITE) {
            each([&](int k, const Real* product, Truth inside) __attribute__((always_inline)) {
                peak = raise(peak, select(inside, Loop::template exponent<MASKED>(grid, *desk.held, walked, WalkedLanes{slot, k}, product), Real(-INFINITE)));
            });
            if (const Acc most = largest(peak); most > -INFINITE) move_reference(desk, slot, most);
        }
        for (;;) {
            const Real reference(desk.reference[slot]);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) total[s] = Real(K::statistic_unit[s]);
            each([&](int k, const Real* product, Truth inside) __attribute__((always_inline)) {
                Real own(-INFINITE), weight[Loop::LAYERS + 1], sums[Whole::STATISTICS];
                ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) sums[s] = Real(K::statistic_unit[s]);
                Loop::template lift<MASKED>(grid, *desk.held, walked, WalkedLanes{slot, k}, reference, product, own, weight, sums);
                peak = raise(peak, select(inside, own, Real(-INFINITE)));
                ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) total[s] = K::combine(s, total[s], select(inside, sums[s], Real(K::statistic_unit[s])));
                ATTNC_UNROLL for (int t = 0; t < Loop::LAYERS; t++) store(desk.weight[t] + k, select(inside, weight[t], Real(0)));
            });
            if (!Loop::EXPONENT || __builtin_expect(!(peak > Real(desk.limit[slot])).any(), 1)) break;
            move_reference(desk, slot, largest(peak));
        }
        if constexpr (Loop::EXPONENT) store(desk.top + slot * LANES, raise(load(desk.top + slot * LANES), peak));
        ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) {
            Acc* at = desk.statistic[s] + slot * LANES;
            store(at, K::combine(s, load(at), total[s]));
        }
    }
    static Acc largest(Real x) {
        Acc most = x.v[0];
        for (int l = 1; l < LANES; l++) most = x.v[l] > most ? x.v[l] : most;
        return most;
    }

    static void move_reference(Desk& desk, int slot, Acc next) {
        const Acc factor = desk.limit[slot] == -INFINITE ? Acc(1) : std::exp2(desk.reference[slot] - next);
        desk.reference[slot] = next;
        desk.limit[slot] = next + SLACK;
        if (factor == 1) return;
        for (int s = 0; s < K::STATISTICS; s++)
            if (K::statistic_rescaled[s])
                for (int l = 0; l < LANES; l++) desk.statistic[s][slot * LANES + l] *= factor;
        for (int t = 0; t < K::TILES; t++)
            if (K::tile_rescaled[t])
                for (int64_t c = 0; c < padded(K::tile_width[t]); c++) desk.tile[t][slot * padded(K::tile_width[t]) + c] *= factor;
    }

    template <class Loop, bool MASKED>
    static __attribute__((noinline)) void span(Desk& desk, int slot, int64_t first, int count) {
        const Grid& grid = desk.grids[slot];
        auto& walked = *(typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int64_t k = 0; k < round_up(count, LANES); k++) Loop::fill(grid, walked, int(k), first + (k < count ? k : count - 1));
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            const auto rows = Loop::template right<p>(grid);
            const Acc* query = desk.query[p] + slot * padded_widest();
            if (rows.step == 1) dots<Loop::depth[p]>(rows, first, count, query, desk.score[p]);
            else dots<Loop::depth[p]>(stage(rows, first, count, Loop::depth[p], desk.staged), first, count, query, desk.score[p]);
        });
        lift<Loop, MASKED>(desk, slot, first, count);
        for_each<Loop::TERMS>([&](auto place) {
            constexpr int t = decltype(place)::value;
            add_rows<Loop, t>(desk, slot, first, count, desk.weight[Loop::layer[t]]);
        });
    }
    // Adds walked rows by their weights to a carried tile of a slot.
    template <class Loop, int T>
    static void add_rows(Desk& desk, int slot, int64_t first, int count, const Acc* weights) {
        constexpr int width = K::tile_width[Loop::target[T]];
        const auto rows = Loop::template operand<T>(desk.grids[slot]);
        Acc* tile = desk.tile[Loop::target[T]] + slot * padded(width);
        if (rows.step == 1) weigh<width, 0>(rows, first, count, weights, tile);
        else weigh<width, 0>(stage(rows, first, count, width, desk.staged), first, count, weights, tile);
    }

    // A slot at the begin of its row.
    static void begin(Desk& desk, int slot, int64_t row) {
        desk.row[slot] = row;
        K::fill(desk.grids[slot], *desk.held, slot, row);
        desk.reference[slot] = 0;
        desk.limit[slot] = -INFINITE;
        for (int l = 0; l < LANES; l++) desk.top[slot * LANES + l] = -INFINITE;
        for (int s = 0; s < K::STATISTICS; s++)
            for (int l = 0; l < LANES; l++) desk.statistic[s][slot * LANES + l] = K::statistic_unit[s];
        for (int t = 0; t < K::TILES; t++)
            std::memset(desk.tile[t] + slot * padded(K::tile_width[t]), 0, sizeof(Acc) * size_t(padded(K::tile_width[t])));
    }

    template <class Loop>
    static void stage_queries(Desk& desk) {
        for (int slot = 0; slot < desk.slots; slot++)
            for_each<Loop::PRODUCTS>([&](auto place) {
                constexpr int p = decltype(place)::value;
                const auto rows = Loop::template left<p>(desk.grids[slot]);
                Acc* query = desk.query[p] + slot * padded_widest();
                for (int64_t c = 0; c < padded(Loop::depth[p]); c++) query[c] = 0;
                stage_row(rows.row(desk.row[slot]), rows.step, Loop::depth[p], query);
            });
    }

    // One share of the walked rows for the slots of a desk.
    template <class Loop>
    static void share(Desk& desk, int64_t from, int64_t to) {
        stage_queries<Loop>(desk);
        for (int64_t a = from; a < to; a += BLOCK) {
            const int64_t b = a + BLOCK < to ? a + BLOCK : to;
            for (int slot = 0; slot < desk.slots; slot++) {
                if constexpr (!Loop::MASK) {
                    span<Loop, false>(desk, slot, a, int(b - a));
                } else {
                    const Grid& grid = desk.grids[slot];
                    const int64_t held = K::start(grid) + desk.row[slot];
                    const typename Whole::template Ask<Loop> all{grid, held, held, Loop::start(grid)};
                    bisect(all, a, b,
                        [&](int64_t x, int64_t y) { span<Loop, false>(desk, slot, x, int(y - x)); },
                        [&](int64_t x, int64_t y) { span<Loop, true>(desk, slot, x, int(y - x)); });
                }
            }
        }
    }
    static void keep(const Desk& desk, int slot, Acc* to) {
        *to++ = desk.limit[slot] == -INFINITE ? -INFINITE : desk.reference[slot];
        *to++ = largest(load(desk.top + slot * LANES));
        for (int s = 0; s < K::STATISTICS; s++) {
            Real total(K::statistic_unit[s]);
            for (int l = 0; l < LANES; l++) total = K::combine(s, total, Real(desk.statistic[s][slot * LANES + l]));
            *to++ = total.v[0];
        }
        for (int t = 0; t < K::TILES; t++)
            for (int c = 0; c < K::tile_width[t]; c++) *to++ = desk.tile[t][slot * padded(K::tile_width[t]) + c];
    }

    // ---- joining the shares of a row, in order: into tiles of 0

    static void join(const Acc* records, int64_t shares, int lane, typename Whole::Desk& desk) {
        Acc top = -INFINITE;
        for (int64_t n = 0; n < shares; n++) {
            const Acc one = records[n * record() + 1];
            top = one > top ? one : top;
        }
        desk.top[lane] = top;
        desk.reference[lane] = top == -INFINITE ? Acc(0) : top;
        desk.limit[lane] = top;
        for (int s = 0; s < K::STATISTICS; s++) desk.statistic[s][lane] = K::statistic_unit[s];
        for (int64_t n = 0; n < shares; n++) {
            const Acc* from = records + n * record();
            const Acc factor = K::REFERENCE && from[0] != -INFINITE ? std::exp2(from[0] - top) : Acc(1);
            from += 2;
            for (int s = 0; s < K::STATISTICS; s++) {
                const Acc part = *from++ * (K::statistic_rescaled[s] ? factor : Acc(1));
                desk.statistic[s][lane] = K::combine(s, Real(desk.statistic[s][lane]), Real(part)).v[0];
            }
            for (int t = 0; t < K::TILES; t++)
                for (int c = 0; c < K::tile_width[t]; c++)
                    desk.tile[t][c * TILE + lane] += *from++ * (K::tile_rescaled[t] ? factor : Acc(1));
        }
    }

    // ---- one call

    template <class... Loops>
    static int64_t shares_of(Sequence<Loops...>, const Grid& grid) {
        return (int64_t(0) + ... + ((Loops::length(grid) + SHARE - 1) / SHARE));
    }
    // The share numbered `number`, counted over the loops.
    template <class Loop, class... Rest>
    static void do_share(Sequence<Loop, Rest...>, Desk& desk, int64_t number) {
        const int64_t own = (Loop::length(desk.grids[0]) + SHARE - 1) / SHARE;
        if (number < own) {
            int64_t count = Loop::count(desk.grids[0]), to = (number + 1) * SHARE;
            share<Loop>(desk, number * SHARE, to < count ? to : count);
            return;
        }
        if constexpr (sizeof...(Rest) > 0) do_share(Sequence<Rest...>{}, desk, number - own);
    }
    template <class Loop, class... Rest>
    static const void* first_operand(Sequence<Loop, Rest...>, const Grid& grid) {
        if constexpr (Loop::PRODUCTS > 0) return Loop::template right<0>(grid).data;
        else if constexpr (Loop::TERMS > 0) return Loop::template operand<0>(grid).data;
        else return &grid;
    }

    template <class... Loops>
    static bool walk_alike(Sequence<Loops...>, const Grid& a, const Grid& b) {
        return ((Loops::count(a) == Loops::count(b) && Loops::start(a) == Loops::start(b)) && ...);
    }

    static bool fits(const Grid& probe) { return K::count(probe) <= FEW; }
    static int64_t desk_bytes() {
        Arena arena{nullptr};
        lay_out(arena);
        return round_up(arena.used, 4096) + 64;
    }
    static int64_t bytes(const Call& call, const Grid& probe) {
        const int64_t shares = shares_of(typename K::Loops{}, probe);
        const int64_t records = K::grid_count(call) * K::count(probe) * shares * record();
        return round_up(records * int64_t(sizeof(Acc)), 64) + 64 + call.threads * desk_bytes();
    }
    // Instances that go together: they read the same keys, and their rows fit the slots.
    static int64_t together(const Call& call, int64_t grids, int64_t rows) {
        Grid first, next;
        K::enter(call, 0, first);
        const void* keys = first_operand(typename K::Loops{}, first);
        int64_t count = 1;
        while (count < grids && (count + 1) * rows <= SLOTS) {
            K::enter(call, count, next);
            if (first_operand(typename K::Loops{}, next) != keys || !walk_alike(typename K::Loops{}, first, next)) break;
            count++;
        }
        while (grids % count) count--;  // groups of one size; a group may still mix keys: only slower
        return count;
    }

    static void run(const Call& call, const typename K::Shared& shared, char* scratch, char* desks) {
        const int64_t grids = K::grid_count(call);
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t rows = K::count(probe), shares = shares_of(typename K::Loops{}, probe);
        if (!rows) return;
        Arena common{scratch};
        Acc* records = common.template take<Acc>(grids * rows * shares * record());
        char* own = scratch + round_up(common.used, 64);
        const int64_t group = together(call, grids, rows);
        const int64_t threads = Whole::threads_worth(call, probe);
        parallel_tasks(threads, grids / group * shares, [&](int64_t worker, int64_t task) {
            Arena arena{own + worker * desk_bytes()};
            Desk desk = lay_out(arena);
            const int64_t base = task / shares * group, number = task % shares;
            desk.slots = int(group * rows);
            for (int slot = 0; slot < desk.slots; slot++) {
                K::enter(call, base + slot / rows, desk.grids[slot]);
                desk.grids[slot].shared = &shared;
                begin(desk, slot, slot % rows);
            }
            do_share(typename K::Loops{}, desk, number);
            for (int slot = 0; slot < desk.slots; slot++)
                keep(desk, slot, records + ((base * rows + slot) * shares + number) * record());
        });
        parallel_tasks(shares > 1 ? threads : 1, grids, [&](int64_t worker, int64_t number) {
            Arena arena{desks + worker * Whole::desk_bytes()};
            auto desk = Whole::lay_out(arena);
            Grid grid;
            K::enter(call, number, grid);
            grid.shared = &shared;
            desk.vectors = int((rows + LANES - 1) / LANES);
            desk.fresh = false;
            for (int t = 0; t < K::TILES; t++)
                for (int c = 0; c < K::tile_width[t]; c++)
                    for (int v = 0; v < desk.vectors; v++) store(desk.tile[t] + c * TILE + v * LANES, Real(0));
            for (int l = 0; l < desk.vectors * LANES; l++) {
                K::fill(grid, *desk.held, l, l < rows ? l : rows - 1);
                if (l >= rows) join(nullptr, 0, l, desk);  // a spare lane: nothing is stored from it
                else join(records + (number * rows + l) * shares * record(), shares, l, desk);
            }
            Whole::finish(grid, desk, 0, int(rows));
        });
    }
};

}  // namespace attnc
