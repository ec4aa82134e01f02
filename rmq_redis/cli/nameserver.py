"""``rmq-redis namesrv``: one NameServer in the foreground."""

from __future__ import annotations

import sys

from ..config import NameServerConfig
from ..errors import ConfigError
from .options import config_options
from .posix import require_posix

ALIASES = {"listen_host": ("--host",), "listen_port": ("--port",), "registry": ()}


@config_options(NameServerConfig, ALIASES)
def namesrv(config: NameServerConfig, log_level: str) -> None:
    """Run a NameServer until Ctrl-C or SIGTERM.

    It is stateless: start as many as you like on one registry Redis, and give brokers and clients the whole list.
    """
    require_posix("namesrv")
    if not config.registry:
        raise ConfigError(
            "a NameServer needs a registry: --registry redis://host:port/db (or RMQ_REDIS_REGISTRY). "
            "`rmq-redis up` brings a Redis of its own"
        )
    from ..nameserver.nameserver import NameServer
    from ..runtime import run, serve, setup_logging

    setup_logging(log_level)

    async def main() -> int:
        return await serve(NameServer(config), lambda: "namesrv", config.listen_host)

    sys.exit(run(main()))
