"""``rmq-redis run``: an ``App`` until it is stopped."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..config import env_name
from ..errors import ConfigError
from .options import LogLevel, argument, option
from .output import say
from .posix import require_posix

if TYPE_CHECKING:
    from ..client.app import App

_POLL_S = 0.1
_WORKER_DRAIN_S = 60.0
"""How long the running handlers of a worker may take when the process that started it is gone."""


def run(
    target: Annotated[
        str, argument(help="`module:attribute`, the attribute is `app` if it is left out.", metavar="MODULE:APP")
    ],
    namesrv: Annotated[
        str,
        option(
            "--namesrv",
            "-n",
            help="NameServers, for an app that names none itself",
            setting="namesrv_addr",
            metavar="ADDRS",
        ),
    ] = "",
    workers: Annotated[int, option("--workers", help="Processes that run it.", min=1)] = 1,
    log_level: LogLevel = "info",
) -> None:
    """Run an application until Ctrl-C or SIGTERM.

    Then its consumers stop to pull, running handlers are waited for, offsets are committed, and the groups are left;
    a second signal ends it at once.
    """
    from ..runtime import run as run_loop
    from ..runtime import setup_logging

    setup_logging(log_level)
    if namesrv:
        os.environ[env_name("namesrv_addr")] = namesrv  # read when the module makes its App
    app = load_app(target)
    if workers > 1:
        sys.exit(_run_workers(target, workers, log_level))
    run_loop(app.serve(lambda: say(f"app {app.name} runs, pid {os.getpid()}")))


def load_app(target: str) -> App:
    """The ``App`` that ``module:attribute`` names; the current directory is searched first.

    Raises:
        ConfigError: there is none; the text names the nearest.
    """
    from ..client.app import App

    module_name, _, attribute = target.partition(":")
    if module_name.endswith(".py") or not all(part.isidentifier() for part in module_name.split(".")):
        hint = f"; did you mean {Path(module_name).stem}:{attribute or 'app'}?" if module_name.endswith(".py") else ""
        raise ConfigError(f"{target!r} is no module:attribute{hint}")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(f"{module_name} cannot be imported: {error}") from error
        raise ConfigError(f"there is no module {error.name!r} in {os.getcwd()}{_did_you_mean(error.name)}") from None
    except Exception as error:
        raise ConfigError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    names = sorted(name for name, value in vars(found).items() if isinstance(value, App))
    for part in (attribute or "app").split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, names, 1, 0.4) or names
            hint = f"; did you mean {module_name}:{close[0]}?" if close else "; it has no rmq_redis.App at all"
            raise ConfigError(f"module {module_name!r} has no {part!r}{hint}") from None
    if not isinstance(found, App):
        hint = f"; did you mean {module_name}:{names[0]}?" if names else ""
        raise ConfigError(f"{target} is a {type(found).__name__}, no rmq_redis.App{hint}")
    return found


def _did_you_mean(module_name: str) -> str:
    here = [path.stem for path in Path.cwd().glob("*.py")]
    here += [path.parent.name for path in Path.cwd().glob("*/__init__.py")]
    close = difflib.get_close_matches(module_name, here, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _run_workers(target: str, workers: int, log_level: str) -> int:
    """Runs the app in processes of its own; signals go to all of them. One that ends by itself ends the others.

    Returns:
        0 when all ended in order after a signal, else the first other exit code.
    """
    require_posix("run --workers")
    from ..child_guard import end_with_parent

    command = [sys.executable, "-m", "rmq_redis", "run", target, "--log-level", log_level]
    # Sessions of their own: a terminal's Ctrl-C reaches them once, from here, and not twice.
    children = [
        subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=end_with_parent(_WORKER_DRAIN_S),  # noqa: PLW1509  (no threads here)
        )
        for _ in range(workers)
    ]
    stopping = False

    def forward(number: int, _frame: Any = None) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    failed = 0
    while any(child.poll() is None for child in children):
        for child in children:
            try:
                code = child.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue
            failed = failed or code
            if not stopping:  # a worker that dies is a failure of the whole: whoever supervises us starts it again
                failed = failed or 1
                forward(signal.SIGTERM)
    return failed if failed >= 0 else 128 - failed
