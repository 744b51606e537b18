// What goes ahead of a sweep, tile by tile on the same worker: a stream kernel that holds the same rows
// and walks the same positions. Its products of a tile stay in slabs, [block][product][BLOCK][TILE],
// so that the sweep need not form them again; what it stores of a row is there when the sweep reads it.
#pragma once
#include "stream.hpp"

namespace attnc {

// Nothing goes ahead.
struct Alone {
    struct Shared {};
    struct Desk {
        static const Acc* slab(int64_t, int) { return nullptr; }
    };
    static void make_summaries(const Call&, Shared&, Arena&, bool) {}
    static Desk lay_out(Arena&, const Call&) { return {}; }
    static void enter(const Call&, int64_t, const Shared&, Desk&) {}
    static void tile(Desk&, int64_t, int) {}
};

template <class K>
struct Ahead {
    using Base = Stream<K>;
    using Shared = typename K::Shared;
    struct Desk {
        typename Base::Desk own;
        typename K::Grid grid;
        Acc* slab(int64_t block, int product) const { return Base::slab(own.slabs, block, product); }
    };
    static void make_summaries(const Call& call, Shared& shared, Arena& arena, bool count_only) {
        Base::make_summaries(call, shared, arena, count_only);
    }
    // Runs begin at even rows, and all but the ends of what is walked are whole strips.
    template <class... Loops>
    static int64_t blocks(Sequence<Loops...>, const typename K::Grid& grid) {
        return (int64_t(0) + ... + (Loops::length(grid) / BLOCK + 2));
    }
    static Desk lay_out(Arena& arena, const Call& call) {
        Desk desk;
        K::enter(call, 0, desk.grid);
        desk.own = Base::lay_out(arena);
        desk.own.slabs = arena.template take<Acc>(blocks(typename K::Loops{}, desk.grid) * K::PRODUCTS_MOST * BLOCK * TILE);
        return desk;
    }
    // The instance of the sweep's, whose shares are its outermost index.
    static void enter(const Call& call, int64_t instance, const Shared& shared, Desk& desk) {
        K::enter(call, instance % K::grid_count(call), desk.grid);
        desk.grid.shared = &shared;
    }
    static void tile(Desk& desk, int64_t first, int rows) { Base::tile(desk.grid, desk.own, first, rows); }
};

}  // namespace attnc
