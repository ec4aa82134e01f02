"""``rmq-redis broker``: one broker in the foreground."""

from __future__ import annotations

import sys

from ..config import BrokerConfig
from ..errors import ConfigError
from .options import config_options

ALIASES = {
    "broker_name": ("--name",),
    "broker_id": ("--id",),
    "namesrv_addr": ("--namesrv", "-n"),
    "store": (),
    "cluster_name": ("--cluster",),
    "listen_host": ("--host",),
    "listen_port": ("--port",),
    "advertised_host": (),
}


@config_options(BrokerConfig, ALIASES)
def broker(config: BrokerConfig, log_level: str) -> None:
    """Run a broker until Ctrl-C or SIGTERM.

    Brokers of one name are a group: id 0 is its master and takes the sends, every other id is a slave that serves
    reads and, unless `--failover false`, becomes the master when that one is gone. A master that comes back is a slave.
    """
    if not config.store:
        raise ConfigError(
            "a broker needs a store: --store redis://host:port/db (or RMQ_REDIS_STORE). "
            "`rmq-redis up` brings a Redis of its own"
        )
    from ..broker.broker import Broker
    from ..runtime import run, serve, setup_logging

    setup_logging(log_level)

    async def main() -> int:
        server = Broker(config)
        name = f"broker {config.broker_name} id {config.broker_id}"
        return await serve(server, name, config.listen_host)

    sys.exit(run(main()))
