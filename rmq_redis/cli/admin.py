"""What the commands that ask servers have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..client.admin.admin import AsyncAdmin

T = TypeVar("T")


def with_admin(namesrv: str, log_level: str, work: Callable[[AsyncAdmin], Awaitable[T]]) -> T:
    """Sets up logging and runs ``work`` with a started admin client; its result."""
    from ..client.admin.admin import AsyncAdmin
    from ..runtime import run, setup_logging

    setup_logging(log_level)

    async def main() -> T:
        async with AsyncAdmin(namesrv) as admin:
            return await work(admin)

    return run(main())
