"""One request's submodels: what is booked where, how far the draft tree may grow, and that memory comes back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import time
import weakref
from collections.abc import AsyncIterator

import pytest
import torch
from tests.numerics import tiny_models
from tests.system import split_topology

from milliner.core import compute, errors, types
from milliner.engine import executor
from milliner.engine.device import device_model, room, session
from milliner.model import adapter, sampling
from milliner.wire import codecs

FLOAT32 = types.Codec.FLOAT32
WIRE = compute.WireFormat(prompt=FLOAT32, decode=FLOAT32, exact_from=0)
REQUEST = types.GenerationRequest("test", prompt_ids=tuple(tiny_models.prompt(12).tolist()), max_new_tokens=40)
DECODE_S = 0.02


def slow_decode(payload: types.Payload, width: int, dtype: torch.dtype) -> torch.Tensor:
    time.sleep(DECODE_S)
    return codecs.decode(payload, width, dtype)


@pytest.fixture
async def device(tmp_path: pathlib.Path) -> AsyncIterator[device_model.DeviceModel]:
    tiny_models.save("llama", tmp_path / "model")
    split_topology.write_adapter(
        tmp_path / "adapter", tmp_path / "model", split_layer=1, form=adapter.AdapterForm.ATTENTION
    )
    files = device_model.DeviceFiles(tmp_path / "model", 1, adapter=tmp_path / "adapter")
    modules = device_model.load_submodels(files, dtype=torch.float32, torch_device=tiny_models.CPU)
    worker = executor.ComputeExecutor(name="device", torch_threads=1)
    slow = dataclasses.replace(split_topology.CODECS, decode=slow_decode)
    yield device_model.DeviceModel(modules, codecs=slow, executor=worker, max_sessions=1, max_wait_s=0.05)
    worker.close()


@contextlib.asynccontextmanager
async def begun(device: device_model.DeviceModel) -> AsyncIterator[tuple[session.TorchDeviceSession, compute.Verdict]]:
    """A session whose first token has been chosen."""
    one = await device.open(REQUEST, WIRE)
    try:
        await one.forward_prompt(0, REQUEST.prompt_ids)
        yield one, await one.choose_first(reply(1))
    finally:
        await one.close()


def reply(num_positions: int) -> types.HiddenReply:
    """Deep states that no cloud has computed."""
    payload = codecs.encode(torch.zeros(num_positions, 32), FLOAT32)
    return types.HiddenReply("s", 0, 0, 0, payload, 0.0, 0.0, 0, types.LoadReport())


async def test_reading_a_reply_is_booked_apart_from_the_head(device: device_model.DeviceModel) -> None:
    async with begun(device) as (one, first):
        await one.pack([one.root])
        started_s = time.perf_counter()
        verdict = await one.verify([one.root], reply(1))
        waited_s = time.perf_counter() - started_s
    for booked in (first, verdict):
        assert booked.decode_s >= DECODE_S
    assert verdict.decode_s + verdict.head_s <= waited_s


async def test_guesses_stop_where_a_path_could_not_be_packed_any_more(
    device: device_model.DeviceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TREE_TOKENS", room.PATH_TOKENS + 5)
    async with begun(device) as (one, _):
        await one.expand([one.root])
        leaves = [one.child(one.root, token) for token in range(5)]
        await one.expand(leaves[:4])  # five nodes
        for guess in (one.expand, one.prepare):
            with pytest.raises(errors.KVCacheFull):
                await guess(leaves[4:])
        assert (await one.pack([one.root, leaves[4]])).num_tokens == 2


async def test_room_is_free_again_after_closing_twice_and_after_a_cancelled_close(
    device: device_model.DeviceModel,
) -> None:
    async with begun(device) as (one, _):
        short = await device.open(REQUEST, WIRE)
        with pytest.raises(errors.KVCacheFull):
            await device.open(dataclasses.replace(REQUEST, max_new_tokens=244), WIRE)
        await short.close()
        closing = asyncio.create_task(one.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await one.close()
    both = [await device.open(dataclasses.replace(REQUEST, max_new_tokens=tokens), WIRE) for tokens in (244, 40)]
    assert device.used_share == 0.0  # together they are promised all that there is
    for other in both:
        await other.close()


async def test_a_second_close_waits_for_the_memory_though_the_first_was_cancelled(
    device: device_model.DeviceModel,
) -> None:
    """It returned at once, while the executor was still busy with what came before the close."""
    async with begun(device) as (one, _):
        earlier = asyncio.create_task(one.verify([one.root], reply(1)))  # DECODE_S on the executor
        await asyncio.sleep(0)
        closing = asyncio.create_task(one.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert device.used_share > 0.0
        await one.close()
        assert device.used_share == 0.0
        await earlier


async def test_deep_states_are_kept_for_no_longer_than_the_drafter_may_ask_for_them(
    device: device_model.DeviceModel,
) -> None:
    """Each answered position kept a view, and with it every rejected row of its reply, until the answer's end."""
    bytes_per_row = 4 * 32
    async with begun(device) as (one, _):
        for _ in range(12):
            await one.expand([one.root])
            leaf = one.child(one.root, 1)
            path = [one.root, leaf, one.child(leaf, 2)]
            await one.pack(path)
            one.commit(path, await one.verify(path, reply(len(path))))
        await one.pack([one.root])  # settles the last commit
        assert one.position >= len(REQUEST.prompt_ids) + 12
        kept = [row.untyped_storage().nbytes() for row in one._history._deep]
        assert set(kept) == {bytes_per_row}
        assert len(kept) <= 1 + 3  # the last path's positions may not have been drafted from
        rows, known = one._history.deep_before(one.position, one.position + 1)
        assert known.all()
        assert rows.shape == (1, 32)


async def test_a_replay_during_a_draft_step_changes_neither(device: device_model.DeviceModel) -> None:
    async with begun(device) as (one, _):
        (alone,), _ = await one.expand([one.root])
        path = [one.root, one.child(one.root, alone.drafted)]
        await one.pack(path)
        one.commit(path, await one.verify(path, reply(2)))
        end = one.position
        expanding = asyncio.create_task(one.expand([one.root]))
        await asyncio.sleep(0)
        during = await one.repack(0, end)
        (drafted,), _ = await expanding
        assert during.num_tokens == end == len(REQUEST.prompt_ids) + len(path) - 1
        after = await one.repack(0, end)
        assert during.payloads == after.payloads
        assert one.expansion(one.root) == drafted


async def test_noise_is_made_once_for_target_and_drafter_and_kept_no_longer_than_it_is_asked_for(
    device: device_model.DeviceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, weakref.ref[torch.Tensor]]] = []
    gumbel = sampling.gumbel

    def watched(*, seed: int, position: int, count: int, torch_device: torch.device) -> torch.Tensor:
        row = gumbel(seed=seed, position=position, count=count, torch_device=torch_device)
        made.append((position, weakref.ref(row)))
        return row

    monkeypatch.setattr(sampling, "gumbel", watched)
    sampled = dataclasses.replace(REQUEST, sampling=types.SamplingParams(temperature=1.0, seed=3))
    one = await device.open(sampled, WIRE)
    await one.forward_prompt(0, sampled.prompt_ids)
    await one.choose_first(reply(1))
    for _ in range(5):
        path = [one.root]
        for _ in range(2):
            (expansion,), _ = await one.expand(path[-1:])
            path.append(one.child(path[-1], expansion.drafted))
        await one.pack(path)
        one.commit(path, await one.verify(path, reply(len(path))))
        kept = [position for position, row in made if row() is not None]
        assert all(position > one.position for position in kept)
    positions = [position for position, _ in made]
    assert len(positions) == len(set(positions)) >= 6
    await one.close()
