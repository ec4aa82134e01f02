"""``rmq-redis message``: single messages, by id, by key, by place; transactions that were given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RemoteProtocolError, RemotingConnectError
from ..model import PROPERTY_REAL_TOPIC
from .admin import with_admin
from .message import message_fields
from .options import (
    DEFAULT_NAMESRV,
    TIME_HELP,
    Json,
    LogLevel,
    Namesrv,
    argument,
    option,
    time_ms,
    topic_argument,
)
from .output import EXIT_ERROR, local_time, note, print_json, say
from .terminal import visible

if TYPE_CHECKING:
    from ..client.admin.admin import AsyncAdmin
    from ..model import MessageExt

app = typer.Typer(
    help="Find single messages: by id, by key, by queue and offset; ask about a transaction again.",
    no_args_is_help=True,
)
Topic = Annotated[str, topic_argument("Topic to look in.")]
_HEX_BYTES = 256
_PRODUCERS_ID = "for a producer's id (msg_id), which send prints, give the topic, too: -t TOPIC"


@app.command()
def show(
    message_id: Annotated[str, argument(help="msg_id (the producer's) or offset_msg_id (the broker's).")],
    topic: Annotated[
        str | None,
        option(
            "--topic", "-t", help="Its topic; only an offset_msg_id leads to a message without.", show_default="none"
        ),
    ] = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Show the message with an id."""

    if topic is None:
        _check_offset_msg_id(message_id)

    async def work(admin: AsyncAdmin) -> MessageExt:
        try:
            return await admin.view_message(message_id, topic)
        except (RemoteProtocolError, RemotingConnectError) as error:
            if topic is None:  # the two kinds look alike, and send prints the producer's
                error.add_note(_PRODUCERS_ID)
            raise

    _print(with_admin(namesrv, log_level, work), json)


def _check_offset_msg_id(text: str) -> None:
    from ..protocol.message import parse_offset_msg_id

    try:
        parse_offset_msg_id(text)
    except RemoteProtocolError as error:
        raise typer.BadParameter(f"{error}; {_PRODUCERS_ID}", param_hint="MESSAGE_ID") from None


@app.command()
def query(
    topic: Topic,
    key: Annotated[
        str, option("--key", "-k", help="Message key, one of those that `send --keys` gave.", show_default=False)
    ],
    begin: Annotated[
        str | None,
        option("--begin", help=f"Stored from then on; {TIME_HELP}.", metavar="TIME", show_default="any time"),
    ] = None,
    end: Annotated[
        str | None, option("--end", help="Stored until then.", metavar="TIME", show_default="any time")
    ] = None,
    most: Annotated[
        int, option("--max", help="At most N, the newest; a broker returns 64 at most.", min=1, max=256, metavar="N")
    ] = 32,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Show the messages with a message key, oldest first; with --json one a line. Exit code 1: there is none."""
    within: dict[str, Any] = {}
    if begin is not None:
        within["begin_ms"] = time_ms(begin, "--begin")
    if end is not None:
        within["end_ms"] = time_ms(end, "--end")

    async def work(admin: AsyncAdmin) -> list[MessageExt]:
        return await admin.query_message(topic, key, max_num=most, **within)

    messages = with_admin(namesrv, log_level, work)
    if not messages:
        note(f"no message of topic {topic!r} has the key {key!r}{' in this time' if within else ''}")
        raise typer.Exit(EXIT_ERROR)
    for position, message in enumerate(messages):
        if position and not json:
            say()
        _print(message, json)


@app.command("at")
def show_at(
    topic: Topic,
    broker_name: Annotated[str, argument(help="Broker group that has the queue.")],
    queue_id: Annotated[int, typer.Argument(help="Number of the queue.", min=0, show_default=False)],
    offset: Annotated[int, typer.Argument(help="Offset in the queue.", min=0, show_default=False)],
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Show the message at an offset of a queue."""
    from ..model import MessageQueue

    async def work(admin: AsyncAdmin) -> MessageExt:
        return await admin.message_at(MessageQueue(topic, broker_name, queue_id), offset)

    _print(with_admin(namesrv, log_level, work), json)


@app.command("resume-check")
def resume_check(
    offset_msg_id: Annotated[
        str,
        argument(help="offset_msg_id of the message in TRANS_CHECK_MAX_TIME_TOPIC, as `consume --json` shows it."),
    ],
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Have the producers asked again about a transaction that was given up."""

    async def work(admin: AsyncAdmin) -> MessageExt:
        return await admin.resume_check_half_message(offset_msg_id)

    message = with_admin(namesrv, log_level, work)
    topic = message.properties.get(PROPERTY_REAL_TOPIC, "")
    if json:
        print_json({"topic": topic, "msg_id": message.msg_id, "offset_msg_id": offset_msg_id})
    else:
        say(f"{message.msg_id}  its producers are asked again about {topic}")


def _print(message: MessageExt, json: bool) -> None:
    fields = message_fields(message)
    if json:
        print_json(fields)
        return
    hidden = ("body", "body_base64", "properties", "born_timestamp_ms", "store_timestamp_ms", "tags", "keys")
    lines = {name: value for name, value in fields.items() if name not in hidden}
    lines["born"] = f"{local_time(message.born_timestamp_ms)} at {message.born_host}"
    lines["stored"] = f"{local_time(message.store_timestamp_ms)} at {message.store_host}"
    lines |= {f"property {name}": value for name, value in sorted(message.properties.items())}
    for name, value in lines.items():
        say(f"{name}: {visible(str(value))}")
    say(f"body, {len(message.body)} bytes:")
    say(fields["body"] if "body" in fields else _hex(message.body))


def _hex(body: bytes) -> str:
    """The beginning of what is no text, 16 bytes a line."""
    rows = [f"{start:08x}  {body[start : start + 16].hex(' ')}" for start in range(0, min(len(body), _HEX_BYTES), 16)]
    if len(body) > _HEX_BYTES:
        rows.append(f"... and {len(body) - _HEX_BYTES} bytes more; --json shows all as base64")
    return "\n".join(rows)
