"""``rmq-redis send`` and ``rmq-redis consume``: messages from and to a terminal."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import ClientConfig, from_env
from ..errors import ClientError, MessageIllegalLocallyError, RmqError
from ..model import MAX_DELAY_LEVEL, SendStatus
from .options import (
    DEFAULT_NAMESRV,
    TIME_HELP,
    Json,
    LogLevel,
    Namesrv,
    argument,
    flag,
    group_name,
    option,
    time_ms,
    topic_argument,
)
from .output import EXIT_STOPPED, EXIT_UNCONFIRMED, InputError, note, number, on_reader_gone, print_json, say
from .terminal import argument_bytes, is_terminal, visible, visible_lines

if TYPE_CHECKING:
    import asyncio

    from ..client.core.settings import ClientSettings
    from ..model import Message, MessageExt, SendResult

SENDS_IN_FLIGHT = 64
PRODUCER_GROUP = "rmq-redis-send"
CONSUMER_GROUP = "rmq-redis-consume"
UNCONFIRMED: Mapping[SendStatus, str] = {
    SendStatus.FLUSH_DISK_TIMEOUT: "not known to be on disk",
    SendStatus.FLUSH_SLAVE_TIMEOUT: "fewer replicas had it in time than the broker asks for",
    SendStatus.SLAVE_NOT_AVAILABLE: "fewer replicas are connected than the broker asks for",
}


def send(
    topic: Annotated[str, topic_argument("Topic; brokers create an unknown one.")],
    body: Annotated[str | None, typer.Argument(help="The message.", show_default="standard input")] = None,
    file: Annotated[
        str | None,
        option("--file", "-f", help="Send each line of this file (-: of standard input) as a message.", callback=None),
    ] = None,
    tags: Annotated[str, option("--tags", help="Tag, for consumers' filters.", show_default=False)] = "",
    keys: Annotated[
        str, option("--keys", "-k", help="Message keys to find it by, separated by spaces.", show_default=False)
    ] = "",
    key: Annotated[
        str | None, option("--sharding-key", help="The same sharding key goes to the same queue.", show_default=False)
    ] = None,
    properties: Annotated[
        list[str] | None,
        option(
            "--property", "-p", help="Property NAME=VALUE; may be repeated.", metavar="NAME=VALUE", show_default=False
        ),
    ] = None,
    delay_s: Annotated[
        float | None,
        option("--delay", help="Deliver it S seconds later.", min=0.001, metavar="S", show_default=False),
    ] = None,
    delay_level: Annotated[
        int | None,
        option(
            "--delay-level",
            help="Deliver it after the time of a delay level: 1 is 1 s, 18 is 2 h.",
            min=1,
            max=MAX_DELAY_LEVEL,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    load_balancer: Annotated[
        str | None,
        option(
            "--load-balancer",
            help="How to choose queues: LATENCY_AWARE, WEIGHTED, ...",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    strict_order: Annotated[
        bool, flag("--strict-order", help="Wait for the sharding key's queue while it cannot be written.")
    ] = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Send messages: one given here, or one a line from a file or standard input.

    Prints where each went once its broker has stored it; of more than one line, how many. Empty lines are left out.
    Lines of a pipe are sent as they come.
    The exit code is 3 when all are stored and some not confirmed as their broker asks (SYNC_MASTER, SYNC_FLUSH).
    """
    from ..model import Message
    from ..runtime import run, setup_logging

    setup_logging(log_level)
    if body is not None and file is not None:
        raise typer.BadParameter("give the message or --file, not both")
    if body is None and file is None and (sys.stdin is None or is_terminal(sys.stdin)):
        raise typer.BadParameter("give the message, or --file FILE, or lines on standard input")
    if delay_s is not None and delay_level is not None:
        raise typer.BadParameter("give --delay or --delay-level, not both")
    pairs = _pairs(properties or [])

    def message(text: bytes | str) -> Message:
        made = Message(topic, text, tags=tags, keys=keys, properties=dict(pairs))
        if delay_s is not None:
            made.with_delay_s(delay_s)
        if delay_level is not None:
            made.with_delay_level(delay_level)
        return made

    settings = _chosen(load_balancer, strict_order)
    stopped = False
    if body is not None:
        statuses = run(_send_one(message(argument_bytes(body)), key, settings, namesrv, json))
    else:
        with _opened(file or "-") as lines:
            statuses, stopped = run(_send_lines(lines, message, key, settings, namesrv, json))
    unconfirmed = [status for status in UNCONFIRMED if statuses[status]]
    for status in unconfirmed:
        note(
            f"{status}: {statuses[status]} of {statuses.total()} stored, but {UNCONFIRMED[status]}; "
            "what is sent again is there twice"
        )
    if stopped or unconfirmed:
        raise typer.Exit(EXIT_STOPPED if stopped else EXIT_UNCONFIRMED)


def _pairs(properties: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for item in properties:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{item!r} is not NAME=VALUE", param_hint="--property")
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


def _chosen(load_balancer: str | None, strict_order: bool) -> ClientSettings:
    chosen: ClientSettings = {} if load_balancer is None else {"load_balancer": load_balancer}
    if strict_order:
        chosen["strict_order"] = True
    return chosen


async def _send_one(
    message: Message, key: str | None, settings: ClientSettings, namesrv: str, json: bool
) -> Counter[SendStatus]:
    from ..client.produce.producer import AsyncProducer

    async with AsyncProducer(PRODUCER_GROUP, namesrv, **settings) as producer:
        result = await producer.send(message, key=key)
    if json:
        print_json(send_result(result))
    else:
        queue = result.queue
        where = f"queue {queue.queue_id} offset {result.queue_offset}"
        if result.recall_handle:
            where = f"queue {queue.queue_id} later; recall handle {result.recall_handle}"
        say(f"{result.msg_id}  {queue.topic} {queue.broker_name} {where}")
    return Counter([result.status])


async def _send_lines(
    file: int,
    message: Callable[[bytes], Message],
    key: str | None,
    settings: ClientSettings,
    namesrv: str,
    json: bool,
) -> tuple[Counter[SendStatus], bool]:
    """Sends the lines of an open file as they come, and prints the results in their order.

    Many are in flight; with a sharding key one at a time, as their order counts. Ctrl-C: what is in flight is finished.

    Returns:
        How many got which status; whether it was stopped before the end.
    """
    import asyncio

    from ..client.produce.producer import AsyncProducer
    from ..runtime import Stopped, stop_signals, unless_stopped
    from .lines import read_lines

    in_flight: deque[tuple[int, asyncio.Task[SendResult]]] = deque()
    line_number = sent = empty = 0
    statuses: Counter[SendStatus] = Counter()
    began = time.monotonic()

    async def finish(most: int) -> None:
        nonlocal sent
        while len(in_flight) > most:
            number_of_line, task = in_flight.popleft()
            try:
                result = await task
            except RmqError as error:
                for _, other in in_flight:
                    other.cancel()
                error.add_note(f"line {number_of_line}; {sent} messages were sent before it")
                raise
            sent += 1
            statuses[result.status] += 1
            if json:
                print_json(send_result(result))

    async def next_lines(chunks: AsyncIterator[list[bytes]]) -> list[bytes]:
        """[] at the end. What was sent is told, and what failed raised, also while nothing comes."""
        reading = asyncio.ensure_future(anext(chunks, []))
        try:
            while in_flight and not reading.done():
                await asyncio.wait({reading, in_flight[0][1]}, return_when=asyncio.FIRST_COMPLETED)
                while in_flight and in_flight[0][1].done():
                    await finish(len(in_flight) - 1)
            return await reading
        finally:
            reading.cancel()

    async with AsyncProducer(PRODUCER_GROUP, namesrv, **settings) as producer:
        with stop_signals() as stop:
            chunks = read_lines(file, from_env(ClientConfig).max_message_bytes)
            try:
                while lines := await unless_stopped(stop, next_lines(chunks)):
                    for line in lines:
                        line_number += 1
                        text = line.rstrip(b"\r")
                        if not text:
                            empty += 1
                            continue
                        in_flight.append((line_number, asyncio.create_task(producer.send(message(text), key=key))))
                        # The first shows whether it works.
                        await finish(0 if key is not None or sent == 0 else SENDS_IN_FLIGHT)
                        if stop.is_set():
                            raise Stopped
            except Stopped:
                pass
            except MessageIllegalLocallyError as error:  # of a line that is read, or of one that is sent
                await finish(0)
                if not getattr(error, "__notes__", ()):
                    error.add_note(f"line {line_number + 1}; {sent} messages were sent before it")
                raise
            await finish(0)
    seconds = time.monotonic() - began
    if not json:
        say(f"sent {sent:,} messages in {seconds:.2f} s ({number(sent / seconds)}/s)")
    if empty:
        note(f"left out {empty} empty lines")
    if stop.is_set():
        note(f"stopped after line {line_number}: what follows was not sent")
    return statuses, stop.is_set()


def send_result(result: SendResult) -> dict[str, Any]:
    """A ``SendResult`` as JSON."""
    return {
        "status": str(result.status),
        "msg_id": result.msg_id,
        "offset_msg_id": result.offset_msg_id,
        "topic": result.queue.topic,
        "broker_name": result.queue.broker_name,
        "queue_id": result.queue.queue_id,
        "queue_offset": result.queue_offset,
        "attempts": result.attempts,
        "recall_handle": result.recall_handle,
    }


def recall(
    topic: Annotated[str, topic_argument("Topic of the message.")],
    handle: Annotated[str, argument(help="Recall handle that its send printed.")],
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Take a message back that is to be delivered later, and is not due yet."""
    from ..runtime import run, setup_logging

    setup_logging(log_level)
    msg_id = run(_recall(topic, handle, namesrv))
    if json:
        print_json({"topic": topic, "msg_id": msg_id})
    else:
        say(f"{msg_id}  recalled")


async def _recall(topic: str, handle: str, namesrv: str) -> str:
    from ..client.produce.producer import AsyncProducer

    async with AsyncProducer(PRODUCER_GROUP, namesrv) as producer:
        return await producer.recall(topic, handle)


def consume(
    topic: Annotated[str, topic_argument("Topic to read.")],
    group: Annotated[
        str, option("--group", "-g", help="Consumer group, which remembers how far it is.", callback=group_name)
    ] = CONSUMER_GROUP,
    tags: Annotated[str, option("--tags", help="Only these: 'TagA || TagB'.")] = "*",
    sql: Annotated[
        str | None,
        option(
            "--filter", help='Only what this SQL92 condition on properties is true for: "price > 9".', metavar="SQL"
        ),
    ] = None,
    where: Annotated[
        str,
        option(
            "--from",
            help=f"Where a group that was never here begins: first, last (what comes next), or {TIME_HELP}.",
            metavar="first|last|TIME",
        ),
    ] = "first",
    most: Annotated[int | None, option("--max", help="Stop after N messages.", min=1, metavar="N")] = None,
    timeout_s: Annotated[
        float | None, option("--timeout", help="Stop when nothing came for S seconds.", min=0.0, metavar="S")
    ] = None,
    allocate_strategy: Annotated[
        str | None,
        option(
            "--allocate-strategy",
            help="How the group's consumers share the queues: STICKY, ...",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    verbose: Annotated[bool, flag("--verbose", "-v", help="Queue, offset, tags and keys before each message.")] = False,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Print a topic's messages as they arrive, until Ctrl-C.

    What was printed is committed for the group: the next `consume` goes on after it. The exit code is 1 when --timeout
    came before --max.
    """
    from ..runtime import run, setup_logging

    if sql is not None and tags != "*":
        raise typer.BadParameter(
            "--tags and --filter exclude one another; write TAGS IN ('TagA', 'TagB') in the filter"
        )
    setup_logging(log_level)
    options: dict[str, Any] = {"consume_from_where": "CONSUME_FROM_FIRST_OFFSET"}
    if where != "first":  # CONSUME_FROM_LAST_OFFSET reads young queues from their beginning, as brokers have it
        timestamp_ms = int(time.time() * 1000) if where == "last" else time_ms(where, "--from")
        options = {"consume_from_where": "CONSUME_FROM_TIMESTAMP", "consume_timestamp_ms": timestamp_ms}
    options["allocate_strategy"] = allocate_strategy
    subscription = (tags, "TAG") if sql is None else (sql, "SQL92")
    received = run(_consume(topic, group, subscription, options, most, timeout_s, namesrv, _writer(verbose, json)))
    if most is not None and received < most and timeout_s is not None:
        raise typer.Exit(1)


async def _consume(
    topic: str,
    group: str,
    subscription: tuple[str, str],
    options: dict[str, Any],
    most: int | None,
    timeout_s: float | None,
    namesrv: str,
    write: Callable[[MessageExt], None],
) -> int:
    import asyncio

    from ..client.admin.admin import AsyncAdmin
    from ..client.consume.push import AsyncPushConsumer
    from ..errors import RouteNotFoundError
    from ..runtime import Stopped, stop_signals, unless_stopped

    async with AsyncAdmin(namesrv) as admin:  # a consumer would wait for servers that are not there yet
        try:
            await admin.topic_route(topic)
        except RouteNotFoundError:
            note(f"there is no topic {topic!r} yet: waiting for it")

    received = 0
    wants_no_more = asyncio.Event()
    arrived = asyncio.Event()
    broken: list[Exception] = []

    async def handle(message: MessageExt) -> bool:
        nonlocal received
        if wants_no_more.is_set():
            return False  # stays where it is: the next member of the group gets it
        try:
            write(message)
        except (OSError, ValueError) as error:
            broken.append(error)
            wants_no_more.set()
            return False
        received += 1
        arrived.set()
        if received == most:
            wants_no_more.set()
        return True

    async def until_quiet() -> None:
        while True:
            arrived.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await arrived.wait()
            except TimeoutError:
                return

    # Orderly: a queue's messages one after the other, and one that is refused is not sent back, it stays.
    consumer = AsyncPushConsumer(
        group,
        namesrv,
        orderly=True,
        concurrency=1,
        poll_name_server_interval_s=1.0,
        **options,
    )
    expression, expression_type = subscription
    consumer.subscribe(topic, expression, handle, expression_type=expression_type)

    def reader_left() -> None:
        broken.append(BrokenPipeError())
        wants_no_more.set()

    with stop_signals() as stop, on_reader_gone(reader_left):
        async with consumer:
            try:
                await unless_stopped(stop, unless_done(wants_no_more, until_quiet()))
            except Stopped:
                pass
    if broken and not isinstance(broken[0], BrokenPipeError):
        raise ClientError(f"cannot print: {broken[0]}")
    if broken:  # whoever read our output is gone; nothing more to say, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return received


async def unless_done(done: asyncio.Event, work: Any) -> None:
    """Waits for ``work``, or until ``done`` is set."""
    from ..runtime import Stopped, unless_stopped

    try:
        await unless_stopped(done, work)
    except Stopped:
        pass


def _writer(verbose: bool, json: bool) -> Callable[[MessageExt], None]:
    raw = not is_terminal(sys.stdout)

    def write_json(message: MessageExt) -> None:
        print_json(message_fields(message))

    def write_text(message: MessageExt) -> None:
        out = sys.stdout.buffer
        if verbose:
            labels = "".join(f" {visible(text)}" for text in (message.tags, message.keys) if text)
            place = f"{message.broker_name}/{message.queue_id}@{message.queue_offset}{labels}: "
            out.write(place.encode(sys.stdout.encoding, "backslashreplace"))
        out.write(message.body if raw else _shown(message.body))
        out.write(b"\n")
        out.flush()

    return write_json if json else write_text


def _shown(body: bytes) -> bytes:
    """A body for a terminal, which must not obey the control characters in it."""
    return visible_lines(body.decode(errors="backslashreplace")).encode(sys.stdout.encoding, "backslashreplace")


def message_fields(message: MessageExt) -> dict[str, Any]:
    """A message as JSON; a body that is no text as base64 in ``body_base64``."""
    try:
        body = {"body": message.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(message.body).decode()}
    return {
        "topic": message.topic,
        "broker_name": message.broker_name,
        "queue_id": message.queue_id,
        "queue_offset": message.queue_offset,
        "msg_id": message.msg_id,
        "offset_msg_id": message.offset_msg_id,
        "tags": message.tags,
        "keys": message.keys,
        "properties": message.properties,
        "born_timestamp_ms": message.born_timestamp_ms,
        "store_timestamp_ms": message.store_timestamp_ms,
        "reconsume_times": message.reconsume_times,
        **({"body_error": message.body_error} if message.body_error else {}),
        **body,
    }
