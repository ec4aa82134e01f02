"""``rmq-redis up``: a development cluster in the foreground."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..config import DEFAULT_BROKER_PORT, DEFAULT_NAMESRV_PORT, env_name
from ..data_dir import expand_user, user_data_dir
from . import lazy
from .option_groups import with_option_groups
from .options import DEFAULT_NAMESRV, LogLevel, flag, option
from .output import say
from .posix import require_posix
from .terminal import is_terminal

if TYPE_CHECKING:
    from ..localcluster.cluster import ClusterSpec


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Which servers to start, and their ports."""

    namesrvs: Annotated[
        int, option("--namesrvs", help="Number of NameServers, up to 16.", min=1, max=16, metavar="N")
    ] = 2
    namesrv_port: Annotated[
        int,
        option(
            "--namesrv-port",
            help="Port of the first NameServer; the others use the next ports. 0: free ports.",
            min=0,
            max=65000,
            metavar="PORT",
        ),
    ] = DEFAULT_NAMESRV_PORT
    brokers: Annotated[
        int, option("--brokers", help="Number of broker groups: broker-a, broker-b, ...", min=1, max=26, metavar="N")
    ] = 2
    slaves: Annotated[int, option("--slaves", help="Slaves per group, up to 7.", min=0, max=7, metavar="N")] = 1
    broker_port: Annotated[
        int | None,
        option(
            "--broker-port",
            help="Port of the first master; its slaves use the next ports, and the next group starts 10 higher. 0: "
            "free ports.",
            min=0,
            max=65000,
            metavar="PORT",
            show_default=f"{DEFAULT_BROKER_PORT} if free",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Where data and servers are."""

    data_dir: Annotated[
        Path | None,
        option(
            "--data-dir",
            metavar="DIR",
            help="Directory for data and logs.",
            file_okay=False,
            show_default="~/.local/share/rmq-redis",
        ),
    ] = None
    store: Annotated[
        list[str] | None,
        option(
            "--store",
            help="Redis URL of the stores and the registry; may be repeated: one URL per group, in turn. The first is "
            "also the registry.",
            show_default="starts a server",
            metavar="URL",
        ),
    ] = None
    host: Annotated[
        str,
        option(
            "--host",
            metavar="HOST",
            help="Address to listen on; 0.0.0.0: all addresses.",
            setting="listen_host",
        ),
    ] = "127.0.0.1"
    advertised_host: Annotated[
        str,
        option(
            "--advertised-host",
            help="Address that clients connect to.",
            metavar="HOST",
            show_default="--host, or this machine's address",
        ),
    ] = ""


@with_option_groups
def up(
    *,
    processes: ProcessOptions,
    place: PlaceOptions,
    log_level: LogLevel = "info",
    verbose: Annotated[bool, flag("--verbose", "-v", help="Print the paths of the logs.")] = False,
) -> None:
    """Run a development cluster until Ctrl-C.

    Starts a Redis server, NameServers and broker groups as separate processes and prints one line for each. Then prints
    `ready` and the NameServer addresses for clients. The data stays in the data directory.
    """
    require_posix("up")
    lazy.setup_logging("debug" if log_level == "debug" else "warning")
    sys.exit(lazy.run(_up(_spec(processes, place, log_level), verbose)))


def _spec(processes: ProcessOptions, place: PlaceOptions, log_level: str) -> ClusterSpec:
    data_dir = expand_user(place.data_dir, "--data-dir") if place.data_dir else user_data_dir("--data-dir")
    return lazy.ClusterSpec(
        data_dir=data_dir.absolute(),
        namesrvs=processes.namesrvs,
        namesrv_port=processes.namesrv_port,
        brokers=processes.brokers,
        slaves=processes.slaves,
        broker_port=processes.broker_port,
        default_broker_port=DEFAULT_BROKER_PORT,
        host=place.host,
        advertised_host=place.advertised_host,
        store=place.store[0] if place.store else "",
        group_stores=place.store or (),
        log_level=log_level,
    )


async def _up(spec: ClusterSpec, verbose: bool) -> int:
    say(f"{'data':<17} {spec.data_dir}")
    if verbose:
        say(f"{'logs':<17} {spec.data_dir / 'logs'}")
    for url in dict.fromkeys(spec.group_stores):
        say(f"{'store':<17} {lazy.redact(url)}")
    cluster = lazy.Cluster(spec, say)
    with lazy.stop_signals(on_second=cluster.kill) as stop:
        try:
            await lazy.unless_stopped(stop, cluster.start())
            if verbose:
                for role in (*cluster.namesrvs, *cluster.brokers):
                    say(f"{'log':<17} {role.log_path}")
            say(f"ready {cluster.namesrv_addr}")
            if is_terminal(sys.stdout):
                _say_what_next(cluster.namesrv_addr)
            await stop.wait()
        except lazy.Stopped:
            pass
        finally:
            if stop.is_set():
                say("stopping")
            await cluster.stop()
    return 0


def _say_what_next(namesrv_addr: str) -> None:
    say("\n  in another terminal:")
    if DEFAULT_NAMESRV not in namesrv_addr.split(";"):
        say(f"    export {env_name('namesrv_addr')}='{namesrv_addr}'")
    say("    rmq-redis send hello 'first message'")
    say("    rmq-redis consume hello")
    say("  Ctrl-C stops the cluster; the data stays\n")
