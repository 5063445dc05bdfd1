"""What TLSReady says of Secrets that were deleted and made anew."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import plan
from milliner_operator.conditions import Condition, Reason, Type

SECRETS = ("chat-ca", "chat-cloud-tls", "chat-device-tls")


def planned(*, rolled_out: str, made: tuple[str, ...]) -> plan.Plan:
    """The plan where the cloud's last rollout and the creation of the Secrets were then; "": there is none."""
    wanted = worlds.parsed()
    status = {"conditions": [{"type": "Progressing", "status": "True", "lastUpdateTime": rolled_out}]}
    cloud = worlds.child(worlds.planned(identities=worlds.identities(wanted)), "Deployment", "chat-cloud")
    objects: dict[tuple[str, str], Any] = {("Deployment", "chat-cloud"): cloud | {"status": status}}
    for name, stamp in zip(SECRETS, made, strict=True):
        if stamp:
            objects["Secret", name] = {"kind": "Secret", "metadata": {"name": name, "creationTimestamp": stamp}}
    return worlds.planned(identities=worlds.identities(wanted), objects=objects)


def told(made: plan.Plan) -> Condition:
    found = made.condition(Type.TLS_READY)
    assert found is not None
    return found


@pytest.mark.parametrize("made", [("2026-11-21T11:59:00Z",) * 3, ("", "", ""), ("", "2026-11-21T11:58:30Z", "")])
def test_pods_that_have_nothing_of_new_secrets_are_not_trusted_to_serve(made: tuple[str, ...]) -> None:
    found = told(planned(rolled_out="2026-11-21T10:00:00Z", made=made))
    assert (found.status, found.reason) == (False, Reason.CERTIFICATE_NOT_READY)
    assert "Secrets chat-ca, chat-cloud-tls, chat-device-tls were made anew" in found.message


@pytest.mark.parametrize(
    ("rolled_out", "made"),
    [
        ("2026-11-21T10:00:00Z", ("2026-11-21T11:57:00Z",) * 3),  # kubelets have brought them
        (
            "2026-11-21T10:00:00Z",
            ("2026-11-21T11:59:00Z", "2026-11-21T09:00:00Z", "2026-11-21T11:59:00Z"),
        ),  # one lives
        ("2026-11-21T11:59:30Z", ("2026-11-21T11:59:00Z",) * 3),  # pods that began with them
        ("2026-11-21T11:59:00Z", ("2026-11-21T11:59:00Z",) * 3),  # a first installation
    ],
)
def test_else_certificates_are_ready_while_they_are_valid(rolled_out: str, made: tuple[str, ...]) -> None:
    found = told(planned(rolled_out=rolled_out, made=made))
    assert (found.status, found.reason) == (True, Reason.CERTIFICATES_VALID)


def test_a_topology_that_begins_waits_for_nobody() -> None:
    wanted = worlds.parsed()
    assert told(worlds.planned(identities=worlds.identities(wanted))).status is True
