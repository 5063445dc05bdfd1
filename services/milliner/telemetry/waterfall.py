"""Draws one request on a console: a row per round, its phases as coloured bars, then the totals.

Rounds after prefill share one scale, prefill has its own: prefill is often ten times as long, and a common scale
would make a round three columns wide. A cell is the phase on the critical path at its middle; drafting that ran at
the same time, hidden behind it, is shown by a lighter glyph. Where there are no colours, a cell is the phase's letter,
a small one where drafting was hidden behind it. Long answers are summed up by a mean row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich import console, table, text

from milliner.telemetry import origins
from milliner.telemetry.phases import Phase
from milliner.telemetry.summary import PhaseSpan, RequestSummary, RoundSummary

MAX_ROWS = 20  # more rounds than that: the first HEAD_ROWS, a mean row, the last TAIL_ROWS
HEAD_ROWS = 12
TAIL_ROWS = 4
MIN_WIDTH, MAX_WIDTH = 80, 120
_LEFT_COLUMNS = 36  # columns before the bar
_SOLID, _HIDDEN, _GAP = "█", "▒", "·"

COLOURS: dict[Phase, str] = {
    Phase.TOKENIZE: "grey62",
    Phase.DEVICE_FORWARD: "dodger_blue1",
    Phase.DRAFT: "medium_purple1",
    Phase.PACK: "grey82",
    Phase.NETWORK: "orange1",
    Phase.QUEUE: "red1",
    Phase.CLOUD_FORWARD: "green3",
    Phase.VERIFY: "turquoise2",
    Phase.SAMPLE: "yellow1",
    Phase.ROLLBACK: "deep_pink2",
    Phase.PACE: "grey35",
    Phase.TAKEOVER: "white",
}
LETTERS: dict[Phase, str] = {
    Phase.TOKENIZE: "T",
    Phase.DEVICE_FORWARD: "F",
    Phase.DRAFT: "D",
    Phase.PACK: "P",
    Phase.NETWORK: "N",
    Phase.QUEUE: "Q",
    Phase.CLOUD_FORWARD: "C",
    Phase.VERIFY: "V",
    Phase.SAMPLE: "S",
    Phase.ROLLBACK: "R",
    Phase.PACE: "W",
    Phase.TAKEOVER: "K",
}


def render(summary: RequestSummary, *, width: int = 100, colours: bool = True) -> console.Group:
    """Something that rich prints, at most `width` columns wide (kept within 80 to 120)."""
    width = max(MIN_WIDTH, min(MAX_WIDTH, width))
    bar_columns = width - _LEFT_COLUMNS
    rows = table.Table(box=None, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    rows.add_column("round", width=13, no_wrap=True)
    rows.add_column("at ms", justify="right", width=8)
    rows.add_column("ms", justify="right", width=7)
    rows.add_column("tok", justify="right", width=4)
    rows.add_column("where the time went", width=bar_columns, no_wrap=True)
    prefill = [round_ for round_ in summary.rounds if round_.kind == "prefill"]
    decode = [round_ for round_ in summary.rounds if round_.kind != "prefill"]
    _add_rows(rows, prefill, bar_columns, colours=colours)
    if prefill and decode:
        rows.add_row("", "", "", "", text.Text("─" * bar_columns, style="grey35"))
    _add_rows(rows, decode, bar_columns, colours=colours)
    return console.Group(
        _headline(summary),
        text.Text(),
        rows,
        text.Text(),
        _totals(summary, colours=colours),
        _legend(summary, colours=colours),
    )


def print_waterfall(summary: RequestSummary, *, to: console.Console | None = None) -> None:
    """Prints the waterfall; without a console, on standard output."""
    out = to if to is not None else console.Console()
    out.print(render(summary, width=out.width, colours=out.color_system is not None))


def _headline(summary: RequestSummary) -> text.Text:
    line = text.Text(f"{summary.operation} {summary.model}", style="bold")
    parts = [
        summary.strategy,
        f"{summary.prompt_tokens} prompt + {summary.generated_tokens} tokens",
        f"{summary.duration_s * 1e3:.0f} ms",
    ]
    if summary.ttft_s is not None:
        parts.append(f"TTFT {summary.ttft_s * 1e3:.0f} ms")
    if summary.tpot_s is not None:
        parts.append(f"TPOT {summary.tpot_s * 1e3:.1f} ms")
    if summary.acceptance_length is not None:
        parts.append(f"acceptance {summary.acceptance_length:.2f}")
    if summary.error_type is not None:
        parts.append(f"failed: {summary.error_type}")
    line.append(" · " + " · ".join(parts), style="not bold")
    if handed_over := origins.words(summary):
        line.append("\n" + handed_over, style="not bold")
    return line


def _add_rows(rows: table.Table, rounds: Sequence[RoundSummary], bar_columns: int, *, colours: bool) -> None:
    def add(label: str, round_: RoundSummary) -> None:
        rows.add_row(
            label,
            f"{round_.start_s * 1e3:.1f}",
            f"{round_.duration_s * 1e3:.1f}",
            str(round_.emitted_tokens),
            _bar(round_, scale_s, bar_columns, colours=colours),
        )

    scale_s = max((round_.duration_s for round_ in rounds), default=0.0)
    tail = max(0, len(rounds) - TAIL_ROWS)
    head = HEAD_ROWS if len(rounds) > MAX_ROWS else tail
    skipped = rounds[head:tail]
    for round_ in rounds[:head]:
        add(f"{round_.index} {round_.kind}", round_)
    alike = [list(group) for _, group in itertools.groupby(skipped, key=lambda round_: round_.kind)]
    for group in alike:
        add(f"… {len(group)}, {'mean' if len(alike) == 1 else group[0].kind}", _mean(group))
    for round_ in rounds[tail:]:
        add(f"{round_.index} {round_.kind}", round_)


def _bar(round_: RoundSummary, scale_s: float, bar_columns: int, *, colours: bool) -> text.Text:
    bar = text.Text()
    columns = max(1, round(bar_columns * round_.duration_s / scale_s)) if scale_s > 0 else 1
    critical = [span for span in round_.phases if not span.hidden]
    hidden = [span for span in round_.phases if span.hidden]
    for column in range(columns):
        at_s = round_.start_s + (column + 0.5) / columns * round_.duration_s
        span = _covering(critical, at_s)
        if span is None:
            bar.append(_GAP, style="grey50")
        else:
            bar.append(_cell(span.phase, over_hidden=_covering(hidden, at_s) is not None, colours=colours))
    return bar


def _cell(phase: Phase, *, over_hidden: bool, colours: bool) -> text.Text:
    if colours:
        return text.Text(_HIDDEN if over_hidden else _SOLID, style=COLOURS[phase])
    return text.Text(LETTERS[phase].lower() if over_hidden else LETTERS[phase])


def _covering(spans: Sequence[PhaseSpan], at_s: float) -> PhaseSpan | None:
    # The first one recorded wins: a phase inside another ended, and so was recorded, before the outer one.
    return next((span for span in spans if span.start_s <= at_s < span.start_s + span.duration_s), None)


def _mean(rounds: Sequence[RoundSummary]) -> RoundSummary:
    """A round as long as the mean one, its phases in their usual order, hidden ones from the start on."""
    count = len(rounds)
    spans: list[PhaseSpan] = []
    start_s = rounds[0].start_s
    for hidden in (False, True):
        cursor_s = start_s
        for phase in Phase:
            total_s = sum(s.duration_s for r in rounds for s in r.phases if s.phase is phase and s.hidden is hidden)
            if total_s > 0.0:
                spans.append(PhaseSpan(phase, cursor_s, total_s / count, hidden=hidden))
                cursor_s += total_s / count
    return RoundSummary(
        index=rounds[0].index,
        kind=rounds[0].kind,
        start_s=start_s,
        duration_s=sum(round_.duration_s for round_ in rounds) / count,
        emitted_tokens=round(sum(round_.emitted_tokens for round_ in rounds) / count),
        phases=tuple(spans),
    )


def _totals(summary: RequestSummary, *, colours: bool) -> table.Table:
    totals = table.Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False)
    totals.add_column("phase", width=16)
    totals.add_column("total ms", justify="right")
    totals.add_column("share", justify="right")
    totals.add_column("hidden ms", justify="right")
    duration_s = summary.duration_s or 1.0
    for phase in Phase:
        if phase not in summary.phases_s and phase not in summary.hidden_phases_s:
            continue
        seconds, hidden_s = summary.phases_s.get(phase, 0.0), summary.hidden_phases_s.get(phase, 0.0)
        totals.add_row(
            text.Text.assemble(_cell(phase, over_hidden=False, colours=colours), " ", phase.value),
            f"{seconds * 1e3:.1f}",
            f"{seconds / duration_s:.1%}",
            f"{hidden_s * 1e3:.1f}" if hidden_s else "",
        )
    rest_s = max(0.0, summary.duration_s - summary.attributed_s)
    totals.add_row(text.Text(f"{_GAP} other", style="grey50"), f"{rest_s * 1e3:.1f}", f"{rest_s / duration_s:.1%}", "")
    return totals


def _legend(summary: RequestSummary, *, colours: bool) -> text.Text:
    if not summary.hidden_phases_s:
        return text.Text()
    names = ", ".join(phase.value for phase in summary.hidden_phases_s)
    sign = _HIDDEN if colours else "small letters:"
    return text.Text(f"{sign} while this phase ran, {names} ran hidden behind it", style="grey62")
