"""What a command does before it destroys something: it asks, or shows what it would do."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .options import flag
from .terminal import is_terminal, visible

Yes = Annotated[bool, flag("--yes", "-y", help="Do not ask. Needed where nobody can answer, as in a script.")]
DryRun = Annotated[bool, flag("--dry-run", help="Only show what would be done.")]


def confirm(question: str, yes: bool) -> None:
    """Asks at a terminal; returns if the answer is yes.

    Raises:
        typer.BadParameter: neither ``--yes`` nor a terminal; exit code 2.
        typer.Abort: the answer is no; exit code 1.
    """
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise typer.BadParameter(f"{visible(question)} Standard input is no terminal: give --yes to do it.")
    typer.confirm(visible(question), abort=True, err=True)
