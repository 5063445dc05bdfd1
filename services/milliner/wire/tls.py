"""Mutual TLS of the wire from three PEM files, which are read anew when they change: nothing restarts, no stream ends.

A certificate is only looked at when a connection is made. The server asks for the files' state at each handshake
(on a thread of C-core's), a client makes a new channel once `Identity.version` has changed; connections that stand go
on with what they were made with. Files that do not fit together (a rotation half-way) are left until they do.

Each side must show a certificate that the other's `ca_file` has signed; the client also checks the server's name.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import pathlib
import threading
from collections.abc import Callable

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from milliner.contract import role_config
from milliner.core import errors

_log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int], ...]  # inode, time of change and size of each file


@dataclasses.dataclass(frozen=True, slots=True)
class _Loaded:
    """The files' contents, PEM, and when the certificate is valid."""

    roots: bytes
    chain: bytes
    key: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Identity:
    """This tier's certificate and whom it trusts. Any thread.

    Raises `ConfigError` naming the field when the files cannot be used at the start; later that is only logged.
    `version` counts what was loaded; it changes in `refresh`.
    """

    def __init__(self, files: role_config.TlsFiles, *, now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._files = files
        self._now = now
        self._lock = threading.Lock()
        self._signature = self._sign()
        self._loaded = _load(files)
        self._complaint = ""
        self.version = 1

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must have; "": the name that led to it."""
        return self._files.server_name or ""

    def trouble(self) -> str:
        """Why no new connection can be made with this tier's certificate, or ""."""
        self.refresh()
        loaded, now = self._loaded, self._now()
        if now >= loaded.not_after:
            return f"the certificate in {self._files.certificate_file} expired at {loaded.not_after:%Y-%m-%d %H:%M} UTC"
        if now < loaded.not_before:
            begins = f"{loaded.not_before:%Y-%m-%d %H:%M} UTC"
            return f"the certificate in {self._files.certificate_file} is not valid before {begins}: check the clock"
        return ""

    def refresh(self) -> None:
        """Reads the files if they have changed."""
        with self._lock:
            try:
                signature = self._sign()
                if signature == self._signature:
                    return
                loaded = _load(self._files)
            except errors.ConfigError as error:
                self._complain(str(error))
                return
            self._signature, self._complaint = signature, ""
            if loaded == self._loaded:
                return
            self._loaded = loaded
            self.version += 1
        _log.info("%s was read anew; valid until %s", self._files.certificate_file, loaded.not_after)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a client's channel made now."""
        loaded = self._loaded
        return grpc.ssl_channel_credentials(loaded.roots, loaded.key, loaded.chain)

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server: looks at the files at each handshake and takes no client without a certificate."""
        used = self._loaded

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal used
            self.refresh()
            before, used = used, self._loaded
            return None if used == before else _server_configuration(used)

        return grpc.dynamic_ssl_server_credentials(
            _server_configuration(used),
            changed,  # type: ignore[arg-type]  # grpc-stubs does not know that None means "as it was"
            require_client_authentication=True,
        )

    def _sign(self) -> _Signature:
        found = []
        for field in ("ca_file", "certificate_file", "key_file"):
            try:
                status = pathlib.Path(getattr(self._files, field)).stat()
            except OSError as error:
                raise _unusable(field, f"cannot be read: {error.strerror}") from error
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            _log.warning("the certificates on disk cannot be used, the ones in use stay: %s", complaint)


def _server_configuration(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.chain)], loaded.roots)


def _load(files: role_config.TlsFiles) -> _Loaded:
    """Reads the three files. Raises `ConfigError` for what cannot be used."""
    roots, chain, key = (_read(files, field) for field in ("ca_file", "certificate_file", "key_file"))
    try:
        x509.load_pem_x509_certificates(roots)
    except ValueError as error:
        raise _unusable("ca_file", f"holds no certificates in PEM: {error}") from error
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise _unusable("certificate_file", f"holds no certificate in PEM: {error}") from error
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise _unusable("key_file", f"holds no private key in PEM: {error}") from error
    if private.public_key() != leaf.public_key():
        raise _unusable("key_file", "is not the key of the certificate in certificate_file")
    return _Loaded(roots, chain, key, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _read(files: role_config.TlsFiles, field: str) -> bytes:
    try:
        return pathlib.Path(getattr(files, field)).read_bytes()
    except OSError as error:
        raise _unusable(field, f"cannot be read: {error.strerror}") from error


def _unusable(field: str, message: str) -> errors.ConfigError:
    return errors.ConfigError(message, field=f"tls.{field}")
