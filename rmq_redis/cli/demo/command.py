"""``rmq-redis demo``: a cluster, a producer, two consumers, thousands of events, and a check of the result."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from .. import lazy
from ..options import Json, LogLevel, flag, option
from ..orders import KEY_FIELD, SEQ_FIELD, json_lines
from ..output import EXIT_ERROR
from ..posix import require_posix

if TYPE_CHECKING:
    from .view import View
    from .worker import WorkerSettings

RATE = 2000.0
TOPIC = "orders"
GROUP = "order-services"


def demo(
    file: Annotated[
        Path | None,
        option(
            "--file",
            "-f",
            help="Your own events, one JSON object per line.",
            exists=True,
            dir_okay=False,
            show_default="order events, as in examples/orders.jsonl",
        ),
    ] = None,
    key_field: Annotated[
        str, option("--key-field", help="Field to shard by: events with the same value stay in order.")
    ] = KEY_FIELD,
    rate: Annotated[
        float, option("--rate", help="Events to send per second; 0: no limit.", min=0.0, metavar="N")
    ] = RATE,
    json: Json = False,
    log_level: LogLevel = "info",
    pause_after_ready: Annotated[
        bool, flag("--pause-after-ready", help="Wait for a line on standard input before sending.", hidden=True)
    ] = False,
) -> None:
    """Send order events through a cluster and check that all arrive in order.

    Starts a Redis server, two NameServers and two broker groups, each with a master and a slave, in a temporary
    directory and on free ports. A producer process sends the events, sharded by order; two consumer processes of one
    group handle them. Try it: kill a NameServer with kill -9 (the process ids are printed); nothing stops.

    Exit code 0: every event arrived, and the events of each order were handled in order.
    """
    require_posix("demo")
    lazy.setup_logging("debug" if log_level == "debug" else "error")
    view = lazy.View(json)
    directory = Path(tempfile.mkdtemp(prefix="rmq-redis-demo-"))
    keep = False
    try:
        path = file or _order_events(directory)
        events = lazy.check_file(path, key_field)
        settings = lazy.WorkerSettings(
            namesrv_addr="",
            topic=TOPIC,
            group=GROUP,
            path=str(path.absolute()),
            key_field=key_field,
            seq_field=SEQ_FIELD if file is None and key_field == KEY_FIELD else None,
            rate=rate,
            log_level=log_level,
        )
        keep = True  # the logs show why, if it ends here
        keep = not _run(view, directory, settings, events, pause_after_ready)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    if keep:
        sys.exit(EXIT_ERROR)


def _run(view: View, directory: Path, settings: WorkerSettings, events: int, pause: bool) -> bool:
    """Runs and shows the demo; returns whether its result is right. Exits if it was interrupted."""
    result = lazy.run(lazy.run_demo(view, directory, settings, events, pause))
    if result is None:
        shutil.rmtree(directory, ignore_errors=True)
        sys.exit(EXIT_ERROR)
    view.show(result, "orders" if settings.seq_field else "keys", settings.rate)
    if not result.ok:
        view.say(f"the logs are in {directory / 'logs'}")
    return result.ok


def _order_events(directory: Path) -> Path:
    """The file in the source tree; generated if only the package is installed."""
    path = Path(__file__).parents[3] / "examples" / "orders.jsonl"
    if not path.exists():
        path = directory / "orders.jsonl"
        path.write_text(json_lines())
    return path
