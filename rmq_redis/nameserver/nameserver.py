"""NameServer: returns routes, that is, where the queues of a topic are. All of its state is in the registry Redis."""

from __future__ import annotations

import logging

from ..config import NameServerConfig
from ..errors import ConfigError
from ..plugins.manager import route_filter
from ..remoting.connection import Connection
from ..remoting.dispatch import processors_of
from ..remoting.plugins import ServerPlugins
from ..remoting.server import RemotingServer
from ..store.registry.routes import RouteStore
from .brokers import BrokerProcessor
from .kv_config import KvConfigProcessor
from .registry import RegistrySync
from .route_requests import RouteProcessor
from .settings import SettingsProcessor
from .shared_routes import SharedRouteTable

logger = logging.getLogger(__name__)


class NameServer:
    """One NameServer; any number of them may share a registry.

    Attributes:
        config: the settings at start.
        port: port it listens on, once started.
    """

    def __init__(self, config: NameServerConfig, *, store: RouteStore | None = None) -> None:
        """
        Args:
            store: registry to use instead of the one at ``config.registry``; closed with this NameServer.

        Raises:
            ConfigError: no registry, one that is not a Redis URL, a period that is not above 0, or
                a bound that is too small.
        """
        if store is None and not config.registry:
            raise ConfigError("registry is not set; it needs a Redis URL, redis://host:port/db")
        config.check()
        self.config = config
        self._store = store or RouteStore.from_url(
            config.registry, prefix=config.key_prefix, broker_expiry_s=config.broker_expiry_s
        )
        self._table = SharedRouteTable(
            broker_expiry_s=config.broker_expiry_s,
            order_message_enable=config.order_message_enable,
            on_change=self._table_changed,
        )
        self._brokers = BrokerProcessor(self._table)
        kv = KvConfigProcessor(self._table, self._store)
        processors = processors_of(
            self._brokers,
            kv,
            RouteProcessor(self._table, kv, route_filter(config)),
            SettingsProcessor(config, self._configure),
        )
        self._registry = RegistrySync(self._table, self._store, sweep_period_s=config.sweep_period_s)
        self._plugins = ServerPlugins("namesrv", f"{config.listen_host}:{config.listen_port}", config)
        self._server = RemotingServer(
            self._plugins.wrap(processors),
            on_close=self._connection_closed,
            idle_timeout_s=config.idle_timeout_s,
            max_connections=config.max_connections,
            max_inbound_bytes=config.max_inbound_bytes,
        )
        self._closing = False
        self.port = 0

    async def start(self) -> None:
        """Loads the routes from the registry, then listens. Without the registry it knows only its own registrations.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        try:
            await self._registry.start()
            await self._server.start(self.config.listen_host, self.config.listen_port)
            self.port = self._server.port
            self._plugins.start(self._server.figures)
        except BaseException:
            await self.close()
            raise
        logger.info("NameServer listens on %s:%d, registry %s", self.config.listen_host, self.port, self._store.address)

    async def close(self) -> None:
        """Answers the requests received so far, closes all connections. The brokers stay registered."""
        self._closing = True
        self._plugins.close()
        await self._server.close()
        await self._registry.close()
        await self._store.close()

    def _table_changed(self) -> None:
        self._registry.wake()

    def _connection_closed(self, connection: Connection) -> None:
        if self._closing:  # this NameServer closed it: the broker is alive
            return
        for broker in self._brokers.connection_closed(connection):
            logger.warning("broker %s:%d at %s: connection closed, dropped", *broker)

    def _configure(self, config: NameServerConfig) -> None:
        self._table.broker_expiry_s = self._store.broker_expiry_s = config.broker_expiry_s
        self._table.order_message_enable = config.order_message_enable
        self._registry.sweep_period_s = config.sweep_period_s
