"""Malformed frames leave nothing behind that only the cyclic garbage collector frees."""

from __future__ import annotations

import gc
import logging

import pytest
from fake_transport import FakeTransport

from rmq_redis.remoting.connection import Connection

COUNT = 300


@pytest.mark.parametrize(
    "data", [b"\xff" * 1000, b"\0\0\0\0" * 10, b"\0\0\0\x10\0\0\0\x0c{not json at}", b"\x7f\xff\xff\xff" + b"x" * 500]
)
async def test_malformed_frames_leave_no_cycles(data: bytes) -> None:
    def receive() -> None:
        connection, transport = Connection(lambda connection, command: None, is_server=True), FakeTransport()
        connection.connection_made(transport)
        connection.data_received(data)
        connection.connection_lost(None)

    receive()
    gc.collect()
    gc.disable()
    logging.disable()  # what a test keeps of the log would count
    try:
        before = len(gc.get_objects())
        for _ in range(COUNT):
            receive()
        assert len(gc.get_objects()) - before < COUNT  # less than one object for each
    finally:
        logging.disable(logging.NOTSET)
        gc.enable()
