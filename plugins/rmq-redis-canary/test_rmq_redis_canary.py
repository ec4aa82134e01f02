from __future__ import annotations

from collections import Counter

import rmq_redis_canary as plugin

from rmq_redis import Message, MessageQueue
from rmq_redis.plugins import allocate_strategy, create_plugin_manager, queue_selector
from rmq_redis.plugins.guards import allocation_error

QUEUES = [MessageQueue("T", name, i) for name in ("broker-a", "broker-a-canary-blue") for i in range(4)]
MANAGER = create_plugin_manager(plugins=(plugin,))


def lanes(**properties: str) -> set[str]:
    select = queue_selector("canary", MANAGER)
    return {select(QUEUES, Message("T", b"x", properties=properties), None).broker_name for _ in range(8)}


def test_messages_keep_to_their_lane() -> None:
    assert lanes(colour="blue") == {"broker-a-canary-blue"}
    assert lanes() == lanes(colour="red") == {"broker-a"}


def test_consumers_get_the_queues_of_their_colour_and_every_queue_has_one() -> None:
    cids = ["ip@1", "ip@2@blue", "ip@3"]
    strategy = allocate_strategy("CANARY", MANAGER)
    owners = {queue: cid for cid in cids for queue in strategy("G", cid, QUEUES, cids)}
    assert Counter(owners.values()) == {"ip@2@blue": 4, "ip@1": 2, "ip@3": 2}
    assert all((cid == "ip@2@blue") == ("blue" in queue.broker_name) for queue, cid in owners.items())
    for group in (cids, cids[:1], cids[1:2], ["ip@1@red", "ip@2@blue"]):
        assert allocation_error(plugin.allocate_by_colour, "G", QUEUES, group) == ""


def test_the_painter_gives_a_colour_only_where_there_is_none() -> None:
    plain, red = Message("T", b"x"), Message("T", b"x", properties={"colour": "red"})
    for message in (plain, red):
        plugin.Painter("blue").before_send(message)
    assert (plain.properties["colour"], red.properties["colour"]) == ("blue", "red")
