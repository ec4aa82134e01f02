"""The hooks that a plugin may implement, and the contract of each.

A plugin is a module (or object) whose functions carry ``@hookimpl``; a package offers one through the entry point group
``rmq_redis``. The ``register_*`` hooks are asked once, when a client or a server starts, and offer objects by name;
configuration picks one, so installing a package changes nothing by itself. What is picked is called directly, not
through the hook. A function may leave out arguments of its hook that it does not need.

An exception in a ``register_*`` hook, or in the maker of what was picked, is a ConfigError that names the plugin: the
client or server does not start. Names are compared without case, and ``-`` is the same as ``_``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from ..model import Message, MessageQueue, TopicRouteData

if TYPE_CHECKING:
    from ..config import BrokerConfig, ClientConfig, NameServerConfig

PROJECT_NAME = "rmq_redis"
"""The name of the plugin project and of the entry point group."""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)

AllocateStrategy = Callable[[str, str, Sequence[MessageQueue], Sequence[str]], Sequence[MessageQueue]]
"""``strategy(consumer_group, current_cid, mq_all, cid_all)``: this consumer's share of the queues."""

QueueSelector = Callable[[Sequence[MessageQueue], Message, str | None], MessageQueue]
"""``selector(queues, message, key)``: the queue that a message goes to."""

ReadSelector = Callable[[MessageQueue, Mapping[int, str], int], int]
"""``selector(queue, broker_addrs, suggested_broker_id)``: the id of the broker to read the queue from."""


@dataclass(frozen=True)
class ClientContext:
    """The client that asks.

    Attributes:
        config: its settings.
        zone_of: the zone that a broker group registered, by broker name; "" while none is known.
        clock: seconds from any start; a strategy that reads time from it can be simulated.
    """

    config: ClientConfig
    zone_of: Callable[[str], str]
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class RouteRequest:
    """A question for a topic's route.

    Attributes:
        topic: the topic.
        remote_address: ``ip:port`` of who asks.
        fields: the request's header fields, as text; RocketMQ's clients tell ``__ZONE_NAME`` and ``__ZONE_MODE``.
    """

    topic: str
    remote_address: str
    fields: Mapping[str, str]


RouteFilter = Callable[[RouteRequest, TopicRouteData], TopicRouteData]
"""``filter(request, route)``: the route to be answered, the same one or one with less in it."""


@dataclass(frozen=True)
class ServerRequest:
    """A request at a server, before it is processed.

    Attributes:
        code: the request code (``rmq_redis.codes.RequestCode``).
        remote_address: ``ip:port`` of the peer.
        fields: header fields as text, as they came: ``AccessKey`` and ``Signature`` are RocketMQ's.
        topic: the topic that it is about, "" if it names none.
        body: the bytes after the header.
    """

    code: int
    remote_address: str
    fields: Mapping[str, str]
    topic: str
    body: bytes


Authorizer = Callable[[ServerRequest], None]
"""``authorizer(request)``: returns to allow; raises ``NoPermissionError`` (any ResponseError) to refuse."""


class MetricsSink(Protocol):
    """Takes a server's figures."""

    def record(self, role: str, name: str, values: Mapping[str, float]) -> None:
        """Called every ``metrics_period_s`` in the event loop with all figures; counters only grow."""


class BrokerInterceptor(Protocol):
    """Sees messages in a broker; any object with some of these methods. All run in the event loop: be quick."""

    def before_append(self, request: ServerRequest) -> None:
        """Called with each request to store messages, before anything is stored: one message, or a batch.

        Clients put several sends into one batch.

        Raises:
            ResponseError: refuses the message; the producer gets the code. Anything else is logged.
        """

    def after_append(self, queue: MessageQueue, queue_offset: int, count: int, error: Exception | None) -> None:
        """Called when the store has (or has not: ``error``) ``count`` messages from ``queue_offset`` on."""

    def before_delivery(
        self, queue: MessageQueue, group: str, queue_offsets: Sequence[int], records: Sequence[bytes]
    ) -> Collection[int] | None:
        """Called with the stored records (``protocol.record.decode_records``) that answer a pull or a POP.

        Returns:
            Offsets that this group does not get (it counts them as consumed), or None: it gets all.
        """


@hookspec
def register_allocate_strategies(  # type: ignore[empty-body]
    context: ClientContext,
) -> Mapping[str, AllocateStrategy]:
    """Offers strategies by name; the consumer's ``allocate_strategy`` picks one.

    ``strategy(consumer_group, current_cid, mq_all, cid_all)`` is called at every rebalance, per topic, in the event
    loop. It gets both lists sorted and not empty, and returns this consumer's share. Every member computes its own:
    keep it pure, or two members read one queue. A consumer that is not in ``cid_all`` gets nothing.

    When the lists changed it is called for every member, and the shares must be every queue exactly once. If they are
    not, or it raises, AVG decides instead and one line is logged. Source: AllocateMessageQueueStrategy.
    """


@hookspec
def register_queue_selectors(  # type: ignore[empty-body]
    context: ClientContext,
) -> Mapping[str, Callable[[], QueueSelector]]:
    """Offers makers of selectors by name; the producer's ``load_balancer`` picks one.

    The maker is called once per producer, so that a selector may keep a state. ``selector(queues, message, key)`` is
    called for every message, in the event loop: it must be quick and must not block. ``queues`` is sorted, not empty
    and holds only queues that can be written now; it is the same list object until the route changes. The result must
    be one of them. ``key`` is the sharding key or None; only a selector with an attribute ``by_key = True`` is asked
    for messages with a key, for others HASH is.

    With an attribute ``per_turn = True`` a choice holds for the messages of its topic that follow in the same turn of
    the event loop, up to one request: messages for one queue travel together, so this is faster.

    A selector may have two more methods, which are looked for once: ``sending(queue)`` before each attempt and
    ``report(queue, latency_s, error)`` after it (error None: stored). If the selector raises, or returns something
    else than one of the queues, ROUND_ROBIN decides instead; the first time one line is logged.
    """


@hookspec
def register_read_selectors(  # type: ignore[empty-body]
    context: ClientContext,
) -> Mapping[str, Callable[[], ReadSelector]]:
    """Offers makers of selectors by name; the consumer's ``read_selector`` picks one.

    ``selector(queue, broker_addrs, suggested_broker_id)`` is called before each pull: the broker ids of the queue's
    group and their addresses, and the id that the broker suggested with its last answer (0 is the master). It returns
    one of the ids. If it raises, or returns another, the suggestion counts; the first time one line is logged.
    """


@hookspec
def register_interceptors(  # type: ignore[empty-body]
    context: ClientContext,
) -> Mapping[str, Callable[[], object]]:
    """Offers makers of interceptors (``rmq_redis.plugins.interceptors``) by name, for producers and push consumers.

    ``plugin_interceptors`` picks any number of them, in order; they come before those given in code. The maker is
    called once per client. When they are called, and what an exception does, is in ``rmq_redis.plugins.interceptors``.
    """


@hookspec
def register_route_filters(  # type: ignore[empty-body]
    config: NameServerConfig,
) -> Mapping[str, Callable[[], RouteFilter]]:
    """Offers makers of filters by name; the NameServer's ``route_filter`` picks one.

    ``filter(request, route)`` is called for every question for a topic's route (per client and topic every 30 s) and
    returns the route to be answered. If it raises, or returns something else, the whole route is answered; the first
    time one line is logged.
    """


@hookspec
def register_broker_interceptors(  # type: ignore[empty-body]
    config: BrokerConfig,
) -> Mapping[str, Callable[[], object]]:
    """Offers makers of ``BrokerInterceptor`` objects by name; the broker's ``broker_interceptors`` picks any number.

    The maker is called once per broker. The methods are looked for once, so that those which nobody has cost nothing.
    An exception of ``before_append`` that is no ResponseError, and any of the others, is logged, and the message goes
    on.
    """


@hookspec
def register_authorizers(  # type: ignore[empty-body]
    role: str, config: Any
) -> Mapping[str, Callable[[], Authorizer]]:
    """Offers makers of authorizers by name; ``authorizer`` of a broker or NameServer picks one.

    ``authorizer(request)`` is called for every request, in the event loop, before it is processed; ``role`` is
    ``broker`` or ``namesrv``. A ResponseError is the answer; any other exception is logged and refuses the request,
    too (NO_PERMISSION): an authorizer that breaks must not open the door.
    """


@hookspec
def register_metrics_sinks(  # type: ignore[empty-body]
    role: str, config: Any
) -> Mapping[str, Callable[[], MetricsSink]]:
    """Offers makers of sinks by name; ``metrics_sink`` of a broker or NameServer picks one.

    ``record`` is called every ``metrics_period_s`` and once more at the end. An exception is logged, and the next call
    comes in its time.
    """


@hookspec
def role_started(role: str, name: str, config: Any) -> None:
    """Called once for every role of a process when it is ready, whatever is configured.

    ``role`` is ``namesrv``, ``broker``, ``producer`` or ``consumer``; ``name`` the broker's name or the group. An
    exception stops the role again and is raised as ConfigError with the plugin's name.
    """


@hookspec
def role_stopping(role: str, name: str, config: Any) -> None:
    """Called once for every role that was started, before it stops. An exception is logged."""


@hookspec
def register_commands(app: Any) -> None:
    """Adds commands to the command line: ``app`` is its ``typer.Typer``.

    Called once, when ``rmq-redis`` shows its help or is asked for a command that is not its own. An exception ends the
    process with the plugin's name.
    """
