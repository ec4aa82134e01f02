"""``rmq-redis up``: a whole development cluster in the foreground."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..config import DEFAULT_BROKER_PORT, DEFAULT_NAMESRV_PORT
from ..data_dir import expand_user, user_data_dir
from .options import LogLevel, flag, option
from .output import say
from .posix import require_posix
from .terminal import is_terminal

if TYPE_CHECKING:
    from ..localcluster.cluster import ClusterSpec


def up(
    namesrvs: Annotated[
        int, option("--namesrvs", help="NameServers to start, at most 16.", min=1, max=16, metavar="N")
    ] = 2,
    namesrv_port: Annotated[
        int,
        option(
            "--namesrv-port",
            help="Port of the first; the next follow. 0: whatever is free.",
            min=0,
            max=65000,
            metavar="PORT",
        ),
    ] = DEFAULT_NAMESRV_PORT,
    brokers: Annotated[
        int, option("--brokers", help="Broker groups to start: broker-a, broker-b, ...", min=1, max=26, metavar="N")
    ] = 2,
    slaves: Annotated[int, option("--slaves", help="Slaves in each group, at most 7.", min=0, max=7, metavar="N")] = 1,
    broker_port: Annotated[
        int | None,
        option(
            "--broker-port",
            help="Port of the first; its slaves follow, each further group is 10 higher. 0: whatever is free.",
            min=0,
            max=65000,
            metavar="PORT",
            show_default=f"{DEFAULT_BROKER_PORT} if free",
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        option(
            "--data-dir",
            metavar="DIR",
            help="Directory of data and logs.",
            file_okay=False,
            show_default="~/.local/share/rmq-redis",
        ),
    ] = None,
    store: Annotated[
        list[str] | None,
        option(
            "--store",
            help="Redis URL of the stores and the registry. Several: the groups' stores in turn; the first is the "
            "registry too.",
            show_default="starts a server of its own",
            metavar="URL",
        ),
    ] = None,
    host: Annotated[
        str,
        option(
            "--host",
            metavar="HOST",
            help="Address to listen on; 0.0.0.0: all of this machine's.",
            setting="listen_host",
        ),
    ] = "127.0.0.1",
    advertised_host: Annotated[
        str,
        option(
            "--advertised-host",
            help="Address that clients are told.",
            metavar="HOST",
            show_default="--host, or this machine's address",
        ),
    ] = "",
    log_level: LogLevel = "info",
    verbose: Annotated[bool, flag("--verbose", "-v", help="Print where the logs are.")] = False,
) -> None:
    """Run a whole cluster for development, until Ctrl-C.

    Starts a Redis server, NameServers and broker groups as processes of their own, prints a line for each, and then a
    line that begins with `ready` and has the NameServer addresses for clients. Data stays in the data directory.
    """
    require_posix("up")
    from ..localcluster.cluster import ClusterSpec
    from ..runtime import run, setup_logging

    setup_logging("debug" if log_level == "debug" else "warning")
    spec = ClusterSpec(
        data_dir=(expand_user(data_dir, "--data-dir") if data_dir else user_data_dir("--data-dir")).absolute(),
        namesrvs=namesrvs,
        namesrv_port=namesrv_port,
        brokers=brokers,
        slaves=slaves,
        broker_port=broker_port,
        default_broker_port=DEFAULT_BROKER_PORT,
        host=host,
        advertised_host=advertised_host,
        store=store[0] if store else "",
        group_stores=store or (),
        log_level=log_level,
    )
    sys.exit(run(_up(spec, verbose)))


async def _up(spec: ClusterSpec, verbose: bool) -> int:
    from ..localcluster.cluster import Cluster
    from ..runtime import Stopped, stop_signals, unless_stopped
    from ..store.redis.url import redact

    say(f"{'data':<17} {spec.data_dir}")
    if verbose:
        say(f"{'logs':<17} {spec.data_dir / 'logs'}")
    for url in dict.fromkeys(spec.group_stores):
        say(f"{'store':<17} {redact(url)}")
    cluster = Cluster(spec, say)
    with stop_signals(on_second=cluster.kill) as stop:
        try:
            await unless_stopped(stop, cluster.start())
            if verbose:
                for role in (*cluster.namesrvs, *cluster.brokers):
                    say(f"{'log':<17} {role.log_path}")
            say(f"ready {cluster.namesrv_addr}")
            if is_terminal(sys.stdout):
                _say_what_next(cluster.namesrv_addr)
            await stop.wait()
        except Stopped:
            pass
        finally:
            if stop.is_set():
                say("stopping")
            await cluster.stop()
    return 0


def _say_what_next(namesrv_addr: str) -> None:
    from ..config import env_name
    from .options import DEFAULT_NAMESRV

    say("\n  in another terminal:")
    if DEFAULT_NAMESRV not in namesrv_addr.split(";"):
        say(f"    export {env_name('namesrv_addr')}='{namesrv_addr}'")
    say("    rmq-redis send hello 'first message'")
    say("    rmq-redis consume hello")
    say("  Ctrl-C stops everything; the data stays\n")
