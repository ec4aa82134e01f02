"""``rmq-redis broker``: a broker in the foreground; ``rmq-redis broker drain``: prepare a group for removal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import BrokerConfig
from ..errors import ConfigError
from . import lazy
from .admin import with_admin
from .option_groups import Settings, with_option_groups
from .options import ClientOptions, LogLevel, argument, flag, option
from .output import say
from .posix import require_posix

if TYPE_CHECKING:
    from ..client.admin.brokers import Backlog

app = typer.Typer(invoke_without_command=True)
_POLL_PERIOD_S = 1.0
"""A group drains within seconds to hours; each look reads the offsets of all its groups."""

ALIASES = {
    "broker_name": ("--name",),
    "broker_id": ("--id",),
    "namesrv_addr": ("--namesrv", "-n"),
    "store": (),
    "cluster_name": ("--cluster",),
    "listen_host": ("--host",),
    "listen_port": ("--port",),
    "advertised_host": (),
}


@app.callback(epilog="A terminal of 100 columns shows all names in full. All settings: docs/configuration.md.")
@with_option_groups
def broker(
    context: typer.Context, *, config: Annotated[BrokerConfig, Settings(ALIASES)], log_level: LogLevel = "info"
) -> None:
    """Run a broker until Ctrl-C or SIGTERM.

    Brokers with the same name form a group. Id 0 is its master and accepts sends; any other id is a slave, which serves
    reads. If the master fails, a slave takes over, unless `--failover false`; a master that returns starts as a slave.
    """
    require_posix("broker")
    if not config.store:
        raise ConfigError(
            "a broker needs a store: --store redis://host:port/db (or RMQ_REDIS_STORE). "
            "`rmq-redis up` starts a Redis server for you"
        )
    lazy.setup_logging(log_level)

    async def main() -> int:
        server = lazy.Broker(config)
        # A configured master starts as a slave if another broker of its group is the master.
        return await lazy.serve(
            server, lambda: f"broker {config.broker_name} id {server.broker_id}", config.listen_host
        )

    sys.exit(lazy.run(main()))


@app.command("drain")
@with_option_groups
def drain(
    broker_name: Annotated[str, argument(help="Name of the broker group.")],
    *,
    undo: Annotated[bool, flag("--undo", help="Let producers send to the group again.")] = False,
    timeout_s: Annotated[
        float | None,
        option("--timeout", min=0, metavar="S", help="Give up after S seconds.", show_default="never"),
    ] = None,
    client: ClientOptions,
) -> None:
    """Stop sends to a broker group, and wait until its messages are consumed.

    Removes the write permission of all topics of the group at every NameServer, until --undo; a restart of the broker
    does not change that. Then waits until no consumer group has a lag there, and no delayed message and no undecided
    transaction is left. After that you can stop the group's processes and delete its store.
    """

    async def work(admin: lazy.AsyncAdmin) -> int:
        if undo:
            say(f"{broker_name}: {await admin.add_write_perm(broker_name)} topics can be written again")
            return 0
        await admin.master_address(broker_name)  # raises if the group does not exist
        say(f"{broker_name}: {await admin.wipe_write_perm(broker_name)} topics accept no more messages")
        try:
            async with lazy.asyncio.timeout(timeout_s):
                await _until_empty(admin, broker_name)
        except TimeoutError:
            say(f"{broker_name}: not empty after {timeout_s:g} s; to send there again, use --undo")
            return 1
        say(f"{broker_name}: nothing is left; you can stop its processes and delete its store")
        return 0

    sys.exit(with_admin(client, work))


async def _until_empty(admin: lazy.AsyncAdmin, broker_name: str) -> None:
    shown = ""
    while not (backlog := await admin.backlog(broker_name)).is_empty:
        text = _left(backlog)
        if text != shown:
            say(f"{broker_name}: {text}")
            shown = text
        await lazy.asyncio.sleep(_POLL_PERIOD_S)


def _left(backlog: Backlog) -> str:
    parts = [f"{count} of {topic} for group {group}" for (group, topic), count in sorted(backlog.unread.items())]
    if backlog.scheduled:
        parts.append(f"{backlog.scheduled} delayed messages")
    if backlog.undecided:
        parts.append(f"{backlog.undecided} undecided transactions")
    return "left: " + ", ".join(parts)
