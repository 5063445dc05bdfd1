"""A folder behind HTTP: whole small files, byte ranges of large ones, asked again from where an answer broke off.

Any server of static files that honours Range will do, and the Hugging Face hub, which redirects large files elsewhere.
Thread-safe.
"""

from __future__ import annotations

import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping

import httpx

from milliner.core import errors
from milliner.model.sources import folders, retries

_TIMEOUT = httpx.Timeout(30.0, connect=10.0, pool=120.0)  # arbitrary; `read` is per piece of an answer
_MOST_SMALL_BYTES = 256 << 20  # arbitrary: tokenizers of 250,000 tokens have 35 MB
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_COMMIT = re.compile("[0-9a-f]{40}")
_COMMIT_HEADER = "X-Repo-Commit"  # the hub's, of the revision asked for
_PROBED_BYTES = 8  # what asking for a file's size brings: the length field of a safetensors file


class _Passing(Exception):
    """A failure that another attempt may not meet."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class HttpFolder:
    """Files below a URL, whose query, if it has one, is kept (signed URLs)."""

    def __init__(
        self,
        url: str,
        *,
        where: str,
        field: str,
        token: str | None = None,
        retry: retries.RetryPolicy = retries.PATIENT,
    ) -> None:
        self.where = where
        self.field = field
        self._base = httpx.URL(url)
        self._retry = retry
        headers = {"Accept-Encoding": "identity", "User-Agent": "milliner"}
        if token:
            headers["Authorization"] = f"Bearer {token}"  # httpx drops it where a redirect leaves the host
        self._client = httpx.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True)
        self._lock = threading.Lock()
        self._seen: dict[str, folders.FileStat] = {}
        self.commit = ""

    def close(self) -> None:
        self._client.close()

    def read(self, name: str) -> bytes | None:
        attempts = self._retry.begin(what=self._name(name), field=self.field)
        while True:
            try:
                return self._read_once(name)
            except _Passing as error:
                attempts.failed(error.reason, retry_after_s=error.retry_after_s)

    def stat(self, name: str) -> folders.FileStat:
        for _ in self.stream(name, 0, _PROBED_BYTES):
            pass
        with self._lock:
            return self._seen[name]

    def stream(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        attempts = self._retry.begin(what=self._name(name), field=self.field)
        while begin < end:
            try:
                for part in self._stream_once(name, begin, end):
                    begin += len(part)
                    attempts.progressed()
                    yield part
            except _Passing as error:
                attempts.failed(error.reason, retry_after_s=error.retry_after_s)

    def _read_once(self, name: str) -> bytes | None:
        content = bytearray()
        try:
            with self._client.stream("GET", self._url(name)) as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    return None
                self._check_status(name, response)
                self._check_commit(name, response)
                for part in response.iter_raw():
                    content += part
                    if len(content) > _MOST_SMALL_BYTES:
                        raise self._refused(f"{self._name(name)} has more than {_MOST_SMALL_BYTES >> 20} MiB")
        except httpx.HTTPError as error:
            raise self._transport(name, error) from error
        return bytes(content)

    def _stream_once(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        """What one request brings of [begin, end), perhaps less than asked for, at least one byte."""
        position = begin
        try:
            with self._client.stream("GET", self._url(name), headers={"Range": f"bytes={begin}-{end - 1}"}) as response:
                self._check_status(name, response)
                self._check_commit(name, response)
                end = min(end, self._check_range(name, response, begin))
                for part in response.iter_raw():
                    kept = part[: end - position]
                    position += len(kept)
                    if kept:
                        yield kept
                    if position == end:
                        return
        except httpx.HTTPError as error:
            raise self._transport(name, error) from error
        raise _Passing(f"the answer broke off after {position - begin} of {end - begin} bytes")

    def _check_status(self, name: str, response: httpx.Response) -> None:
        status, shown = response.status_code, self._name(name)
        if status in _PASSING:
            raise _Passing(f"it answers {status}", _seconds(response.headers))
        if status == httpx.codes.NOT_FOUND:
            raise self._refused(f"{shown} is not there (404): correct {self.field}")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise self._refused(
                f"{shown} is refused ({status}): correct {self.field}, or name a token that may read it in "
                "model.credentialsSecretRef"
            )
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise self._refused(f"{shown} is shorter than it should be (416): it is cut short, upload it again")
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise self._refused(f"{shown} is answered with status {status}: correct {self.field}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._refused(f"{shown} comes compressed although it was asked for plainly: turn that off there")

    def _check_range(self, name: str, response: httpx.Response, begin: int) -> int:
        """The end of the range that an answer brings, which must begin at `begin` of the file seen before."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code != httpx.codes.PARTIAL_CONTENT or found is None:
            raise self._refused(
                f"{self._name(name)} is answered as a whole although a range was asked for: use a server that honours "
                "HTTP Range (nginx, S3, the hub), or a pvc:// source"
            )
        first, last, size = (int(group) for group in found.groups())
        if first != begin:
            raise self._refused(f"{self._name(name)} is answered from byte {first} instead of {begin}")
        stat = folders.FileStat(size_bytes=size, tag=_tag(response))
        with self._lock:
            if self._seen.setdefault(name, stat) != stat:
                raise self._changed(name)
        return last + 1

    def _check_commit(self, name: str, response: httpx.Response) -> None:
        """All files must be of one commit, where the place says of which they are."""
        found = next((each.headers[_COMMIT_HEADER] for each in _chain(response) if _COMMIT_HEADER in each.headers), "")
        if _COMMIT.fullmatch(found) is None:
            return
        with self._lock:
            self.commit = self.commit or found
            if self.commit != found:
                raise self._changed(name)

    def _changed(self, name: str) -> errors.SourceError:
        return self._refused(
            f"{self._name(name)} changed while it was being read: start again when nobody writes there, or pin a "
            "revision"
        )

    def _transport(self, name: str, error: httpx.HTTPError) -> Exception:
        if isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol):
            return _Passing(f"{type(error).__name__}: {error}".rstrip(": "))
        return self._refused(f"{self._name(name)} cannot be asked for: {error}")

    def _refused(self, message: str) -> errors.SourceError:
        return errors.SourceError(message, field=self.field)

    def _url(self, name: str) -> httpx.URL:
        path = self._base.path.rstrip("/") + "/" + urllib.parse.quote(name)
        return self._base.copy_with(path=path)

    def _name(self, name: str) -> str:
        return f"{name} at {self.where}"


def _chain(response: httpx.Response) -> tuple[httpx.Response, ...]:
    """An answer with the redirects that led to it, these first."""
    return (*response.history, response)


def _tag(response: httpx.Response) -> str:
    """What the place calls this content. The hub names a large file's own hash before it redirects; the place that it
    redirects to may have another name for the same."""
    for each in _chain(response):
        linked = each.headers.get("X-Linked-ETag")
        if linked:
            return _plain_tag(linked)
    return _plain_tag(response.headers.get("ETag", ""))


def _plain_tag(tag: str) -> str:
    return tag.removeprefix("W/").strip('"')


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds; the form with a date is left aside, the pause doubles anyway."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None
