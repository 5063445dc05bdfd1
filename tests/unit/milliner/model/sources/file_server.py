"""A server of static files on port 0 that counts what it sends and fails as it is told; the hub's paths as well."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.server
import pathlib
import re
import threading
from collections.abc import Iterator

_HUB = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclasses.dataclass
class FileServer:
    """`folder` is served at `/`, for the hub at `/org/name/resolve/REVISION/` by a redirect to `/cdn/`.

    `break_after_bytes`: the next answers of weights end early, so many times as there are entries. `statuses`: the next
    answers' status. `sent_bytes` counts bodies of 200 and 206, by file name.
    """

    folder: pathlib.Path
    port: int = 0
    token: str = ""
    ranges: bool = True
    generation: str = "1"  # part of every entity tag
    commits: dict[str, str] = dataclasses.field(default_factory=dict)  # of the hub's revisions; told with each answer
    uploads: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)  # folders of commits beside `folder`
    break_after_bytes: list[int] = dataclasses.field(default_factory=list)
    statuses: list[int] = dataclasses.field(default_factory=list)
    sent_bytes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    requests: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # path, Authorization
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def total_sent_bytes(self) -> int:
        return sum(self.sent_bytes.values())

    @contextlib.contextmanager
    def running(self) -> Iterator[FileServer]:
        handler = type("Handler", (_Handler,), {"state": self})
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    state: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        state = self.state
        with state.lock:
            state.requests.append((self.path, self.headers.get("Authorization", "")))
            status = state.statuses.pop(0) if state.statuses else 0
        hub = _HUB.fullmatch(self.path)
        if status:
            return self._empty(status)
        open_to_all = not state.token or self.path.startswith("/cdn/")
        if not open_to_all and self.headers.get("Authorization") != f"Bearer {state.token}":
            return self._empty(401)
        at, name = hub["revision"] if hub else "", hub["name"] if hub else self.path.lstrip("/")
        commit = state.commits.get(at, at)
        told = {"X-Repo-Commit": commit} if state.commits and hub is not None else {}
        if hub is not None and name.endswith(".safetensors"):
            # Another host name for the same server: a redirect that leaves the host, as the hub's do.
            target = f"http://localhost:{state.port}/cdn/{commit}/{name}"
            return self._empty(302, {"Location": target, "X-Linked-ETag": f'"{commit}-{state.generation}"'} | told)
        if name.startswith("cdn/"):
            _, commit, name = name.split("/", 2)
        file = state.uploads.get(commit, state.folder) / name
        if not file.is_file():
            return self._empty(404)
        self._send(file, told)

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, file: pathlib.Path, told: dict[str, str]) -> None:
        state = self.state
        size = file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if state.ranges else None
        begin, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        if begin >= size:
            return self._empty(416)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        for key, value in told.items():
            self.send_header(key, value)
        self.send_header("ETag", f'W/"{file.name}-{state.generation}-{"cdn" if "/cdn/" in self.path else "plain"}"')
        self.end_headers()
        with file.open("rb") as content:
            content.seek(begin)
            body = content.read(end - begin)
        with state.lock:
            breaks = file.suffix == ".safetensors" and len(body) > 8 and bool(state.break_after_bytes)
            if breaks:
                body = body[: state.break_after_bytes.pop(0)]
            state.sent_bytes[file.name] += len(body)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
            self.wfile.flush()
        if breaks:
            self.close_connection = True
