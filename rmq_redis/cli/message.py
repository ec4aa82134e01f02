"""``rmq-redis message``: single messages, by id, by key or by offset; abandoned transactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..errors import RemoteProtocolError, RemotingConnectError
from ..model import PROPERTY_REAL_TOPIC, MessageExt, MessageQueue
from . import lazy
from .admin import with_admin
from .fields import message_fields
from .option_groups import with_option_groups
from .options import (
    TIME_HELP,
    ClientOptions,
    Json,
    argument,
    option,
    time_ms,
    topic_argument,
)
from .output import EXIT_ERROR, local_time, note, print_json, say
from .terminal import visible

app = typer.Typer(
    help="Find messages by id, by key or by offset; resume the checks of a transaction.",
    no_args_is_help=True,
)
Topic = Annotated[str, topic_argument("Topic to search.")]
_HEX_BYTES = 256
"""Enough to recognize a format, and 16 lines at most."""
_PRODUCERS_ID = "if it is a msg_id, as `send` prints it, give the topic, too: -t TOPIC"


@app.command("show")
@with_option_groups
def show(
    message_id: Annotated[str, argument(help="msg_id (from the producer) or offset_msg_id (from the broker).")],
    *,
    topic: Annotated[
        str | None,
        option("--topic", "-t", help="Topic of the message; required for a msg_id.", show_default=False),
    ] = None,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Show the message that has an id."""
    if topic is None:
        _check_offset_msg_id(message_id)

    async def work(admin: lazy.AsyncAdmin) -> MessageExt:
        try:
            return await admin.view_message(message_id, topic)
        except (RemoteProtocolError, RemotingConnectError) as error:
            if topic is None:  # the two kinds of ids look alike
                error.add_note(_PRODUCERS_ID)
            raise

    _print(with_admin(client, work), json)


def _check_offset_msg_id(text: str) -> None:
    try:
        lazy.parse_offset_msg_id(text)
    except RemoteProtocolError as error:
        raise typer.BadParameter(f"{error}; {_PRODUCERS_ID}", param_hint="MESSAGE_ID") from None


@dataclass(frozen=True, kw_only=True)
class StoreTimeOptions:
    """When the messages were stored."""

    begin: Annotated[
        str | None,
        option("--begin", help=f"Stored at or after {TIME_HELP}.", metavar="TIME", show_default=False),
    ] = None
    end: Annotated[
        str | None, option("--end", help="Stored at or before this time.", metavar="TIME", show_default=False)
    ] = None

    def limits(self) -> dict[str, int]:
        """Those that are given, in ms. Raises BadParameter."""
        given = {"begin_ms": (self.begin, "--begin"), "end_ms": (self.end, "--end")}
        return {name: time_ms(text, flag) for name, (text, flag) in given.items() if text is not None}


@app.command("query")
@with_option_groups
def query(
    topic: Topic,
    *,
    key: Annotated[str, option("--key", "-k", help="Message key, as given to `send --keys`.", show_default=False)],
    stored: StoreTimeOptions,
    most: Annotated[
        int, option("--max", help="At most N, the newest; each broker returns up to 64.", min=1, max=256, metavar="N")
    ] = 32,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Show the messages that have a key, oldest first; with --json, one per line.

    Exit code 1: no message has the key.
    """
    within: dict[str, Any] = stored.limits()

    async def work(admin: lazy.AsyncAdmin) -> list[MessageExt]:
        return await admin.query_message(topic, key, max_num=most, **within)

    messages = with_admin(client, work)
    if not messages:
        note(f"no message of topic {topic!r} has the key {key!r}{' in this period' if within else ''}")
        raise typer.Exit(EXIT_ERROR)
    for position, message in enumerate(messages):
        if position and not json:
            say()
        _print(message, json)


@app.command("at")
@with_option_groups
def show_at(
    topic: Topic,
    broker_name: Annotated[str, argument(help="Broker group of the queue.")],
    queue_id: Annotated[int, typer.Argument(help="Queue id.", min=0, show_default=False)],
    offset: Annotated[int, typer.Argument(help="Queue offset.", min=0, show_default=False)],
    *,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Show the message at an offset of a queue."""

    async def work(admin: lazy.AsyncAdmin) -> MessageExt:
        return await admin.message_at(MessageQueue(topic, broker_name, queue_id), offset)

    _print(with_admin(client, work), json)


@app.command("resume-check")
@with_option_groups
def resume_check(
    offset_msg_id: Annotated[
        str,
        argument(help="offset_msg_id of a message in TRANS_CHECK_MAX_TIME_TOPIC, as `consume --json` prints it."),
    ],
    *,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Resume the checks of a transaction that no producer resolved in time."""

    async def work(admin: lazy.AsyncAdmin) -> MessageExt:
        return await admin.resume_check_half_message(offset_msg_id)

    message = with_admin(client, work)
    topic = message.properties.get(PROPERTY_REAL_TOPIC, "")
    if json:
        print_json({"topic": topic, "msg_id": message.msg_id, "offset_msg_id": offset_msg_id})
    else:
        say(f"{message.msg_id}  checks resumed; producers of {topic} are asked again")


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
    """The first bytes of a binary body, 16 per line."""
    rows = [f"{start:08x}  {body[start : start + 16].hex(' ')}" for start in range(0, min(len(body), _HEX_BYTES), 16)]
    if len(body) > _HEX_BYTES:
        rows.append(f"... {len(body) - _HEX_BYTES} more bytes; --json prints all as base64")
    return "\n".join(rows)
