"""Installs the charts as a user would, waits for the operator, and says what is wrong where it does not come up."""

from __future__ import annotations

import os
import pathlib

from tests.chart import charts, kubectl

RELEASE = "milliner"
CRD_RELEASE = "milliner-crds"
OPERATOR_IMAGE = os.environ.get("MILLINER_TEST_OPERATOR_IMAGE", "milliner/operator:test")
RUNTIME_IMAGE = os.environ.get("MILLINER_TEST_RUNTIME_IMAGE", "milliner/runtime:test")
DEFINITION = "inferencetopologies.milliner.dev"
UP_S = 120  # what a platform engineer would wait for an operator whose image is there


def install(*options: str) -> None:
    """Definition, then operator, which is ready afterwards. `options` are helm's. AssertionError: the cause."""
    kubectl.apply([kubectl.namespace(charts.NAMESPACE)])
    install_definition(charts.CRD_CHART)
    images = []
    for value, reference in (("image", OPERATOR_IMAGE), ("runtimeImage", RUNTIME_IMAGE)):
        repository, _, tag = reference.rpartition(":")
        images += ["--set", f"{value}.repository={repository},{value}.tag={tag}"]
    _helm("upgrade", "--install", RELEASE, str(charts.OPERATOR_CHART), *images, *options)
    _wait_until_up()


def install_definition(chart: pathlib.Path) -> None:
    """The definition alone, of the chart in a folder."""
    _helm("upgrade", "--install", CRD_RELEASE, str(chart), "--take-ownership")


def roll_back() -> None:
    """The operator as it was before the last `install`, and ready."""
    _helm("rollback", RELEASE)
    _wait_until_up()


def uninstall(*, definition: bool) -> None:
    """Removes the operator, and the definition with all topologies if it was not there before `install`."""
    for release in (RELEASE, CRD_RELEASE):
        _helm("uninstall", release, "--ignore-not-found")
    if definition:
        kubectl.run("delete", "crd", DEFINITION, "--ignore-not-found", "--wait=false")


def definition_exists() -> bool:
    return bool(kubectl.run("get", "crd", DEFINITION, "--ignore-not-found", "--output", "name"))


def diagnosis() -> str:
    """What the operator's pods and their events and logs say."""
    space = ("--namespace", charts.NAMESPACE)
    calls = (
        ("get", "pods,events", "--output", "wide", *space),
        ("logs", f"deployment/{RELEASE}", "--tail=80", "--all-pods", *space),
    )
    said = []
    for call in calls:
        try:
            said.append(kubectl.run(*call))
        except kubectl.Refused as refused:
            said.append(str(refused))
    return "\n".join(said)


def _wait_until_up() -> None:
    try:
        kubectl.run(
            *("rollout", "status", f"deployment/{RELEASE}", "--namespace", charts.NAMESPACE, f"--timeout={UP_S}s"),
            deadline_s=UP_S + kubectl.DEADLINE_S,
        )
    except kubectl.Refused as refused:
        raise AssertionError(f"the operator did not come up: {refused}\n{diagnosis()}") from None


def _helm(*arguments: str) -> None:
    done = charts.helm(*arguments, "--namespace", charts.NAMESPACE)
    assert done.returncode == 0, done.stderr
