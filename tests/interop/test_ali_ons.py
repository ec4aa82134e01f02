"""ali-ons 3.12.0, the Node client of Alibaba Cloud."""

from __future__ import annotations

import re

import pytest
import scenarios
from interop_support import Cluster, Driver, create_topic, unique_name

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


def test_keeps_all_attributes_of_a_message(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.keeps_everything_of_a_message(node_driver, cluster)


def test_computes_the_message_id_that_the_send_returned(node_driver: Driver, cluster: Cluster) -> None:
    """ali-ons builds the id of a pulled message from storeHost and commitLogOffset and logs and looks up by it."""
    topic = create_topic(cluster)
    sent = node_driver.produce(cluster, topic, 8)
    with node_driver.consume(cluster, topic, unique_name("group")) as consumer:
        consumer.wait_for_bodies({event["body"] for event in sent})
        consumer.stop()
        received = {message["body"]: message["msgId"] for message in consumer.messages()}
    assert received == {event["body"]: event["msgId"] for event in sent}
    assert all(re.fullmatch("[0-9A-F]{32}", msg_id) for msg_id in received.values())
    assert len(set(received.values())) == len(sent)


def test_filters_by_tag(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.filters_by_tag(node_driver, cluster)


def test_new_group_reads_a_young_topic_from_its_start(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.a_new_group_reads_a_young_topic_from_its_start(node_driver, cluster, **{"from": "last"})


def test_resumes_at_the_committed_offset(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.goes_on_from_the_committed_offset(node_driver, cluster)


def test_follows_an_offset_reset_while_consuming(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.a_group_is_moved_while_it_consumes(node_driver, cluster)


def test_delivers_to_a_running_consumer(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_to_a_running_consumer(node_driver, cluster)


def test_two_consumers_share_the_queues(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.two_consumers_share_the_queues(node_driver, cluster)


def test_redelivers_a_failed_message(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_a_failed_message_again(node_driver, cluster)


def test_message_that_always_fails_becomes_a_dead_letter(node_driver: Driver, cluster: Cluster) -> None:
    scenarios.parks_a_message_that_always_fails(node_driver, cluster)


def test_delivers_a_delayed_message_when_it_is_due(node_driver: Driver, cluster: Cluster) -> None:
    """Level 2 is five seconds."""
    scenarios.delivers_later(node_driver, cluster, 4500, delay_level=2)


@pytest.mark.parametrize("timer", ["TIMER_DELAY_SEC=2", "TIMER_DELAY_MS=2000"])
def test_delivers_a_timer_message_when_it_is_due(node_driver: Driver, cluster: Cluster, timer: str) -> None:
    """Apache rounds down to a second."""
    scenarios.delivers_later(node_driver, cluster, 900, properties=timer)
