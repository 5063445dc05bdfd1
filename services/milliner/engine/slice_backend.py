"""The engine's backend on torch: a batch of pieces through a model slice over the paged KV cache.

A batch is decode (each frame once, at its first piece), one ragged forward pass, encode (at each frame's last piece).
Consecutive pieces of one session are one segment. Runs on the executor's thread only.

Failures stay with their frame: what `decode` gives is checked before it meets other sessions' tokens, and if the
forward pass itself raises (out of memory, a kernel's refusal), every session is computed again alone.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from milliner.core import errors, types
from milliner.engine import limits, work
from milliner.model import kv_cache, kv_swap, ragged

if TYPE_CHECKING:
    from milliner.model import slice as model_slice_module

_log = logging.getLogger(__name__)


class SliceBackend:
    """Implements `engine.work.Backend` for a `ModelSlice`; owns its KV cache."""

    def __init__(self, model_slice: model_slice_module.ModelSlice, *, config: limits.EngineConfig) -> None:
        self._slice = model_slice
        page_bytes = config.page_tokens * kv_cache.PagedKVCache.bytes_per_token(model_slice.kv_spec, model_slice.dtype)
        num_pages = config.kv_cache_bytes // page_bytes if page_bytes else 0
        self.page_bytes = page_bytes
        self.swap_pages = config.kv_swap_bytes // page_bytes if page_bytes else 0
        if num_pages < 1:
            raise errors.ConfigError(
                f"{config.kv_cache_bytes} bytes hold no page of {config.page_tokens} tokens "
                f"({page_bytes} bytes): give the KV cache more memory",
                field=config.kv_cache_field,
            )
        self._cache = kv_cache.PagedKVCache(
            model_slice.kv_spec,
            num_pages=num_pages,
            page_tokens=config.page_tokens,
            dtype=model_slice.dtype,
            torch_device=model_slice.torch_device,
        )
        self._swap = kv_swap.KVSwapSpace(self._cache, num_pages=self.swap_pages)

    @property
    def num_pages(self) -> int:
        return self._cache.num_pages

    @property
    def page_tokens(self) -> int:
        return self._cache.page_tokens

    @property
    def max_positions(self) -> int:
        return self._slice.max_positions

    def run(
        self, pieces: Sequence[work.Piece], *, release: Sequence[work.KVHandle], swaps: work.Swaps
    ) -> work.BatchOutcome:
        """See `engine.work.Backend.run`."""
        self._release(release)
        with torch.inference_mode():
            self._swap.wait()  # for moves that were made beside the last batch: the pages that they freed may be next
            for kv in swaps.adopt:
                self._sequence(kv)
            self._move(swaps.before)
            self._swap.wait()
            spans = [_Span(list(group)) for _, group in itertools.groupby(pieces, key=lambda piece: id(piece.job.kv))]
            for span in spans:
                self._decode(span)
            ready = [span for span in spans if span.num_tokens]
            if ready:
                self._forward_isolated(ready)
                self._project(ready)
            self._move(swaps.ahead)  # a GPU is computing still
            outcomes = tuple(itertools.chain.from_iterable(self._encode(span) for span in spans))
            if self._slice.torch_device.type == "cuda":
                # Or the duration would leave out what still runs. Moves may go on: the next batch waits for them.
                torch.cuda.current_stream(self._slice.torch_device).synchronize()
        return work.BatchOutcome(pieces=outcomes, num_tokens=sum(span.num_tokens for span in ready))

    def measure(self, num_tokens: int) -> None:
        """See `engine.work.Backend.measure`."""
        sequence = self._cache.open()
        try:
            with torch.inference_mode():
                sequence.reserve(num_tokens)
                hidden = torch.zeros(
                    num_tokens, self._slice.hidden_size, dtype=self._slice.dtype, device=self._slice.torch_device
                )
                segment = ragged.Segment(sequence, start=0, num_tokens=num_tokens)
                self._slice.forward(hidden, ragged.RaggedBatch.build([segment], torch_device=self._slice.torch_device))
                if self._slice.torch_device.type == "cuda":
                    torch.cuda.synchronize(self._slice.torch_device)
        finally:
            sequence.close()

    @staticmethod
    def _release(handles: Sequence[work.KVHandle]) -> None:
        for kv in handles:
            if kv.sequence is not None:
                kv.sequence.close()
                kv.sequence = None

    def _move(self, moves: Sequence[work.Move]) -> None:
        for move in moves:
            sequence: kv_cache.SequenceKV | None = move.kv.sequence
            if sequence is not None:  # None: its only frame could not be read
                there = self._swap.move_out(sequence, move.num_tokens) if move.out else self._swap.move_in(sequence)
                move.kv.sequence = there

    def _decode(self, span: _Span) -> None:
        """Gives each piece its rows; from the first frame that fails on, the span's pieces are out of the batch."""
        for index, piece in enumerate(span.pieces):
            started_s = time.perf_counter()
            try:
                if piece.job.hidden is None:
                    piece.job.hidden = self._checked(piece.job.work.decode(), piece.job.work.num_tokens)
            except Exception as error:  # whatever a peer's bytes make the codec do must stay with its frame
                span.fail_from(index, _as_frame_error(error))
                return
            finally:
                span.codec_s[index] += time.perf_counter() - started_s
            span.rows.append(piece.job.hidden[piece.offset : piece.offset + piece.num_tokens])

    def _checked(self, hidden: torch.Tensor, num_tokens: int) -> torch.Tensor:
        if tuple(hidden.shape) != (num_tokens, self._slice.hidden_size):
            raise errors.ShapeMismatch(
                f"found {list(hidden.shape)}, expected [{num_tokens}, {self._slice.hidden_size}]", field="payloads"
            )
        hidden = hidden.to(dtype=self._slice.dtype)
        # Before the copy to a GPU, where asking would make the host wait for it, frame by frame.
        if not bool(torch.isfinite(hidden).all()):
            raise errors.ShapeMismatch("hidden states hold infinities or NaN", field="payloads")
        return hidden.to(self._slice.torch_device)

    def _forward_isolated(self, spans: Sequence[_Span]) -> None:
        try:
            self._forward(spans)
        except Exception as error:
            if len(spans) == 1:
                _log.exception("forward pass failed for one session")
                spans[0].fail_from(0, _as_compute_error(error))
                return
            _log.warning("forward pass over %d sessions failed (%s): computing each alone", len(spans), error)
            for span in spans:
                self._forward_isolated([span])

    def _forward(self, spans: Sequence[_Span]) -> None:
        segments = []
        for span in spans:
            sequence = self._sequence(span.pieces[0].job.kv)
            start = span.pieces[0].start_pos
            if sequence.kv_len > start:
                sequence.truncate(start)
            assert sequence.kv_len == start, "the session checked that its frames follow one another"
            sequence.reserve(span.num_tokens)
            watch = span.pieces[0].job.work.watch
            segments.append(ragged.Segment(sequence, start=start, num_tokens=span.num_tokens, watch=watch))
        self._swap.settle()  # a session that grew may have been copied, and its old pages are free
        batch = ragged.RaggedBatch.build(segments, torch_device=self._slice.torch_device)
        hidden = torch.cat([rows for span in spans for rows in span.rows])  # [T, D] of the whole batch
        deep = self._slice.forward(hidden, batch)  # [T, D]
        for span, rows in zip(spans, deep.split([span.num_tokens for span in spans]), strict=True):
            span.deep = rows

    def _project(self, spans: Sequence[_Span]) -> None:
        """Logits of all frames that end in this batch and ask for them, in one product with lm_head."""
        ending = [(span, index, row) for span in spans for index, row in span.ending_rows()]
        if not ending:
            return
        try:
            logits = self._slice.logits(torch.cat([row for *_, row in ending]))  # [R, V]
        except Exception as error:
            if len(spans) == 1:
                _log.exception("lm_head failed for one session")
                spans[0].fail_from(0, _as_compute_error(error))
                return
            _log.warning("lm_head over %d sessions failed (%s): computing each alone", len(spans), error)
            for span in spans:
                self._project([span])
            return
        for (span, index, _), row in zip(ending, logits.split(1), strict=True):
            span.pieces[index].job.logits = row

    def _sequence(self, kv: work.KVHandle) -> kv_cache.SequenceKV:
        sequence: kv_cache.SequenceKV | None = kv.sequence
        if sequence is None:
            adoption, kv.adoption = kv.adoption, None
            if adoption is None:
                sequence = self._cache.open()
            elif adoption.move:
                sequence, adoption.source.sequence = adoption.source.sequence, None
                assert sequence is not None
                sequence.truncate(adoption.num_tokens)
            else:
                sequence = self._cache.open()
                sequence.copy_from(adoption.source.sequence, adoption.num_tokens)
            kv.sequence = sequence
        return sequence

    def _encode(self, span: _Span) -> list[work.PieceOutcome]:
        outcomes = []
        at = 0
        for index, piece in enumerate(span.pieces):
            error = span.errors[index]
            payload = None
            if error is None:
                assert span.deep is not None
                rows = span.deep[at : at + piece.num_tokens]
                at += piece.num_tokens
                started_s = time.perf_counter()
                try:
                    payload = _reply(piece, rows)
                except Exception as failure:  # an encoder's failure must stay with its frame
                    error = _as_frame_error(failure)
                span.codec_s[index] += time.perf_counter() - started_s
            outcomes.append(work.PieceOutcome(error=error, payload=payload, codec_s=span.codec_s[index]))
        return outcomes


class _Span:
    """The consecutive pieces of one session in a batch: one segment of the forward pass."""

    __slots__ = ("codec_s", "deep", "errors", "pieces", "rows")

    def __init__(self, pieces: list[work.Piece]) -> None:
        self.pieces = pieces
        self.rows: list[torch.Tensor] = []  # of the pieces that were decoded, each [t, D]
        self.deep: torch.Tensor | None = None  # [T, D] of those pieces
        self.errors: list[Exception | None] = [None] * len(pieces)
        self.codec_s = [0.0] * len(pieces)

    @property
    def num_tokens(self) -> int:
        return sum(rows.shape[0] for rows in self.rows)

    def ending_rows(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Index and last deep state [1, D] of the pieces that end a frame which asks for logits."""
        at = 0
        for index, (piece, rows) in enumerate(zip(self.pieces, self.rows, strict=False)):
            at += rows.shape[0]
            if self.deep is not None and piece.is_last and piece.job.work.of_logits:
                yield index, self.deep[at - 1 : at]

    def fail_from(self, index: int, error: Exception) -> None:
        """The piece fails, and those behind it, which continue positions that will not exist."""
        self.errors[index] = error
        for later in range(index + 1, len(self.pieces)):
            self.errors[later] = errors.PositionMismatch("the frame before this one failed", field="start_pos")
        del self.rows[index:]


def _reply(piece: work.Piece, rows: torch.Tensor) -> types.Payload | None:
    """The encoded reply at a frame's last piece; earlier pieces' rows wait in the job where all are asked for."""
    job = piece.job
    if job.work.reply_positions is types.ReplyPositions.ALL:
        job.outputs.append(rows)
    if not piece.is_last or job.work.reply_positions is types.ReplyPositions.NONE:
        return None
    if job.work.of_logits:
        return job.work.encode(job.logits)
    wanted = rows[-1:] if job.work.reply_positions is types.ReplyPositions.LAST else torch.cat(job.outputs)
    return job.work.encode(wanted)


def _as_frame_error(error: Exception) -> Exception:
    """Named errors pass; anything else that a frame's bytes provoked becomes one, with its cause."""
    if isinstance(error, errors.MillinerError):
        return error
    _log.warning("a frame's payload could not be read or written", exc_info=error)
    named = errors.ProtocolError(f"the payload could not be read or written: {error}", field="payloads")
    named.__cause__ = error
    return named


def _as_compute_error(error: Exception) -> Exception:
    if isinstance(error, errors.MillinerError):
        return error
    named = errors.UnavailableError(f"the forward pass failed in the cloud: {error}")
    named.__cause__ = error
    return named
