"""From the text of a `source` field to the folder that it means on this machine."""

from __future__ import annotations

import dataclasses
import pathlib
import urllib.parse
from collections.abc import Mapping

from milliner.contract import sources
from milliner.core import errors
from milliner.model.sources import folders, http_folder, retries

CLAIMS_FOLDER = pathlib.Path("/models")  # where a pod has the claims of pvc:// sources, each in a folder of its name
HUB_URL = "https://huggingface.co"
_NEWEST = "main"  # the hub's revision where none is named


@dataclasses.dataclass(frozen=True, slots=True)
class Places:
    """Where the kinds of sources are: the hub, what ships with the package, mounted claims."""

    hub_url: str = HUB_URL
    builtin: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    claims: pathlib.Path = CLAIMS_FOLDER
    retry: retries.RetryPolicy = retries.PATIENT


def open_folder(text: str, places: Places, *, field: str, token: str | None = None) -> folders.Folder:
    """The folder of a source; `token` goes to hosts alone that are asked over the network.

    Raises `SourceError` (*expected*) for a source that cannot be parsed or is not on this machine.
    """
    try:
        source = sources.parse(text)
        if source.fetched:
            return http_folder.HttpFolder(
                url_of(source, places), where=text, field=field, token=token, retry=places.retry
            )
        if source.scheme is not sources.Scheme.CLAIM:
            builtin = places.builtin
            path = sources.local_folder(source, relative_to=[pathlib.Path.cwd()], builtin=builtin)
            return folders.LocalFolder(path, field=field)
    except ValueError as error:
        raise errors.SourceError(str(error), field=field) from None
    path = places.claims / source.location
    if ".." in pathlib.PurePosixPath(source.location).parts or not path.is_dir():
        raise errors.SourceError(f"{text} is no folder of the claim: correct the path", field=field)
    return folders.LocalFolder(path, field=field)


def url_of(source: sources.Source, places: Places) -> str:
    """The URL of a source that is fetched; its files are below it."""
    if source.scheme is not sources.Scheme.HUGGING_FACE:
        return f"{source.scheme.value}://{source.location}"
    revision = urllib.parse.quote(source.revision or _NEWEST, safe="")
    return f"{places.hub_url.rstrip('/')}/{source.location}/resolve/{revision}"


def same_host(text: str, other: str, places: Places) -> bool:
    """Whether two sources are asked at the same host and scheme, so that a token for one may go to the other."""
    found = [urllib.parse.urlsplit(url_of(sources.parse(each), places)) for each in (text, other)]
    return found[0][:2] == found[1][:2]
