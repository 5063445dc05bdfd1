"""Claims: for whom room is kept, from whom, and for how long."""

from __future__ import annotations

import pytest

from milliner.core import errors
from milliner.engine import admission, claims

PAGE_TOKENS = 16


def account(*, num_pages: int = 8, max_sessions: int = 8) -> admission.Admission:
    return admission.Admission(num_pages=num_pages, page_tokens=PAGE_TOKENS, max_sessions=max_sessions)


def ask(to: admission.Admission, pages: int, *, claim: str = "", now_s: float) -> bool:
    """Whether a session of `pages` is admitted."""
    try:
        to.admit(pages * PAGE_TOKENS, now_s=now_s, claim=claim)
    except errors.CapacityError:
        return False
    return True


def wait(to: admission.Admission, pages: int, *, claim: str, since_s: float, until_s: float) -> None:
    """Is refused every second."""
    for tries in range(int(until_s - since_s) + 1):
        assert not ask(to, pages, claim=claim, now_s=since_s + tries)


def test_one_that_has_waited_long_gets_the_room_that_others_leave() -> None:
    cloud = account()
    assert ask(cloud, 4, now_s=0.0) and ask(cloud, 4, now_s=0.0)
    wait(cloud, 8, claim="large", since_s=0.0, until_s=4.0)
    cloud.release(4)
    assert ask(cloud, 4, claim="small", now_s=4.5), "nobody has waited long: whoever fits"
    wait(cloud, 8, claim="large", since_s=5.0, until_s=5.0)
    cloud.release(4)
    assert not ask(cloud, 4, claim="small", now_s=5.5)
    assert not ask(cloud, 4, now_s=5.5), "an old device's openings too"
    cloud.release(4)
    assert ask(cloud, 8, claim="large", now_s=6.0)
    cloud.release(8)
    assert ask(cloud, 4, claim="other", now_s=6.5), "what was admitted keeps nobody out"


def test_others_get_what_the_next_one_does_not_need() -> None:
    cloud = account()
    assert ask(cloud, 4, now_s=0.0) and ask(cloud, 4, now_s=0.0)
    wait(cloud, 3, claim="first", since_s=0.0, until_s=6.0)
    wait(cloud, 8, claim="second", since_s=1.0, until_s=6.0)
    cloud.release(4)
    assert not ask(cloud, 2, now_s=6.5)
    assert ask(cloud, 1, now_s=6.5), "room is kept for the first alone"
    assert ask(cloud, 3, claim="first", now_s=7.0)


def test_the_order_is_that_of_the_first_tries() -> None:
    cloud = account()
    assert ask(cloud, 8, now_s=0.0)
    for now_s in range(7):
        assert not ask(cloud, 5, claim="first", now_s=now_s) and not ask(cloud, 5, claim="second", now_s=now_s)
    cloud.release(8)
    assert not ask(cloud, 5, claim="second", now_s=7.0)
    assert ask(cloud, 5, claim="first", now_s=7.0)
    cloud.release(5)
    assert ask(cloud, 5, claim="second", now_s=7.0)


def test_who_does_not_try_again_keeps_nobody_out() -> None:
    cloud = account()
    assert ask(cloud, 8, now_s=0.0)
    wait(cloud, 8, claim="gone", since_s=0.0, until_s=6.0)
    cloud.release(8)
    assert not ask(cloud, 1, now_s=6.0 + claims.FORGOTTEN_AFTER_S)
    assert ask(cloud, 1, now_s=6.1 + claims.FORGOTTEN_AFTER_S)


def test_a_session_is_kept_beside_the_pages() -> None:
    cloud = account(max_sessions=2)
    assert ask(cloud, 1, now_s=0.0) and ask(cloud, 1, now_s=0.0)
    wait(cloud, 1, claim="first", since_s=0.0, until_s=5.0)
    cloud.release(1)
    with pytest.raises(errors.TooManySessions, match="one is kept for who has waited longer"):
        cloud.admit(1, now_s=5.5, claim="late")
    assert ask(cloud, 1, claim="first", now_s=5.5)


def test_one_that_a_later_stage_refuses_comes_back_to_its_place() -> None:
    cloud = account()
    assert ask(cloud, 8, now_s=0.0)
    wait(cloud, 6, claim="chain", since_s=0.0, until_s=6.0)
    wait(cloud, 8, claim="late", since_s=2.0, until_s=6.0)
    cloud.release(8)
    assert ask(cloud, 6, claim="chain", now_s=6.5)
    cloud.release(6)  # the stage behind had no room
    assert ask(cloud, 8, claim="late", now_s=7.5)
    assert not ask(cloud, 6, claim="chain", now_s=7.6)
    cloud.release(8)
    assert not ask(cloud, 8, claim="another", now_s=7.7), "it has waited since 0 s, not since 7.6 s"
    assert ask(cloud, 6, claim="chain", now_s=8.0)


def test_what_is_remembered_is_bounded() -> None:
    waiting = claims.Claims()
    for index in range(2 * claims.MAX_CLAIMS):
        waiting.refused(str(index), 1, now_s=0.0)
    waiting.refused("", 1, now_s=0.0)
    assert len(waiting) == claims.MAX_CLAIMS
    assert waiting.pages_kept_from("x", now_s=claims.FORGOTTEN_AFTER_S + 1.0) == 0
    assert len(waiting) == 0
