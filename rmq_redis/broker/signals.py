"""Events of one part of a broker that other parts handle."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..errors import StoreFencedError
from ..remoting.connection import Connection
from ..store.group.queue import Queue
from ..store.redis.connection import StoreConnection

if TYPE_CHECKING:
    from .assembly import Parts

logger = logging.getLogger(__name__)


class Signals:
    """Passes events on. The store and the server are created before the parts that handle their events; ``connect``
    adds those before anything is started.
    """

    _parts: Parts
    _is_connected = False

    def connect(self, parts: Parts) -> None:
        """Sets the parts that handle the events."""
        self._parts = parts
        self._is_connected = True

    def new_records(self, queue: Queue, first_offset: int, records: list[bytes]) -> None:
        """The store has new records of a queue, consecutive from ``first_offset`` on."""
        parts = self._parts
        parts.pulls.on_new_records(queue, first_offset, records)
        parts.retry_notice.on_new_records(queue)
        parts.pop_hold.on_new_records(queue)

    def expression_changed(self, group: str, topic: str) -> None:
        """A group has a new expression for a topic."""
        self._parts.pulls.expression_changed(group, topic)
        self._parts.pop_hold.expression_changed(group, topic)

    def connection_closed(self, connection: Connection) -> None:
        """A client's connection closed."""
        if self._is_connected:
            self._parts.clients.connection_closed(connection)
            self._parts.pop_hold.connection_closed(connection)

    async def store_reloaded(self, connection: StoreConnection) -> None:
        """A new connection to the store replaces a lost one; queue ends were read again. Raises StoreError."""
        parts, state = self._parts, self._parts.state
        try:
            if state.office.is_master:
                await state.topics.put_again(connection)
                state.offsets.write_all_soon()
        except StoreFencedError as error:
            logger.debug("broker %s: topics are not written again: %s", state.config.broker_name, error)
        parts.pulls.wake_behind()
        parts.pop_hold.wake_all()

    async def topics_changed(self) -> None:
        """NameServers must learn of a change of the topics."""
        await self._parts.registration.register_now()

    def queue_gone(self, queue: Queue) -> None:
        """The topic of a queue was deleted."""
        self._parts.state.batches.forget_queue(queue)
        self._parts.pulls.hold.wake(queue)  # answered now; the next pull is refused with TOPIC_NOT_EXIST
