"""`milliner crd`: prints the CustomResourceDefinition. The work is `contract.crd`'s."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer


def crd(
    out: Annotated[
        pathlib.Path | None, typer.Option("--out", metavar="FILE", help="Write it to this file instead.")
    ] = None,
) -> None:
    """Print the CustomResourceDefinition of InferenceTopology: schema, defaults and the rules of admission.

    Into a cluster: [bold]milliner crd | kubectl apply --server-side -f -[/bold]

    Then [bold]kubectl explain itopo.spec --recursive[/bold] shows every field.
    """
    from milliner.contract.crd import definition
    from milliner.core import errors

    text = definition.to_yaml()
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.ConfigError(f"{out} cannot be written: {error.strerror}", field="--out") from None
