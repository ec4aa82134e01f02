"""Runs the work of commands that query or change a cluster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from . import lazy
from .options import ClientOptions

T = TypeVar("T")


def with_admin(client: ClientOptions, work: Callable[[lazy.AsyncAdmin], Awaitable[T]]) -> T:
    """Sets up logging, runs ``work`` with a started admin client, and returns its result."""
    lazy.setup_logging(client.log_level)

    async def main() -> T:
        async with lazy.AsyncAdmin(client.namesrv) as admin:
            return await work(admin)

    return lazy.run(main())
