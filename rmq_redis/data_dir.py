"""Where a user's data goes: below the home directory, and what to do where there is none (containers)."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from .errors import ConfigError

logger = logging.getLogger(__name__)


def user_data_dir(setting: str) -> Path:
    """``$XDG_DATA_HOME/rmq-redis``, else ``~/.local/share/rmq-redis``; it is not created here.

    Without a home directory that can be written: ``rmq-redis-<user id>`` in the temporary directory, with a warning.

    Args:
        setting: what else names a directory, for warnings and errors.

    Raises:
        ConfigError: that one belongs to another user.
    """
    base = os.environ.get("XDG_DATA_HOME")
    if base:
        return Path(base) / "rmq-redis"
    home = _home()
    if home is not None and _can_be_made(home / ".local" / "share" / "rmq-redis"):
        return home / ".local" / "share" / "rmq-redis"
    directory = _temporary_directory(setting)
    logger.warning(
        "no home directory that can be written (HOME=%r): the data is in %s; set %s to keep it elsewhere",
        os.environ.get("HOME", ""),
        directory,
        setting,
    )
    return directory


def expand_user(path: Path | str, setting: str) -> Path:
    """The path with ``~`` replaced. Raises ConfigError, which names the setting, where there is no home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{setting}={str(path)!r}: the home directory is unknown; set HOME or give a path without ~"
        ) from None


def _home() -> Path | None:
    home = os.environ.get("HOME", "")
    if home:
        return Path(home)
    try:
        if os.name != "posix":
            return Path.home()
        import pwd

        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except (RuntimeError, KeyError, ImportError, AttributeError):  # a user id without an entry, or no user ids at all
        return None


def _can_be_made(directory: Path) -> bool:
    while not directory.exists():
        directory = directory.parent
    return os.access(directory, os.W_OK | os.X_OK)


def _temporary_directory(setting: str) -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    directory = Path(tempfile.gettempdir()) / f"rmq-redis-{user}"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        is_ours = not hasattr(os, "getuid") or directory.lstat().st_uid == os.getuid()
    except OSError:
        is_ours = False
    if not is_ours or directory.is_symlink():
        raise ConfigError(
            f"there is no home directory that can be written, and {directory} cannot be used: set {setting} to a "
            "directory that can be written"
        )
    return directory
