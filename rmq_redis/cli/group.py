"""``rmq-redis group``: consumer groups and how they are configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .admin import with_admin
from .confirm import DryRun, Yes, confirm
from .options import DEFAULT_NAMESRV, Cluster, Json, LogLevel, Namesrv, flag, group_argument, option
from .output import note, print_json, print_table, say

if TYPE_CHECKING:
    from ..client.admin.admin import AsyncAdmin
    from ..protocol.group_config import GroupRetryPolicy, SubscriptionGroupConfig

app = typer.Typer(help="List, show, change and delete consumer groups.", no_args_is_help=True)
Group = Annotated[str, group_argument("Name of the consumer group.")]
MAX_QUEUES = 1024
_INTERNAL = frozenset(
    {
        "CLIENT_INNER_PRODUCER",
        "DEFAULT_CONSUMER",
        "DEFAULT_PRODUCER",
        "FILTERSRV_CONSUMER",
        "SCHEDULE_CONSUMER",
        "SELF_TEST_C_GROUP",
        "TOOLS_CONSUMER",
        "__MONITOR_CONSUMER",
    }
)
_INTERNAL_PREFIXES = ("CID_RMQ_SYS_", "CID_ONSAPI_", "CID_ONS-HTTP-PROXY", "rmq-redis-")


@app.command("list")
def list_groups(
    every: Annotated[bool, flag("--all", "-a", help="Also groups of RocketMQ's and our own tools.")] = False,
    cluster: Cluster = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """List the consumer groups that the brokers know."""

    async def work(admin: AsyncAdmin) -> list[str]:
        names: set[str] = set()
        for address in await admin.master_addresses(cluster):
            names |= (await admin.group_configs(address)).keys()
        return sorted(name for name in names if every or not _is_internal(name))

    names = with_admin(namesrv, log_level, work)
    if json:
        print_json(names)
    else:
        for name in names:
            say(name)
        if not names:
            note("no broker knows a consumer group yet")


def _is_internal(group: str) -> bool:
    return group in _INTERNAL or group.startswith(_INTERNAL_PREFIXES)


async def _configs(admin: AsyncAdmin, group: str, cluster: str | None) -> dict[str, SubscriptionGroupConfig | None]:
    """The group's configuration at every master, None where it is unknown."""
    return {
        address: (await admin.group_configs(address)).get(group) for address in await admin.master_addresses(cluster)
    }


def _fields(group: str, address: str, config: SubscriptionGroupConfig) -> dict[str, Any]:
    return {
        "group": group,
        "broker": address,
        "consume_enable": config.consume_enable,
        "consume_broadcast_enable": config.consume_broadcast_enable,
        "retry_max_times": config.retry_max_times,
        "retry_queue_nums": config.retry_queue_nums,
        "retry_delays_ms": _delays_ms(config),
    }


def _delays_ms(config: SubscriptionGroupConfig) -> list[int] | None:
    """ms until each further try; None: the broker's delay levels, of which the first try's is the third."""
    delays_ms = [config.retry_delay_ms(times) for times in range(config.retry_max_times)]
    known = [delay_ms for delay_ms in delays_ms if delay_ms is not None]
    return known if len(known) == len(delays_ms) else None


@app.command()
def show(
    group: Group,
    cluster: Cluster = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Show how each broker has a group configured, and what keeps its members from working together."""

    async def work(admin: AsyncAdmin) -> tuple[dict[str, SubscriptionGroupConfig | None], list[str]]:
        return await _configs(admin, group, cluster), await _warnings(admin, group)

    configs, warnings = with_admin(namesrv, log_level, work)
    found = [
        _fields(group, address, config) | {"warnings": warnings}
        for address, config in configs.items()
        if config is not None
    ]
    _print(group, found, json)
    if not json:
        for text in warnings:
            note(f"warning: {text}")


async def _warnings(admin: AsyncAdmin, group: str) -> list[str]:
    """What the brokers see wrong with the members that are online; nothing when none is."""
    from ..errors import ConsumerNotOnlineError, RouteNotFoundError

    try:
        return (await admin.consumer_connections(group)).warnings
    except (ConsumerNotOnlineError, RouteNotFoundError):
        return []


def _unknown(group: str) -> Exception:
    from ..errors import SubscriptionGroupNotExistError

    return SubscriptionGroupNotExistError(f"no broker knows the consumer group {group!r}")


def _print(group: str, found: list[dict[str, Any]], json: bool) -> None:
    if not found:
        raise _unknown(group)
    if json:
        print_json(found)
        return
    rows = [
        (
            item["broker"],
            "yes" if item["consume_enable"] else "no",
            "yes" if item["consume_broadcast_enable"] else "no",
            str(item["retry_max_times"]),
            str(item["retry_queue_nums"]),
            _delays(item["retry_delays_ms"]),
        )
        for item in found
    ]
    print_table(["<broker", "<consumes", "<broadcasts", "tries", "retry queues", "<retried after"], rows)


def _delays(delays_ms: list[int] | None) -> str:
    if not delays_ms:
        return "10 s, 30 s, 1 min, … 2 h" if delays_ms is None else "-"
    shown = [f"{delay_ms / 1000:g} s" for delay_ms in delays_ms]
    return ", ".join(shown if len(shown) <= 5 else [*shown[:4], "…", shown[-1]])


@app.command("set")
def set_config(
    group: Group,
    retry_max_times: Annotated[
        int | None,
        option(
            "--retry-max-times",
            help="How often a message is delivered again before it becomes a dead letter.",
            min=0,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    retry_delays: Annotated[
        str | None,
        option(
            "--retry-delays",
            help="Seconds until each further try, the last for all that follow: 1,5,30; levels: as RocketMQ.",
            metavar="S,S,…",
            show_default=False,
        ),
    ] = None,
    retry_queues: Annotated[
        int | None,
        option(
            "--retry-queues",
            help="Queues of the retry topic, when it is made; 0: what fails is dropped.",
            min=0,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    consume: Annotated[
        bool | None,
        flag("--consume/--no-consume", help="Whether its members may read messages.", show_default=False),
    ] = None,
    broadcast: Annotated[
        bool | None,
        flag("--broadcast/--no-broadcast", help="Whether its members may broadcast.", show_default=False),
    ] = None,
    cluster: Cluster = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    json: Json = False,
    log_level: LogLevel = "error",
) -> None:
    """Change a group in every broker group, or create it. What is not given stays as it is.

    Consumers that send a limit of their own (Java's always do, ours with `max_reconsume_times`) have theirs.
    """
    import msgspec

    from ..protocol.group_config import SubscriptionGroupConfig

    if retry_queues is not None and retry_queues > MAX_QUEUES:  # as a range in the help it would leave no room there
        raise typer.BadParameter(f"{retry_queues} is more than {MAX_QUEUES}", param_hint="--retry-queues")
    changes: dict[str, Any] = {
        "retry_max_times": retry_max_times,
        "retry_queue_nums": retry_queues,
        "consume_enable": consume,
        "consume_broadcast_enable": broadcast,
        "group_retry_policy": None if retry_delays is None else _policy(retry_delays),
    }
    changes = {name: value for name, value in changes.items() if value is not None}

    async def work(admin: AsyncAdmin) -> list[dict[str, Any]]:
        for address, config in (await _configs(admin, group, cluster)).items():
            changed = msgspec.structs.replace(config or SubscriptionGroupConfig(group_name=group), **changes)
            await admin.put_group_config(changed, address)
        return [
            _fields(group, address, config)
            for address, config in (await _configs(admin, group, cluster)).items()
            if config is not None
        ]

    _print(group, with_admin(namesrv, log_level, work), json)


def _policy(text: str) -> GroupRetryPolicy:
    from ..protocol.group_config import GroupRetryPolicy

    if text == "levels":
        return GroupRetryPolicy()
    try:
        delays_ms = [round(float(part) * 1000) for part in text.split(",")]
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is neither seconds like 1,5,30 nor levels", param_hint="--retry-delays"
        ) from None
    return GroupRetryPolicy.of_delays_ms(delays_ms)


@app.command()
def delete(
    group: Group,
    cluster: Cluster = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    log_level: LogLevel = "error",
) -> None:
    """Delete a group with its offsets. Its retry and dead-letter topics stay.

    Asks first; without a terminal, --yes is needed.
    """

    async def known_at(admin: AsyncAdmin) -> list[str]:
        """Raises SubscriptionGroupNotExistError."""
        addresses = [address for address, config in (await _configs(admin, group, cluster)).items() if config]
        if not addresses:
            raise _unknown(group)
        return addresses

    if dry_run:
        addresses = with_admin(namesrv, log_level, known_at)
        say(f"group {group}: would be deleted with its offsets at {', '.join(addresses)}")
        return
    confirm(f"Delete consumer group {group} with its offsets?", yes)

    async def work(admin: AsyncAdmin) -> None:
        await known_at(admin)
        await admin.delete_group(group, cluster=cluster)

    with_admin(namesrv, log_level, work)
    say(f"group {group}: deleted")
