"""Confirmation before a command destroys something, and ``--dry-run``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .options import flag
from .terminal import is_terminal, visible

Yes = Annotated[bool, flag("--yes", "-y", help="Do not ask for confirmation; required in scripts.")]
DryRun = Annotated[bool, flag("--dry-run", help="Show what would happen and change nothing.")]


def confirm(question: str, yes: bool) -> None:
    """Asks at a terminal; returns only if the answer is yes.

    Raises:
        typer.BadParameter: neither ``--yes`` nor a terminal; exit code 2.
        typer.Abort: the answer is no; exit code 1.
    """
    if yes:
        return
    if not is_terminal(sys.stdin):
        raise typer.BadParameter(f"{visible(question)} Standard input is not a terminal; to confirm, give --yes.")
    typer.confirm(visible(question), abort=True, err=True)
