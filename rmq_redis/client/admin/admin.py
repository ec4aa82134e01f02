"""AsyncAdmin: topics, groups, offsets and messages; for the command line, the console and tests."""

from __future__ import annotations

from typing import Unpack

from ...config import ClientConfig
from ..core.instance import MQClientInstance, client_config
from ..core.lifecycle import AsyncClient
from ..core.settings import ClientSettings
from .brokers import BrokerAdmin
from .groups import GroupAdmin
from .messages import MessageQueries
from .offsets import OffsetAdmin


class AsyncAdmin(BrokerAdmin, GroupAdmin, OffsetAdmin, MessageQueries, AsyncClient):
    """Administration. Use it as an async context manager, or call ``start`` and ``close``.

    Every method raises RemotingError when a server does not answer and the ResponseError of a code that is no success.

    Args:
        namesrv_addr: NameServers, ``host:port;host:port``.
        config: all settings; ``namesrv_addr`` and ``settings`` come on top of it.
        settings: single fields of ``ClientConfig``.

    Raises:
        ConfigError: a setting that cannot be used.
    """

    def __init__(
        self, namesrv_addr: str | None = None, *, config: ClientConfig | None = None, **settings: Unpack[ClientSettings]
    ) -> None:
        self.config = client_config(namesrv_addr, config, settings, type(self))
        self._instance = MQClientInstance(self.config)

    async def start(self) -> None:
        """Makes the client ready. Raises ClientError when it was started before."""
        await self._instance.start()

    async def close(self) -> None:
        """Closes the connections. A second call does nothing."""
        await self._instance.close()
