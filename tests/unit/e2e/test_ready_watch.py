"""The judge of tests/e2e: a Ready that is True over failing requests is found, and only that."""

from __future__ import annotations

import pytest
from tests.e2e import ready_watch
from tests.e2e.ready_watch import Sample


def story(text: str) -> list[Sample]:
    """A sample a second; `.`: Ready and answered, `x`: Ready and failed, `-`: not Ready and failed, `o`: answered."""
    return [
        Sample(at, "True" if each in ".x" else "False", "", "", "refused" if each in "x-" else "")
        for at, each in enumerate(text)
    ]


@pytest.mark.parametrize(
    ("samples", "noticed_s", "wrong_at"),
    [
        ("....", 0.0, []),
        ("..ooo..", 0.0, []),
        ("..xx--..", 2.0, []),
        ("..x.x--..", 3.0, []),
        ("..xxxx--..", 4.0, [5]),
        ("..xxxxxx", 5.0, [5, 6, 7]),
        ("..x--x-..", 1.0, [5]),
        ("..-..x", 0.0, [5]),
    ],
)
def test_after_it_was_told_or_too_late_no_request_may_fail(
    samples: str, noticed_s: float, wrong_at: list[float]
) -> None:
    found = ready_watch.judge(story(samples), within_s=2.5)
    assert (found.noticed_s, [each.at_s for each in found.wrong]) == (noticed_s, wrong_at)


def test_the_order_of_answers_is_of_no_matter() -> None:
    samples = story("..xx--x.")
    assert ready_watch.judge(reversed(samples)) == ready_watch.judge(samples)
