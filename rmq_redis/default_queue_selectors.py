"""The built-in ways to choose a message's queue, as an ordinary plugin."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence

from .hookspecs import QueueSelector, hookimpl
from .model import Message, MessageQueue


class RoundRobin:
    """One queue after the other, per topic, from a random start ("ROUND_ROBIN")."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        topic = message.topic
        index = self._next.get(topic)
        if index is None:
            index = random.randrange(len(queues))
        self._next[topic] = index + 1
        return queues[index % len(queues)]


class RandomQueue:
    """Any queue ("RANDOM")."""

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        return random.choice(queues)


class HashOfKey(RoundRobin):
    """The same key, the same queue, as long as the number of queues does not change ("HASH").

    The key is the sharding key of the send, else the message's ``keys``; a message without any goes round robin. The
    hash is Java's, so that a Java producer's ``SelectMessageQueueByHash`` picks the same queue for the same string.
    """

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        text = key if key is not None else str(message.keys)
        if not text and key is None:
            return super().__call__(queues, message, key)
        return queues[abs(java_string_hash(text)) % len(queues)]


def java_string_hash(text: str) -> int:
    """Java's ``String.hashCode``, signed 32 bit."""
    value = 0
    if text.isascii():
        for byte in text.encode():
            value = 31 * value + byte
    else:
        for (unit,) in struct.iter_unpack(">H", text.encode("utf-16-be", "surrogatepass")):
            value = 31 * value + unit & 0xFFFFFFFF
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


@hookimpl
def register_queue_selectors() -> Mapping[str, Callable[[], QueueSelector]]:
    return {"ROUND_ROBIN": RoundRobin, "RANDOM": RandomQueue, "HASH": HashOfKey}
