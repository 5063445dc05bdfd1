"""Caches that move to host memory and back, over scattered pages too. The cached rows carry their slot's number."""

from __future__ import annotations

import pytest
import torch

from milliner.core import errors
from milliner.model import kv_cache, kv_swap

from .test_kv_cache import new_cache, read, write


def moved(cache: kv_cache.PagedKVCache, num_pages: int) -> kv_swap.KVSwapSpace:
    return kv_swap.KVSwapSpace(cache, num_pages=num_pages)


def test_what_moved_out_is_the_same_when_it_is_back_and_its_pages_are_free_meanwhile() -> None:
    cache = new_cache(8)
    space, sequence = moved(cache, 8), cache.open()
    write(sequence, 14)
    away = space.move_out(sequence, 14)
    assert (cache.free_pages, space.free_pages, read(away)) == (8, 4, list(range(14)))
    other = cache.open()
    write(other, 30)  # over the pages where it was
    other.close()
    back = space.move_in(away)
    assert (cache.free_pages, space.free_pages, read(back)) == (4, 8, list(range(14)))
    write(back, 5)
    assert read(back) == list(range(19))


def test_scattered_pages_are_found_one_by_one() -> None:
    cache = new_cache(12)
    space = moved(cache, 12)
    sequences = [cache.open() for _ in range(3)]
    for _ in range(4):  # page by page, so that nobody's neighbour is its own
        for sequence in sequences:
            write(sequence, 4)
    assert any(sequence.base_slot is None for sequence in sequences)
    away = [space.move_out(sequence, sequence.kv_len) for sequence in sequences]
    backs = [space.move_in(away[index]) for index in (1, 2, 0)]
    assert [read(back) for back in backs] == [list(range(16))] * 3


def test_what_was_rolled_back_stays_behind() -> None:
    cache = new_cache(8)
    space, sequence = moved(cache, 2), cache.open()
    write(sequence, 30)
    assert read(space.move_in(space.move_out(sequence, 7))) == list(range(7))
    assert cache.free_pages == 6


def test_a_full_space_refuses_and_changes_nothing() -> None:
    cache = new_cache(8)
    space, sequence = moved(cache, 2), cache.open()
    write(sequence, 9)
    with pytest.raises(errors.KVCacheFull):
        space.move_out(sequence, 9)
    assert (read(sequence), cache.free_pages, space.free_pages) == (list(range(9)), 5, 2)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_copies_beside_what_it_computes() -> None:
    device = torch.device("cuda")
    spec = kv_cache.KVSpec(0, (kv_cache.LayerKV(num_kv_heads=8, head_dim=128),) * 4)
    cache = kv_cache.PagedKVCache(spec, num_pages=64, page_tokens=64, dtype=torch.bfloat16, torch_device=device)
    space = moved(cache, 64)
    sequences = [cache.open() for _ in range(4)]
    contents = []
    for sequence in sequences:
        sequence.reserve(1000)
        sequence.kv_len = 1000
        contents.append(torch.randn(1000, 8, 128, device=device).to(torch.bfloat16))
        for rows in (*cache.keys, *cache.values):
            rows[sequence.physical_slots(range(1000))] = contents[-1]
    torch.cuda.synchronize(device)
    for _ in range(20):  # out and in without waiting, while the device is busy
        square = torch.randn(2048, 2048, device=device)
        for _ in range(20):
            square = square @ square / 2048
        away = [space.move_out(sequence, 1000) for sequence in sequences]
        sequences = [space.move_in(each) for each in reversed(away)]
        contents.reverse()
    space.wait()
    for sequence, content in zip(sequences, contents, strict=True):
        for rows in (*cache.keys, *cache.values):
            assert torch.equal(rows[sequence.physical_slots(range(1000))], content)
