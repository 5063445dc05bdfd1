"""What `milliner up` shows while it runs: log lines with a coloured prefix per process, and changes of state.

Writes to standard error only (standard output belongs to results and `--json`). Called on the runner's event loop;
writing to a terminal is taken to be instant.
"""

from __future__ import annotations

import json

import rich.console
import rich.status
import rich.text

from milliner.local import state_files, supervisor

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_cyan", "bright_magenta", "bright_yellow")
_NEWS = (supervisor.State.RESTARTING, supervisor.State.FAILED)
_EXAMPLE_PROMPT = "def main(argv"
_SIGNS = {
    supervisor.State.STARTING: ("○", "dim"),
    supervisor.State.WAITING: ("◐", "yellow"),
    supervisor.State.READY: ("●", "green"),
    supervisor.State.RESTARTING: ("↻", "bold yellow"),
    supervisor.State.FAILED: ("✗", "bold red"),
    supervisor.State.STOPPED: ("○", "dim"),
}


class Console:
    """A `supervisor.Listener` that prints. `quiet` keeps back logs and all that goes as it should."""

    def __init__(self, console: rich.console.Console, *, names: tuple[str, ...], quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._width = max((len(name) for name in names), default=0)
        self._colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
        self._waiting_for: dict[str, str] = dict.fromkeys(names, "starting")
        self._status: rich.status.Status | None = None

    def on_log(self, name: str, line: str) -> None:
        if not self._quiet:
            self._console.print(self._prefix(name).append(line), highlight=False, soft_wrap=True)

    def on_state(self, name: str, state: supervisor.State, detail: str) -> None:
        if state is supervisor.State.READY:
            self._waiting_for.pop(name, None)
        elif self._status is not None:
            self._waiting_for[name] = detail or state.value
        quiet_states = (supervisor.State.STARTING, supervisor.State.WAITING)
        shown_states = _NEWS if self._quiet else tuple(supervisor.State)
        if state in shown_states and (state not in quiet_states or not self._console.is_terminal):
            sign, style = _SIGNS[state]
            first_line = detail.split("\n", 1)[0]
            words = f"{sign} {state.value}" + (f": {first_line}" if first_line else "")
            self._console.print(self._prefix(name).append(words, style=style), highlight=False, soft_wrap=True)
        self._refresh()

    def say(self, line: str) -> None:
        """Prints a line of the runner's own."""
        self._console.print(line, style="dim", highlight=False, soft_wrap=True, markup=False)

    def note(self, note: str) -> None:
        """Prints what a topology's plan is worth knowing for; not with `quiet`."""
        if not self._quiet:
            self.say(f"note: {note}")

    def announce(self, running: state_files.RunningTopology) -> None:
        """Prints the endpoints of a topology that is ready, and a request to try; not with `quiet`."""
        if self._quiet:
            return
        head = rich.text.Text("● ", style="green").append(f"{running.name} is ready", style="bold")
        head.append(f"  {running.strategy} · model {running.model}", style="dim")
        self._console.print(head, highlight=False)
        for device in running.devices:
            self._console.print(f"  {device.name:<16} {device.url}", highlight=False, markup=False)
        if running.devices:
            body = json.dumps({"model": running.model, "prompt": _EXAMPLE_PROMPT, "max_tokens": 32})
            example = (
                f"  curl -s {running.devices[0].url}/v1/completions -H 'Content-Type: application/json' -d '{body}'"
            )
            self._console.print(example, style="dim", highlight=False, markup=False, soft_wrap=True)
        self._console.print("  Ctrl-C ends all processes", style="dim", highlight=False)

    def start_waiting(self) -> None:
        """Shows a spinner that says what is awaited (on a terminal; elsewhere changes of state are printed)."""
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._refresh()
            self._status.start()

    def stop_waiting(self) -> None:
        """Takes the spinner away; safe to call twice."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _refresh(self) -> None:
        if self._status is not None:
            awaited = ", ".join(f"{name} ({detail})" for name, detail in self._waiting_for.items())
            self._status.update(f"waiting for {awaited}" if awaited else "ready")

    def _prefix(self, name: str) -> rich.text.Text:
        prefix = rich.text.Text()
        return prefix.append(f"{name:<{self._width}} │ ", style=self._colours.get(name, "white"))
