"""``rmq-redis group``: list, show, change and delete consumer groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer

from ..errors import ConsumerNotOnlineError, RouteNotFoundError, SubscriptionGroupNotExistError
from . import lazy
from .admin import with_admin
from .confirm import DryRun, Yes, confirm
from .option_groups import with_option_groups
from .options import ClientOptions, Cluster, Json, flag, group_argument, option
from .output import note, print_json, print_table, say

app = typer.Typer(help="List, show, change and delete consumer groups.", no_args_is_help=True)
Group = Annotated[str, group_argument("Name of the consumer group.")]
MAX_QUEUES = 1024
"""As for any topic."""
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
@with_option_groups
def list_groups(
    *,
    every: Annotated[bool, flag("--all", "-a", help="Include the groups of RocketMQ and of this command.")] = False,
    cluster: Cluster = None,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """List the consumer groups."""

    async def work(admin: lazy.AsyncAdmin) -> list[str]:
        names: set[str] = set()
        for address in await admin.master_addresses(cluster):
            names |= (await admin.group_configs(address)).keys()
        return sorted(name for name in names if every or not _is_internal(name))

    names = with_admin(client, work)
    if json:
        print_json(names)
    else:
        for name in names:
            say(name)
        if not names:
            note("no consumer groups yet")


def _is_internal(group: str) -> bool:
    return group in _INTERNAL or group.startswith(_INTERNAL_PREFIXES)


async def _configs(
    admin: lazy.AsyncAdmin, group: str, cluster: str | None
) -> dict[str, lazy.SubscriptionGroupConfig | None]:
    """The group's configuration at every master; None: the group does not exist there."""
    return {
        address: (await admin.group_configs(address)).get(group) for address in await admin.master_addresses(cluster)
    }


def _fields(group: str, address: str, config: lazy.SubscriptionGroupConfig) -> dict[str, Any]:
    return {
        "group": group,
        "broker": address,
        "consume_enable": config.consume_enable,
        "consume_broadcast_enable": config.consume_broadcast_enable,
        "retry_max_times": config.retry_max_times,
        "retry_queue_nums": config.retry_queue_nums,
        "retry_delays_ms": _delays_ms(config),
    }


def _delays_ms(config: lazy.SubscriptionGroupConfig) -> list[int] | None:
    """ms before each retry; None: the broker's delay levels, from the third on."""
    delays_ms = [config.retry_delay_ms(times) for times in range(config.retry_max_times)]
    known = [delay_ms for delay_ms in delays_ms if delay_ms is not None]
    return known if len(known) == len(delays_ms) else None


@app.command("show")
@with_option_groups
def show(
    group: Group,
    *,
    cluster: Cluster = None,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Show the configuration of a group at each broker, and warnings about its members."""

    async def work(admin: lazy.AsyncAdmin) -> tuple[dict[str, lazy.SubscriptionGroupConfig | None], list[str]]:
        return await _configs(admin, group, cluster), await _warnings(admin, group)

    configs, warnings = with_admin(client, work)
    found = [
        _fields(group, address, config) | {"warnings": warnings}
        for address, config in configs.items()
        if config is not None
    ]
    _print(group, found, json)
    if not json:
        for text in warnings:
            note(f"warning: {text}")


async def _warnings(admin: lazy.AsyncAdmin, group: str) -> list[str]:
    """Warnings about the members that are online."""
    try:
        return (await admin.consumer_connections(group)).warnings
    except (ConsumerNotOnlineError, RouteNotFoundError):
        return []


def _unknown(group: str) -> Exception:
    return SubscriptionGroupNotExistError(
        f"consumer group {group!r} does not exist; list the groups with `rmq-redis group list`"
    )


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
    print_table(["<broker", "<consume", "<broadcast", "max retries", "retry queues", "<retry delays"], rows)


def _delays(delays_ms: list[int] | None) -> str:
    if not delays_ms:
        return "10 s, 30 s, 1 min, … 2 h" if delays_ms is None else "-"
    shown = [f"{delay_ms / 1000:g} s" for delay_ms in delays_ms]
    return ", ".join(shown if len(shown) <= 5 else [*shown[:4], "…", shown[-1]])


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """The settings of a consumer group; None: unchanged."""

    retry_max_times: Annotated[
        int | None,
        option(
            "--retry-max-times",
            help="Retries of a message before it becomes a dead letter.",
            min=0,
            metavar="N",
            show_default=False,
        ),
    ] = None
    retry_delays: Annotated[
        str | None,
        option(
            "--retry-delays",
            help="Seconds before each retry, the last repeated: 1,5,30; levels: as RocketMQ.",
            metavar="S,S,…",
            show_default=False,
        ),
    ] = None
    retry_queues: Annotated[
        int | None,
        option(
            "--retry-queues",
            help="Queues of the retry topic, when it is created; 0: drop failed messages.",
            min=0,
            metavar="N",
            show_default=False,
        ),
    ] = None
    consume: Annotated[
        bool | None,
        flag("--consume/--no-consume", help="Whether members may read messages.", show_default=False),
    ] = None
    broadcast: Annotated[
        bool | None,
        flag("--broadcast/--no-broadcast", help="Whether members may use broadcasting.", show_default=False),
    ] = None

    def changes(self) -> dict[str, Any]:
        """Those that are given, by their names in ``SubscriptionGroupConfig``. Raises BadParameter."""
        queues = self.retry_queues
        if queues is not None and queues > MAX_QUEUES:  # as a range of the option it would be too wide for the help
            raise typer.BadParameter(f"{queues}: give at most {MAX_QUEUES}", param_hint="--retry-queues")
        given = {
            "retry_max_times": self.retry_max_times,
            "retry_queue_nums": queues,
            "consume_enable": self.consume,
            "consume_broadcast_enable": self.broadcast,
            "group_retry_policy": None if self.retry_delays is None else _policy(self.retry_delays),
        }
        return {name: value for name, value in given.items() if value is not None}


@app.command("set")
@with_option_groups
def set_config(
    group: Group,
    *,
    options: GroupOptions,
    cluster: Cluster = None,
    json: Json = False,
    client: ClientOptions,
) -> None:
    """Create or change a group in every broker group. Options that are not given stay unchanged.

    A consumer that sends its own limit of retries (Java always, Python with `max_reconsume_times`) uses that limit.
    """
    changes = options.changes()

    async def work(admin: lazy.AsyncAdmin) -> list[dict[str, Any]]:
        for address, config in (await _configs(admin, group, cluster)).items():
            changed = msgspec.structs.replace(config or lazy.SubscriptionGroupConfig(group_name=group), **changes)
            await admin.put_group_config(changed, address)
        return [
            _fields(group, address, config)
            for address, config in (await _configs(admin, group, cluster)).items()
            if config is not None
        ]

    _print(group, with_admin(client, work), json)


def _policy(text: str) -> lazy.GroupRetryPolicy:
    if text == "levels":
        return lazy.GroupRetryPolicy()
    try:
        delays_ms = [round(float(part) * 1000) for part in text.split(",")]
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r}: give seconds like 1,5,30, or levels", param_hint="--retry-delays"
        ) from None
    return lazy.GroupRetryPolicy.of_delays_ms(delays_ms)


@app.command("delete")
@with_option_groups
def delete(
    group: Group,
    *,
    cluster: Cluster = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    client: ClientOptions,
) -> None:
    """Delete a group and its offsets. Its retry and dead-letter topics stay.

    Asks for confirmation; without a terminal, give --yes.
    """

    async def known_at(admin: lazy.AsyncAdmin) -> list[str]:
        """Raises SubscriptionGroupNotExistError."""
        addresses = [address for address, config in (await _configs(admin, group, cluster)).items() if config]
        if not addresses:
            raise _unknown(group)
        return addresses

    if dry_run:
        addresses = with_admin(client, known_at)
        say(f"group {group}: would be deleted, with its offsets, at {', '.join(addresses)}")
        return
    confirm(f"Delete consumer group {group} and its offsets?", yes)

    async def work(admin: lazy.AsyncAdmin) -> None:
        await known_at(admin)
        await admin.delete_group(group, cluster=cluster)

    with_admin(client, work)
    say(f"group {group}: deleted")
