"""Keyword arguments of the clients as types, so that a type checker finds a misspelt or mistyped one.

A test compares ``ClientSettings`` with ``ClientConfig``, and the others with the constructors.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, get_type_hints

import pluggy

from ...config import check_value
from ...model import ConsumeFromWhere, MessageModel
from .values import Serializer


class ClientSettings(TypedDict, total=False):
    """Single fields of ``ClientConfig``, which every client takes."""

    instance_name: str
    client_ip: str
    offset_store_path: str
    poll_name_server_interval_s: float
    heartbeat_broker_interval_s: float
    persist_consumer_offset_interval_s: float
    rebalance_interval_s: float
    connect_timeout_s: float
    request_timeout_s: float
    send_timeout_s: float
    retry_times_when_send_failed: int
    max_message_bytes: int
    coalesce_sends: bool
    linger_ms: float
    load_balancer: str
    strict_order: bool
    allocate_strategy: str
    read_selector: str
    plugin_interceptors: str
    zone: str
    zone_mode: bool
    broker_weights: str
    broker_warm_up_s: float
    machine_rooms: str
    allocate_queues: str
    max_decompressed_bytes: int
    compress_over_bytes: int


class ProducerOptions(ClientSettings, total=False):
    """Keyword arguments of ``AsyncProducer``."""

    plugins: pluggy.PluginManager | None
    serializer: str | Serializer
    interceptors: Sequence[object]


class TransactionProducerOptions(ProducerOptions, total=False):
    """Keyword arguments of ``AsyncTransactionProducer``."""

    topics: Sequence[str]


class ConsumeOptions(ClientSettings, total=False):
    """Keyword arguments of ``AsyncPushConsumer`` that a handler of an ``App`` may have, too."""

    consume_from_where: ConsumeFromWhere | str
    consume_timestamp_ms: int | None
    concurrency: int
    pull_batch_size: int
    message_model: MessageModel | str
    orderly: bool
    max_reconsume_times: int | None
    consume_timeout_s: float
    suspend_current_queue_time_s: float
    pull_threshold_for_queue: int
    pull_threshold_bytes_for_queue: int
    pull_threshold_for_topic: int
    pull_threshold_bytes_for_topic: int
    consume_max_span: int
    await_termination_s: float


class PushConsumerOptions(ConsumeOptions, total=False):
    """Keyword arguments of ``AsyncPushConsumer``."""

    plugins: pluggy.PluginManager | None
    interceptors: Sequence[object]


class PullConsumerOptions(ClientSettings, total=False):
    """Keyword arguments of ``AsyncPullConsumer``."""

    consume_from_where: ConsumeFromWhere | str


class SimpleConsumerOptions(PullConsumerOptions, total=False):
    """Keyword arguments of ``AsyncSimpleConsumer``."""

    fifo: bool


@functools.cache
def hints_of(options: type) -> dict[str, Any]:
    """The types of the keyword arguments by name."""
    return get_type_hints(options)


def check_types(options: type, given: Mapping[str, object]) -> None:
    """Raises ConfigError for a value of another type than the keyword argument of its name; other names are ignored."""
    for name, kind in hints_of(options).items():
        if name in given:
            check_value(name, given[name], kind)
