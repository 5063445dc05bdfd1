"""Where model and drafter files lie in a pod: a folder of a claim, or a cache that the role fills itself. Pure."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

from milliner.contract import errors, role_config, sources
from milliner_operator.settings import Outside

CACHE_DIR = "/var/cache/milliner"
CLAIMS_DIR = "/models"
CREDENTIALS_DIR = "/etc/milliner-credentials"
CREDENTIALS_FILE = f"{CREDENTIALS_DIR}/token"


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """A source as a pod has it: `source` is None where the folder is there without fetching, on claim `claim`."""

    path: str
    source: str | None = None
    claim: str | None = None

    @property
    def fetched_over_network(self) -> bool:
        return self.source is not None and sources.parse(self.source).fetched


def pinned(files: Files, commit: str) -> Files:
    """The files of just the commit that was inspected, for pods that start later too; as they are without one."""
    return files if files.source is None else dataclasses.replace(files, source=sources.pinned(files.source, commit))


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


def reached(found: Sequence[Files | None], *, outside: Outside) -> tuple[str, ...]:
    """Whom fetching speaks to: the sources themselves, the hub's mirror and proxies; nobody if nothing is fetched."""
    fetched = [each.source for each in found if each is not None and each.source and each.fetched_over_network]
    return (*fetched, *outside.urls) if fetched else ()
