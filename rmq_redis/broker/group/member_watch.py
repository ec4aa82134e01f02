"""Warnings about members of a consumer group that cannot work together; RocketMQ has none.

The members of a group share the queues of all its topics, so they must subscribe to the same topics and expressions.
Each needs a client id of its own: two with one id read the same share, and the other queues are not read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from ...model import RETRY_PREFIX
from ...protocol.bodies.heartbeat import SubscriptionData
from ...remoting.connection import Connection
from ..filter.subscription import TAG
from .members import Member, Members, Signature

logger = logging.getLogger(__name__)

WARN_PERIOD_S = 60.0
"""Minimum time between two warnings about a group: members repeat their heartbeats every 30 s."""
_SHOWN = 3
"""Examples in one warning: a log line must stay readable."""
_SHOWN_LENGTH = 200
"""Characters of a name or a subscription in a warning: clients choose them."""


def signature_of(subscriptions: Iterable[SubscriptionData]) -> Signature:
    """Subscriptions in any order of topics and tags; without the retry topic, which some clients leave out."""
    return frozenset(
        (item.topic, item.expression_type or TAG, _expression(item))
        for item in subscriptions
        if not item.topic.startswith(RETRY_PREFIX)
    )


def _expression(item: SubscriptionData) -> str | frozenset[str]:
    if (item.expression_type or TAG) != TAG:
        return item.sub_string
    return frozenset(part.strip() for part in (item.sub_string or "*").split("||"))


class MemberWatch:
    """Watches the heartbeats of one group. Without a problem, a heartbeat costs a few comparisons."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._latest_kind: tuple[str, Signature] | None = None
        self._compared_s = self._warned_s = -math.inf
        self._latest: dict[str, Connection] = {}
        self._shared_ids: dict[str, tuple[float, str, str]] = {}

    def heard(self, member: Member, *, was_member: bool, members: Members) -> None:
        """Checks a member's heartbeat; ``was_member``: it is not the first on this connection."""
        now_s = member.last_update_s
        latest = self._latest.get(member.client_id)
        self._latest[member.client_id] = member.connection
        # A client that reconnected does not use its old connection again, which may stay open for a while.
        if was_member and latest and latest is not member.connection and latest in members:
            places = latest.remote_address, member.connection.remote_address
            self._shared_ids[member.client_id] = (now_s, min(places), max(places))
            self._warn(now_s, self._shared_warnings())
        kind = (member.message_model, member.signature)
        if kind != self._latest_kind:
            is_first, self._latest_kind = self._latest_kind is None, kind
            if not is_first and now_s - self._compared_s > WARN_PERIOD_S / 6:
                self._compared_s = now_s
                self._warn(now_s, [*_subscription_warnings(members), *_model_warnings(members)])

    def _warn(self, now_s: float, warnings: list[str]) -> None:
        if warnings and now_s - self._warned_s > WARN_PERIOD_S:
            self._warned_s = now_s
            for text in warnings:
                logger.warning("consumer group %s: %s", self._group, text)

    def forget(self, members: Members, oldest_s: float) -> None:
        """Drops entries of closed connections, and entries not seen since ``oldest_s``."""
        self._latest = {name: at for name, at in self._latest.items() if name in members.get(at, ())}
        self._shared_ids = {name: seen for name, seen in self._shared_ids.items() if seen[0] >= oldest_s}

    def warnings(self, members: Members) -> list[str]:
        """The present problems, in sentences for an operator."""
        online = {client_id for by_id in members.values() for client_id in by_id}
        self._shared_ids = {name: seen for name, seen in self._shared_ids.items() if name in online}
        return [*self._shared_warnings(), *_subscription_warnings(members), *_model_warnings(members)]

    def _shared_warnings(self) -> list[str]:
        return [
            f"two clients at {first} and {second} have the client id {name[:_SHOWN_LENGTH]!r}, so they read the same "
            "queues, and the others are not read; give each an instance name of its own"
            for name, (_, first, second) in list(self._shared_ids.items())[:_SHOWN]
        ]


def _subscription_warnings(members: Members) -> list[str]:
    """One sentence if the members' subscriptions differ."""
    found: dict[Signature, list[str]] = {}
    for by_id in members.values():
        for client_id, member in by_id.items():
            found.setdefault(member.signature, []).append(client_id)
    if len(found) < 2:
        return []
    common = frozenset.intersection(*found)
    parts = [
        f"{min(ids)[:_SHOWN_LENGTH]!r} and {len(ids) - 1} more: {_text(signature - common)}"
        for signature, ids in sorted(found.items(), key=lambda item: min(item[1]))[:_SHOWN]
    ]
    more = f"; and {len(found) - _SHOWN} more subscriptions" if len(found) > _SHOWN else ""
    return [f"its members subscribe differently, so each misses messages ({'; '.join(parts)}{more})"]


def _model_warnings(members: Members) -> list[str]:
    """One sentence if some members broadcast and others share the queues."""
    found: dict[str, str] = {}
    for by_id in members.values():
        for client_id, member in by_id.items():
            found.setdefault(member.message_model, client_id)
    if len(found) < 2:
        return []
    shown = ", ".join(f"{name[:_SHOWN_LENGTH]!r} {model[:20]!r}" for model, name in sorted(found.items())[:_SHOWN])
    return [f"its members have different message models ({shown}); the broker treats all as the latest one says"]


class ProducerWatch:
    """Warns of two producers with one client id: transaction checks and replies reach only one of them."""

    def __init__(self) -> None:
        self._warned_s = -math.inf

    def shared(self, member: Member, other: Connection) -> None:
        """A producer sent a heartbeat, and another connection sent one with the same client id since its last."""
        if other.closed or member.last_update_s - self._warned_s <= WARN_PERIOD_S:
            return
        self._warned_s = member.last_update_s
        logger.warning(
            "two producers at %s and %s have the client id %r, so transaction checks and replies reach one of them; "
            "give each an instance name of its own",
            *sorted((other.remote_address, member.connection.remote_address)),
            member.client_id[:_SHOWN_LENGTH],
        )


def _text(signature: Signature) -> str:
    parts = []
    for topic, kind, expression in sorted(signature, key=lambda item: item[:2]):
        text = expression if isinstance(expression, str) else " || ".join(sorted(expression))
        parts.append(f"{topic} {kind} {text}"[:_SHOWN_LENGTH])
    shown = ", ".join(parts[:_SHOWN])[: 2 * _SHOWN_LENGTH]
    return repr(shown) if shown else "nothing else"
