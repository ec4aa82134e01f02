"""``rmq-redis offset``: how far consumer groups are, and moving them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RouteNotFoundError, SubscriptionGroupNotExistError
from .admin import with_admin
from .confirm import DryRun, Yes, confirm
from .options import (
    DEFAULT_NAMESRV,
    TIME_HELP,
    Json,
    LogLevel,
    Namesrv,
    flag,
    group_argument,
    option,
    time_ms,
    topic_argument,
)
from .output import local_time, note, print_json, print_table

if TYPE_CHECKING:
    from ..client.admin.admin import AsyncAdmin
    from ..model import MessageQueue
    from ..protocol.bodies.progress import ConsumeOffset

app = typer.Typer(help="Show how far consumer groups are, and move them.", no_args_is_help=True)
Group = Annotated[str, group_argument("Name of the consumer group.")]


@app.command()
def show(
    group: Group,
    topic: Annotated[
        str | None, option("--topic", "-t", help="Only in this topic.", show_default="all of the group's")
    ] = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Show a group's committed offset, the queue's end and what is left, for each queue."""

    async def work(admin: AsyncAdmin) -> dict[MessageQueue, ConsumeOffset]:
        try:
            return await admin.consume_stats(group, topic)
        except RouteNotFoundError:
            if topic is not None:
                raise
            raise SubscriptionGroupNotExistError(
                f"no group {group!r} has consumed anything; `rmq-redis group list` shows the groups"
            ) from None

    stats = with_admin(namesrv, log_level, work)
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
    print_table(["<topic", "<broker", "queue", "committed", "max", "lag", "<last consumed was stored"], rows)
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


@app.command()
def reset(
    group: Group,
    topic: Annotated[str, topic_argument("Topic in which the group is moved.")],
    to: Annotated[
        str,
        option(
            "--to",
            help=f"first, last (what comes next), or {TIME_HELP}.",
            metavar="first|last|TIME",
            show_default=False,
        ),
    ],
    only_back: Annotated[
        bool, flag("--only-back", help="Leave the queues alone that it would move forwards: skip nothing.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Move a group in a topic: to its first message, its end, or a time. Its members may be online.

    Forwards it skips messages, backwards they are delivered again. Asks first; without a terminal, --yes is needed.
    """
    timestamp_ms = {"first": 0, "last": -1}.get(to)
    when = time_ms(to, "--to") if timestamp_ms is None else timestamp_ms

    if not dry_run:
        where = {"first": "its first message", "last": "its end"}.get(to, to)
        confirm(f"Move group {group} in topic {topic} to {where}?", yes)

    async def work(admin: AsyncAdmin) -> dict[MessageQueue, int]:
        if dry_run:
            return await _new_offsets(admin, group, topic, when, only_back)
        return await admin.reset_offset(group, topic, when, force=not only_back)

    offsets = with_admin(namesrv, log_level, work)
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
    if dry_run:
        note(f"group {group} was not moved: --dry-run")


async def _new_offsets(
    admin: AsyncAdmin, group: str, topic: str, timestamp_ms: int, only_back: bool
) -> dict[MessageQueue, int]:
    """Where ``AsyncAdmin.reset_offset`` would move a group."""
    committed = await admin.consume_stats(group, topic)  # refuses a group that is not there
    offsets: dict[MessageQueue, int] = {}
    for queue, offset in (await admin.topic_stats(topic)).items():
        if timestamp_ms > 0:
            offsets[queue] = await admin.search_offset(queue, timestamp_ms)
        else:
            offsets[queue] = offset.min_offset if timestamp_ms == 0 else offset.max_offset
        if only_back and queue in committed:
            offsets[queue] = min(offsets[queue], committed[queue].consumer_offset)
    return offsets
