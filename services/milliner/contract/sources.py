"""Where model and adapter files come from: parsing of `source` fields; only `local_folder` looks at files.

Forms: `hf://org/name@revision`, `pvc://claim/path`, `https://host/path`, `builtin://demo`, `file:///folder`, and a
plain path, absolute or relative, where no cluster is.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from collections.abc import Mapping, Sequence


class Scheme(enum.StrEnum):
    """The kinds of source."""

    HUGGING_FACE = "hf"
    CLAIM = "pvc"
    HTTPS = "https"
    BUILTIN = "builtin"
    FILE = "file"


FORMS = "hf://org/name@revision, pvc://claim/path, https://host/path, builtin://demo, file:///folder or a folder's path"
LOCAL_SCHEMES = frozenset({Scheme.BUILTIN, Scheme.FILE})


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A parsed source: `location` is what follows `scheme://`, without the revision; a plain path has scheme FILE."""

    scheme: Scheme
    location: str
    revision: str = ""

    @property
    def local(self) -> bool:
        """Whether it can be used without a cluster and without a network."""
        return self.scheme in LOCAL_SCHEMES


def parse(text: str) -> Source:
    """Parses a source; raises ValueError (*expected*) whose message says what is wrong and which forms exist."""
    if not text.strip():
        raise ValueError(f"is empty: use {FORMS}")
    name, separator, location = text.partition("://")
    if not separator:
        return Source(Scheme.FILE, text)
    try:
        scheme = Scheme(name)
    except ValueError:
        raise ValueError(f"{text!r} starts with {name}://, which is unknown: use {FORMS}") from None
    match scheme:
        case Scheme.FILE:
            if not location.startswith("/"):
                raise ValueError(f"{text!r} names no absolute folder: write file:///folder, with three slashes")
            return Source(scheme, location)
        case Scheme.HUGGING_FACE:
            repository, _, revision = location.partition("@")
            if repository.count("/") != 1 or not all(repository.split("/")):
                raise ValueError(f"{text!r} names no repository: write hf://org/name or hf://org/name@revision")
            return Source(scheme, repository, revision)
        case _:
            if not location:
                raise ValueError(f"{text!r} names nothing after {name}://: use {FORMS}")
            return Source(scheme, location)


def local_folder(
    source: Source, *, relative_to: Sequence[pathlib.Path], builtin: Mapping[str, pathlib.Path]
) -> pathlib.Path:
    """The folder of a local source.

    A relative path is looked for under each of `relative_to` in turn (the topology file's folder, then the working
    directory). Raises ValueError (*expected*) for a source that needs a cluster or network, an unknown builtin name or
    a folder that is not there.
    """
    if source.scheme is Scheme.BUILTIN:
        if source.location not in builtin:
            known = ", ".join(f"builtin://{name}" for name in sorted(builtin))
            raise ValueError(f"builtin://{source.location} is unknown: use {known}")
        return builtin[source.location]
    if source.scheme is not Scheme.FILE:
        raise ValueError(
            f"{source.scheme.value}://{source.location} needs a cluster: "
            "here use builtin://demo, file:///folder or a folder's path"
        )
    path = pathlib.Path(source.location).expanduser()
    candidates = [path] if path.is_absolute() else [base / path for base in relative_to]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise ValueError(f"no folder {source.location!r} (looked at {looked}): name a checkpoint folder")
