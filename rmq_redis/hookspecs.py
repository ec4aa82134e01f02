"""The hooks that a plugin may implement, and the contract of each.

A plugin is a module (or object) whose functions carry ``@hookimpl``; a package offers one through the entry point group
``rmq_redis``. Hooks are asked once, when a client starts. They offer strategies by name; configuration picks one, so
installing a package changes nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pluggy

from .model import Message, MessageQueue

PROJECT_NAME = "rmq_redis"
"""The name of the plugin project and of the entry point group."""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)

AllocateStrategy = Callable[[str, str, Sequence[MessageQueue], Sequence[str]], Sequence[MessageQueue]]
"""``strategy(consumer_group, current_cid, mq_all, cid_all)``: this consumer's share of the queues."""

QueueSelector = Callable[[Sequence[MessageQueue], Message, str | None], MessageQueue]
"""``selector(queues, message, key)``: the queue that a message goes to."""


@hookspec
def register_allocate_strategies() -> Mapping[str, AllocateStrategy]:  # type: ignore[empty-body]
    """Offers strategies by name; the consumer's ``allocate_strategy`` picks one.

    ``strategy(consumer_group, current_cid, mq_all, cid_all)`` gets both lists sorted and not empty, and returns this
    consumer's share. Every member computes its own: keep it pure, or two members read one queue. A consumer that is
    not in ``cid_all`` gets nothing. Source: AllocateMessageQueueStrategy.
    """


@hookspec
def register_queue_selectors() -> Mapping[str, Callable[[], QueueSelector]]:  # type: ignore[empty-body]
    """Offers makers of selectors by name; the producer's ``queue_selector`` picks one.

    The maker is called once per producer, so that a selector may keep a state. ``selector(queues, message, key)`` is
    called for every message, in the event loop: it must be quick and must not block. ``queues`` is sorted, not empty
    and holds only queues that can be written now; the result must be one of them. ``key`` is the sharding key or None.
    """
