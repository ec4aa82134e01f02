"""``rmq-redis broker``: one broker in the foreground; ``rmq-redis broker drain``: a group on its way out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import BrokerConfig
from ..errors import ConfigError
from .admin import with_admin
from .options import DEFAULT_NAMESRV, LogLevel, Namesrv, argument, config_options, flag, option
from .output import say
from .posix import require_posix

if TYPE_CHECKING:
    from ..client.admin.admin import AsyncAdmin
    from ..client.admin.brokers import Backlog

app = typer.Typer(invoke_without_command=True)
_LOOK_PERIOD_S = 1.0

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


@app.callback(epilog="A terminal of 100 columns shows all names in full; docs/configuration.md explains every setting.")
@config_options(BrokerConfig, ALIASES, is_group=True)
def broker(config: BrokerConfig, log_level: str) -> None:
    """Run a broker until Ctrl-C or SIGTERM.

    Brokers of one name are a group: id 0 is its master and takes the sends, every other id is a slave that serves
    reads and, unless `--failover false`, becomes the master when that one is gone. A master that comes back is a slave.
    """
    require_posix("broker")
    if not config.store:
        raise ConfigError(
            "a broker needs a store: --store redis://host:port/db (or RMQ_REDIS_STORE). "
            "`rmq-redis up` brings a Redis of its own"
        )
    from ..broker.broker import Broker
    from ..runtime import run, serve, setup_logging

    setup_logging(log_level)

    async def main() -> int:
        server = Broker(config)
        # A configured master may start as a slave: another broker of its group is the master meanwhile.
        return await serve(server, lambda: f"broker {config.broker_name} id {server.broker_id}", config.listen_host)

    sys.exit(run(main()))


@app.command("drain")
def drain(
    broker_name: Annotated[str, argument(help="Name of the broker group.")],
    undo: Annotated[bool, flag("--undo", help="Send messages there again.")] = False,
    timeout_s: Annotated[
        float | None,
        option("--timeout", min=0, metavar="S", help="Give up after S seconds.", show_default="never"),
    ] = None,
    namesrv: Namesrv = DEFAULT_NAMESRV,
    log_level: LogLevel = "error",
) -> None:
    """Have no new messages sent to a broker group, and wait until its consumers have finished.

    Takes the write permission of all its topics away at every NameServer, which holds until --undo, also when the
    broker registers anew. Then it waits: until all groups that consumed there have nothing left, and nothing waits for
    its time or for the end of a transaction. Then the group's processes can be stopped and its store removed.
    """

    async def work(admin: AsyncAdmin) -> int:
        if undo:
            say(f"{broker_name}: {await admin.add_write_perm(broker_name)} topics can be written again")
            return 0
        import asyncio

        await admin.master_address(broker_name)  # refuses a name that is not there
        say(f"{broker_name}: {await admin.wipe_write_perm(broker_name)} topics are not written any more")
        try:
            async with asyncio.timeout(timeout_s):
                await _until_empty(admin, broker_name)
        except TimeoutError:
            say(f"{broker_name}: not empty after {timeout_s:g} s; --undo sends messages there again")
            return 1
        say(f"{broker_name}: nothing is left; its processes can be stopped and its store removed")
        return 0

    sys.exit(with_admin(namesrv, log_level, work))


async def _until_empty(admin: AsyncAdmin, broker_name: str) -> None:
    from asyncio import sleep

    shown = ""
    while not (backlog := await admin.backlog(broker_name)).is_empty:
        text = _left(backlog)
        if text != shown:
            say(f"{broker_name}: {text}")
            shown = text
        await sleep(_LOOK_PERIOD_S)


def _left(backlog: Backlog) -> str:
    parts = [f"{count} of {topic} for group {group}" for (group, topic), count in sorted(backlog.unread.items())]
    if backlog.scheduled:
        parts.append(f"{backlog.scheduled} that wait for their time")
    if backlog.undecided:
        parts.append(f"{backlog.undecided} undecided transactions")
    return "left: " + ", ".join(parts)
