"""Where model and adapter files come from: parsing of `source` fields; only `local_folder` looks at files.

Forms: `hf://org/name@revision`, `pvc://claim/path`, `https://host/path` (or `http://`), `builtin://demo`,
`file:///folder`, and a plain path, absolute or relative, where no cluster is.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import re
from collections.abc import Mapping, Sequence

from milliner.contract import checks


class Scheme(enum.StrEnum):
    """The kinds of source."""

    HUGGING_FACE = "hf"
    CLAIM = "pvc"
    HTTPS = "https"
    HTTP = "http"
    BUILTIN = "builtin"
    FILE = "file"


FORMS = "hf://org/name@revision, pvc://claim/path, https://host/path, builtin://demo, file:///folder or a folder's path"
LOCAL_SCHEMES = frozenset({Scheme.BUILTIN, Scheme.FILE})
NETWORK_SCHEMES = frozenset({Scheme.HUGGING_FACE, Scheme.HTTPS, Scheme.HTTP})


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

    @property
    def fetched(self) -> bool:
        """Whether its files come over the network."""
        return self.scheme in NETWORK_SCHEMES


_NAMES = tuple(scheme.value for scheme in Scheme)
_scheme = checks.Value("scheme", lambda text: text.partition("://")[0], "self.split('://')[0]")
_REMOTE = tuple(scheme.value for scheme in Scheme if scheme not in (Scheme.FILE, Scheme.HUGGING_FACE))
_NOTHING_AFTER = re.compile(f"({'|'.join(_REMOTE)})://")
_REPOSITORY = "hf://[^/@]+/[^/@]+(@.*)?"

RULES = (
    checks.Rule(
        holds=lambda text: re.search(r"\S", text, re.ASCII) is not None,
        cel=r"self.matches('\\S')",
        message=f"is empty: use {FORMS}",
    ),
    checks.Rule(
        holds=lambda text: "://" not in text or text.partition("://")[0] in _NAMES,
        cel=f"!self.contains('://') || self.split('://')[0] in {checks.cel_list(_NAMES)}",
        message=f"'{{self}}' starts with {{scheme}}://, which is unknown: use {FORMS}",
        values=(_scheme,),
    ),
    checks.Rule(
        holds=lambda text: not text.startswith("file://") or text.startswith("file:///"),
        cel="!self.startsWith('file://') || self.startsWith('file:///')",
        message="'{self}' names no absolute folder: write file:///folder, with three slashes",
    ),
    checks.Rule(
        holds=lambda text: not text.startswith("hf://") or re.fullmatch(_REPOSITORY, text) is not None,
        cel=f"!self.startsWith('hf://') || self.matches('^{_REPOSITORY}$')",
        message="'{self}' names no repository: write hf://org/name or hf://org/name@revision",
    ),
    checks.Rule(
        holds=lambda text: _NOTHING_AFTER.fullmatch(text) is None,
        cel=f"!self.matches('^{_NOTHING_AFTER.pattern}$')",
        message=f"'{{self}}' names nothing after {{scheme}}://: use {FORMS}",
        values=(_scheme,),
    ),
)


def parse(text: str) -> Source:
    """Parses a source; raises ValueError (*expected*) whose message says what is wrong and which forms exist."""
    checks.Rules(RULES).check(text)
    name, separator, location = text.partition("://")
    if not separator:
        return Source(Scheme.FILE, text)
    scheme = Scheme(name)
    if scheme is not Scheme.HUGGING_FACE:
        return Source(scheme, location)
    repository, _, revision = location.partition("@")
    return Source(scheme, repository, revision)


def pinned(text: str, commit: str) -> str:
    """The source with the commit that its revision stood for when it was asked; as it is where none is known, or where
    the scheme has none."""
    source = parse(text)
    if not commit or source.scheme is not Scheme.HUGGING_FACE:
        return text
    return f"{source.scheme.value}://{source.location}@{commit}"


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
