"""Key names, and which prefixes they can have."""

from __future__ import annotations

import pytest
from fakeredis import FakeAsyncRedis
from redis.crc import key_slot

from rmq_redis.errors import ConfigError
from rmq_redis.store.keys import GroupKeys
from rmq_redis.store.registry.routes import RouteStore


@pytest.mark.parametrize("prefix", ["rmq", "shop:orders", "a/b", "", "é"])
def test_every_key_of_a_group_is_in_one_slot(prefix: str) -> None:
    keys = GroupKeys(prefix, "broker-a")
    names = [value for value in vars(keys).values() if isinstance(value, bytes)]
    names += [keys.queue("T", 0), keys.slave(1), keys.offsets("G", "T")]
    assert {key_slot(name) for name in names} == {key_slot(b"broker-a")}


@pytest.mark.parametrize("prefix", ["{shop}", "sh{op", "shop}", "{}", "my shop", "shop\n", "\x00"])
def test_prefix_that_would_break_key_names_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="key_prefix="):
        GroupKeys(prefix, "broker-a")
    with pytest.raises(ConfigError, match="key_prefix="):
        RouteStore(FakeAsyncRedis(), prefix=prefix)
