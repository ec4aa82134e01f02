"""``rmq-redis topic``: topics and where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import DEFAULT_CLUSTER
from ..errors import ClientError, RouteNotFoundError, TopicNotExistError
from ..model import DEFAULT_QUEUE_NUMS, DLQ_PREFIX, RETRY_PREFIX, is_system_topic, reply_topic
from .admin import with_admin
from .confirm import DryRun, Yes, confirm
from .options import DEFAULT_NAMESRV, Cluster, Json, LogLevel, Namesrv, flag, option, topic_argument
from .output import local_time, note, print_json, print_table, say

if TYPE_CHECKING:
    from ..client.admin.admin import AsyncAdmin
    from ..model import TopicRouteData

app = typer.Typer(help="List, show, create, change and delete topics.", no_args_is_help=True)
Topic = Annotated[str, topic_argument("Name of the topic.")]
RetentionTime = Annotated[
    str | None,
    option(
        "--retention-time",
        help="How long messages are kept: 72h, 7d, 90m, 30s; 0 for ever, -1 as the broker's setting.",
        metavar="TIME",
    ),
]
RetentionBytes = Annotated[
    str | None,
    option(
        "--retention-bytes",
        help="How much memory its messages may take in each broker group: 512m, 2g; 0 any, -1 as the broker's setting.",
        metavar="SIZE",
    ),
]
RetentionCount = Annotated[
    str | None,
    option(
        "--retention-count",
        help="How many messages are kept in each broker group; 0 any number, -1 as the broker's setting.",
        metavar="N",
    ),
]
Force = Annotated[
    bool, flag("--force", help="Also when fewer queues leave messages in the others that nobody can read any more.")
]
PERMISSIONS = {"rw": 6, "r": 4, "w": 2, "none": 0}
PERMISSION_NAMES = {number: name for name, number in PERMISSIONS.items()}


async def _refuse_hiding(admin: AsyncAdmin, topic: str, queues: int, force: bool) -> None:
    """With fewer queues than now, nobody reads what is in the others: that is to be meant.

    Raises:
        ClientError: there are messages in them.
    """
    if force:
        return
    try:
        stats = await admin.topic_stats(topic)
    except (RouteNotFoundError, TopicNotExistError):
        return
    hidden = sum(offset.max_offset - offset.min_offset for queue, offset in stats.items() if queue.queue_id >= queues)
    if hidden:
        raise ClientError(
            f"with {queues} queues in each broker group nobody can read the {hidden:,} messages any more that topic "
            f"{topic!r} has in the others; if that is meant, give --force"
        )


def _attributes(time: str | None, size: str | None, count: str | None) -> str | None:
    """The change of a topic's attributes that the retention options ask for."""
    given = {"reserve.time": time, "reserve.bytes": size, "reserve.count": count}
    changes = [f"+{name}={value}" for name, value in given.items() if value is not None]
    if any("," in change for change in changes):
        raise typer.BadParameter("a retention is one number with a unit, without commas", param_hint="--retention-...")
    return ",".join(changes) or None


def _permission(perm: str) -> int:
    if perm not in PERMISSIONS:
        raise typer.BadParameter(f"{perm!r} is not one of {', '.join(PERMISSIONS)}", param_hint="--perm")
    return PERMISSIONS[perm]


def _is_internal(topic: str, own_names: set[str]) -> bool:
    return is_system_topic(topic) or topic.startswith((RETRY_PREFIX, DLQ_PREFIX)) or topic in own_names


@app.command("list")
def list_topics(
    every: Annotated[
        bool, flag("--all", "-a", help="Also RocketMQ's own topics, and the groups' retry and dead-letter topics.")
    ] = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """List the topics."""

    async def work(admin: AsyncAdmin) -> list[str]:
        topics = await admin.topic_list()
        if every:
            return topics
        info = await admin.cluster_info()
        own = {
            DEFAULT_CLUSTER,
            *info.brokers,
            *info.clusters,
            *map(reply_topic, info.clusters),
        }  # Apache's brokers have a topic of their own name
        return [topic for topic in topics if not _is_internal(topic, own)]

    topics = with_admin(namesrv, log_level, work)
    if json:
        print_json(topics)
    else:
        for topic in topics:
            say(topic)
        if not topics:
            note("there is no topic yet: `rmq-redis topic create TOPIC` makes one, and so does the first send")


@app.command()
def show(topic: Topic, namesrv: Namesrv = DEFAULT_NAMESRV, json: Json = False, log_level: LogLevel = "error") -> None:
    """Show what each queue of a topic holds."""

    async def work(admin: AsyncAdmin) -> dict[str, Any]:
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

    found = with_admin(namesrv, log_level, work)
    if json:
        print_json(found)
        return
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
    print_table(["<broker", "queue", "min offset", "max offset", "messages", "bytes", "<last stored"], rows)
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
def show_route(
    topic: Topic, namesrv: Namesrv = DEFAULT_NAMESRV, json: Json = False, log_level: LogLevel = "error"
) -> None:
    """Show which brokers have a topic, as clients are told."""

    async def work(admin: AsyncAdmin) -> dict[str, Any]:
        return {"topic": topic, **route_fields(await admin.topic_route(topic))}

    found = with_admin(namesrv, log_level, work)
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
    print_table(["<broker", "read queues", "write queues", "<perm", "<addresses"], rows)


@app.command()
def create(
    topic: Topic,
    queues: Annotated[
        int | None,
        option(
            "--queues",
            "-q",
            help="Read and write queues in each broker group.",
            min=1,
            max=1024,
            metavar="N",
            show_default=f"{DEFAULT_QUEUE_NUMS}, or as many as it has",
        ),
    ] = None,
    perm: Annotated[str, option("--perm", help="What clients may do: rw, r, w or none.")] = "rw",
    order: Annotated[bool, flag("--order", help="Keys keep their queues, and wait for them.")] = False,
    cluster: Cluster = None,
    retention_time: RetentionTime = None,
    retention_bytes: RetentionBytes = None,
    retention_count: RetentionCount = None,
    force: Force = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Create a topic in every broker group, or change it."""
    number = _permission(perm)
    attributes = _attributes(retention_time, retention_bytes, retention_count)

    async def work(admin: AsyncAdmin) -> tuple[int, list[str]]:
        queue_nums = queues or await _queues_of(admin, topic) or DEFAULT_QUEUE_NUMS
        await _refuse_hiding(admin, topic, queue_nums, force)
        addresses = await admin.create_topic(
            topic, queue_nums=queue_nums, perm=number, order=order, attributes=attributes, cluster=cluster
        )
        await admin.wait_for_route(topic)
        return queue_nums, addresses

    queue_nums, addresses = with_admin(namesrv, log_level, work)
    if json:
        print_json({"topic": topic, "queues": queue_nums, "perm": perm, "brokers": addresses})
    else:
        say(f"topic {topic}: {queue_nums} queues in each of {', '.join(addresses)}")


async def _queues_of(admin: AsyncAdmin, topic: str) -> int:
    """The most that a broker group has of it; 0: none has it."""
    try:
        route = await admin.topic_route(topic)
    except RouteNotFoundError:
        return 0
    return max((max(queue.read_queue_nums, queue.write_queue_nums) for queue in route.queue_datas), default=0)


@app.command()
def update(
    topic: Topic,
    queues: Annotated[
        int | None,
        option("--queues", "-q", help="Read and write queues in each broker group.", min=1, max=1024, metavar="N"),
    ] = None,
    perm: Annotated[str | None, option("--perm", help="What clients may do: rw, r, w or none.")] = None,
    cluster: Cluster = None,
    retention_time: RetentionTime = None,
    retention_bytes: RetentionBytes = None,
    retention_count: RetentionCount = None,
    force: Force = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Change what is given of a topic that exists, in every broker group."""
    number = None if perm is None else _permission(perm)
    attributes = _attributes(retention_time, retention_bytes, retention_count)

    async def work(admin: AsyncAdmin) -> list[str]:
        if queues is not None:
            await _refuse_hiding(admin, topic, queues, force)
        return await admin.update_topic(topic, queue_nums=queues, perm=number, attributes=attributes, cluster=cluster)

    addresses = with_admin(namesrv, log_level, work)
    if json:
        print_json({"topic": topic, "brokers": addresses})
    else:
        say(f"topic {topic}: changed in each of {', '.join(addresses)}")


@app.command()
def delete(
    topic: Topic,
    cluster: Cluster = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    log_level: LogLevel = "error",
) -> None:
    """Delete a topic with its messages. Asks first; without a terminal, --yes is needed."""
    if dry_run:
        messages = with_admin(namesrv, log_level, lambda admin: _count_messages(admin, topic))
        say(f"topic {topic}: would be deleted with {messages:,} messages")
        return
    confirm(f"Delete topic {topic} with all its messages?", yes)

    async def work(admin: AsyncAdmin) -> None:
        await admin.topic_route(topic)
        await admin.delete_topic(topic, cluster=cluster)

    with_admin(namesrv, log_level, work)
    say(f"topic {topic}: deleted")


async def _count_messages(admin: AsyncAdmin, topic: str) -> int:
    return sum(offset.max_offset - offset.min_offset for offset in (await admin.topic_stats(topic)).values())
