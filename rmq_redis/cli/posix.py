"""Commands that run servers need a POSIX system."""

from __future__ import annotations

from ..errors import ClientError


def require_posix(command: str) -> None:
    """Raises ClientError on a system that cannot run the servers (Windows)."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise ClientError(
            f"`rmq-redis {command}` needs a POSIX system (Linux, macOS), because it runs servers; here you can use "
            "the SDK and the client commands, and run the servers in a container or in WSL"
        ) from None
