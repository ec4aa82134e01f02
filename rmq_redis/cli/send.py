"""``rmq-redis send``: messages from the command line, a file or standard input."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ..model import MAX_DELAY_LEVEL, Message, SendStatus
from . import lazy
from .fields import send_result
from .option_groups import with_option_groups
from .options import ClientOptions, Json, flag, option, topic_argument
from .output import EXIT_STOPPED, EXIT_UNCONFIRMED, InputError, note, print_json, say
from .recall import PRODUCER_GROUP
from .terminal import argument_bytes, is_terminal

if TYPE_CHECKING:
    from ..client.core.settings import ClientSettings

UNCONFIRMED: Mapping[SendStatus, str] = {
    SendStatus.FLUSH_DISK_TIMEOUT: "the disk did not confirm in time",
    SendStatus.FLUSH_SLAVE_TIMEOUT: "fewer replicas confirmed in time than the broker requires",
    SendStatus.SLAVE_NOT_AVAILABLE: "fewer replicas are connected than the broker requires",
}


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """What every message of a call gets beside its body."""

    tags: Annotated[str, option("--tags", help="Tag, for consumers' filters.", show_default=False)] = ""
    keys: Annotated[
        str, option("--keys", "-k", help="Message keys for queries, separated by spaces.", show_default=False)
    ] = ""
    properties: Annotated[
        list[str] | None,
        option("--property", "-p", help="Property; may be repeated.", metavar="NAME=VALUE", show_default=False),
    ] = None
    delay_s: Annotated[
        float | None,
        option("--delay", help="Deliver after S seconds.", min=0.001, metavar="S", show_default=False),
    ] = None
    delay_level: Annotated[
        int | None,
        option(
            "--delay-level",
            help="Deliver after the time of delay level N: 1 is 1 s, 18 is 2 h.",
            min=1,
            max=MAX_DELAY_LEVEL,
            metavar="N",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Raises BadParameter for options that exclude each other and for malformed properties."""
        if self.delay_s is not None and self.delay_level is not None:
            raise typer.BadParameter("give --delay or --delay-level, not both")
        _pairs(self.properties or [])

    def message(self, topic: str, body: bytes) -> Message:
        """A message with these options."""
        made = Message(topic, body, tags=self.tags, keys=self.keys, properties=_pairs(self.properties or []))
        if self.delay_s is not None:
            made.with_delay_s(self.delay_s)
        if self.delay_level is not None:
            made.with_delay_level(self.delay_level)
        return made


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """How the queue of a message is chosen."""

    key: Annotated[
        str | None,
        option("--sharding-key", help="Messages with the same key go to the same queue.", show_default=False),
    ] = None
    load_balancer: Annotated[
        str | None,
        option(
            "--load-balancer",
            help="How queues are chosen: LATENCY_AWARE, WEIGHTED, ...",
            metavar="NAME",
            show_default=False,
        ),
    ] = None
    strict_order: Annotated[
        bool, flag("--strict-order", help="If the sharding key's queue is not writable, wait for it.")
    ] = False

    def settings(self) -> ClientSettings:
        chosen: ClientSettings = {}
        if self.load_balancer is not None:
            chosen["load_balancer"] = self.load_balancer
        if self.strict_order:
            chosen["strict_order"] = True
        return chosen


@with_option_groups
def send(
    topic: Annotated[str, topic_argument("Topic; brokers create it if it does not exist.")],
    body: Annotated[str | None, typer.Argument(help="The message body.", show_default="standard input")] = None,
    *,
    file: Annotated[
        str | None,
        option("--file", "-f", help="Send each line of this file; -: of standard input.", callback=None),
    ] = None,
    message: MessageOptions,
    queue: QueueOptions,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Send one message from the command line, or one per line of a file or of standard input.

    Prints where the broker stored the message; for a file, the number of messages sent. Empty lines are skipped. Lines
    from a pipe are sent as they arrive.

    Exit code 3: all messages are stored, but some are not confirmed as the broker requires (SYNC_MASTER, SYNC_FLUSH).
    """
    lazy.setup_logging(client.log_level)
    _check_source(body, file)
    message.check()
    stopped = False
    if body is not None:
        statuses = lazy.run(_send_one(message.message(topic, argument_bytes(body)), queue, client.namesrv, json))
    else:
        with _opened(file or "-") as lines:
            sender = lazy.LineSender(lambda line: message.message(topic, line), queue.key, json)
            statuses, stopped = lazy.run(sender.send(lines, PRODUCER_GROUP, client.namesrv, queue.settings()))
    unconfirmed = _report_unconfirmed(statuses)
    if stopped or unconfirmed:
        raise typer.Exit(EXIT_STOPPED if stopped else EXIT_UNCONFIRMED)


def _check_source(body: str | None, file: str | None) -> None:
    if body is not None and file is not None:
        raise typer.BadParameter("give a message or --file, not both")
    if body is None and file is None and (sys.stdin is None or is_terminal(sys.stdin)):
        raise typer.BadParameter("give a message, --file FILE, or lines on standard input")


def _pairs(properties: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for item in properties:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{item!r}: give NAME=VALUE", param_hint="--property")
        pairs[name] = value
    return pairs


@contextmanager
def _opened(path: str) -> Iterator[int]:
    if path == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed")
        yield sys.stdin.fileno()
        return
    try:
        lines = open(path, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{error.strerror}: {path}") from None
    with lines:
        yield lines.fileno()


async def _send_one(message: Message, queue: QueueOptions, namesrv: str, json: bool) -> Counter[SendStatus]:
    async with lazy.AsyncProducer(PRODUCER_GROUP, namesrv, **queue.settings()) as producer:
        result = await producer.send(message, key=queue.key)
    if json:
        print_json(send_result(result))
    else:
        stored = result.queue
        where = f"queue {stored.queue_id} offset {result.queue_offset}"
        if result.recall_handle:
            where = f"queue {stored.queue_id} later; recall handle {result.recall_handle}"
        say(f"{result.msg_id}  {stored.topic} {stored.broker_name} {where}")
    return Counter([result.status])


def _report_unconfirmed(statuses: Counter[SendStatus]) -> bool:
    """Notes what is stored but not confirmed; returns whether there is any."""
    unconfirmed = [status for status in UNCONFIRMED if statuses[status]]
    for status in unconfirmed:
        note(
            f"{status}: {statuses[status]} of {statuses.total()} stored, but {UNCONFIRMED[status]}; "
            "sending again would store a duplicate"
        )
    return bool(unconfirmed)
