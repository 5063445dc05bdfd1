"""Promises of KV pages."""

from __future__ import annotations

import pytest

from milliner.core import errors
from milliner.engine import admission


def test_promises_whole_pages_up_to_the_cache_and_takes_them_back() -> None:
    account = admission.Admission(num_pages=4, page_tokens=16, max_sessions=8)
    assert account.admit(17, now_s=0.0) == 2
    assert account.admit(32, now_s=0.0) == 2
    with pytest.raises(errors.KVCacheFull) as refusal:
        account.admit(1, now_s=0.0)
    assert refusal.value.field == "max_positions"
    assert account.promised_share == 1.0
    account.release(2)
    assert account.admit(16, now_s=0.0) == 1


def test_refuses_one_session_too_many() -> None:
    account = admission.Admission(num_pages=4, page_tokens=16, max_sessions=1)
    account.admit(1, now_s=0.0)
    with pytest.raises(errors.TooManySessions):
        account.admit(1, now_s=0.0)


@pytest.mark.parametrize(
    ("max_positions", "expected"),
    [(0, errors.PositionMismatch), (-3, errors.PositionMismatch), (65, errors.PromptTooLong)],
)
def test_what_never_fits_is_no_reason_to_try_again(max_positions: int, expected: type[errors.MillinerError]) -> None:
    account = admission.Admission(num_pages=4, page_tokens=16, max_sessions=8)
    with pytest.raises(expected) as refusal:
        account.admit(max_positions, now_s=0.0)
    assert refusal.value.field == "max_positions"
    assert account.promised_pages == 0


def test_a_promise_grows_where_there_is_room_and_is_taken_back_whole() -> None:
    account = admission.Admission(num_pages=8, page_tokens=16, max_sessions=8)
    first, other = account.admit(16, now_s=0.0), account.admit(48, now_s=0.0)
    assert account.extend(first, 20, now_s=0.0) == 2
    assert account.extend(2, 10, now_s=0.0) == 2, "never fewer"
    with pytest.raises(errors.KVCacheFull, match="4 pages more, 3 are free"):
        account.extend(2, 96, now_s=0.0)
    assert account.promised_pages == 5
    account.release(2)
    account.release(other)
    assert account.promised_pages == account.num_sessions == 0
    assert account.admit(8 * 16, now_s=0.0) == 8


def test_room_that_is_kept_for_who_has_waited_long_is_not_grown_into() -> None:
    account = admission.Admission(num_pages=8, page_tokens=16, max_sessions=8)
    pages = account.admit(4 * 16, now_s=0.0)
    for now_s in (0.0, 2.0, 4.0, 6.0):
        with pytest.raises(errors.KVCacheFull):
            account.admit(5 * 16, now_s=now_s, claim="long")
    with pytest.raises(errors.KVCacheFull):
        account.extend(pages, 5 * 16, now_s=6.0)
