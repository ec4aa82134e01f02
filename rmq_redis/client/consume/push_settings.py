"""The settings of one push consumer beside ``ClientConfig``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ...config import choice
from ...errors import ConfigError
from ...model import ConsumeFromWhere, MessageModel
from ..core.instance import check_group
from ..core.settings import PushConsumerOptions, check_types
from .process_queue import PullThresholds

MAX_PULL_BATCH_SIZE = 1024
"""Source: DefaultMQPushConsumerImpl.checkConfig."""


@dataclass(frozen=True, kw_only=True)
class PushSettings:
    """Arguments of ``AsyncPushConsumer``, which documents them."""

    group: str
    consume_from_where: ConsumeFromWhere
    consume_timestamp_ms: int | None
    concurrency: int
    pull_batch_size: int
    message_model: MessageModel
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

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """The settings among the arguments of the constructor.

        Raises:
            ConfigError: one of them cannot be used.
        """
        check_types(PushConsumerOptions, arguments)
        check_group(arguments["group"], "consumer")
        given = {field.name: arguments[field.name] for field in dataclasses.fields(cls)}
        given["consume_from_where"] = choice(ConsumeFromWhere, "consume_from_where", given["consume_from_where"])
        given["message_model"] = choice(MessageModel, "message_model", given["message_model"])
        settings = cls(**given)
        settings._check_numbers()
        return settings

    def _check_numbers(self) -> None:
        if not 1 <= self.pull_batch_size <= MAX_PULL_BATCH_SIZE:
            raise ConfigError(f"pull_batch_size={self.pull_batch_size} is not 1..{MAX_PULL_BATCH_SIZE}")
        if self.concurrency < 1:
            raise ConfigError(f"concurrency={self.concurrency}: there must be at least one handler at a time")
        if not self.consume_timeout_s > 0:
            raise ConfigError(f"consume_timeout_s={self.consume_timeout_s} is not above 0")
        self.thresholds()

    @property
    def is_clustering(self) -> bool:
        """Whether the members share the messages; if not, each gets all of them (BROADCASTING)."""
        return self.message_model == MessageModel.CLUSTERING

    @property
    def holds_locks(self) -> bool:
        """Whether a queue is consumed only while its lock is held."""
        return self.orderly and self.is_clustering

    def thresholds(self) -> PullThresholds:
        """How much of a queue may be pulled and not finished. Raises ConfigError."""
        return PullThresholds(
            for_queue=(self.pull_threshold_for_queue, self.pull_threshold_bytes_for_queue),
            for_topic=(self.pull_threshold_for_topic, self.pull_threshold_bytes_for_topic),
            max_span=None if self.orderly else self.consume_max_span,
        )
