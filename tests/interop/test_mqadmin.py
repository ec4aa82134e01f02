"""RocketMQ's own mqadmin 5.3.3. Runs only with RMQ_INTEROP_JAVA=1."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from interop_support import Cluster, create_topic, has_route, master_addresses, unique_name, wait_until

from rmq_redis import Admin, ConsumeFromWhere, Message, MessageExt, Producer, PushConsumer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

MqAdmin = Callable[..., str]


@pytest.fixture
def admin(cluster: Cluster) -> Iterator[Admin]:
    with Admin(cluster.namesrv_addr) as client:
        yield client


class Reader:
    """A member of a group that keeps what it gets."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.group = unique_name("group")
        self.bodies: list[str] = []
        self.consumer = PushConsumer(
            self.group,
            cluster.namesrv_addr,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
            persist_consumer_offset_interval_s=0.1,
        )
        self.consumer.subscribe(topic, "*", self._handle)

    def _handle(self, message: MessageExt) -> None:
        self.bodies.append(message.text())

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self.bodies) >= count, f"{count} messages read, {self.bodies}")


def send(cluster: Cluster, topic: str, count: int) -> list[MessageExt]:
    with Producer("interop-mqadmin", cluster.namesrv_addr) as producer, Admin(cluster.namesrv_addr) as admin:
        sent = [
            producer.send(Message(topic, f"body-{number}", tags="TagA", keys=[f"order-{number}"]), key="one queue")
            for number in range(count)
        ]
        return [admin.view_message(result.offset_msg_id) for result in sent]


def rows(text: str, first: str) -> list[list[str]]:
    """The lines of a table that begin with a word, split at the blanks."""
    return [line.split() for line in text.splitlines() if line.split()[:1] == [first]]


def test_cluster_is_listed_with_its_status(mqadmin: MqAdmin, cluster: Cluster) -> None:
    listed = mqadmin("clusterList")
    for name, address in master_addresses(cluster).items():
        assert re.search(rf"^DefaultCluster +{name} +0 +{address} +V5", listed, re.MULTILINE)
        status = mqadmin("brokerStatus", "-b", address)
        found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        found = {key.strip(): value.strip() for key, value in found.items()}
        assert found["brokerActive"] == "true"
        assert int(found["msgPutTotalTodayNow"]) >= 0


def test_statistics_and_state_are_shown(mqadmin: MqAdmin, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    send(cluster, topic, 5)
    reader = Reader(cluster, topic)
    with reader.consumer:
        reader.wait_for(5)
        (row,) = rows(mqadmin("statsAll", "-t", topic), topic)
    assert row[1] == reader.group
    assert [float(text) > 0 for text in row[3:5]] == [True, True]
    assert row[5:7] == ["5", "5"]
    address = master_addresses(cluster)["broker-a"]
    assert re.search(r"^#MasterAddr\s+" + re.escape(address), mqadmin("haStatus", "-b", address), re.MULTILINE)
    (broker,) = [row for row in rows(mqadmin("clusterList"), "DefaultCluster") if address in row]
    hours = [float(text) for text in broker if re.fullmatch(r"\d+\.\d\d", text)]
    assert all(hour < 24 for hour in hours)
    assert "success" in mqadmin("cleanUnusedTopic", "-b", address)


def test_topic_is_created_changed_used_and_deleted(mqadmin: MqAdmin, cluster: Cluster) -> None:
    topic = unique_name("topic")
    assert "success" in mqadmin("updateTopic", "-c", "DefaultCluster", "-t", topic, "-r", "3", "-w", "3")
    wait_until(lambda: has_route(cluster, topic), f"route of {topic}")
    change = ("updateTopic", "-c", "DefaultCluster", "-t", topic, "-r", "3", "-w", "3", "-a")
    assert "success" in mqadmin(*change, "+message.type=FIFO")
    for refused in ("+message.type=NONSENSE", "+nosuch.attr=1"):
        with pytest.raises(AssertionError, match="CODE: 1 "):  # mqadmin prints a stack trace
            mqadmin(*change, refused)
    assert topic in mqadmin("topicList").split()
    assert '"writeQueueNums":3' in mqadmin("topicRoute", "-t", topic)
    sent = mqadmin(
        "sendMessage", "-t", topic, "-p", "grüße", "-k", "order-7", "-c", "TagA", "-b", "broker-a", "-i", "1"
    )
    assert "SEND_OK" in sent
    status = rows(mqadmin("topicStatus", "-t", topic), "broker-a")
    assert [(row[1], row[2], row[3]) for row in status] == [("0", "0", "0"), ("1", "0", "1"), ("2", "0", "0")]
    read = mqadmin("consumeMessage", "-t", topic, "-g", unique_name("group"))
    assert "BODY: grüße" in read
    assert "success" in mqadmin("deleteTopic", "-c", "DefaultCluster", "-t", topic)
    assert not has_route(cluster, topic)


def test_messages_are_found_by_key_and_id(mqadmin: MqAdmin, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    message = send(cluster, topic, 3)[1]
    unique_key = message.msg_id
    by_key = mqadmin("queryMsgByKey", "-t", topic, "-k", "order-1")
    assert [row[1:] for row in rows(by_key, unique_key)] == [[str(message.queue_id), str(message.queue_offset)]]
    place = ("-b", message.broker_name or "broker-a", "-i", str(message.queue_id), "-o", str(message.queue_offset))
    for arguments in (
        ("queryMsgById", "-t", topic, "-i", message.offset_msg_id),
        ("queryMsgByUniqueKey", "-t", topic, "-i", unique_key),
        ("queryMsgByOffset", "-t", topic, *place),
    ):
        shown = mqadmin(*arguments)
        assert f"UNIQ_KEY={unique_key}" in shown
        assert re.search(rf"^Queue Offset: +{message.queue_offset}$", shown, re.MULTILINE)


def test_group_and_its_member_are_shown(mqadmin: MqAdmin, cluster: Cluster, admin: Admin) -> None:
    topic = create_topic(cluster)
    messages = send(cluster, topic, 4)
    reader = Reader(cluster, topic)
    group = reader.group
    assert "success" in mqadmin("updateSubGroup", "-c", "DefaultCluster", "-g", group, "-r", "3")
    with reader.consumer as consumer:
        reader.wait_for(4)

        def lag() -> int:
            return sum(offset.diff for offset in admin.consume_stats(group, topic).values())

        wait_until(lambda: lag() == 0, "what was read is committed")
        connections = mqadmin("consumerConnection", "-g", group)
        assert consumer.client_id in connections
        assert re.search(rf"^{topic} +\*$", connections, re.MULTILINE)
        progress = mqadmin("consumerProgress", "-g", group)
        read = [row for row in rows(progress, topic) if row[3] != "0"]
        assert [row[3:6] for row in read] == [["4", "4", "0"]]
        assert "Consume Diff Total: 0" in progress
        assert "Consume Diff Total: 0" in mqadmin("consumerProgress", "-g", group, "-t", topic)
        assert group in mqadmin("brokerConsumeStats", "-b", master_addresses(cluster)["broker-a"])
        info = mqadmin("consumerStatus", "-g", group, "-i", consumer.client_id)
        assert re.search(rf"^{topic} +broker-a +0 +ProcessQueueInfo", info, re.MULTILINE)
        again = mqadmin(
            "queryMsgById", "-t", topic, "-i", messages[2].offset_msg_id, "-g", group, "-d", consumer.client_id
        )
        assert "consumeResult=CR_SUCCESS" in again
        assert reader.bodies[4:] == ["body-2"]

        # online: the member hears it with its next pull, whatever it commits
        moved = mqadmin("resetOffsetByTime", "-g", group, "-t", topic, "-s", "0")
        assert {row[2] for row in rows(moved, "broker-a")} == {"0"}
        reader.wait_for(9)
        wait_until(lambda: lag() == 0, "what was read again is committed")
        assert sorted(reader.bodies[5:]) == [f"body-{number}" for number in range(4)]
    offline = mqadmin("resetOffsetByTime", "-g", group, "-t", topic, "-s", str(messages[0].store_timestamp_ms))
    assert rows(offline, "broker-a")
    assert lag() == 4


def test_queue_entries_are_shown(mqadmin: MqAdmin, cluster: Cluster) -> None:
    topic = create_topic(cluster)
    message = send(cluster, topic, 2)[1]
    address = master_addresses(cluster)["broker-a"]
    shown = mqadmin("queryCq", "-t", topic, "-q", str(message.queue_id), "-i", "0", "-c", "5", "-b", address)
    assert "max: 2, min: 0" in shown
    assert f"physicOffset={message.commit_log_offset}, physicSize=" in shown
    assert "tagsCode=2598919" in shown


def test_one_queue_is_reset_twice(mqadmin: MqAdmin, cluster: Cluster, admin: Admin) -> None:
    topic, group = create_topic(cluster), unique_name("group")
    queue_id = send(cluster, topic, 8)[0].queue_id
    mqadmin("updateSubGroup", "-c", "DefaultCluster", "-g", group)
    place = ("-b", master_addresses(cluster)["broker-a"], "-q", str(queue_id))
    for offset in (3, 5):
        mqadmin("resetOffsetByTime", "-g", group, "-t", topic, "-s", "0", *place, "-o", str(offset))
        offsets = {queue.queue_id: stats.consumer_offset for queue, stats in admin.consume_stats(group, topic).items()}
        assert offsets[queue_id] == offset
