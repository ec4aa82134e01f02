"""rocketmq-client-go v2.1.2."""

from __future__ import annotations

import pytest
import scenarios
from interop_support import Cluster, Driver, has_route, master_addresses, unique_name, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


def test_admin_creates_a_usable_topic(go_driver: Driver, cluster: Cluster) -> None:
    topic = unique_name("topic")
    for address in master_addresses(cluster).values():
        go_driver.run(cluster, "create-topic", topic=topic, queues=4, broker=address)
    wait_until(lambda: has_route(cluster, topic), f"route of {topic}")
    scenarios.keeps_everything_of_a_message(go_driver, cluster, topic)


def test_filters_by_tag(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.filters_by_tag(go_driver, cluster)


@pytest.mark.parametrize("mode", ["oneway", "async"])
def test_sends_oneway_and_async(go_driver: Driver, cluster: Cluster, mode: str) -> None:
    scenarios.sends_without_waiting(go_driver, cluster, mode)


def test_sends_to_a_chosen_queue(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.sends_to_a_chosen_queue(go_driver, cluster, broker_name=next(iter(master_addresses(cluster))))


def test_stores_a_batch_as_single_messages(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.stores_a_batch_as_single_messages(go_driver, cluster)


def test_new_group_reads_a_young_topic_from_its_start(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.a_new_group_reads_a_young_topic_from_its_start(go_driver, cluster, **{"from": "last"})


def test_resumes_at_the_committed_offset(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.goes_on_from_the_committed_offset(go_driver, cluster)


def test_follows_an_offset_reset_while_consuming(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.a_group_is_moved_while_it_consumes(go_driver, cluster)


def test_delivers_to_a_running_consumer(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_to_a_running_consumer(go_driver, cluster)


def test_two_consumers_share_the_queues(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.two_consumers_share_the_queues(go_driver, cluster)


def test_redelivers_a_failed_message(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_a_failed_message_again(go_driver, cluster)


def test_transactions_are_committed_rolled_back_and_checked_back(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.transactions_commit_roll_back_and_are_checked_back(go_driver, cluster)


def test_requests_get_their_replies(go_driver: Driver, cluster: Cluster) -> None:
    scenarios.requests_are_answered(go_driver, cluster)
