"""Page tables: reserve, truncate, move, relocate, close. The cached rows carry their slot's number to be followed."""

from __future__ import annotations

import pytest
import torch

from milliner.core import errors
from milliner.model import kv_cache

SPEC = kv_cache.KVSpec(first_layer=3, layers=(kv_cache.LayerKV(num_kv_heads=1, head_dim=2),) * 2)


def new_cache(num_pages: int) -> kv_cache.PagedKVCache:
    return kv_cache.PagedKVCache(
        SPEC, num_pages=num_pages, page_tokens=4, dtype=torch.float32, torch_device=torch.device("cpu")
    )


def write(sequence: kv_cache.SequenceKV, num_tokens: int) -> None:
    """Appends tokens whose keys are the slot's number and whose values are its negative."""
    sequence.reserve(num_tokens)
    slots = range(sequence.kv_len, sequence.kv_len + num_tokens)
    for rows, sign in ((sequence.cache.keys, 1.0), (sequence.cache.values, -1.0)):
        for layer in rows:
            layer[sequence.physical_slots(slots)] = sign * torch.tensor(list(slots), dtype=torch.float32)[:, None, None]
    sequence.kv_len += num_tokens


def read(sequence: kv_cache.SequenceKV) -> list[int]:
    """The slots' numbers as every layer holds them."""
    found = [rows[sequence.physical_slots(range(sequence.kv_len))][:, 0, 0] for rows in sequence.cache.keys]
    found += [-rows[sequence.physical_slots(range(sequence.kv_len))][:, 0, 1] for rows in sequence.cache.values]
    assert all(torch.equal(rows, found[0]) for rows in found)
    return [int(number) for number in found[0].tolist()]


def test_truncate_returns_whole_pages_and_keeps_the_rest() -> None:
    cache = new_cache(8)
    sequence = cache.open()
    write(sequence, 14)
    assert cache.free_pages == 4
    sequence.truncate(9)
    assert (cache.free_pages, read(sequence)) == (5, list(range(9)))
    sequence.truncate(0)
    assert cache.free_pages == 8


def test_a_session_moves_to_a_longer_run_when_its_neighbour_blocks_it() -> None:
    cache = new_cache(24)
    first, second = cache.open(), cache.open()
    write(first, 40)
    write(second, 16)  # in the middle of what is free, so that both can grow a little
    write(first, 12)
    assert first.base_slot is not None
    assert read(first) == list(range(52))
    assert read(second) == list(range(16))


def test_scattered_pages_when_no_run_is_long_enough() -> None:
    cache = new_cache(6)
    sessions = [cache.open() for _ in range(6)]
    for session in sessions:
        write(session, 4)
    for session in sessions[::2]:
        session.close()
    write(sessions[1], 7)
    assert sessions[1].base_slot is None
    assert read(sessions[1]) == list(range(11))
    assert read(sessions[3]) == list(range(4))
    sessions[1].truncate(3)
    assert sessions[1].base_slot is not None


def test_scattered_pages_without_any_token_move_to_a_run() -> None:
    """A session's first frame failed after it had got its pages, and its next one is longer."""
    cache = new_cache(24)
    walls = [cache.open() for _ in range(12)]
    for wall in walls:
        write(wall, 8)
    walls.sort(key=lambda wall: wall.pages[0])
    for wall in walls[:6:2]:
        wall.truncate(4)
    scattered = cache.open()
    scattered.reserve(9)
    assert (scattered.base_slot, cache.free_pages) == (None, 0)
    for wall in walls[6:]:
        wall.close()
    write(scattered, 13)
    assert (scattered.base_slot is not None, read(scattered)) == (True, list(range(13)))
    for sequence in (*walls, scattered):
        sequence.close()
    assert cache.free_pages == 24  # none is lost


def test_move_reads_all_sources_before_it_writes() -> None:
    sequence = new_cache(4).open()
    write(sequence, 10)
    sequence.move([5, 4, 9], [4, 5, 6])
    assert read(sequence) == [0, 1, 2, 3, 5, 4, 9, 7, 8, 9]


def test_refusal_names_the_cache_and_changes_nothing() -> None:
    cache = new_cache(2)
    sequence = cache.open()
    write(sequence, 5)
    with pytest.raises(errors.KVCacheFull) as refused:
        sequence.reserve(4)
    assert refused.value.field == "kv_cache"
    assert (sequence.capacity_tokens, cache.free_pages) == (8, 0)
    sequence.reserve(3)


def test_close_twice_frees_once() -> None:
    cache = new_cache(3)
    sequence = cache.open()
    write(sequence, 12)
    assert cache.used_share == 1.0
    sequence.close()
    sequence.close()
    assert (cache.free_pages, sequence.kv_len, cache.used_share) == (3, 0, 0.0)
