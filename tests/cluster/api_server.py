"""What tests ask of an API server: raw JSON documents, refusals as field and message. Waits have deadlines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from kubernetes import client, config

from milliner.contract import names
from milliner.contract.crd import definition

DEADLINE_S = 60.0  # of a request, and for a definition to be served
APPLY = "application/apply-patch+yaml"  # JSON is YAML
MERGE = "application/merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_FIELD_MANAGER = "milliner-tests"


class Refused(Exception):
    """The API server said no; `causes` has pairs of field and message."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.message = str(status.get("message", ""))
        found = (status.get("details") or {}).get("causes", ())
        self.causes = [(str(cause.get("field", "")), str(cause.get("message", ""))) for cause in found]
        super().__init__(self.message)


@dataclasses.dataclass(frozen=True, slots=True)
class ApiServer:
    """One API server."""

    connection: client.ApiClient

    def request(
        self, verb: str, path: str, *, body: Any = None, content_type: str = "application/json", **options: str
    ) -> Any:
        """The answer's document; `options` are query parameters, `accept` is the header. Raises `Refused`."""
        accept = options.pop("accept", "application/json")
        serialized = self.connection.param_serialize(
            method=verb,
            resource_path=path,
            query_params=list(options.items()),
            header_params={"Content-Type": content_type, "Accept": accept},
            body=None if body is None else body if "json" in content_type else json.dumps(body),
            auth_settings=["BearerToken"],
        )
        answer = self.connection.call_api(*serialized, _request_timeout=DEADLINE_S)
        content = answer.read()
        if answer.status >= 400:
            raise Refused(_status(content))
        return json.loads(content)

    def install_definition(self) -> None:
        """Applies this checkout's CustomResourceDefinition and waits until its objects are served.

        In Helm's name: a chart that is installed or upgraded later may change what is its own.
        """
        self.install(definition.definition(), plural=f"{names.API_VERSION}/{names.PLURAL}", manager="helm")

    def install(self, wanted: dict[str, Any], *, plural: str, manager: str = _FIELD_MANAGER) -> None:
        """Applies a definition and waits until its objects are served, at `plural` (group/version/plural)."""
        self.apply(f"{DEFINITIONS}/{wanted['metadata']['name']}", wanted, manager=manager)
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(Refused):
                self.request("GET", f"/apis/{plural}", limit="1")
                return
            time.sleep(0.1)
        raise TimeoutError(f"the definition was not served within {DEADLINE_S:.0f} s")

    def apply(self, path: str, document: dict[str, Any], *, manager: str = _FIELD_MANAGER) -> Any:
        """Server-side apply."""
        return self.request("PATCH", path, body=document, content_type=APPLY, fieldManager=manager, force="true")

    def try_topology(self, namespace: str, document: dict[str, Any]) -> Any:
        """The topology as the API server would store it; nothing is stored. Raises `Refused`."""
        return self.request("POST", topologies(namespace), body=document, dryRun="All", fieldValidation="Strict")

    def create_namespace(self, prefix: str) -> str:
        """A new namespace; returns its name."""
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": prefix}}
        return str(self.request("POST", "/api/v1/namespaces", body=document)["metadata"]["name"])

    def delete_namespace(self, name: str) -> None:
        """Deletes a namespace with all that is in it; does not wait."""
        self.request("DELETE", f"/api/v1/namespaces/{name}")


def _status(content: bytes) -> dict[str, Any]:
    """A refusal's document; a group that is not served yet is refused in plain text."""
    try:
        found: dict[str, Any] = json.loads(content)
    except ValueError:
        return {"message": content.decode(errors="replace")}
    return found


def topologies(namespace: str, name: str = "") -> str:
    """The path of a namespace's topologies, or of one."""
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}" + (f"/{name}" if name else "")


@contextlib.contextmanager
def connect(kubeconfig: pathlib.Path) -> Iterator[ApiServer]:
    """Opens the current context of a kubeconfig."""
    connection = config.new_client_from_config(str(kubeconfig))
    try:
        yield ApiServer(connection)
    finally:
        connection.close()
