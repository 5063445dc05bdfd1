"""`milliner bench engine`: what scheduling, paging and ragged attention cost beside bare `transformers` layers.

Both sides run the same random layers on the same hidden states, in the same worker thread, turn by turn. The bare side
is timed around its layers alone; the engine's from handing the frames in to having all answers, so every hop between
threads counts against it. A cell's ratio is the median over the turns of engine time over bare time: neighbours in
time share whatever else the machine does. Hidden states cross no wire here; codecs and link belong to `milliner bench`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Callable

import rich.console
import rich.progress
import torch

from milliner.bench import engine_model, report
from milliner.core import clock as clocks
from milliner.core import errors, types
from milliner.engine import engine as engines
from milliner.engine import executor as executors
from milliner.engine import limits, slice_backend, work

PREFILL_TOKENS = 512  # issue 4
DECODE_SESSIONS = (1, 16)  # issue 4
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
            rows: list[dict[str, report.Scalar]] = []
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(side_by_side.cloud.run())
                for cell in CELLS:
                    progress.update(task, description=f"{cell.phase}, {cell.sessions} session(s)")
                    rows.append(await side_by_side.measure(cell, options.turns, lambda: progress.advance(task)))
                await side_by_side.cloud.stop()
    finally:
        worker.close()
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
            max_sessions=max(cell.sessions for cell in CELLS),
        )

        def build() -> tuple[engine_model.BareLayers, slice_backend.SliceBackend]:
            bare = engine_model.BareLayers(options.shape, dtype=dtype, torch_device=torch_device)
            model_slice = engine_model.slice_of(bare, options.shape, dtype=dtype)
            return bare, slice_backend.SliceBackend(model_slice, config=config)

        (bare, backend), _ = await worker.run(build)
        cloud = engines.Engine(backend, config=config, executor=worker, clock=clocks.LoopClock())
        return cls(bare, cloud, worker)

    async def measure(self, cell: Cell, turns: int, advance: Callable[[], None]) -> dict[str, report.Scalar]:
        """Runs a cell on both sides by turns and returns its row."""
        width, dtype = self.bare.layers[0].hidden_size, next(self.bare.layers[0].parameters()).dtype
        shape = (cell.sessions, cell.cached_tokens + cell.num_tokens, width)
        hidden = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.bare.torch_device, dtype)
        hidden[1:, : cell.cached_tokens] = hidden[:1, : cell.cached_tokens]  # caches cost the same whatever is in them
        await self._worker.run(lambda: self._prepare_bare(cell, hidden))
        for index in range(cell.sessions):
            await self._open(index, cell, hidden)
        bare_s, engine_s = [], []
        for turn in range(WARM_UP_TURNS + turns):
            batched_tokens, pair = await self._turn(cell, hidden, engine_first=turn % 2 == 0)
            if turn >= WARM_UP_TURNS:
                engine_s.append(pair[0])
                bare_s.append(pair[1])
            advance()
        for index in range(cell.sessions):
            await self.cloud.close(str(index))
        engine_p50_s = statistics.median(engine_s)
        return {
            "phase": cell.phase,
            "sessions": cell.sessions,
            "cached_tokens": cell.cached_tokens,
            "batched_tokens": batched_tokens,
            "bare_p50_s": statistics.median(bare_s),
            "engine_p50_s": engine_p50_s,
            "ratio_to_bare": statistics.median(ours / bare for ours, bare in zip(engine_s, bare_s, strict=True)),
            "tokens_per_s": cell.sessions * cell.num_tokens / engine_p50_s,
        }

    async def _turn(self, cell: Cell, hidden: torch.Tensor, *, engine_first: bool) -> tuple[int, tuple[float, float]]:
        """(tokens in the engine's batch, (engine seconds, bare seconds))."""
        new = hidden[:, cell.cached_tokens :].contiguous()  # [B, T, D]
        if not engine_first:
            bare_s, _ = await self._worker.run(lambda: self._time_bare(cell, new))
        self._round += 1
        start_s = time.perf_counter()
        done = await asyncio.gather(
            *(self._forward(index, self._round, cell.cached_tokens, new[index]) for index in range(cell.sessions))
        )
        engine_s = time.perf_counter() - start_s
        if engine_first:
            bare_s, _ = await self._worker.run(lambda: self._time_bare(cell, new))
        return max(result.batched_tokens for result in done), (engine_s, bare_s)

    def _prepare_bare(self, cell: Cell, hidden: torch.Tensor) -> None:
        self.bare.reset()
        if cell.cached_tokens:
            self.bare.fill(hidden[0, : cell.cached_tokens], sequences=cell.sessions)

    def _time_bare(self, cell: Cell, new: torch.Tensor) -> float:
        self.bare.truncate(cell.cached_tokens)
        if cell.cached_tokens == 0:
            self.bare.reset()
        start_s = time.perf_counter()
        self.bare.forward(new, cell.cached_tokens)
        return time.perf_counter() - start_s

    async def _open(self, index: int, cell: Cell, hidden: torch.Tensor) -> None:
        await self.cloud.open(
            types.SessionOpen(
                session_id=str(index),
                model_digest="",
                slice_start=0,
                slice_end=len(self.bare.layers),
                hidden_size=hidden.shape[-1],
                max_positions=hidden.shape[1],
            )
        )
        if cell.cached_tokens:
            await self._forward(index, 0, 0, hidden[index, : cell.cached_tokens])

    async def _forward(self, index: int, round_index: int, start: int, rows: torch.Tensor) -> work.Done:
        return await self.cloud.forward(
            work.Work(
                session_id=str(index),
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
    """Room for the largest cell, and a page for each session's last tokens."""
    head_dim = shape.hidden_size // shape.heads
    bytes_per_token = 2 * shape.layers * shape.kv_heads * head_dim * dtype.itemsize
    tokens = max(cell.sessions * (cell.cached_tokens + cell.num_tokens + PAGE_TOKENS) for cell in CELLS)
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
