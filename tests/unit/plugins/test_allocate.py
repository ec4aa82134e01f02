"""How queues are shared, how a message's queue is chosen, and how plugins offer both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmq_redis.errors import ConfigError
from rmq_redis.hookspecs import hookimpl
from rmq_redis.model import Message, MessageQueue
from rmq_redis.plugins import allocate_strategy, create_plugin_manager, queue_selector
from rmq_redis.plugins.defaults.allocate import allocate_averagely, allocate_averagely_by_circle
from rmq_redis.plugins.defaults.queues import LatencyAware, java_string_hash

STRATEGIES = [allocate_averagely, allocate_averagely_by_circle]


def queues(count: int) -> list[MessageQueue]:
    return sorted(MessageQueue("T", f"broker-{index % 3}", index // 3) for index in range(count))


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(mq_count=st.integers(1, 40), cids=st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=12))
@settings(deadline=None)
def test_every_queue_has_exactly_one_consumer_and_shares_are_even(strategy: Any, mq_count: int, cids: set[str]) -> None:
    mq_all, cid_all = queues(mq_count), sorted(cids)
    shares = [list(strategy("G", cid, mq_all, cid_all)) for cid in cid_all]
    assert Counter(queue for share in shares for queue in share) == Counter(mq_all)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)  # the first consumers take one more
    assert list(strategy("G", "not a member\0", mq_all, cid_all)) == []


def test_eight_queues_are_shared_by_three_consumers() -> None:
    mq_all = [MessageQueue("T", "broker-a", index) for index in range(8)]

    def shares(strategy: Any) -> list[list[int]]:
        return [[queue.queue_id for queue in strategy("G", cid, mq_all, ["a", "b", "c"])] for cid in "abc"]

    assert shares(allocate_averagely) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert shares(allocate_averagely_by_circle) == [[0, 3, 6], [1, 4, 7], [2, 5]]


@given(st.text(max_size=30))
def test_string_hash_equals_that_of_java(text: str) -> None:
    from rmq_redis.protocol.properties import tags_code

    assert java_string_hash(text) == tags_code(text)


def test_string_hashes_equal_known_values() -> None:
    assert [java_string_hash(text) for text in ("", "TagA", "标签", "polygenelubricants")] == [
        0,
        2598919,
        857175,
        -(2**31),
    ]


def test_built_in_selectors_choose_queues() -> None:
    mq_all = queues(6)
    message = Message("T", b"x")
    round_robin = queue_selector("ROUND_ROBIN")
    assert Counter(round_robin(mq_all, message, None) for _ in range(18)) == dict.fromkeys(mq_all, 3)
    other_topic = Message("U", b"x")
    picked = []
    for _ in range(6):  # topics do not disturb one another
        picked.append(round_robin(mq_all, message, None))
        round_robin(mq_all, other_topic, None)
    assert set(picked) == set(mq_all)
    random_queue = queue_selector("RANDOM")
    assert {random_queue(mq_all, message, None) for _ in range(500)} == set(mq_all)
    by_hash = queue_selector("HASH")
    assert {by_hash(mq_all, Message("T", b"x", keys="k"), None) for _ in range(9)} == {by_hash(mq_all, message, "k")}
    assert {by_hash(mq_all, message, None) for _ in range(6)} == set(mq_all)  # no key: round robin


def test_round_robin_accepts_a_shrinking_queue_list() -> None:
    selector = queue_selector("ROUND_ROBIN")
    message = Message("T", b"x")
    for _ in range(7):
        selector(queues(6), message, None)
    assert selector(queues(1), message, None) == queues(1)[0]


# --- plugins -----------------------------------------------------------------------------------------------------


def mine(group: str, cid: str, mq_all: Any, cid_all: Any) -> Any:
    return mq_all[:1]


def plugin(**hooks: Any) -> Any:
    return SimpleNamespace(**{name: hookimpl(function) for name, function in hooks.items()})


def offer_mine() -> Mapping[str, Any]:
    return {"MINE": mine}


def test_plugin_registers_a_strategy_by_name() -> None:
    manager = create_plugin_manager(plugins=(plugin(register_allocate_strategies=offer_mine),))
    strategy = allocate_strategy("mine", manager)
    assert list(strategy("G", "a", queues(1), ["a"])) == queues(1)
    assert allocate_strategy("AVG", manager) is allocate_averagely


def test_unknown_strategy_error_lists_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"allocate_strategy='NOPE' is unknown; there are: AVG, AVG_BY_CIRCLE"):
        allocate_strategy("NOPE", create_plugin_manager())
    with pytest.raises(ConfigError, match=r"load_balancer='latencyaware' is unknown; did you mean LATENCY_AWARE\?"):
        queue_selector("latencyaware", create_plugin_manager())
    assert type(queue_selector("latency-aware", create_plugin_manager())) is LatencyAware


def test_two_plugins_with_one_name_are_an_error() -> None:
    def offer_avg() -> Mapping[str, Any]:
        return {"AVG": mine}

    manager = create_plugin_manager(plugins=(plugin(register_allocate_strategies=offer_avg),))
    with pytest.raises(ConfigError, match="both offer 'AVG'"):
        allocate_strategy("AVG_BY_CIRCLE", manager)


def test_misspelt_hook_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"'register_alocate_strategies'; did you mean register_allocate_strategies\?"
    ):
        create_plugin_manager(plugins=(plugin(register_alocate_strategies=offer_mine),))
