"""rocketmq-client-cpp 1.2.x, through its Python binding `rocketmq` 0.4.4."""

from __future__ import annotations

import pytest
import scenarios
from interop_support import Cluster, Driver

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


def test_keeps_all_attributes_of_a_message(cpp_driver: Driver, cluster: Cluster) -> None:
    scenarios.keeps_everything_of_a_message(cpp_driver, cluster)


def test_filters_by_tag(cpp_driver: Driver, cluster: Cluster) -> None:
    scenarios.filters_by_tag(cpp_driver, cluster)


def test_stores_a_batch_as_single_messages(cpp_driver: Driver, cluster: Cluster) -> None:
    if cluster.is_external:
        pytest.skip('client-cpp writes "m":"1", which Apache\'s broker reads as false; ours is asked to be kinder')
    scenarios.stores_a_batch_as_single_messages(cpp_driver, cluster)


def test_resumes_at_the_committed_offset(cpp_driver: Driver, cluster: Cluster) -> None:
    """Its consumers always start at the last offset, so this also asks that a new group reads a young topic."""
    scenarios.goes_on_from_the_committed_offset(cpp_driver, cluster)


def test_follows_an_offset_reset_while_consuming(cpp_driver: Driver, cluster: Cluster) -> None:
    scenarios.a_group_is_moved_while_it_consumes(cpp_driver, cluster)


def test_delivers_to_a_running_consumer(cpp_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_to_a_running_consumer(cpp_driver, cluster)


def test_redelivers_a_failed_message(cpp_driver: Driver, cluster: Cluster) -> None:
    scenarios.delivers_a_failed_message_again(cpp_driver, cluster)
