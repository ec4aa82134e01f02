"""Every setting changes what it says: each has a test that sets it, and this page has those that no other page has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from rmq_redis import AsyncAdmin, AsyncPushConsumer, ConfigError, Message, MessageQueue
from rmq_redis.config import BrokerConfig, ClientConfig, NameServerConfig, env_name
from rmq_redis.hookspecs import ClientContext
from rmq_redis.plugins import create_plugin_manager, queue_selector

TESTS = Path(__file__).parents[2]
NOT_COUNTED = {"test_docs.py", "test_cli_options.py"}
"""They go over all settings, or only show them."""


@pytest.mark.parametrize("config", [NameServerConfig, BrokerConfig, ClientConfig])
def test_every_setting_is_set_by_some_test(config: type) -> None:
    texts = [path.read_text() for path in TESTS.rglob("*.py") if path.name not in NOT_COUNTED]
    unset = []
    for field in dataclasses.fields(config):
        flag = "--" + field.name.replace("_", "-")
        is_set = re.compile(rf"\b{field.name}=|\"{field.name}\"|{flag}\b|\b{env_name(field.name)}\b")
        unset += [field.name] if not any(is_set.search(text) for text in texts) else []
    assert unset == []


async def test_client_id_contains_the_client_ip() -> None:
    async with AsyncAdmin("127.0.0.1:1", client_ip="10.9.8.7", instance_name="i") as admin:
        assert admin._instance.client_id == "10.9.8.7@i"


async def test_read_selector_is_looked_up_by_its_name() -> None:
    with pytest.raises(ConfigError, match="read_selector='NOBODY_HAS_IT' is unknown"):
        AsyncPushConsumer("g", "127.0.0.1:1", client_ip="127.0.0.1", read_selector="NOBODY_HAS_IT")


@pytest.mark.parametrize(("warm_up_s", "fewest", "most"), [(0.0, 80, 120), (1000.0, 1, 50)])
def test_broker_warm_up_s_limits_the_share_of_a_new_group(warm_up_s: float, fewest: int, most: int) -> None:
    context = ClientContext(ClientConfig(broker_warm_up_s=warm_up_s), lambda broker_name: "", lambda: 5.0)
    select = queue_selector("WEIGHTED", create_plugin_manager(), context)
    old = [MessageQueue("t", "broker-a", number) for number in range(4)]
    both = [*old, *(MessageQueue("t", "broker-b", number) for number in range(4))]
    message = Message("t", b"x")
    assert {select(old, message, None).broker_name for _ in range(10)} == {"broker-a"}
    chosen = [select(both, message, None).broker_name for _ in range(200)]
    assert fewest <= chosen.count("broker-b") <= most


def test_largest_payload_is_half_of_the_largest_frame() -> None:
    from rmq_redis.config import LARGEST_PAYLOAD_BYTES
    from rmq_redis.protocol.frame import MAX_FRAME_BYTES

    assert LARGEST_PAYLOAD_BYTES * 2 == MAX_FRAME_BYTES
