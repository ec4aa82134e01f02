"""Long answers in slices, so that one request does not hold up the event loop: leases, store pings, other clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..protocol.bodies.base import Body, dumps

TURN_S = 0.01
"""One request, or the requests of one connection, may work this many seconds in one turn of the event loop."""


class Turn:
    """The time that a request still has in this turn of the event loop."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + TURN_S

    async def give_way(self) -> None:
        """Lets everybody else go on if the time of this turn is used up. To be called between two small steps."""
        if time.monotonic() >= self._until_s:
            await asyncio.sleep(0)
            self._until_s = time.monotonic() + TURN_S


async def dumps_in_turns(value: Mapping[str, Any] | Body) -> bytes:
    """As ``dumps``, for an answer with many items: mappings and lists in ``value`` are encoded item by item."""
    turn = Turn()
    pieces = []
    for piece in _pieces(value, 2):
        pieces.append(piece)
        await turn.give_way()
    return b"".join(pieces)


def _pieces(value: Any, depth: int) -> Iterator[bytes]:
    if depth and isinstance(value, Mapping | Body):
        yield from _mapping_pieces(value, depth)
    elif depth and isinstance(value, list):
        yield b"["
        for index, item in enumerate(list(value)):
            if index:
                yield b","
            yield from _pieces(item, depth - 1)
        yield b"]"
    else:
        yield dumps(value)


def _mapping_pieces(value: Mapping[Any, Any] | Body, depth: int) -> Iterator[bytes]:
    yield b"{"
    is_first = True
    for key, item in list(value.items()):  # others may change it between two turns
        if item is None:
            continue
        if not is_first:
            yield b","
        is_first = False
        yield dumps({key: 0})[1:-2]
        yield from _pieces(item, depth - 1)
    yield b"}"
