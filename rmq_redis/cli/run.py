"""``rmq-redis run``: run an ``App``."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

from ..config import env_name
from ..errors import ConfigError
from . import lazy
from .options import LogLevel, argument, option
from .output import EXIT_ERROR, say
from .posix import require_posix

_POLL_S = 0.1
"""A worker that ends is noticed within this time."""
_WORKER_DRAIN_S = 60.0
"""Time for the running handlers of a worker whose parent process has died."""


def run(
    target: Annotated[str, argument(help="`module:attribute`; default attribute: `app`.", metavar="MODULE:APP")],
    namesrv: Annotated[
        str,
        option(
            "--namesrv",
            "-n",
            help="NameServers, for an app that does not set them.",
            setting="namesrv_addr",
            metavar="ADDRS",
        ),
    ] = "",
    workers: Annotated[int, option("--workers", help="Number of processes.", min=1, metavar="N")] = 1,
    log_level: LogLevel = "info",
) -> None:
    """Run an application until Ctrl-C or SIGTERM.

    Then its consumers stop pulling, wait for running handlers, commit their offsets and leave their groups. A second
    signal stops it at once.
    """
    lazy.setup_logging(log_level)
    if namesrv:
        os.environ[env_name("namesrv_addr")] = namesrv  # read when the module creates its App
    app = load_app(target)
    if workers > 1:
        sys.exit(_run_workers(target, workers, log_level))
    lazy.run(app.serve(lambda: say(f"app {app.name} runs, pid {os.getpid()}")))


def load_app(target: str) -> lazy.App:
    """The ``App`` that ``module:attribute`` names; the current directory is searched first.

    Raises:
        ConfigError: the module or the attribute does not exist, or is not an ``App``; the text suggests one.
    """
    module_name, _, attribute = target.partition(":")
    if module_name.endswith(".py") or not all(part.isidentifier() for part in module_name.split(".")):
        hint = f"; did you mean {Path(module_name).stem}:{attribute or 'app'}?" if module_name.endswith(".py") else ""
        raise ConfigError(f"{target!r}: give module:attribute{hint}")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(f"{module_name} cannot be imported: {error}") from error
        raise ConfigError(f"there is no module {error.name!r} in {os.getcwd()}{_did_you_mean(error.name)}") from None
    except Exception as error:
        raise ConfigError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    names = sorted(name for name, value in vars(found).items() if isinstance(value, lazy.App))
    for part in (attribute or "app").split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, names, 1, 0.4) or names
            hint = f"; did you mean {module_name}:{close[0]}?" if close else "; it has no rmq_redis.App"
            raise ConfigError(f"module {module_name!r} has no {part!r}{hint}") from None
    if not isinstance(found, lazy.App):
        hint = f"; did you mean {module_name}:{names[0]}?" if names else ""
        raise ConfigError(f"{target} is a {type(found).__name__}, not a rmq_redis.App{hint}")
    return found


def _did_you_mean(module_name: str) -> str:
    here = [path.stem for path in Path.cwd().glob("*.py")]
    here += [path.parent.name for path in Path.cwd().glob("*/__init__.py")]
    close = difflib.get_close_matches(module_name, here, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _run_workers(target: str, workers: int, log_level: str) -> int:
    """Runs the app in several processes, which get our signals. If one ends by itself, the others are stopped.

    Returns:
        0 if all ended well after a signal, else the first other exit code.
    """
    require_posix("run --workers")
    children = [_start_worker(target, log_level) for _ in range(workers)]
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
            if not stopping:  # fail as a whole, so that a supervisor restarts all
                failed = failed or EXIT_ERROR
                forward(signal.SIGTERM)
    return failed if failed >= 0 else 128 - failed


def _start_worker(target: str, log_level: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "rmq_redis", "run", target, "--log-level", log_level],
        start_new_session=True,  # else a terminal's Ctrl-C would reach it twice
        preexec_fn=lazy.end_with_parent(_WORKER_DRAIN_S),  # noqa: PLW1509  (no threads here)
    )
