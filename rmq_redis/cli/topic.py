"""``rmq-redis topic``: list, show, create, change and delete topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..config import DEFAULT_CLUSTER
from ..errors import ClientError, RouteNotFoundError, TopicNotExistError
from ..model import (
    DEFAULT_QUEUE_NUMS,
    DLQ_PREFIX,
    RETRY_PREFIX,
    TopicRouteData,
    is_system_topic,
    reply_topic,
)
from . import lazy
from .admin import with_admin
from .confirm import DryRun, Yes, confirm
from .option_groups import with_option_groups
from .options import ClientOptions, Cluster, Json, flag, option, topic_argument
from .output import local_time, note, print_json, print_table, say

app = typer.Typer(help="List, show, create, change and delete topics.", no_args_is_help=True)
Topic = Annotated[str, topic_argument("Name of the topic.")]
PERMISSIONS = {"rw": 6, "r": 4, "w": 2, "none": 0}
PERMISSION_NAMES = {number: name for name, number in PERMISSIONS.items()}
MAX_QUEUES = 1024


@dataclass(frozen=True, kw_only=True)
class QueueOptions:
    """How many queues a topic has."""

    queues: Annotated[
        int | None,
        option(
            "--queues",
            "-q",
            help=f"Read and write queues in each broker group; a new topic has {DEFAULT_QUEUE_NUMS}, unless given.",
            min=1,
            max=MAX_QUEUES,
            metavar="N",
            show_default=False,
        ),
    ] = None
    force: Annotated[
        bool, flag("--force", help="Remove queues even if they still have messages, which nobody can read then.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class RetentionOptions:
    """How long each broker group keeps the messages of a topic."""

    time: Annotated[
        str | None,
        option(
            "--retention-time",
            help="Remove messages older than this: 72h, 7d, 90m, 30s; 0: never; -1: use the broker's setting.",
            metavar="TIME",
            show_default=False,
        ),
    ] = None
    size: Annotated[
        str | None,
        option(
            "--retention-bytes",
            help="Memory per broker group: 512m, 2g; 0: no limit; -1: use the broker's setting.",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None
    count: Annotated[
        str | None,
        option(
            "--retention-count",
            help="Messages per broker group; 0: no limit; -1: use the broker's setting.",
            metavar="N",
            show_default=False,
        ),
    ] = None

    def attributes(self) -> str | None:
        """The change of the topic's attributes; None: no change. Raises BadParameter."""
        given = {"reserve.time": self.time, "reserve.bytes": self.size, "reserve.count": self.count}
        changes = [f"+{name}={value}" for name, value in given.items() if value is not None]
        if any("," in change for change in changes):
            raise typer.BadParameter("commas are not allowed; give one number and unit", param_hint="--retention-...")
        return ",".join(changes) or None


async def _refuse_hiding(admin: lazy.AsyncAdmin, topic: str, queues: int, force: bool) -> None:
    """Raises ClientError if ``queues`` are fewer than now and the others have messages, unless ``force``."""
    if force:
        return
    try:
        stats = await admin.topic_stats(topic)
    except (RouteNotFoundError, TopicNotExistError):
        return
    hidden = sum(offset.max_offset - offset.min_offset for queue, offset in stats.items() if queue.queue_id >= queues)
    if hidden:
        raise ClientError(
            f"topic {topic!r} has {hidden:,} messages in queues {queues} and above, which nobody could read with "
            f"{queues} queues in each broker group; to do it anyway, give --force"
        )


def _permission(perm: str) -> int:
    if perm not in PERMISSIONS:
        raise typer.BadParameter(f"{perm!r}: give one of {', '.join(PERMISSIONS)}", param_hint="--perm")
    return PERMISSIONS[perm]


def _is_internal(topic: str, own_names: set[str]) -> bool:
    return is_system_topic(topic) or topic.startswith((RETRY_PREFIX, DLQ_PREFIX)) or topic in own_names


@app.command("list")
@with_option_groups
def list_topics(
    *,
    every: Annotated[
        bool, flag("--all", "-a", help="Include system topics, retry topics and dead-letter topics.")
    ] = False,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """List the topics."""

    async def work(admin: lazy.AsyncAdmin) -> list[str]:
        topics = await admin.topic_list()
        if every:
            return topics
        info = await admin.cluster_info()
        # Brokers and clusters have topics of their own names.
        own = {DEFAULT_CLUSTER, *info.brokers, *info.clusters, *map(reply_topic, info.clusters)}
        return [topic for topic in topics if not _is_internal(topic, own)]

    topics = with_admin(client, work)
    if json:
        print_json(topics)
    else:
        for topic in topics:
            say(topic)
        if not topics:
            note("no topics yet; create one with `rmq-redis topic create TOPIC`, or send a message")


@app.command("show")
@with_option_groups
def show(topic: Topic, *, json: Json = False, client: ClientOptions) -> None:
    """Show the offsets and the size of each queue of a topic."""
    found = with_admin(client, lambda admin: _topic_fields(admin, topic))
    if json:
        print_json(found)
    else:
        _print_queues(found)


async def _topic_fields(admin: lazy.AsyncAdmin, topic: str) -> dict[str, Any]:
    route = await admin.topic_route(topic)
    attributes = (await admin.topic_config(topic)).attributes
    queues = [
        {
            "broker_name": queue.broker_name,
            "queue_id": queue.queue_id,
            "min_offset": offset.min_offset,
            "max_offset": offset.max_offset,
            "messages": offset.max_offset - offset.min_offset,
            "store_bytes": offset.store_bytes,
            "last_update_timestamp_ms": offset.last_update_timestamp,
        }
        for queue, offset in (await admin.topic_stats(topic)).items()
    ]
    return {
        "topic": topic,
        "messages": sum(queue["messages"] for queue in queues),
        "store_bytes": sum(queue["store_bytes"] or 0 for queue in queues),
        "attributes": attributes,
        "brokers": route_fields(route)["brokers"],
        "queues": queues,
    }


def _print_queues(found: dict[str, Any]) -> None:
    rows = [
        (
            queue["broker_name"],
            str(queue["queue_id"]),
            f"{queue['min_offset']:,}",
            f"{queue['max_offset']:,}",
            f"{queue['messages']:,}",
            "-" if queue["store_bytes"] is None else f"{queue['store_bytes']:,}",
            local_time(queue["last_update_timestamp_ms"]),
        )
        for queue in found["queues"]
    ]
    rows.append(("", "", "", "", f"{found['messages']:,}", f"{found['store_bytes']:,}", ""))
    print_table(["<broker", "queue", "min offset", "max offset", "messages", "bytes", "<last message stored"], rows)
    if found["attributes"]:
        say("attributes: " + ", ".join(f"{name}={value}" for name, value in sorted(found["attributes"].items())))


def route_fields(route: TopicRouteData) -> dict[str, Any]:
    """A route as JSON."""
    return {
        "brokers": [
            {
                "broker_name": queue.broker_name,
                "read_queue_nums": queue.read_queue_nums,
                "write_queue_nums": queue.write_queue_nums,
                "perm": PERMISSION_NAMES.get(queue.perm & 6, str(queue.perm)),
                "addresses": {
                    str(number): host for number, host in sorted(route.addresses_of(queue.broker_name).items())
                },
            }
            for queue in sorted(route.queue_datas, key=lambda queue: queue.broker_name)
        ],
        "order_topic_conf": route.order_topic_conf,
    }


@app.command("route")
@with_option_groups
def show_route(topic: Topic, *, json: Json = False, client: ClientOptions) -> None:
    """Show the route of a topic: its brokers, as NameServers report them to clients."""

    async def work(admin: lazy.AsyncAdmin) -> dict[str, Any]:
        return {"topic": topic, **route_fields(await admin.topic_route(topic))}

    found = with_admin(client, work)
    if json:
        print_json(found)
        return
    rows = [
        (
            broker["broker_name"],
            str(broker["read_queue_nums"]),
            str(broker["write_queue_nums"]),
            broker["perm"],
            ", ".join(
                f"{address} ({'master' if number == '0' else f'slave {number}'})"
                for number, address in broker["addresses"].items()
            ),
        )
        for broker in found["brokers"]
    ]
    print_table(["<broker", "read queues", "write queues", "<permission", "<addresses"], rows)


@app.command("create")
@with_option_groups
def create(
    topic: Topic,
    *,
    layout: QueueOptions,
    perm: Annotated[str, option("--perm", help="Permission of clients: rw, r, w or none.", metavar="PERM")] = "rw",
    order: Annotated[
        bool, flag("--order", help="Keep the queue of a sharding key fixed, even while it is unavailable.")
    ] = False,
    cluster: Cluster = None,
    retention: RetentionOptions,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Create or change a topic in every broker group."""
    number = _permission(perm)
    attributes = retention.attributes()

    async def work(admin: lazy.AsyncAdmin) -> tuple[int, list[str]]:
        queue_nums = layout.queues or await _queues_of(admin, topic) or DEFAULT_QUEUE_NUMS
        await _refuse_hiding(admin, topic, queue_nums, layout.force)
        addresses = await admin.create_topic(
            topic, queue_nums=queue_nums, perm=number, order=order, attributes=attributes, cluster=cluster
        )
        await admin.wait_for_route(topic)
        return queue_nums, addresses

    queue_nums, addresses = with_admin(client, work)
    if json:
        print_json({"topic": topic, "queues": queue_nums, "perm": perm, "brokers": addresses})
    else:
        say(f"topic {topic}: {queue_nums} queues in each of {', '.join(addresses)}")


async def _queues_of(admin: lazy.AsyncAdmin, topic: str) -> int:
    """The largest number of queues in any broker group; 0: the topic does not exist."""
    try:
        route = await admin.topic_route(topic)
    except RouteNotFoundError:
        return 0
    return max((max(queue.read_queue_nums, queue.write_queue_nums) for queue in route.queue_datas), default=0)


@app.command("update")
@with_option_groups
def update(
    topic: Topic,
    *,
    layout: QueueOptions,
    perm: Annotated[
        str | None,
        option("--perm", help="Permission of clients: rw, r, w or none.", metavar="PERM", show_default=False),
    ] = None,
    cluster: Cluster = None,
    retention: RetentionOptions,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Change an existing topic in every broker group; options that are not given stay unchanged."""
    number = None if perm is None else _permission(perm)
    attributes = retention.attributes()

    async def work(admin: lazy.AsyncAdmin) -> list[str]:
        if layout.queues is not None:
            await _refuse_hiding(admin, topic, layout.queues, layout.force)
        return await admin.update_topic(
            topic, queue_nums=layout.queues, perm=number, attributes=attributes, cluster=cluster
        )

    addresses = with_admin(client, work)
    if json:
        print_json({"topic": topic, "brokers": addresses})
    else:
        say(f"topic {topic}: changed in {', '.join(addresses)}")


@app.command("delete")
@with_option_groups
def delete(
    topic: Topic,
    *,
    cluster: Cluster = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    client: ClientOptions,
) -> None:
    """Delete a topic and its messages. Asks for confirmation; without a terminal, give --yes."""
    if dry_run:
        messages = with_admin(client, lambda admin: _count_messages(admin, topic))
        say(f"topic {topic}: would be deleted with {messages:,} messages")
        return
    confirm(f"Delete topic {topic} and all its messages?", yes)

    async def work(admin: lazy.AsyncAdmin) -> None:
        await admin.topic_route(topic)
        await admin.delete_topic(topic, cluster=cluster)

    with_admin(client, work)
    say(f"topic {topic}: deleted")


async def _count_messages(admin: lazy.AsyncAdmin, topic: str) -> int:
    return sum(offset.max_offset - offset.min_offset for offset in (await admin.topic_stats(topic)).values())
