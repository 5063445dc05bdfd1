"""`milliner bench engine`: what scheduling, paging and ragged attention cost beside bare `transformers` layers.

Both sides run the same random layers on the same hidden states, in the same worker thread, all cells turn by turn. The
bare side is timed around its layers alone; the engine's from handing the frames in to having all answers, so every hop
between threads counts against it. A cell's ratio is the median over the turns of engine time over bare time:
neighbours in time share whatever else the machine does. Hidden states cross no wire here; codecs and link belong to
`milliner bench`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time

import rich.console
import rich.progress
import torch
import transformers

from milliner.bench import engine_model, report
from milliner.core import clock as clocks
from milliner.core import errors, types
from milliner.engine import engine as engines
from milliner.engine import executor as executors
from milliner.engine import limits, slice_backend, work

PREFILL_TOKENS = 512  # docs/algorithms.md, targets
DECODE_SESSIONS = (1, 16)  # likewise
CACHED_TOKENS = 256  # a chat's usual context
PAGE_TOKENS = 64  # the engine's default
WARM_UP_TURNS = 2  # arbitrary: allocators and caches settle in the first

COLUMNS = (
    report.Column("phase", "phase"),
    report.Column("sessions", "sessions"),
    report.Column("cached_tokens", "cached"),
    report.Column("batched_tokens", "batch"),
    report.Column("bare_p50_s", "bare ms", scale=1e3, digits=1),
    report.Column("engine_p50_s", "engine ms", scale=1e3, digits=1),
    report.Column("ratio_to_bare", "ratio", digits=3),
    report.Column("tokens_per_s", "tokens/s", digits=1),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What to measure with. `threads` None: as many as torch takes by itself."""

    shape: engine_model.Shape = dataclasses.field(default_factory=engine_model.Shape)
    turns: int = 10
    threads: int | None = None
    torch_device: str = "cpu"
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One row: `sessions` send `num_tokens` each behind `cached_tokens`."""

    phase: str
    sessions: int
    cached_tokens: int
    num_tokens: int


CELLS = (
    Cell("prefill", 1, 0, PREFILL_TOKENS),
    *(Cell("decode", sessions, CACHED_TOKENS, 1) for sessions in DECODE_SESSIONS),
)


def run(options: Options, *, command: str, console: rich.console.Console) -> report.Report:
    """Measures all cells; raises `ConfigError` for a device or dtype that torch does not have."""
    dtype, torch_device = _dtype(options.dtype), _torch_device(options.torch_device)
    return asyncio.run(_run(options, dtype=dtype, torch_device=torch_device, command=command, console=console))


async def _run(
    options: Options, *, dtype: torch.dtype, torch_device: torch.device, command: str, console: rich.console.Console
) -> report.Report:
    threads = options.threads or torch.get_num_threads()
    worker = executors.ComputeExecutor(name="bench-engine", torch_threads=threads)
    progress = rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(), rich.progress.TimeElapsedColumn(), console=console
    )
    try:
        with progress:
            task = progress.add_task("making a random model", total=len(CELLS) * (options.turns + WARM_UP_TURNS))
            side_by_side = await _SideBySide.build(options, dtype=dtype, torch_device=torch_device, worker=worker)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(side_by_side.cloud.run())
                progress.update(task, description="filling the caches")
                measured = [await side_by_side.prepare(index, cell) for index, cell in enumerate(CELLS)]
                progress.update(task, description="measuring")
                for turn in range(-WARM_UP_TURNS, options.turns):
                    for prepared in measured:
                        await side_by_side.turn(prepared, turn)
                        progress.advance(task)
                await side_by_side.cloud.stop()
    finally:
        worker.close()
    rows = [prepared.row() for prepared in measured]
    setup: dict[str, report.Scalar] = {
        "layers": options.shape.layers,
        "dtype": options.dtype,
        "torch_device": options.torch_device,
    }
    return report.Report(
        command=command,
        rows=[{**row, **setup, "threads": threads, "turns": options.turns} for row in rows],
        summary=_summary(rows),
        title="The engine beside bare transformers layers",
        columns=COLUMNS,
    )


def _summary(rows: list[dict[str, report.Scalar]]) -> report.Summary:
    rates = {row["sessions"]: float(row["tokens_per_s"] or 0) for row in rows if row["phase"] == "decode"}
    few, many = min(DECODE_SESSIONS), max(DECODE_SESSIONS)
    return {
        "ratio_to_bare_max": max(float(row["ratio_to_bare"] or 0) for row in rows),
        "tokens_per_s_16_over_1": rates[many] / rates[few],
    }


@dataclasses.dataclass(slots=True)
class _Measured:
    """A cell with its sessions, its bare cache, and what was measured."""

    cell: Cell
    names: tuple[str, ...]
    new: torch.Tensor  # [B, T, D]
    cache: transformers.DynamicCache
    batched_tokens: int = 0
    engine_s: list[float] = dataclasses.field(default_factory=list)
    bare_s: list[float] = dataclasses.field(default_factory=list)

    def row(self) -> dict[str, report.Scalar]:
        engine_p50_s = statistics.median(self.engine_s)
        return {
            "phase": self.cell.phase,
            "sessions": self.cell.sessions,
            "cached_tokens": self.cell.cached_tokens,
            "batched_tokens": self.batched_tokens,
            "bare_p50_s": statistics.median(self.bare_s),
            "engine_p50_s": engine_p50_s,
            "ratio_to_bare": statistics.median(o / b for o, b in zip(self.engine_s, self.bare_s, strict=True)),
            "tokens_per_s": self.cell.sessions * self.cell.num_tokens / engine_p50_s,
        }


class _SideBySide:
    """The two sides over one set of weights."""

    def __init__(self, bare: engine_model.BareLayers, cloud: engines.Engine, worker: executors.ComputeExecutor) -> None:
        self.bare = bare
        self.cloud = cloud
        self._worker = worker
        self._round = 0

    @classmethod
    async def build(
        cls, options: Options, *, dtype: torch.dtype, torch_device: torch.device, worker: executors.ComputeExecutor
    ) -> _SideBySide:
        config = limits.EngineConfig(
            kv_cache_bytes=_kv_cache_bytes(options.shape, dtype),
            page_tokens=PAGE_TOKENS,
            max_sessions=sum(cell.sessions for cell in CELLS),
        )

        def build() -> tuple[engine_model.BareLayers, slice_backend.SliceBackend]:
            bare = engine_model.BareLayers(options.shape, dtype=dtype, torch_device=torch_device)
            model_slice = engine_model.slice_of(bare, options.shape, dtype=dtype)
            return bare, slice_backend.SliceBackend(model_slice, config=config)

        (bare, backend), _ = await worker.run(build)
        cloud = engines.Engine(backend, config=config, executor=worker, clock=clocks.LoopClock())
        return cls(bare, cloud, worker)

    async def prepare(self, index: int, cell: Cell) -> _Measured:
        """Fills the caches of a cell on both sides; `index` tells the cells' sessions apart."""
        width, dtype = self.bare.layers[0].hidden_size, next(self.bare.layers[0].parameters()).dtype
        shape = (cell.sessions, cell.cached_tokens + cell.num_tokens, width)
        hidden = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.bare.torch_device, dtype)
        hidden[1:, : cell.cached_tokens] = hidden[:1, : cell.cached_tokens]  # caches cost the same whatever is in them
        cached, new = hidden[0, : cell.cached_tokens], hidden[:, cell.cached_tokens :].contiguous()
        cache, _ = await self._worker.run(lambda: self.bare.filled(cached, sequences=cell.sessions))
        names = tuple(f"{index}.{session}" for session in range(cell.sessions))
        for name in names:
            await self._open(name, max_positions=hidden.shape[1])
            if cell.cached_tokens:
                await self._forward(name, 0, 0, cached)
        return _Measured(cell=cell, names=names, new=new, cache=cache)

    async def turn(self, measured: _Measured, turn: int) -> None:
        """Measures both sides once, the engine first in every other turn; turns below 0 are warm-up."""
        bare_s = await self._time_bare(measured) if turn % 2 else 0.0
        engine_s = await self._time_engine(measured)
        if turn % 2 == 0:
            bare_s = await self._time_bare(measured)
        if turn >= 0:
            measured.engine_s.append(engine_s)
            measured.bare_s.append(bare_s)

    async def _time_engine(self, measured: _Measured) -> float:
        self._round += 1
        start = measured.cell.cached_tokens
        start_s = time.perf_counter()
        done = await asyncio.gather(
            *(
                self._forward(name, self._round, start, rows)
                for name, rows in zip(measured.names, measured.new, strict=True)
            )
        )
        duration_s = time.perf_counter() - start_s
        measured.batched_tokens = max(result.batched_tokens for result in done)
        return duration_s

    async def _time_bare(self, measured: _Measured) -> float:
        def timed() -> float:
            start = measured.cell.cached_tokens
            engine_model.truncate(measured.cache, start)
            start_s = time.perf_counter()
            self.bare.forward(measured.new, measured.cache, start)
            return time.perf_counter() - start_s

        return (await self._worker.run(timed))[0]

    async def _open(self, name: str, *, max_positions: int) -> None:
        await self.cloud.open(
            types.SessionOpen(
                session_id=name,
                model_digest="",
                slice_start=0,
                slice_end=len(self.bare.layers),
                hidden_size=self.bare.layers[0].hidden_size,
                max_positions=max_positions,
            )
        )

    async def _forward(self, name: str, round_index: int, start: int, rows: torch.Tensor) -> work.Done:
        return await self.cloud.forward(
            work.Work(
                session_id=name,
                round=round_index,
                commit_pos=start,
                start_pos=start,
                num_tokens=rows.shape[0],
                kind=types.FrameKind.VERIFY if rows.shape[0] == 1 else types.FrameKind.LAST_CHUNK,
                reply_positions=types.ReplyPositions.ALL,
                decode=lambda: rows,
                encode=lambda deep: types.Payload(types.Codec.FLOAT32, num_tokens=len(deep), data=b""),
            )
        )


def _kv_cache_bytes(shape: engine_model.Shape, dtype: torch.dtype) -> int:
    """Room for all cells, and a page for each session's last tokens."""
    head_dim = shape.hidden_size // shape.heads
    bytes_per_token = 2 * shape.layers * shape.kv_heads * head_dim * dtype.itemsize
    tokens = sum(cell.sessions * (cell.cached_tokens + cell.num_tokens + PAGE_TOKENS) for cell in CELLS)
    return bytes_per_token * tokens


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise errors.ConfigError(f"found {name!r}: use {', '.join(known)}", field="--dtype")
    return known[name]


def _torch_device(name: str) -> torch.device:
    try:
        torch_device = torch.device(name)
    except RuntimeError as error:
        raise errors.ConfigError(f"found {name!r}: use cpu or cuda", field="--device") from error
    if torch_device.type == "cuda" and not torch.cuda.is_available():
        raise errors.ConfigError("torch sees no CUDA device here: use cpu", field="--device")
    return torch_device
