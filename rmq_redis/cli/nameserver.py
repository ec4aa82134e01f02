"""``rmq-redis namesrv``: a NameServer in the foreground."""

from __future__ import annotations

import sys
from typing import Annotated

from ..config import NameServerConfig
from ..errors import ConfigError
from . import lazy
from .option_groups import Settings, with_option_groups
from .options import LogLevel
from .posix import require_posix

ALIASES = {"listen_host": ("--host",), "listen_port": ("--port",), "registry": ()}


@with_option_groups
def namesrv(*, config: Annotated[NameServerConfig, Settings(ALIASES)], log_level: LogLevel = "info") -> None:
    """Run a NameServer until Ctrl-C or SIGTERM.

    NameServers are stateless. Start several with the same registry, and give brokers and clients all their addresses.
    """
    require_posix("namesrv")
    if not config.registry:
        raise ConfigError(
            "a NameServer needs a registry: --registry redis://host:port/db (or RMQ_REDIS_REGISTRY). "
            "`rmq-redis up` starts a Redis server for you"
        )
    lazy.setup_logging(log_level)

    async def main() -> int:
        return await lazy.serve(lazy.NameServer(config), lambda: "namesrv", config.listen_host)

    sys.exit(lazy.run(main()))
