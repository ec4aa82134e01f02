"""``rmq-redis dlq``: list and resend dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..model import PROPERTY_ORIGIN_MESSAGE_ID, MessageExt
from . import lazy
from .confirm import DryRun, Yes, confirm
from .fields import message_fields, send_result
from .option_groups import with_option_groups
from .options import ClientOptions, Json, flag, group_argument, option
from .output import EXIT_ERROR, local_time, note, print_json, say

if TYPE_CHECKING:
    from ..client.admin.dead_letters import DeadLetters

app = typer.Typer(help="List dead letters and resend them.", no_args_is_help=True)
Group = Annotated[str, group_argument("Consumer group of the dead letters.")]


@asynccontextmanager
async def _dead_letters(group: str, namesrv: str) -> AsyncIterator[DeadLetters]:
    async with lazy.AsyncPullConsumer(lazy.RESEND_GROUP, namesrv) as consumer:
        yield lazy.DeadLetters(consumer, group)


@app.command("list")
@with_option_groups
def list_messages(
    group: Group,
    *,
    most: Annotated[int | None, option("--max", help="At most N.", min=1, metavar="N", show_default=False)] = None,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """List the dead letters of a group, oldest first per broker: time, original topic, retries, id, keys.

    With --json, one object per line, with the whole message. Messages that `dlq resend --all` resent are marked.
    """
    lazy.setup_logging(client.log_level)
    if not lazy.run(_list(group, most, client.namesrv, json)):
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
                        f"retries {message.reconsume_times}  {message.msg_id}"
                        + (f"  keys {message.keys}" if message.keys else "")
                        + ("  (resent)" if fields["resent"] else "")
                    )
    return count


def dead_letter_fields(message: MessageExt, resent: bool) -> dict[str, Any]:
    """A dead letter as JSON."""
    return {
        "origin_topic": lazy.origin_topic(message),
        "origin_message_id": message.properties.get(PROPERTY_ORIGIN_MESSAGE_ID, ""),
        "resent": resent,
        **message_fields(message),
    }


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """Which dead letters to resend."""

    ids: Annotated[
        list[str] | None,
        option("--msg-id", "-i", help="Resend this message, by any of its ids; may be repeated.", show_default=False),
    ] = None
    every: Annotated[bool, flag("--all", "-a", help="Resend all messages that were not resent before.")] = False
    again: Annotated[bool, flag("--again", help="With --all, also resend messages that were resent before.")] = False

    def check(self) -> None:
        """Raises BadParameter."""
        if self.every == bool(self.ids):
            raise typer.BadParameter("give either --all, or --msg-id ID one or more times", param_hint="--msg-id")
        if self.again and not self.every:
            raise typer.BadParameter("give it with --all; --msg-id always resends", param_hint="--again")


@app.command("resend")
@with_option_groups
def resend(
    group: Group,
    *,
    choice: ChoiceOptions,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Resend dead letters to their original topics, and print where each was stored.

    They stay in the dead-letter topic. Progress is stored after every message: --all continues there after an
    interruption. --msg-id always resends. --all asks for confirmation; without a terminal, give --yes.
    """
    lazy.setup_logging(client.log_level)
    choice.check()
    if choice.every and not dry_run:
        confirm(f"Resend all dead letters of group {group} to their original topics?", yes)
    work = _show_resend if dry_run else _resend
    missing = lazy.run(work(group, set(choice.ids or ()) or None, choice.again, client.namesrv, json))
    if missing:
        note(f"error: group {group} has no dead letters with these ids: {', '.join(sorted(missing))}")
        raise typer.Exit(EXIT_ERROR)


async def _show_resend(group: str, ids: set[str] | None, again: bool, namesrv: str, json: bool) -> set[str]:
    """Prints the messages that ``_resend`` would send; returns the ids that no dead letter has."""
    missing = set(ids or ())
    count = 0
    async with _dead_letters(group, namesrv) as letters:
        async for message in letters.to_resend(ids=ids, again=again):
            count += 1
            missing -= lazy.ids_of(message)
            if json:
                print_json({"dead_letter_offset": message.queue_offset, "origin_topic": lazy.origin_topic(message)})
            else:
                say(f"{message.msg_id}  to {lazy.origin_topic(message) or '?'}")
    if not json:
        say(f"would resend {count:,} dead letters of group {group}")
    return missing


async def _resend(group: str, ids: set[str] | None, again: bool, namesrv: str, json: bool) -> set[str]:
    """Resends messages and prints the results; returns the ids that no dead letter has."""
    missing = set(ids or ())
    count = 0
    async with _dead_letters(group, namesrv) as letters, lazy.AsyncProducer("rmq-redis-dlq", namesrv) as producer:
        async for message, result in letters.resend(producer, ids=ids, again=again):
            count += 1
            missing -= lazy.ids_of(message)
            if json:
                print_json({"dead_letter_offset": message.queue_offset, **send_result(result)})
            else:
                queue = result.queue
                say(
                    f"{message.msg_id}  to {lazy.origin_topic(message)} {queue.broker_name} queue {queue.queue_id} "
                    f"offset {result.queue_offset}",
                )
    if not json:
        say(f"resent {count:,} dead letters of group {group}")
    return missing
