"""Business keys: what separates them, and that every key that was sent is found."""

from __future__ import annotations

import pytest

from rmq_redis import AsyncAdmin, AsyncProducer, Message
from rmq_redis.model import split_keys
from rmq_redis.testing import running_cluster


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", []),
        ("a", ["a"]),
        (" a  b ", ["a", "b"]),
        ("a\tb", ["a\tb"]),
        ("a\u00a0b \u3000c", ["a\u00a0b", "\u3000c"]),
    ],
)
def test_only_a_space_separates_keys(text: str, keys: list[str]) -> None:
    assert split_keys(text) == keys


@pytest.mark.parametrize("key", ["tab\tkey", "\u00a0nb", "wide\u3000key", "line\nkey", "\x1c", "plain"])
async def test_key_with_other_white_space_is_found(key: str) -> None:
    async with (
        running_cluster() as namesrv_addr,
        AsyncProducer("g", namesrv_addr) as producer,
        AsyncAdmin(namesrv_addr) as admin,
    ):
        await producer.send(Message("t", b"x", keys=["other", key]))
        (found,) = await admin.query_message("t", key)
        assert split_keys(found.keys) == ["other", key]
