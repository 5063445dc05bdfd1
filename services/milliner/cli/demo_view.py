"""What `milliner demo` draws: the scene, two answers growing side by side, the table of figures, the waterfall."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING

import rich.box
import rich.columns
import rich.console
import rich.panel
import rich.table
import rich.text

from milliner.cli import figures
from milliner.telemetry.summary import RequestSummary

if TYPE_CHECKING:
    from milliner.local import demonstration, launches

_PROMPT_LINES = 6  # of the prompt's end; arbitrary
_ANSWER_LINES = 14  # of a panel; an answer of 64 tokens has about ten at half the width
_MOST_OVERRUNS = 0.01  # as in `milliner bench`, whose rows are invalid above
_COLOURS = ("yellow", "green")


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One strategy's answer in figures; `equal_tokens` counts up to the first that is not the unsplit model's."""

    title: str
    summary: RequestSummary
    equal_tokens: int

    def to_json(self) -> dict[str, object]:
        return {"strategy": self.title, "equal_tokens": self.equal_tokens, **self.summary.to_json()}


def print_introduction(
    out: rich.console.Console, *, launch: launches.TopologyLaunch, prompt: demonstration.Prompt
) -> None:
    """What runs where, and the end of the prompt."""
    out.print()
    out.print("[bold]One model, split between a device and a cloud[/]")
    for line in _scene(launch):
        out.print(f"  {line}", style="dim")
    out.print()
    tail = prompt.text.rstrip("\n").splitlines()[-_PROMPT_LINES:]
    out.print(f"The prompt: {len(prompt.token_ids)} tokens of {prompt.file}, never trained on. Its end:", style="dim")
    body = rich.text.Text("\n".join(tail), style="dim", overflow="ellipsis", no_wrap=True)
    out.print(rich.panel.Panel(body, border_style="dim"))


class SideBySide:
    """Panels that rich's Live redraws. Times are those that a person at this terminal sees."""

    def __init__(self, titles: tuple[str, ...], *, console: rich.console.Console) -> None:
        self._console = console
        self._titles = titles
        self._texts = [""] * len(titles)
        self._footers = ["waits"] * len(titles)
        self._started_s = [0.0] * len(titles)

    def start(self, index: int) -> None:
        """The answer's request is about to be sent."""
        self._started_s[index] = time.monotonic()
        self._footers[index] = "prefill"

    def update(self, index: int, text: str, *, num_tokens: int) -> None:
        """The answer as far as it has come."""
        self._texts[index] = text
        self._footers[index] = f"{num_tokens} tokens in {time.monotonic() - self._started_s[index]:.1f} s"

    def finish(self, index: int, summary: RequestSummary) -> None:
        """The answer is complete."""
        ttft_ms = (summary.ttft_s or 0.0) * 1e3
        self._footers[index] = (
            f"{summary.generated_tokens} tokens · {summary.duration_s:.2f} s · first {ttft_ms:.0f} ms"
        )

    def __rich__(self) -> rich.console.RenderableType:
        width = (self._console.width - 1) // len(self._titles)
        panels = zip(self._titles, self._texts, self._footers, itertools.cycle(_COLOURS))
        return rich.columns.Columns(
            [self._panel(title, text, footer, colour, width=width) for title, text, footer, colour in panels],
            padding=(0, 0),
        )

    def _panel(self, title: str, text: str, footer: str, colour: str, *, width: int) -> rich.panel.Panel:
        lines = rich.text.Text(text.expandtabs(4)).wrap(self._console, width - 4, overflow="fold")
        shown = rich.text.Text("\n").join(lines[-_ANSWER_LINES:])
        return rich.panel.Panel(
            shown,
            title=f"[bold]{title}[/]",
            subtitle=footer,
            width=width,
            height=_ANSWER_LINES + 2,
            border_style=colour,
        )


def print_results(
    out: rich.console.Console, results: list[Result], *, num_tokens: int, overrun_share: float, time_scale: float
) -> None:
    """The figures beside each other, the last one's waterfall, and what to do next."""
    from milliner.telemetry import waterfall

    out.print()
    out.print(_table(results, num_tokens=num_tokens))
    if overrun_share > _MOST_OVERRUNS:
        out.print(
            f"[yellow]This machine was too slow for {overrun_share:.0%} of the emulated calls, so the times above are "
            "not those of the hardware that it plays:[/] close other programs, or add "
            f"[bold]--time-scale {3 * time_scale:g}[/]."
        )
    out.print()
    out.print(f"[bold]Where {results[-1].title}'s time went[/]")
    waterfall.print_waterfall(results[-1].summary, to=out)
    out.print()
    out.print("A small model's greedy answers repeat themselves, which flatters any drafting: ", style="dim", end="")
    out.print("milliner bench also measures sampled answers, several lengths and codecs.", style="dim")
    out.print("Next: [bold]milliner up[/] runs it as a service, [bold]milliner chat[/] talks to it, ", end="")
    out.print("[bold]milliner bench[/] measures it.")


def _table(results: list[Result], *, num_tokens: int) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for result in results:
        table.add_column(result.title, justify="right")
    table.add_column("", style="bold green")
    summaries = [result.summary for result in results]
    table.add_row("time to first token", *_ms(one.ttft_s for one in summaries), _gain([s.ttft_s for s in summaries]))
    table.add_row("time per further token", *_ms(one.tpot_s for one in summaries), _gain([s.tpot_s for s in summaries]))
    durations = [one.duration_s for one in summaries]
    table.add_row("whole answer", *_ms(durations), _gain(durations))
    table.add_row("tokens per verification", *(_number(one.acceptance_length) for one in summaries), "")
    table.add_row("rounds whose drafting was hidden", *(_share(figures.hidden_draft_share(s)) for s in summaries), "")
    for counter, words in (("bytes_up", "sent up, kB per token"), ("bytes_down", "sent down, kB per token")):
        per_token = [one.counters.get(counter, 0) / max(1, one.generated_tokens) / 1e3 for one in summaries]
        table.add_row(words, *(f"{kilobytes:.1f}" for kilobytes in per_token), "")
    equal = [result.equal_tokens for result in results]
    verdict = "✓ the unsplit model's" if all(count == num_tokens for count in equal) else ""
    table.add_row("tokens as the unsplit model's", *(f"{count} of {num_tokens}" for count in equal), verdict)
    return table


def _ms(durations_s: object) -> list[str]:
    assert not isinstance(durations_s, str)
    return ["–" if one is None else f"{one * 1e3:,.0f} ms" for one in durations_s]  # type: ignore[attr-defined]


def _gain(durations_s: list[float | None] | list[float]) -> str:
    """How many times as fast the last is as the first."""
    first, last = durations_s[0], durations_s[-1]
    return f"{first / last:.2f} × as fast" if first and last else ""


def _number(value: float | None) -> str:
    return "1" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _scene(launch: launches.TopologyLaunch) -> list[str]:
    """The split, the link and the compute in words, from the configuration itself."""
    from milliner.contract import role_config

    config = launch.devices[0].config
    assert isinstance(config, role_config.DeviceRoleConfig)
    split = config.split
    lines = [
        f"device: layers [0, {split.split_layer}), final norm and lm_head · cloud: layers "
        f"[{split.split_layer}, {split.layers - split.tail_layers}) · only hidden states cross the link"
    ]
    if config.emulation is not None and config.emulation.link is not None:
        link = config.emulation.link
        lines.append(
            f"link: {link.uplink_kilobits_per_second / 1e3:g} Mbit/s up, {link.downlink_kilobits_per_second / 1e3:g} "
            f"down, {link.round_trip_milliseconds} ms round trip, as narrow for this model as 80 and 160 for a 7B one"
        )
    lines.append("compute: every call takes as long as that of a 7B model on an AGX Orin and an A6000")
    return lines
