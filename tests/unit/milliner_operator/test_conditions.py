"""Conditions: the table in the documents is the code's, times move only with statuses, Ready follows its leaves."""

from __future__ import annotations

import pathlib

import pytest

from milliner_operator import conditions, errors, settings
from milliner_operator.conditions import Condition, Reason, Type

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "operations.md"


def test_the_documented_table_is_the_codes() -> None:
    assert conditions.markdown_table() in DOCUMENT.read_text(encoding="utf-8")


def test_every_reason_has_a_guide_and_is_one_camel_case_word() -> None:
    assert set(conditions.GUIDES) == set(Reason)
    assert all(reason.value.isalpha() and reason.value[0].isupper() for reason in Reason)


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = conditions.merged(
        [Condition(Type.READY, False, Reason.UPDATING, "a")], before=(), generation=1, now="2026-01-01T00:00:00Z"
    )
    same = conditions.merged(
        [Condition(Type.READY, False, Reason.PODS_NOT_READY, "b")], before=first, generation=2, now="later"
    )
    assert same[0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert (same[0]["reason"], same[0]["observedGeneration"]) == ("PodsNotReady", 2)
    other = conditions.merged(
        [Condition(Type.READY, True, Reason.ALL_ROLES_READY)], before=same, generation=2, now="now"
    )
    assert other[0]["lastTransitionTime"] == "now"


def test_settings_come_from_the_environment() -> None:
    found = settings.read(
        {
            "MILLINER_RUNTIME_IMAGE": "host:5000/runtime:2.0@sha256:abc",
            "MILLINER_WATCH_NAMESPACES": "a, b",
            "MILLINER_RESYNC_SECONDS": "60",
        }
    )
    assert (found.watch_namespaces, found.resync_s, found.version) == (("a", "b"), 60, "2.0")
    assert settings.read({}) == settings.Settings()
    assert settings.Settings(runtime_image="host:5000/runtime").version == "latest"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MILLINER_RESYNC_SECONDS", "soon"),
        ("MILLINER_RESYNC_SECONDS", "1"),
        ("MILLINER_IMAGE_PULL_POLICY", "Sometimes"),
        ("MILLINER_LOG_LEVEL", "LOUD"),
        ("MILLINER_TRACING_SAMPLING_PERCENT", "101"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(errors.SettingsInvalid, match=f"{name}: is '{value}'"):
        settings.read({name: value})


@pytest.mark.parametrize("name", ["MILLINER_HUB_ENDPOINT", "MILLINER_SOURCE_HTTPS_PROXY", "MILLINER_SOURCE_HTTP_PROXY"])
def test_a_wrong_url_is_named_but_not_shown_for_it_may_hold_a_password(name: str) -> None:
    with pytest.raises(errors.SettingsInvalid, match=f"{name}: is no URL") as raised:
        settings.read({name: "user:secret@proxy:3128"})
    assert "secret" not in str(raised.value)
