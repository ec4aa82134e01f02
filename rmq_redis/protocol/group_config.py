"""What a broker group knows of a consumer group, and when a group's failed messages come again."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..model import DEFAULT_MAX_RECONSUME_TIMES

_MAX_RETRY_DELAY_MS = 30 * 24 * 3_600_000
"""30 days: a longer wait points to a wrong unit."""


class ExponentialRetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms: ``initial``, then ``multiplier`` times the one before, up to ``max``."""

    initial: int = 5_000
    max: int = 7_200_000
    multiplier: int = 2


class CustomizedRetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms, beginning with the third: the first two are those that delay levels 1 and 2 would be."""

    next: list[int]


class GroupRetryPolicy(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """When a group's messages come again. Without the policy that ``type`` names, RocketMQ's delay levels count.

    Source: RocketMQ 5.3 ``GroupRetryPolicy``.
    """

    type: str = "CUSTOMIZED"
    exponential_retry_policy: ExponentialRetryPolicy | msgspec.UnsetType | None = msgspec.UNSET
    customized_retry_policy: CustomizedRetryPolicy | msgspec.UnsetType | None = msgspec.UNSET

    @classmethod
    def of_delays_ms(cls, delays_ms: Sequence[int]) -> GroupRetryPolicy:
        """The policy of these times, one a try (at least one), the last for all that follow."""
        return cls(customized_retry_policy=CustomizedRetryPolicy(next=[delays_ms[0], delays_ms[0], *delays_ms]))

    def delay_ms(self, reconsume_times: int) -> int | None:
        """ms until the try after ``reconsume_times`` earlier ones; None: the delay levels say."""
        exponential, customized = self.exponential_retry_policy, self.customized_retry_policy
        if self.type == "EXPONENTIAL" and isinstance(exponential, ExponentialRetryPolicy):
            factor: int = exponential.multiplier ** min(max(reconsume_times, 0), 32)
            return min(exponential.max, exponential.initial * factor)
        if self.type == "CUSTOMIZED" and isinstance(customized, CustomizedRetryPolicy) and customized.next:
            return customized.next[min(max(reconsume_times, 0) + 2, len(customized.next) - 1)]
        return None

    def error(self) -> str | None:
        """What is wrong with it, or None."""
        exponential, customized = self.exponential_retry_policy, self.customized_retry_policy
        times: list[int] = []
        if isinstance(exponential, ExponentialRetryPolicy):
            times += (exponential.initial, exponential.max, exponential.multiplier)
        if isinstance(customized, CustomizedRetryPolicy):
            times += customized.next
        wrong = next((time for time in times if not 0 <= time <= _MAX_RETRY_DELAY_MS), None)
        return None if wrong is None else f"groupRetryPolicy has {wrong}, expected 0 to {_MAX_RETRY_DELAY_MS} ms"


class SubscriptionGroupConfig(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a broker group knows of a consumer group."""

    group_name: str
    consume_enable: bool = True
    consume_from_min_enable: bool = True
    consume_broadcast_enable: bool = True
    consume_message_orderly: bool = False
    retry_queue_nums: int = 1
    retry_max_times: int = DEFAULT_MAX_RECONSUME_TIMES
    broker_id: int = 0
    which_broker_when_consume_slowly: int = 1
    notify_consumer_ids_changed_enable: bool = True
    group_sys_flag: int = 0
    consume_timeout_minute: int = 15
    group_retry_policy: GroupRetryPolicy | None = GroupRetryPolicy()
    attributes: dict[str, str] = {}

    def retry_delay_ms(self, reconsume_times: int) -> int | None:
        """ms until the try after ``reconsume_times`` earlier ones; None: RocketMQ's delay levels say."""
        return None if self.group_retry_policy is None else self.group_retry_policy.delay_ms(reconsume_times)
