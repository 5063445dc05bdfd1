"""A fresh installation: the operator passes Pod Security "restricted" and `helm test`; both charts upgrade in place."""

from __future__ import annotations

import json
import pathlib

import pytest
from tests.chart import charts, kubectl
from tests.e2e import installation, topologies

OPERATOR = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=milliner"


def operator_pods(namespace: str) -> list[charts.Document]:
    """The operator's pods that are not ending."""
    answer = kubectl.run("get", "pods", "--namespace", namespace, "--selector", OPERATOR, "--output", "json")
    pods: list[charts.Document] = json.loads(answer)["items"]
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def test_helm_test_succeeds(milliner: str) -> None:
    done = charts.helm("test", installation.RELEASE, "--namespace", milliner, "--logs", deadline_s=180)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{installation.diagnosis()}"


def test_the_operator_has_not_restarted_and_logs_no_error(milliner: str) -> None:
    (pod,) = operator_pods(milliner)
    assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]
    logs = kubectl.run("logs", pod["metadata"]["name"], "--namespace", milliner)
    assert "Traceback" not in logs and "Forbidden" not in logs, logs


@pytest.mark.parametrize("path", ["/", "/opt/milliner/code", "/var"])
def test_the_root_filesystem_cannot_be_written(milliner: str, path: str) -> None:
    (pod,) = operator_pods(milliner)
    script = f"import tempfile; tempfile.TemporaryFile(dir={path!r})"
    with pytest.raises(kubectl.Refused, match=r"Read-only|Permission"):
        kubectl.run("exec", pod["metadata"]["name"], "--namespace", milliner, "--", "python", "-c", script)


NEW_FIELD = ("cloud", "rollout", "progressDeadlineSeconds")  # of no pod's template: to set it restarts nothing


def test_an_upgrade_brings_a_field_and_replaces_the_operator_and_no_other_pod(
    milliner: str, chat: charts.Document, tmp_path: pathlib.Path
) -> None:
    namespace = chat["metadata"]["namespace"]
    installation.install_definition(charts.older_definition(tmp_path / "older", without=NEW_FIELD))
    uid = kubectl.get("itopo", "chat", namespace=namespace)["metadata"]["uid"]
    pods = [topologies.names("chat", role, namespace=namespace) for role in ("cloud", "device")]
    chat["spec"]["cloud"]["rollout"] = {"progressDeadlineSeconds": 300}
    assert 'unknown field "progressDeadlineSeconds"' in kubectl.refusal(chat)
    (before,) = operator_pods(milliner)
    installation.install("--set", "podAnnotations.upgraded=yes")
    (after,) = operator_pods(milliner)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    kubectl.apply_when_taken(chat)
    deployment = ("--for=jsonpath={.spec.progressDeadlineSeconds}=300", "deployment/chat-cloud")
    kubectl.run("wait", *deployment, "--namespace", namespace, "--timeout=30s")
    topologies.wait_ready("chat", namespace=namespace)
    assert kubectl.get("itopo", "chat", namespace=namespace)["metadata"]["uid"] == uid
    assert [topologies.names("chat", role, namespace=namespace) for role in ("cloud", "device")] == pods
