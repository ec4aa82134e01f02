"""The built-in ways to choose the broker of a group to read from, as an ordinary plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...model import MASTER_ID, MessageQueue
from ..hookspecs import ReadSelector, hookimpl


def read_as_suggested(queue: MessageQueue, broker_addrs: Mapping[int, str], suggested_broker_id: int) -> int:
    """As the broker's last answer said: the master, as a rule ("SUGGESTED"). Source: PullAPIWrapper."""
    return suggested_broker_id


def read_from_master(queue: MessageQueue, broker_addrs: Mapping[int, str], suggested_broker_id: int) -> int:
    """The master while the route shows one ("MASTER_FIRST")."""
    return MASTER_ID if MASTER_ID in broker_addrs else suggested_broker_id


def read_from_slave(queue: MessageQueue, broker_addrs: Mapping[int, str], suggested_broker_id: int) -> int:
    """A slave if there is one, the queues spread over them: spares the master ("SLAVE_FIRST")."""
    slaves = sorted(broker_id for broker_id in broker_addrs if broker_id != MASTER_ID)
    return slaves[queue.queue_id % len(slaves)] if slaves else suggested_broker_id


@hookimpl
def register_read_selectors() -> Mapping[str, Callable[[], ReadSelector]]:
    return {
        "SUGGESTED": lambda: read_as_suggested,
        "MASTER_FIRST": lambda: read_from_master,
        "SLAVE_FIRST": lambda: read_from_slave,
    }
