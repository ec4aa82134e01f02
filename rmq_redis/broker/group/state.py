"""The state of a broker group, in memory and in the store."""

from __future__ import annotations

from dataclasses import dataclass

from ...config import BrokerConfig
from ...hosts import pack_host
from ...store.group.config import ConfigStore
from ...store.group.locks import LockStore
from ...store.group.offsets import OffsetStore
from ...store.group.pop_order import PopOrderStore
from ...store.group.queues import QueueStore
from ..office import Office
from .auto_creation import AutoCreation
from .topics import TopicTable


@dataclass(frozen=True, kw_only=True)
class GroupState:
    """Attributes:
    address: ``ip:port`` that this broker registers and that is part of message ids.
    batches: unacknowledged batches of POP in order.
    """

    config: BrokerConfig
    office: Office
    address: str
    queue_store: QueueStore
    offsets: OffsetStore
    batches: PopOrderStore
    configs: ConfigStore
    topics: TopicTable
    auto_creation: AutoCreation
    locks: LockStore

    @property
    def store_host(self) -> bytes:
        """``address`` as records contain it."""
        return pack_host(self.address)
