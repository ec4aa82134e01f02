"""``rmq-redis dlq``: the messages that a consumer group could not handle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .confirm import DryRun, Yes, confirm
from .message import message_fields, send_result
from .options import DEFAULT_NAMESRV, Json, LogLevel, Namesrv, flag, group_argument, option
from .output import local_time, note, print_json, say

if TYPE_CHECKING:
    from ..client.admin.dead_letters import DeadLetters
    from ..model import MessageExt

app = typer.Typer(help="List dead letters, and send them to their topics again.", no_args_is_help=True)
Group = Annotated[str, group_argument("Consumer group whose dead letters these are.")]


@asynccontextmanager
async def _dead_letters(group: str, namesrv: str) -> AsyncIterator[DeadLetters]:
    from ..client.admin.dead_letters import RESEND_GROUP, DeadLetters
    from ..client.consume.pull import AsyncPullConsumer

    async with AsyncPullConsumer(RESEND_GROUP, namesrv) as consumer:
        yield DeadLetters(consumer, group)


@app.command("list")
def list_messages(
    group: Group,
    most: Annotated[int | None, option("--max", help="At most N.", min=1, metavar="N")] = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """List a group's dead letters, oldest first in each broker: when, from which topic, tries, id, keys.

    With --json one object a line, the whole message in it. Those that `dlq resend --all` has sent are marked.
    """
    from ..runtime import run, setup_logging

    setup_logging(log_level)
    if not run(_list(group, most, namesrv, json)):
        note(f"group {group} has no dead letters")


async def _list(group: str, most: int | None, namesrv: str, json: bool) -> int:
    count = 0
    async with _dead_letters(group, namesrv) as letters:
        for queue, resent in (await letters.queues()).items():
            async for message in letters.read(queue):
                if count == most:
                    return count
                count += 1
                fields = dead_letter_fields(message, message.queue_offset < resent)
                if json:
                    print_json(fields)
                else:
                    say(
                        f"{local_time(message.store_timestamp_ms)}  {fields['origin_topic'] or '?'}  "
                        f"tries {message.reconsume_times}  {message.msg_id}"
                        + (f"  keys {message.keys}" if message.keys else "")
                        + ("  (sent again)" if fields["resent"] else "")
                    )
    return count


def dead_letter_fields(message: MessageExt, resent: bool) -> dict[str, Any]:
    """A dead letter as JSON."""
    from ..client.admin.dead_letters import origin_topic
    from ..model import PROPERTY_ORIGIN_MESSAGE_ID

    return {
        "origin_topic": origin_topic(message),
        "origin_message_id": message.properties.get(PROPERTY_ORIGIN_MESSAGE_ID, ""),
        "resent": resent,
        **message_fields(message),
    }


@app.command()
def resend(
    group: Group,
    ids: Annotated[
        list[str] | None,
        option("--msg-id", "-i", help="Send this one, by any of its ids; may be repeated.", show_default=False),
    ] = None,
    every: Annotated[bool, flag("--all", "-a", help="Send all that were not sent again before.")] = False,
    again: Annotated[bool, flag("--again", help="With --all: also those that were sent again before.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Send dead letters to their topics again, and print where each went. They stay in the dead-letter topic.

    What was sent is remembered after every message: --all after an interruption goes on behind it. Messages chosen by
    --msg-id are sent in any case. --all asks first; without a terminal, --yes is needed.
    """
    from ..runtime import run, setup_logging

    setup_logging(log_level)
    if every == bool(ids):
        raise typer.BadParameter("say which: --all, or --msg-id ID (one or more)", param_hint="--msg-id")
    if again and not every:
        raise typer.BadParameter("goes with --all; --msg-id sends in any case", param_hint="--again")
    if every and not dry_run:
        confirm(f"Send all dead letters of group {group} to their topics again?", yes)
    chosen = set(ids) if ids else None
    if dry_run:
        missing = run(_show_resend(group, chosen, again, namesrv, json))
    else:
        missing = run(_resend(group, chosen, again, namesrv, json))
    if missing:
        note(f"error: not among the dead letters of group {group}: {', '.join(sorted(missing))}")
        raise typer.Exit(1)


async def _show_resend(group: str, ids: set[str] | None, again: bool, namesrv: str, json: bool) -> set[str]:
    """Prints what ``_resend`` would send; returns the ids that no dead letter has."""
    from ..client.admin.dead_letters import ids_of, origin_topic

    missing = set(ids or ())
    count = 0
    async with _dead_letters(group, namesrv) as letters:
        async for message in letters.to_resend(ids=ids, again=again):
            count += 1
            missing -= ids_of(message)
            if json:
                print_json({"dead_letter_offset": message.queue_offset, "origin_topic": origin_topic(message)})
            else:
                say(f"{message.msg_id}  to {origin_topic(message) or '?'}")
    if not json:
        say(f"would send {count:,} dead letters of group {group} again")
    return missing


async def _resend(group: str, ids: set[str] | None, again: bool, namesrv: str, json: bool) -> set[str]:
    """Sends and prints; returns the ids that no dead letter has."""
    from ..client.admin.dead_letters import ids_of, origin_topic
    from ..client.produce.producer import AsyncProducer

    missing = set(ids or ())
    count = 0
    async with _dead_letters(group, namesrv) as letters, AsyncProducer("rmq-redis-dlq", namesrv) as producer:
        async for message, result in letters.resend(producer, ids=ids, again=again):
            count += 1
            missing -= ids_of(message)
            if json:
                print_json({"dead_letter_offset": message.queue_offset, **send_result(result)})
            else:
                queue = result.queue
                say(
                    f"{message.msg_id}  to {origin_topic(message)} {queue.broker_name} queue {queue.queue_id} "
                    f"offset {result.queue_offset}",
                )
    if not json:
        say(f"sent {count:,} dead letters of group {group} again")
    return missing
