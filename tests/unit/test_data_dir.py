"""Where a user's data goes with and without a home directory."""

from __future__ import annotations

import logging
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from rmq_redis.cli.output import fail
from rmq_redis.client.consume.local_offsets import store_path
from rmq_redis.data_dir import expand_user, user_data_dir
from rmq_redis.errors import ConfigError


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No HOME, and a user id that nobody knows; the temporary directory is a new one."""

    def unknown(user_id: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user_id}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def deny_writes_to(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != directory and access(path, mode))


@pytest.mark.parametrize("home", [None, "", "{root}", "{root}/nonexistent"])
def test_without_writable_home_a_directory_of_the_user_is_used(
    monkeypatch: pytest.MonkeyPatch, no_home: Path, home: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    root = no_home / "root"
    root.mkdir()
    if home is not None:
        home = home.format(root=root)
        monkeypatch.setenv("HOME", home)
    deny_writes_to(monkeypatch, root)
    with caplog.at_level(logging.WARNING):
        found = user_data_dir("--data-dir")
    assert found == no_home / f"rmq-redis-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    assert f"(HOME={home or ''!r}): the data is in {found}; set --data-dir to keep it elsewhere" in caplog.text
    assert store_path("") == found / "offsets"


def test_writable_home_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "made" / "later"))
    assert user_data_dir("x") == tmp_path / "made" / "later" / ".local" / "share" / "rmq-redis"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert user_data_dir("x") == tmp_path / "data" / "rmq-redis"


def test_directory_of_another_user_is_refused(no_home: Path) -> None:
    (no_home / f"rmq-redis-{os.getuid()}").symlink_to("/")
    with pytest.raises(ConfigError, match="cannot be used: set offset_store_path to a directory"):
        store_path("")


def test_tilde_without_a_home_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(ConfigError, match="offset_store_path='~/offsets': the home directory is unknown; set HOME"):
        store_path("~/offsets")
    assert expand_user("/data", "--data-dir") == Path("/data")


def test_missing_package_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(ModuleNotFoundError("No module named 'async_timeout'", name="async_timeout"))
    text = capsys.readouterr().err
    assert text.startswith("error: the package 'async_timeout' is not installed for Python 3.")
    assert "-m pip install rmq-redis" in text
    assert "internal error" not in text
