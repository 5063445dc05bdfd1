"""The only module that talks to an API server: reads, server-side apply, deletes; raw JSON bodies, async outside.

Calls of the `kubernetes` client block, so each runs on a thread of a small pool; every call has a deadline. Pods are
asked on threads of their own: one that does not answer must not keep others from being reconciled. One instance per
cluster: the operator's own, and one for each kubeconfig of a remote pool. Errors are those of `errors.ApiError`
(*expected*). Who answers may be anybody, so answers have a largest size (`answers`) and must be what was asked for.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import fnmatch
import json
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import urllib3
import yaml
from kubernetes import client, config

from milliner_operator import answers, errors
from milliner_operator.kinds import BY_KIND, TOPOLOGY, Kind
from milliner_operator.observed import Manifest
from milliner_operator.sameness import FIELD_MANAGER

_REQUEST_S = 15.0  # arbitrary: an API server that takes longer is as good as gone
_CONNECT_S = 5.0
_THREAD_S = 60.0  # arbitrary: how long a call may wait for its turn, which is no fault of the API server
_THREADS = 8  # arbitrary: so many calls at once are kind to an API server
_ASKING_THREADS = 16  # arbitrary: they only wait
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"
_JSON = "application/json"
_MESSAGE_CHARACTERS = 500
_ASK = "proxy"  # the verb of what goes on to a pod


class Api(Protocol):
    """What the rest of the operator needs of a cluster."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None: ...

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", limit: int = 0
    ) -> Sequence[Manifest]: ...

    async def apply(self, manifest: Manifest) -> Manifest: ...

    async def apply_status(self, namespace: str, name: str, status: Mapping[str, Any], *, version: str) -> Manifest: ...

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Manifest: ...

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest: ...

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None: ...

    async def proxy_pod(self, namespace: str, pod: str, *, port: int, path: str, timeout_s: float) -> str: ...

    async def serves(self, kind: Kind) -> bool: ...

    def close(self) -> None: ...


Told = Callable[[str, int], None]  # what is told of each answer: verb, bytes; called on any thread


class KubernetesApi:
    """`Api` over HTTPS with the credentials of a kubeconfig or of the pod's service account."""

    def __init__(self, connection: client.ApiClient, *, told: Told) -> None:
        self._connection = connection
        self._told = told
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="milliner-api")
        self._asking = concurrent.futures.ThreadPoolExecutor(_ASKING_THREADS, thread_name_prefix="milliner-ask")

    @classmethod
    def of_environment(cls, *, told: Told) -> KubernetesApi:
        """The cluster that the operator runs in, or that of KUBECONFIG; raises the client's ConfigException."""
        settings = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            config.load_kube_config(client_configuration=settings)
        return cls(_connection(settings), told=told)

    @classmethod
    def of_kubeconfig(cls, text: str, *, told: Told, servers: Sequence[str] = ()) -> KubernetesApi:
        """The cluster of a kubeconfig's current context; raises ValueError (*expected*) saying what is wrong with it.

        A kubeconfig that names programs or files is refused: whoever writes a Secret must not run anything here. With
        `servers` (host names, `*` matching any part) so is one of another server, or one that goes by a proxy.
        """
        settings = client.Configuration()
        try:
            document = yaml.safe_load(text)
            _refuse_local_references(document)
            config.load_kube_config_from_dict(document, client_configuration=settings, persist_config=False)
        except (yaml.YAMLError, config.ConfigException, AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"is no kubeconfig: {error}"[:_MESSAGE_CHARACTERS]) from None
        _refuse_other_servers(settings, servers)
        return cls(_connection(settings), told=told)

    def close(self) -> None:
        for threads in (self._threads, self._asking):
            threads.shutdown(wait=False, cancel_futures=True)
        self._connection.rest_client.close()

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        try:
            return await self._call("GET", kind.path(namespace, name), verb="get")
        except errors.NotFound:
            return None

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", limit: int = 0
    ) -> Sequence[Manifest]:
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit or "")}
        found = await self._call("GET", kind.path(namespace), query=query, verb="list")
        items = answers.items(found)
        for item in items:  # a list leaves them out of its items
            item.setdefault("kind", kind.kind)
            item.setdefault("apiVersion", kind.api_version)
        return items

    async def apply(self, manifest: Manifest) -> Manifest:
        kind, metadata = BY_KIND[manifest["kind"]], manifest["metadata"]
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        path = kind.path(metadata["namespace"], metadata["name"])
        return await self._call("PATCH", path, query=query, body=manifest, content_type=_APPLY, verb="apply")

    async def apply_status(self, namespace: str, name: str, status: Mapping[str, Any], *, version: str) -> Manifest:
        """Writes the status of just the topology that has this resource version, else raises `Conflict`: it may have
        been deleted and made anew meanwhile. (A uid is no precondition of a custom resource's status.)"""
        body = {
            "apiVersion": TOPOLOGY.api_version,
            "kind": TOPOLOGY.kind,
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
            "status": status,
        }
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        path = TOPOLOGY.path(namespace, name, subresource="status")
        return await self._call("PATCH", path, query=query, body=body, content_type=_APPLY, verb="status")

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Manifest:
        return await self._call("PATCH", kind.path(namespace, name), body=patch, content_type=_MERGE, verb="patch")

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        return await self._call("POST", kind.path(manifest["metadata"]["namespace"]), body=manifest, verb="create")

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        """Deletes exactly the object of `uid`, its dependants in the background; one that is gone is well."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._call("DELETE", kind.path(namespace, name), body=body, verb="delete")
        except (errors.NotFound, errors.Conflict):
            return  # gone, or another object of that name by now

    async def proxy_pod(self, namespace: str, pod: str, *, port: int, path: str, timeout_s: float) -> str:
        """The body of a GET to a pod's port through the API server, so that any cluster's pods can be asked."""
        url = f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path.lstrip('/')}"
        return (await self._raw("GET", url, verb=_ASK, timeout_s=timeout_s)).decode(errors="replace")

    async def serves(self, kind: Kind) -> bool:
        """Whether the API server has this kind at all; everybody may ask that."""
        try:
            found = await self._call("GET", f"/apis/{kind.api_version}", verb="discover")
        except errors.NotFound:
            return False
        return any(each.get("name") == kind.plural for each in found.get("resources") or [])

    async def _call(
        self,
        method: str,
        path: str,
        *,
        verb: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
    ) -> Manifest:
        kept = {key: value for key, value in (query or {}).items() if value}
        url = f"{path}?{urllib.parse.urlencode(kept)}" if kept else path
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        answer = await self._raw(method, url, verb=verb, data=data, content_type=content_type, timeout_s=_REQUEST_S)
        return answers.document(answer)

    async def _raw(
        self,
        method: str,
        url: str,
        *,
        verb: str,
        data: bytes | None = None,
        content_type: str = _JSON,
        timeout_s: float,
    ) -> bytes:
        loop, asks = asyncio.get_running_loop(), verb == _ASK
        threads, most = (self._asking, answers.POD_BYTES) if asks else (self._threads, answers.API_BYTES)
        call = loop.run_in_executor(threads, self._blocking, method, url, data, content_type, timeout_s, most)
        answer = b""
        try:
            # The call's own deadline begins on its thread; this one is for those that wait for a thread.
            answer = await asyncio.wait_for(call, _THREAD_S + _CONNECT_S + timeout_s)
            return answer
        except TimeoutError:
            raise errors.Unreachable(0, f"too many calls at once: no turn within {_THREAD_S:.0f} s") from None
        finally:
            self._told(verb, len(answer))

    def _blocking(
        self, method: str, url: str, data: bytes | None, content_type: str, timeout_s: float, most_bytes: int
    ) -> bytes:
        settings = self._connection.configuration
        headers = {"Accept": _JSON, "User-Agent": FIELD_MANAGER}
        if data is not None:
            headers["Content-Type"] = content_type
        token = settings.auth_settings().get("BearerToken")  # read anew: projected tokens are renewed hourly
        if token is not None and token["value"]:
            headers[token["key"]] = token["value"]
        ends = time.monotonic() + _CONNECT_S + timeout_s
        try:
            response = self._connection.rest_client.pool_manager.request(
                method,
                settings.host + url,
                body=data,
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            body = answers.read(response, most_bytes=most_bytes, ends=ends)
        except urllib3.exceptions.HTTPError as error:
            raise errors.Unreachable(0, f"no answer from the API server: {error}"[:_MESSAGE_CHARACTERS]) from None
        if response.status >= 300:
            raise errors.of_status(response.status, answers.refusal(body))
        return body


def _connection(settings: client.Configuration) -> client.ApiClient:
    settings.connection_pool_maxsize = _THREADS + _ASKING_THREADS
    return client.ApiClient(settings)


def _refuse_local_references(document: Any) -> None:
    for user in document.get("users") or []:
        if refused := sorted(
            {"exec", "auth-provider", "tokenFile", "client-key", "client-certificate"} & set(user["user"])
        ):
            raise config.ConfigException(f"users[].user.{refused[0]} is not taken: put token or certificate data in it")
    for cluster in document.get("clusters") or []:
        if "certificate-authority" in cluster["cluster"]:
            raise config.ConfigException("clusters[].cluster.certificate-authority is not taken: use its -data form")


def _refuse_other_servers(settings: client.Configuration, servers: Sequence[str]) -> None:
    host = urllib.parse.urlsplit(settings.host).hostname or ""
    if servers and not any(fnmatch.fnmatchcase(host, each.lower()) for each in servers):
        raise ValueError(f"names the server {host[:_MESSAGE_CHARACTERS]}, which is none of MILLINER_REMOTE_SERVERS")
    if servers and settings.proxy:
        raise ValueError("has a proxy-url, which is not taken where MILLINER_REMOTE_SERVERS says who may be called")


def decoded(secret: Manifest, key: str) -> str | None:
    """A value of a Secret as text, or None where the key is missing or no UTF-8."""
    value = (secret.get("data") or {}).get(key)
    if value is None:
        return None
    try:
        return base64.b64decode(value).decode()
    except ValueError:
        return None
