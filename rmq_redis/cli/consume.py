"""``rmq-redis consume``: messages on the terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from . import lazy
from .option_groups import with_option_groups
from .options import TIME_HELP, ClientOptions, Json, flag, group_name, option, time_ms, topic_argument
from .output import EXIT_ERROR

CONSUMER_GROUP = "rmq-redis-consume"


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Which messages are delivered."""

    tags: Annotated[str, option("--tags", help="Only messages with these tags: 'TagA || TagB'.")] = "*"
    sql: Annotated[
        str | None,
        option(
            "--filter",
            help='Only messages whose properties match this SQL92 condition: "price > 9".',
            metavar="SQL",
            show_default=False,
        ),
    ] = None

    def subscription(self) -> tuple[str, str]:
        """Expression and its type. Raises BadParameter if both are given."""
        if self.sql is None:
            return self.tags, "TAG"
        if self.tags != "*":
            raise typer.BadParameter("give --tags or --filter, not both; in a filter, write TAGS IN ('TagA', 'TagB')")
        return self.sql, "SQL92"


@dataclass(frozen=True, kw_only=True)
class EndOptions:
    """When to stop."""

    most: Annotated[
        int | None, option("--max", help="Stop after N messages.", min=1, metavar="N", show_default=False)
    ] = None
    timeout_s: Annotated[
        float | None,
        option("--timeout", help="Stop after S seconds without a message.", min=0.0, metavar="S", show_default=False),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MemberOptions:
    """The consumer group, where it begins, and how its members share the queues."""

    group: Annotated[
        str, option("--group", "-g", help="Consumer group; its offsets are stored.", callback=group_name)
    ] = CONSUMER_GROUP
    where: Annotated[
        str,
        option(
            "--from",
            help=f"Where a new group begins: first, last (new messages only), or {TIME_HELP}.",
            metavar="first|last|TIME",
        ),
    ] = "first"
    allocate_strategy: Annotated[
        str | None,
        option(
            "--allocate-strategy",
            help="How the group's members share the queues: STICKY, ...",
            metavar="NAME",
            show_default=False,
        ),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Settings of the consumer. Raises BadParameter."""
        settings: dict[str, Any] = {"allocate_strategy": self.allocate_strategy}
        if self.where == "first":
            return settings | {"consume_from_where": "CONSUME_FROM_FIRST_OFFSET"}
        # Not CONSUME_FROM_LAST_OFFSET: with it, brokers have a new group read young queues from their beginning.
        begin_ms = int(time.time() * 1000) if self.where == "last" else time_ms(self.where, "--from")
        return settings | {"consume_from_where": "CONSUME_FROM_TIMESTAMP", "consume_timestamp_ms": begin_ms}


@with_option_groups
def consume(
    topic: Annotated[str, topic_argument("Topic to read.")],
    *,
    member: MemberOptions,
    filters: FilterOptions,
    end: EndOptions,
    verbose: Annotated[bool, flag("--verbose", "-v", help="Print queue, offset, tags and keys, too.")] = False,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Print the messages of a topic as they arrive, until Ctrl-C.

    The offsets of printed messages are committed: the next `consume` of the group continues after them.

    Exit code 1: --timeout expired before --max messages arrived.
    """
    subscription = filters.subscription()
    lazy.setup_logging(client.log_level)
    settings = member.settings()
    printer = lazy.Printer(topic, end.most, end.timeout_s, verbose=verbose, json=json)
    received = lazy.run(printer.consume(member.group, subscription, client.namesrv, settings))
    if end.most is not None and received < end.most and end.timeout_s is not None:
        raise typer.Exit(EXIT_ERROR)
