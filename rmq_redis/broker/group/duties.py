"""The steps by which a broker becomes master or slave, and its work as a slave."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from ...background import Every
from ...errors import StoreError
from ...remoting.server import RemotingServer
from ...store.redis.server_info import durability_warnings
from ..consume.pull import PullProcessor
from .registration import Registration
from .state import GroupState

logger = logging.getLogger(__name__)

_SLAVE_RELOAD_PERIOD_S = 1.0
"""How late a slave may learn of a new topic; its clients query routes every 30 s."""


class MasterService(Protocol):
    """A background service of the group's master; can be started again after ``close``."""

    def start(self) -> None: ...

    async def close(self) -> None: ...


class Duties:
    """The steps between slave and master, for ``Leadership`` to call."""

    def __init__(
        self,
        state: GroupState,
        pulls: PullProcessor,
        services: Sequence[MasterService],
        registration: Registration,
        server: RemotingServer,
    ) -> None:
        self._state = state
        self._pulls = pulls
        self._services = services
        self._registration = registration
        self._server = server
        name = f"broker {state.config.broker_name}"
        self._following = (
            Every(_SLAVE_RELOAD_PERIOD_S, self._follow_topics, f"{name}: following the topics"),
            Every(state.config.slave_poll_period_s, self._follow_queues, f"{name}: following the queues"),
        )

    async def begin_as_slave(self) -> None:
        """Reads the group's state from the store, and follows the master from now on. Raises StoreError."""
        await self._state.topics.start()
        await self._state.offsets.load()
        self._start_following()

    async def promote(self) -> None:
        """With the lease held and the epoch set: reads the group's state, then accepts writes. Raises StoreError."""
        state = self._state
        self._stop_following()
        try:
            await state.queue_store.read_from(replica=False)
            await state.topics.start()
            await state.queue_store.load_ends()
            await state.offsets.load()
            await state.queue_store.go_on_behind(state.offsets.ends())
            await state.batches.load()
            await state.locks.load()
            state.queue_store.lead()
            for service in self._services:
                service.start()
            state.office.lead()
            self._pulls.wake_behind()
            await self._registration.register_now()
            await self._warn_of_losses()
        except BaseException:
            await self._close_services()
            self._start_following()
            raise

    async def _warn_of_losses(self) -> None:
        try:
            warnings = await durability_warnings(self._state.queue_store.current())
        except StoreError as error:
            warnings = [f"whether it can lose messages is unknown, INFO is needed for that: {error}"]
        for warning in warnings:
            logger.warning("broker %s: the store: %s", self._state.config.broker_name, warning)

    async def demote(self) -> None:
        """Another process is the master. Clients are disconnected, so that they look up the route again."""
        await self._close_services()
        self._state.offsets.abandon()
        try:
            await self._state.queue_store.read_from(replica=True)
        except StoreError as error:
            logger.info("broker %s: goes on reading from the primary: %s", self._state.config.broker_name, error)
        self._start_following()
        await self._registration.register_now()
        self._server.close_connections()

    async def moved(self) -> None:
        """The id as a slave changed."""
        await self._registration.register_now()

    async def restore(self) -> None:
        """The store lost data, and this broker keeps the lease: restores what it has in memory. Raises StoreError."""
        state = self._state
        await state.topics.put_again(state.queue_store.current())
        await state.queue_store.load_ends()
        await state.offsets.write_all()
        await state.locks.write_all()
        await state.batches.load()
        state.office.lead()
        self._pulls.wake_behind()
        await self._registration.register_now()

    async def check(self) -> None:
        """Raises StoreLostError if the store lost data that this master wrote."""
        await self._state.topics.check()
        await self._state.offsets.write_what_is_missing()

    async def close(self) -> None:
        """Stops all services of the present role."""
        await self._close_services()
        self._stop_following()

    async def _close_services(self) -> None:
        for service in self._services:
            await service.close()

    def _start_following(self) -> None:
        for loop in self._following:
            loop.start()

    def _stop_following(self) -> None:
        for loop in self._following:
            loop.cancel()

    async def _follow_topics(self) -> None:
        if await self._state.topics.reload():
            await self._registration.register_now()
        await self._state.offsets.load_resets()

    async def _follow_queues(self) -> None:
        await self._pulls.poll_for_held()
