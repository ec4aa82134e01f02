"""The Java client of Apache RocketMQ 5.3.3, and the admin client of its tools. Runs only with RMQ_INTEROP_JAVA=1."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import scenarios
from interop_support import Cluster, Driver, DriverProcess, Event, create_topic, has_route, unique_name, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

POP_INVISIBLE_MS = 5000
"""The least that the client takes."""


def messages(events: list[Event]) -> list[Event]:
    return [event for event in events if event["event"] == "message"]


def test_admin_creates_a_usable_topic(java_driver: Driver, cluster: Cluster) -> None:
    """106, 17 on each master, 105."""
    topic = unique_name("topic")
    (created,) = java_driver.run(cluster, "create-topic", topic=topic, queues=6)
    assert created["masters"]
    assert [(row["readQueueNums"], row["writeQueueNums"], row["perm"]) for row in created["queueDatas"]] == [
        (6, 6, 6) for _ in created["masters"]
    ]
    assert {row["brokerName"] for row in created["queueDatas"]} == set(created["masters"])
    scenarios.keeps_everything_of_a_message(java_driver, cluster, topic)


def test_filters_by_tag(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.filters_by_tag(java_driver, cluster)


@pytest.mark.parametrize("mode", ["oneway", "async"])
def test_sends_oneway_and_async(java_driver: Driver, cluster: Cluster, mode: str) -> None:
    scenarios.sends_without_waiting(java_driver, cluster, mode)


def test_sends_to_a_chosen_queue(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.sends_to_a_chosen_queue(java_driver, cluster)


def test_stores_a_batch_as_single_messages(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.stores_a_batch_as_single_messages(java_driver, cluster)


def test_auto_creates_a_topic_on_the_first_send(java_driver: Driver, cluster: Cluster) -> None:
    """The producer falls back to the route of TBW102 and the broker creates the topic."""
    topic = unique_name("topic")
    sent = java_driver.produce(cluster, topic, 8)
    wait_until(lambda: has_route(cluster, topic), f"route of {topic}")
    with java_driver.consume(cluster, topic, unique_name("group")) as consumer:
        consumer.wait_for_bodies({event["body"] for event in sent})
        consumer.stop()


def test_sends_through_the_vip_channel(java_driver: Driver, cluster: Cluster) -> None:
    """As clients up to 4.5 do by default: to the port two below the broker's."""
    topic = create_topic(cluster)
    options = {**java_driver.env, "JAVA_TOOL_OPTIONS": "-Dcom.rocketmq.sendMessageWithVIPChannel=true"}
    old = replace(java_driver, env=options)
    sent = old.produce(cluster, topic, 8)
    with old.consume(cluster, topic, unique_name("group")) as consumer:
        consumer.wait_for_bodies({event["body"] for event in sent})
        consumer.stop()


def test_new_group_reads_a_young_topic_from_its_start(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.a_new_group_reads_a_young_topic_from_its_start(java_driver, cluster, **{"from": "last"})


def test_resumes_at_the_committed_offset(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.goes_on_from_the_committed_offset(java_driver, cluster)


def test_follows_an_offset_reset_while_consuming(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.a_group_is_moved_while_it_consumes(java_driver, cluster)


def test_delivers_to_a_running_consumer(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_to_a_running_consumer(java_driver, cluster)


def test_two_consumers_share_the_queues(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.two_consumers_share_the_queues(java_driver, cluster)


def test_redelivers_a_failed_message(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_a_failed_message_again(java_driver, cluster)


def test_message_that_always_fails_becomes_a_dead_letter(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.parks_a_message_that_always_fails(java_driver, cluster)


def test_pull_consumer_reads_to_the_end_and_commits(java_driver: Driver, cluster: Cluster) -> None:
    """DefaultMQPullConsumer: 30, 31, 14, 15 and 11 without holding."""
    topic = create_topic(cluster)
    group = unique_name("group")
    expected_ends: Counter[str] = Counter()
    for round_number in range(2):
        sent = java_driver.produce(cluster, topic, 12, tags="TagA,TagB", body_prefix=f"round{round_number}")
        before = Counter(expected_ends)
        for event in sent:
            expected_ends[f":{event['queueId']}"] += 1
        events = java_driver.run(cluster, "pull", topic=topic, group=group)
        assert scenarios.bodies(messages(events)) == scenarios.bodies(sent)
        queues = [event for event in events if event["event"] == "queue"]
        assert len(queues) == 4
        for queue in queues:
            suffix = queue["queue"][queue["queue"].rindex(":") :]
            assert queue["minOffset"] == 0
            assert queue["committedBefore"] == before[suffix]
            assert queue["maxOffset"] == queue["committedAfter"] == expected_ends[suffix]
            assert queue["status"] == "NO_NEW_MSG"
    events = java_driver.run(cluster, "pull", topic=topic, group=unique_name("group"), tags="TagB")
    assert {message["tags"] for message in messages(events)} == {"TagB"}
    assert len(messages(events)) == 12


def test_lite_pull_consumer_resumes_at_its_committed_offset(java_driver: Driver, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    group = unique_name("group")
    for round_number in range(2):
        sent = java_driver.produce(cluster, topic, 12, body_prefix=f"round{round_number}")
        with java_driver.start(cluster, "lite-pull", topic=topic, group=group) as consumer:
            consumer.wait_for_bodies({event["body"] for event in sent})
            consumer.stop()
            assert scenarios.bodies(consumer.messages()) == scenarios.bodies(sent)


def test_finds_messages_by_id_and_by_key(java_driver: Driver, cluster: Cluster) -> None:
    """33 with the offset id, 12 with the unique key and with a business key."""
    topic = create_topic(cluster)
    sent = java_driver.produce(cluster, topic, 5, key_prefix="order", tags="TagA")
    for query in ({"id": sent[3]["offsetMsgId"]}, {"id": sent[3]["msgId"]}, {"key": "order-3"}):
        found: list[Event] = []

        def arrived(query: dict[str, str] = query, found: list[Event] = found) -> bool:
            # Apache's broker builds its index a moment after the send and the client raises when there is no match.
            with java_driver.start(cluster, "query", topic=topic, **query) as process:
                wait_until(lambda: process.ended, "end of the query")
                found[:] = process.events("found")
            return bool(found)

        wait_until(arrived, f"message found by {query}")
        assert [(message["body"], message["keys"], message["tags"]) for message in found] == [
            ("message-3", "order-3", "TagA")
        ]
        assert found[0]["offsetMsgId"] == sent[3]["offsetMsgId"]


def test_delivers_a_delayed_message_when_it_is_due(java_driver: Driver, cluster: Cluster) -> None:
    """Level 2 is five seconds."""
    scenarios.delivers_later(java_driver, cluster, 4500, delay_level=2)


def test_recalls_a_timer_message_before_it_is_due(java_driver: Driver, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    with java_driver.consume(cluster, topic, unique_name("group")) as consumer:
        consumer.wait_for(lambda: len(consumer.queues()) == 4, "queues")
        options = {"mode": "recall", "tags": "RECALL,KEEP", "delay_s": 4}
        events = java_driver.run(cluster, "produce", topic=topic, count=6, **options)
        sent = [event for event in events if event["event"] == "sent"]
        recalled = [event["msgId"] for event in events if event["event"] == "recalled"]
        assert recalled == [event["msgId"] for event in sent[::2]]
        consumer.wait_for_bodies({event["body"] for event in sent[1::2]}, 30)
        consumer.stop()
        assert scenarios.bodies(consumer.messages()) == scenarios.bodies(sent[1::2])


def test_transactions_are_committed_rolled_back_and_checked_back(java_driver: Driver, cluster: Cluster) -> None:
    scenarios.transactions_commit_roll_back_and_are_checked_back(java_driver, cluster, check_timeout_s="150")


def test_requests_get_their_replies(java_driver: Driver, cluster: Cluster) -> None:
    """324/325 to the broker, 326 to the requester: Java asks Java, our SDK asks Java, Java asks our SDK."""
    scenarios.requests_are_answered(java_driver, cluster)


def test_orderly_consumer_gets_each_queue_in_order(java_driver: Driver, cluster: Cluster) -> None:
    """Nothing is consumed before LOCK_BATCH_MQ has been answered well."""
    topic = create_topic(cluster)
    sent = java_driver.produce(cluster, topic, 60)
    with java_driver.consume(cluster, topic, unique_name("group"), orderly="true") as consumer:
        consumer.wait_for_bodies({event["body"] for event in sent})
        consumer.stop()
        received = consumer.messages()
    assert scenarios.bodies(received) == scenarios.bodies(sent)
    offsets: defaultdict[int, list[int]] = defaultdict(list)
    for message in received:
        offsets[message["queueId"]].append(message["queueOffset"])
    assert all(queue_offsets == list(range(len(queue_offsets))) for queue_offsets in offsets.values()), offsets


def test_broadcasting_consumers_each_get_everything(java_driver: Driver, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    group = unique_name("group")
    with (
        java_driver.consume(cluster, topic, group, broadcast="true") as one,
        java_driver.consume(cluster, topic, group, broadcast="true") as other,
    ):
        for consumer in (one, other):
            consumer.wait_for(lambda consumer=consumer: len(consumer.queues()) == 4, "all queues")
        sent = java_driver.produce(cluster, topic, 12)
        for consumer in (one, other):
            consumer.wait_for_bodies({event["body"] for event in sent})
            consumer.stop()
            assert scenarios.bodies(consumer.messages()) == scenarios.bodies(sent)


def pops(java_driver: Driver, cluster: Cluster, topic: str, group: str, **options: object) -> DriverProcess:
    """A push consumer that leaves rebalancing to the broker (400), and so pops where the broker says so."""
    return java_driver.consume(
        cluster, topic, group, client_rebalance="false", pop_invisible_ms=POP_INVISIBLE_MS, **options
    )


@pytest.mark.parametrize(("group_length", "topic_length"), [(0, 0), (120, 127)], ids=["short", "long"])
def test_push_consumer_pops_if_the_broker_assigns_pop(
    java_driver: Driver, cluster: Cluster, group_length: int, topic_length: int
) -> None:
    """401, 400, 200050, 200051 and 200053. What fails comes again after 10 s, the first step of the client's back-off:
    twice the invisible time, so that by then whatever had not been acknowledged would have come again as well.
    With long names the records of the retry topic have message version V2.
    """
    topic = create_topic(cluster, topic=unique_name("topic").ljust(topic_length, "t"))
    group = unique_name("group").ljust(group_length, "g")
    java_driver.run(cluster, "create-group", group=group)
    java_driver.run(cluster, "set-request-mode", topic=topic, group=group, mode="POP")
    fails = {"fail_bodies": "message-7"}
    with (
        pops(java_driver, cluster, topic, group, tags="TagA", **fails) as one,
        pops(java_driver, cluster, topic, group, tags="TagA", **fails) as other,
    ):
        for consumer in (one, other):  # queue id -1: any queue of the broker, for each of them
            consumer.wait_for(lambda consumer=consumer: _pops_any_queue(consumer), "assignment for POP")
        sent = java_driver.produce(cluster, topic, 40, tags="TagB,TagA", key_prefix="order")
        wanted = scenarios.bodies(sent[1::2])

        def received() -> list[Event]:
            return one.messages() + other.messages()

        one.wait_for(lambda: len(received()) > len(wanted), "everything, and again what failed", 90)
        for consumer in (one, other):
            consumer.stop()
        messages_received = received()
    assert Counter(message["body"] for message in messages_received) == Counter([*wanted, "message-7"])
    tries = sorted(message["reconsumeTimes"] for message in messages_received if message["body"] == "message-7")
    assert tries == [0, 1]
    for message in messages_received:
        assert (message["topic"], message["tags"]) == (topic, "TagA")
        handle = message["properties"]["POP_CK"].split(" ")
        assert (len(handle), handle[4]) == (8, str(message["reconsumeTimes"]))  # 0: the topic, 1: its retry topic


def test_pops_in_order(java_driver: Driver, cluster: Cluster) -> None:
    """By RocketMQ's own encoding and decoding, without a push consumer: that never asks for order."""
    topic, group = create_topic(cluster), unique_name("group")
    java_driver.run(cluster, "create-group", group=group)
    sent = java_driver.produce(cluster, topic, 16)
    fails = {"message-5", "message-6"}
    options = {"topic": topic, "group": group, "count": len(sent), "fail_bodies": ",".join(sorted(fails))}
    events = java_driver.run(cluster, "pop-in-order", **options)
    given: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for message in (event for event in events if event["event"] == "message"):
        handle = message["properties"]["POP_CK"].split(" ")
        assert (handle[3:5], message["topic"]) == (["999", "0"], topic)  # in order, and of the topic itself
        given.setdefault((handle[5], message["queueId"]), []).append((message["body"], message["reconsumeTimes"]))
    wanted: dict[int, list[tuple[str, int]]] = {}
    for event in sent:
        tries = range(1 + (event["body"] in fails))
        wanted.setdefault(event["queueId"], []).extend((event["body"], times) for times in tries)
    assert sorted(given.values()) == sorted(wanted.values())


def test_orderly_push_consumer_pulls_in_a_pop_group(java_driver: Driver, cluster: Cluster) -> None:
    topic, group = create_topic(cluster), unique_name("group")
    java_driver.run(cluster, "create-group", group=group)
    java_driver.run(cluster, "set-request-mode", topic=topic, group=group, mode="POP")
    sent = java_driver.produce(cluster, topic, 12)
    with pops(java_driver, cluster, topic, group, orderly="true") as consumer:
        consumer.wait_for(lambda: len(consumer.messages()) >= len(sent), "all messages", 90)
        assert not _pops_any_queue(consumer)
        consumer.stop()
        messages = consumer.messages()
    assert not [message for message in messages if "POP_CK" in message["properties"]]
    for queue_id in {event["queueId"] for event in sent}:
        bodies = [event["body"] for event in sent if event["queueId"] == queue_id]
        assert [message["body"] for message in messages if message["queueId"] == queue_id] == bodies


def _pops_any_queue(consumer: DriverProcess) -> bool:
    return bool(consumer.queues()) and all(queue.endswith(":-1") for queue in consumer.queues())
