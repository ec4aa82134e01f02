"""``rmq-redis offset``: show and reset the offsets of consumer groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RouteNotFoundError, SubscriptionGroupNotExistError
from ..model import MessageQueue
from . import lazy
from .admin import with_admin
from .confirm import DryRun, Yes, confirm
from .option_groups import with_option_groups
from .options import (
    TIME_HELP,
    ClientOptions,
    Json,
    flag,
    group_argument,
    option,
    time_ms,
    topic_argument,
)
from .output import local_time, note, print_json, print_table

if TYPE_CHECKING:
    from ..protocol.bodies.progress import ConsumeOffset

app = typer.Typer(help="Show and reset the offsets of consumer groups.", no_args_is_help=True)
Group = Annotated[str, group_argument("Name of the consumer group.")]


@app.command("show")
@with_option_groups
def show(
    group: Group,
    *,
    topic: Annotated[str | None, option("--topic", "-t", help="Only in this topic.", show_default="all topics")] = None,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Show the committed offset, the end and the lag of each queue that a group consumes."""

    async def work(admin: lazy.AsyncAdmin) -> dict[MessageQueue, ConsumeOffset]:
        try:
            return await admin.consume_stats(group, topic)
        except RouteNotFoundError:
            if topic is not None:
                raise
            raise SubscriptionGroupNotExistError(
                f"group {group!r} has not consumed any message; list the groups with `rmq-redis group list`"
            ) from None

    stats = with_admin(client, work)
    if json:
        print_json([_row(queue, offset) for queue, offset in stats.items()])
        return
    rows = [
        (
            queue.topic,
            queue.broker_name,
            str(queue.queue_id),
            str(offset.consumer_offset),
            str(offset.broker_offset),
            str(offset.diff),
            local_time(offset.last_timestamp),
        )
        for queue, offset in stats.items()
    ]
    print_table(["<topic", "<broker", "queue", "committed", "max", "lag", "<last consumed message stored"], rows)
    note(f"lag of {group}: {sum(offset.diff for offset in stats.values())} messages")


def _row(queue: MessageQueue, offset: ConsumeOffset) -> dict[str, Any]:
    return {
        "topic": queue.topic,
        "broker_name": queue.broker_name,
        "queue_id": queue.queue_id,
        "committed_offset": offset.consumer_offset,
        "max_offset": offset.broker_offset,
        "lag": offset.diff,
        "last_consumed_timestamp_ms": offset.last_timestamp,
    }


@app.command("reset")
@with_option_groups
def reset(
    group: Group,
    topic: Annotated[str, topic_argument("Topic in which to reset the offsets.")],
    *,
    to: Annotated[
        str,
        option(
            "--to",
            help=f"first, last (new messages only), or {TIME_HELP}.",
            metavar="first|last|TIME",
            show_default=False,
        ),
    ],
    only_back: Annotated[
        bool, flag("--only-back", help="Move no queue forward, so that no message is skipped.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Reset the offsets of a group in a topic: to the first message, the end, or a time.

    Members may be online. Moving forward skips messages; moving back redelivers them. Asks for confirmation; without a
    terminal, give --yes.
    """
    timestamp_ms = {"first": 0, "last": -1}.get(to)
    when = time_ms(to, "--to") if timestamp_ms is None else timestamp_ms
    if not dry_run:
        where = {"first": "its first message", "last": "its end"}.get(to, to)
        confirm(f"Reset the offsets of group {group} in topic {topic} to {where}?", yes)

    async def work(admin: lazy.AsyncAdmin) -> dict[MessageQueue, int]:
        if dry_run:
            return await _new_offsets(admin, group, topic, when, only_back)
        return await admin.reset_offset(group, topic, when, force=not only_back)

    _print_new_offsets(with_admin(client, work), json)
    if dry_run and not json:
        note(f"dry run: the offsets of group {group} did not change")


def _print_new_offsets(offsets: dict[MessageQueue, int], json: bool) -> None:
    if json:
        print_json(
            [
                {"topic": q.topic, "broker_name": q.broker_name, "queue_id": q.queue_id, "offset": offset}
                for q, offset in offsets.items()
            ]
        )
        return
    rows = [(queue.broker_name, str(queue.queue_id), str(offset)) for queue, offset in offsets.items()]
    print_table(["<broker", "queue", "new offset"], rows)


async def _new_offsets(
    admin: lazy.AsyncAdmin, group: str, topic: str, timestamp_ms: int, only_back: bool
) -> dict[MessageQueue, int]:
    """The offsets that ``AsyncAdmin.reset_offset`` would set."""
    committed = await admin.consume_stats(group, topic)  # raises if the group does not exist
    offsets: dict[MessageQueue, int] = {}
    for queue, offset in (await admin.topic_stats(topic)).items():
        if timestamp_ms > 0:
            offsets[queue] = await admin.search_offset(queue, timestamp_ms)
        else:
            offsets[queue] = offset.min_offset if timestamp_ms == 0 else offset.max_offset
        if only_back and queue in committed:
            offsets[queue] = min(offsets[queue], committed[queue].consumer_offset)
    return offsets
