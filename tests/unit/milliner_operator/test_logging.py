"""What the operator's log holds at which level."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from milliner_operator import __main__ as program

NAMES = ("", "kopf.objects")


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """The process's loggers as they were."""
    before = {name: logging.getLogger(name).level for name in NAMES}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def set_up(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own: without pytest's handlers, which would keep the level as it is."""
    with monkeypatch.context() as context:
        context.setattr(logging.getLogger(), "handlers", [])
        program.set_up_logging(level)


def test_events_of_children_are_not_told_and_passes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up("INFO", monkeypatch)
    assert not logging.getLogger("kopf.objects").isEnabledFor(logging.INFO)
    assert logging.getLogger("milliner_operator.queue").isEnabledFor(logging.INFO)


def test_everything_else_is_told_at_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up("DEBUG", monkeypatch)
    assert logging.getLogger("kopf.activities").isEnabledFor(logging.DEBUG)
