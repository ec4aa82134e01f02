"""Lanes for coloured traffic: messages of a colour go to broker groups of that colour, and to its consumers.

A broker group's colour is what follows ``-canary-`` in its name: ``broker-a-canary-blue`` is blue. A
message's colour is its property ``colour``; a consumer's is its ``zone``, the unit name in its client id.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from rmq_redis import Message, MessageQueue, hookimpl
from rmq_redis.hookspecs import AllocateStrategy, QueueSelector

COLOUR = "colour"
COLOUR_VARIABLE = "CANARY_COLOUR"


def colour_of_broker(broker_name: str) -> str:
    return broker_name.rpartition("-canary-")[2] if "-canary-" in broker_name else ""


def colour_of_client(cid: str) -> str:
    return cid.split("@")[2] if cid.count("@") >= 2 else ""


class CanaryRouter:
    """A coloured message to the queues of its colour, any other, and a colour without brokers, to the plain ones."""

    def __init__(self) -> None:
        self._turn = count()
        self._lanes: dict[str, tuple[Sequence[MessageQueue], dict[str, list[MessageQueue]]]] = {}

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        known = self._lanes.get(message.topic)
        if known is None or known[0] is not queues:
            lanes: dict[str, list[MessageQueue]] = {}
            for queue in queues:
                lanes.setdefault(colour_of_broker(queue.broker_name), []).append(queue)
            known = self._lanes[message.topic] = (queues, lanes)
        lanes = known[1]
        lane = lanes.get(message.properties.get(COLOUR, "")) or lanes.get("") or queues
        return lane[next(self._turn) % len(lane)]


def allocate_by_colour(
    consumer_group: str, current_cid: str, mq_all: Sequence[MessageQueue], cid_all: Sequence[str]
) -> Sequence[MessageQueue]:
    """A colour's queues to its consumers; those of colours without any to the plain ones, else to all. Each in turn."""
    owners: dict[str, list[str]] = {}
    for cid in cid_all:
        owners.setdefault(colour_of_client(cid), []).append(cid)
    turns: dict[str, int] = {}
    mine = []
    for queue in mq_all:
        colour = colour_of_broker(queue.broker_name)
        lane = owners.get(colour) or owners.get("") or list(cid_all)
        turn = turns[colour] = turns.get(colour, -1) + 1
        if lane[turn % len(lane)] == current_cid:
            mine.append(queue)
    return mine


class Painter:
    """Gives messages that have no colour the one of this process."""

    def __init__(self, colour: str) -> None:
        self._colour = colour

    def before_send(self, message: Message) -> None:
        if self._colour and COLOUR not in message.properties:
            message.properties[COLOUR] = self._colour


@hookimpl
def register_queue_selectors() -> Mapping[str, Callable[[], QueueSelector]]:
    return {"CANARY": CanaryRouter}


@hookimpl
def register_allocate_strategies() -> Mapping[str, AllocateStrategy]:
    return {"CANARY": allocate_by_colour}


@hookimpl
def register_interceptors() -> Mapping[str, Callable[[], object]]:
    return {"CANARY": lambda: Painter(os.environ.get(COLOUR_VARIABLE, ""))}
