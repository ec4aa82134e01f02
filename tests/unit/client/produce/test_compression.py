"""Which bodies are compressed, and what it costs to find out that one does not shrink."""

from __future__ import annotations

import base64
import os
import zlib

import pytest

from rmq_redis.client.produce import compression
from rmq_redis.client.produce.compression import compress

TEXT = b'{"order": 12345, "state": "paid", "items": [1, 2, 3]}' * 2000


@pytest.mark.parametrize(
    ("body", "is_compressed"),
    [
        (TEXT, True),
        (TEXT[:2000], True),
        (os.urandom(64 * 1024), False),
        (zlib.compress(os.urandom(64 * 1024)), False),
        (os.urandom(5000), False),
        (os.urandom(1024) + TEXT, True),
        (TEXT + os.urandom(1024), True),
        (os.urandom(40_000) + TEXT[:40_000], True),
        (base64.b64encode(os.urandom(40_000)), True),
        (b"", False),
        (b"x", False),
    ],
    ids=range(11),
)
def test_bodies_are_compressed_only_if_they_shrink(body: bytes, is_compressed: bool) -> None:
    sent, flag = compress(body)
    assert bool(flag) == is_compressed
    assert (zlib.decompress(sent) if flag else sent) == body
    assert len(sent) <= len(body)


def test_incompressible_body_costs_a_few_kilobytes_of_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counting:
        @staticmethod
        def compress(data: bytes, level: int) -> bytes:
            asked.append(len(data))
            return zlib.compress(data, level)

    monkeypatch.setattr(compression, "zlib", Counting)
    for size in (64 * 1024, 1024 * 1024, 4 * 1024 * 1024):
        asked.clear()
        body = os.urandom(size)
        assert compress(body) == (body, 0)
        assert sum(asked) <= 5 * 1024
