"""Broker: start, serve, close."""

from __future__ import annotations

import asyncio
import logging

from ..config import BrokerConfig, parse_addresses
from ..errors import StoreError, StoreRefusedError
from ..model import MASTER_ID
from ..remoting.plugins import ServerPlugins
from ..remoting.server import RemotingServer
from ..store.group.queues import QueueStore
from .assembly import Parts, assemble, open_state
from .hooks import load_hooks
from .office import Office
from .own_address import own_ip
from .request_bounds import refusal
from .signals import Signals
from .vip_channel import listen_on_vip_channel

logger = logging.getLogger(__name__)

_STORE_RETRY_S = 1.0
"""About the time that a store needs to start together with its broker."""


class Broker:
    """A broker on the running event loop.

    Attributes:
        port: the port that it listens on, once started.
        fast_port: the port for the VIP channel of old Java clients; 0: none.
        address: ``ip:port``, registered at NameServers and part of message ids.
    """

    def __init__(self, config: BrokerConfig) -> None:
        """Raises ConfigError for a setting that cannot be used."""
        config.check()
        self.config = config
        self.port = 0
        self.fast_port = 0
        self.address = ""
        self._office = Office(config)
        self._signals = Signals()
        self._plugins = ServerPlugins("broker", config.broker_name, config)
        self._hooks = load_hooks(config)
        self._server = RemotingServer(
            None,
            on_close=self._signals.connection_closed,
            idle_timeout_s=config.idle_timeout_s,
            max_connections=config.max_connections,
            max_inbound_bytes=config.max_inbound_bytes,
            refusal=refusal,
        )
        self._parts: Parts | None = None

    @property
    def broker_id(self) -> int:
        """The present id: 0 for the group's master."""
        return self._office.broker_id

    @property
    def parts(self) -> Parts:
        """Its parts, once it listens."""
        assert self._parts, "not started"
        return self._parts

    async def start(self) -> None:
        """Listens, waits for the store, takes the group over (as the master, if no other broker is), and serves.

        Raises:
            StoreError: the store refused a command: a wrong password, a missing permission.
            ConfigError: the port is taken, or the address to advertise cannot be found.
        """
        config, server = self.config, self._server
        # The address is part of every record, so the port must be known before anything is built.
        # A port that is bound but not listened on can be taken by another process, so requests are answered with
        # SYSTEM_BUSY from here on, until the broker is ready.
        await server.start(config.listen_host, config.listen_port)
        self.port = server.port
        self.fast_port = await listen_on_vip_channel(server, config)
        host = config.advertised_host or own_ip(parse_addresses(config.namesrv_addr)[0])
        self.address = f"{host}:{config.advertised_port or self.port}"
        state = open_state(config, self._office, self._signals, self.address)
        self._parts = parts = assemble(state, self._signals, server, self._hooks)
        while not await self._connect(state.queue_store):
            await asyncio.sleep(_STORE_RETRY_S)
        parts.pulls.hold.start()
        parts.clients.start()
        parts.sampler.start()
        await parts.leadership.start()
        if self.broker_id != MASTER_ID:
            await parts.duties.begin_as_slave()
        server.set_processors(self._plugins.wrap(parts.processors))
        parts.registration.start()
        await parts.registration.register_now()  # a client that saw the broker start may query routes at once
        self._plugins.start(lambda: {**server.figures(), "messages_delivered_total": parts.statistics.gets.nums})
        logger.info(
            "broker %s id %d: serving at %s, epoch %d",
            config.broker_name,
            self.broker_id,
            self.address,
            state.queue_store.epoch,
        )

    async def _connect(self, queue_store: QueueStore) -> bool:
        """Connects to the store; False if it cannot be reached. Raises StoreRefusedError."""
        try:
            await queue_store.start()
        except StoreRefusedError:
            raise
        except StoreError as error:
            logger.warning("broker %s: waits for its store: %s", self.config.broker_name, error)
            await queue_store.close()
            return False
        return True

    async def close(self) -> None:
        """Refuses new sends, answers what it accepted, answers the pulls that wait, unregisters, closes."""
        self._plugins.close()
        self._office.stop()
        if self._parts is None:
            await self._server.close()
        else:
            await self._close(self._parts)
        logger.info("broker %s id %d: stopped", self.config.broker_name, self.broker_id)

    async def _close(self, parts: Parts) -> None:
        config, state = self.config, parts.state
        await parts.leadership.stop()
        await parts.duties.close()
        await parts.registration.close()
        if not await state.queue_store.wait_until_answered(config.stop_timeout_s):
            logger.warning("broker %s: some accepted sends got no answer from the store", config.broker_name)
        parts.pulls.hold.close()
        parts.retry_notice.close()
        parts.clients.close()
        parts.sampler.close()
        await self._server.close()
        if self._office.is_writing:
            try:
                async with asyncio.timeout(config.stop_timeout_s):
                    await state.offsets.close()
            except TimeoutError:
                logger.warning("broker %s: the store did not accept the last offsets in time", config.broker_name)
        await parts.leadership.release()
        await state.queue_store.close()
