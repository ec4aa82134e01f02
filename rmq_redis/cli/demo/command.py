"""``rmq-redis demo``: a whole cluster, a producer, two consumers, thousands of events, and what became of them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from ..options import Json, LogLevel, flag, option
from ..output import EXIT_ERROR
from ..posix import require_posix

RATE = 2000.0
TOPIC = "orders"
GROUP = "order-services"


def demo(
    file: Annotated[
        Path | None,
        option(
            "--file",
            "-f",
            help="Your own events: one JSON object a line.",
            exists=True,
            dir_okay=False,
            show_default="the order events of examples/orders.jsonl",
        ),
    ] = None,
    key_field: Annotated[
        str, option("--key-field", help="Field to shard by: events with the same value stay in order.")
    ] = "order_id",
    rate: Annotated[
        float, option("--rate", help="Events to send per second; 0: as fast as it goes.", min=0.0, metavar="N")
    ] = RATE,
    json: Json = False,
    log_level: LogLevel = "info",
    pause_after_ready: Annotated[
        bool, flag("--pause-after-ready", help="Wait for a line on standard input before sending.", hidden=True)
    ] = False,
) -> None:
    """See it work: order events through a whole cluster, and what became of them.

    Starts a Redis server, two NameServers and two broker groups, each with a master and a slave, in a temporary
    directory and on free ports. One producer process sends the events, sharded by order, and two consumer processes of
    one group handle them. Kill a NameServer meanwhile (kill -9, the process ids are shown): the others go on.

    The exit code is 0 when every event arrived and every order's events were handled in order.
    """
    require_posix("demo")
    from ...runtime import run, setup_logging
    from ..orders import KEY_FIELD, SEQ_FIELD
    from .report import check_file
    from .run import run_demo
    from .view import View
    from .worker import WorkerSettings

    setup_logging("debug" if log_level == "debug" else "error")
    view = View(json)
    directory = Path(tempfile.mkdtemp(prefix="rmq-redis-demo-"))
    keep = False
    try:
        path = file or _order_events(directory)
        events = check_file(path, key_field)
        settings = WorkerSettings(
            namesrv_addr="",
            topic=TOPIC,
            group=GROUP,
            path=str(path.absolute()),
            key_field=key_field,
            seq_field=SEQ_FIELD if file is None and key_field == KEY_FIELD else None,
            rate=rate,
            log_level=log_level,
        )
        keep = True  # what is in the logs may say why, if it ends here
        result = run(run_demo(view, directory, settings, events, pause_after_ready))
        keep = result is not None and not result.ok
        if result is None:
            sys.exit(EXIT_ERROR)
        view.show(result, "orders" if settings.seq_field else "keys", rate)
        if keep:
            view.say(f"the logs are in {directory / 'logs'}")
            sys.exit(EXIT_ERROR)
    finally:
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)


def _order_events(directory: Path) -> Path:
    """The file beside the source, or the same stream made anew where only the package is installed."""
    from ..orders import json_lines

    path = Path(__file__).parents[2] / "examples" / "orders.jsonl"
    if not path.exists():
        path = directory / "orders.jsonl"
        path.write_text(json_lines())
    return path
