"""Where model and drafter files lie in a pod: a folder of a claim, or a cache that the role fills itself. Pure."""

from __future__ import annotations

import dataclasses
import pathlib
import re

from milliner.contract import errors, role_config, sources

CACHE_DIR = "/var/cache/milliner"
CLAIMS_DIR = "/models"
CREDENTIALS_DIR = "/etc/milliner-credentials"
CREDENTIALS_FILE = f"{CREDENTIALS_DIR}/token"
_HTTP_PORTS = (443, 80)


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """A source as a pod has it: `source` is None where the folder is there without fetching, on claim `claim`."""

    path: str
    source: str | None = None
    claim: str | None = None

    @property
    def fetched_over_network(self) -> bool:
        return self.source is not None and sources.parse(self.source).fetched

    @property
    def source_ports(self) -> tuple[int, ...]:
        """The ports that fetching needs: those of HTTP, where redirects lead, and the one that the source names."""
        if self.source is None or not self.fetched_over_network:
            return ()
        named = _named_port(self.source)
        return (*_HTTP_PORTS, *([named] if named else []))


def locate(text: str, *, field: str, folder: str) -> Files:
    """The files of a source; `folder` names its part of the cache. Raises `SpecInvalid` (*expected*) for local ones."""
    source = sources.parse(text)
    if source.scheme is sources.Scheme.FILE:
        problem = errors.Problem(
            f"spec.{field}",
            f"{field} is {text}, a folder of one machine: in a cluster use hf://org/name@revision, pvc://claim/path, "
            "https://host/path or builtin://demo",
        )
        raise errors.SpecInvalid([problem])
    if source.scheme is not sources.Scheme.CLAIM:
        return Files(path=f"{CACHE_DIR}/{folder}", source=text)
    claim, _, inside = source.location.partition("/")
    if ".." in pathlib.PurePosixPath(inside).parts:
        raise errors.SpecInvalid([errors.Problem(f"spec.{field}", f"{field} is {text}: a path must not contain ..")])
    return Files(path=f"{CLAIMS_DIR}/{claim}/{inside}".rstrip("/"), claim=claim)


def model_files(
    files: Files,
    *,
    base: role_config.ModelFiles,
    has_credentials: bool,
    digest: str | None = None,
    fingerprint: str | None = None,
) -> role_config.ModelFiles:
    """The model as a role's configuration in a cluster has it.

    `digest` and `fingerprint` are what an inspection found: who fetches a part of the model cannot find out the digest
    of the whole. Where the whole lies on a claim, the role finds it out for itself.
    """
    fetched = files.source is not None
    return base.model_copy(
        update={
            "path": files.path,
            "source": files.source,
            "cache_dir": CACHE_DIR if fetched else None,
            "digest": digest if files.fetched_over_network and digest else base.digest,
            "fingerprint": fingerprint or None,
            "credentials_file": CREDENTIALS_FILE if has_credentials and files.fetched_over_network else None,
        }
    )


def _named_port(source: str) -> int | None:
    found = re.fullmatch(r"https?://[^/]*:(\d{1,5})(/.*)?", source)
    return int(found[1]) if found else None
