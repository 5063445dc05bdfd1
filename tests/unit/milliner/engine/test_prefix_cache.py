"""Which prompts begin behind what is kept, and what goes first when pages are needed."""

from __future__ import annotations

from milliner.engine import prefix_cache, work

BLOCK = prefix_cache.BLOCK_TOKENS
ONE, OTHER = list(range(1000)), list(range(5000, 6000))


def handle() -> work.KVHandle:
    return work.KVHandle(1000)


def test_the_longest_whole_block_but_never_all_of_the_prompt() -> None:
    cache = prefix_cache.PrefixCache()
    assert cache.keep(handle(), ONE[: 3 * BLOCK + 5], salt="", pages=7) == []
    for asked, found in ((3 * BLOCK + 6, 3), (3 * BLOCK + 1, 3), (3 * BLOCK, 2), (2 * BLOCK + 9, 2), (BLOCK, 0)):
        hit = cache.find(ONE[:asked], salt="")
        assert (hit.num_tokens if hit else 0) == found * BLOCK
    assert cache.find(OTHER, salt="") is None
    assert cache.find([*ONE[: BLOCK - 1], 7, *ONE[BLOCK:]], salt="") is None


def test_salts_share_nothing() -> None:
    cache = prefix_cache.PrefixCache()
    cache.keep(handle(), ONE, salt="a", pages=1)
    assert cache.find(ONE, salt="b") is None
    assert cache.find(ONE, salt="") is None
    assert cache.find(ONE, salt="a") is not None


def test_what_is_superfluous_is_freed() -> None:
    cache, short, long, again = prefix_cache.PrefixCache(), handle(), handle(), handle()
    cache.keep(short, ONE[: 2 * BLOCK], salt="", pages=4)
    assert cache.keep(long, ONE[: 4 * BLOCK], salt="", pages=8) == [short]
    assert cache.keep(again, ONE[: 3 * BLOCK], salt="", pages=6) == [again]
    assert cache.keep(again, ONE[: BLOCK - 1], salt="", pages=1) == [again]
    assert cache.pages == 8


def test_the_least_recently_used_goes_first_and_what_is_pinned_stays() -> None:
    cache = prefix_cache.PrefixCache()
    handles = [handle() for _ in range(3)]
    prompts = [[seed] * 100 for seed in range(3)]
    for kv, prompt in zip(handles, prompts, strict=True):
        cache.keep(kv, prompt, salt="", pages=10)
    hit = cache.find(prompts[0], salt="")
    assert hit is not None
    pinned = cache.find(prompts[1], salt="")
    assert pinned is not None
    pinned.kept.pins += 1
    assert cache.shrink_to(20) == [handles[2]]
    assert cache.shrink_to(0) == [handles[0]]
    assert cache.pages == 10
    assert cache.find(prompts[0], salt="") is None


def test_a_beginning_that_several_caches_share_is_found_as_long_as_one_of_them_is_kept() -> None:
    shared = ONE[: 2 * BLOCK]
    first, second = [*shared, *OTHER[: 2 * BLOCK]], [*shared, *OTHER[5 * BLOCK : 7 * BLOCK]]
    cache, early, late = prefix_cache.PrefixCache(), handle(), handle()
    cache.keep(early, first, salt="", pages=10)
    cache.keep(late, second, salt="", pages=10)
    hit = cache.find([*first, 1], salt="")  # used again, so that the other goes first
    assert hit is not None and hit.kept.kv is early
    assert cache.shrink_to(10) == [late]
    hit = cache.find([*first, 1], salt="")
    assert hit is not None and hit.num_tokens == 4 * BLOCK
    again = handle()
    cache.keep(again, second, salt="", pages=10)
    hit = cache.find([*second, 1], salt="")
    assert hit is not None and hit.kept.kv is again
    cache.take_over(hit.kept)
    hit = cache.find([*shared, 1], salt="")
    assert hit is not None and hit.kept.kv is early
