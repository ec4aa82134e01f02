"""The packages under plugins/ and the generated skeleton: their tests pass in a fresh environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rmq_redis import hookspecs
from rmq_redis.cli import create_app
from rmq_redis.cli import plugin as plugin_command
from rmq_redis.cli.plugin_options import take_plugin_options
from rmq_redis.config import BrokerConfig, ClientConfig, NameServerConfig
from rmq_redis.errors import ConfigError
from rmq_redis.plugins.template import write_plugin

app = create_app()

ROOT = Path(__file__).parents[3]
PACKAGES = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))


def run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with all packages and a skeleton installed; it sees what this one has, but for plugins."""
    base = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", base / "venv")
    site = Path(run(base / "venv/bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "ours.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    skeleton = base / "my-team-lb"
    write_plugin("my-team-lb", skeleton)
    install = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation")
    run(*install, "--target", site, *PACKAGES, skeleton, PIP_DISABLE_PIP_VERSION_CHECK="1")
    return base / "venv/bin/python"


def test_repository_has_three_plugin_packages() -> None:
    assert len(PACKAGES) == 3


@pytest.mark.parametrize("package", [path.name for path in PACKAGES])
def test_package_tests_pass_as_run_by_its_readme(python: Path, package: str) -> None:
    where = ROOT / "plugins" / package
    assert "python -m pytest" in (where / "README.md").read_text()
    out = run(python, "-m", "pytest", "-p", "no:cacheprovider", cwd=where, PYTHONDONTWRITEBYTECODE="1")
    assert f"rootdir: {where}" in out  # not this repository, whose settings need more than the package's extra brings


def test_every_hook_that_offers_names_is_listed_under_its_setting() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("register_")} - {"register_commands"}
    settings = {field.name for kind in (NameServerConfig, BrokerConfig, ClientConfig) for field in fields(kind)}
    assert set(plugin_command.PICKED_BY) == hooks
    assert set(plugin_command.PICKED_BY.values()) <= settings


def test_generated_skeleton_passes_its_tests(python: Path) -> None:
    skeleton = python.parent.parent.parent / "my-team-lb"
    assert {path.name for path in skeleton.iterdir()} >= {"pyproject.toml", "README.md", "my_team_lb.py"}
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_team_lb.py", cwd=skeleton)


def test_installed_plugins_are_listed_with_origin_version_hooks_and_offers(python: Path) -> None:
    found = {item["name"]: item for item in json.loads(run(python, "-m", "rmq_redis", "plugins", "list", "--json"))}
    assert found["my-team-lb"] == {
        "name": "my-team-lb",
        "origin": "package my-team-lb",
        "version": "0.1.0",
        "hooks": ["register_queue_selectors"],
        "offers": {"load_balancer": ["MY_TEAM_LB"]},
    }
    assert found["zone-affinity"]["offers"] == {"load_balancer": ["ZONE_AFFINITY"], "route_filter": ["ZONE_AFFINITY"]}
    assert found["canary"]["hooks"] == [
        "register_allocate_strategies",
        "register_interceptors",
        "register_queue_selectors",
    ]
    text = run(python, "-m", "rmq_redis", "plugin", "list")
    assert "least-backlog  (package rmq-redis-least-backlog 0.1.0)" in text
    assert "load_balancer: ROUND_ROBIN" in text


def test_local_plugin_adds_commands_and_strategies(tmp_path: Path) -> None:
    (tmp_path / "local_one.py").write_text(
        "from rmq_redis import hookimpl\n\n\n@hookimpl\ndef register_commands(app):\n"
        "    @app.command()\n    def hello():\n        print('hello from a plugin')\n"
    )
    command = (sys.executable, "-m", "rmq_redis")
    assert run(*command, "hello", "--plugin", "local_one.py", cwd=tmp_path) == "hello from a plugin\n"
    assert "hello" in run(*command, "--plugin", "local_one", "--help", cwd=tmp_path, COLUMNS="100")
    (tmp_path / "broken_one.py").write_text("1 / 0\n")
    done = subprocess.run(
        [*command, "plugin", "list", "--plugin=broken_one.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "plugin broken_one.py cannot be loaded: ZeroDivisionError" in done.stderr


def test_plugin_options_are_accepted_in_any_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMQ_REDIS_PLUGIN", "first")
    assert take_plugin_options(["send", "--plugin", "a:b", "T", "--plugin=c.py", "--", "--plugin"]) == [
        "send",
        "T",
        "--",
        "--plugin",
    ]
    assert os.environ["RMQ_REDIS_PLUGIN"] == "first;a:b;c.py"


def test_skeleton_does_not_overwrite_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plugin", "new", "lb", "--directory", str(tmp_path / "lb")])
    assert result.exit_code == 0, result.output
    with pytest.raises(ConfigError, match="is not empty"):
        write_plugin("lb", tmp_path / "lb")
    with pytest.raises(ConfigError, match="no package name"):
        write_plugin("-x", tmp_path / "x")


@pytest.mark.parametrize("name", ["json", "JSON", "asyncio", "sys", "class", "pytest", "rmq-redis", "redis", "typing"])
def test_skeleton_name_that_hides_a_module_is_refused(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plugin", "new", name, "--directory", str(tmp_path / "new")])
    assert isinstance(result.exception, ConfigError)
    assert "choose another name" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_plugin_file_overrides_the_installed_package_of_its_name(python: Path, tmp_path: Path) -> None:
    file = tmp_path / "rmq_redis_least_backlog.py"
    file.write_text(
        "from rmq_redis import hookimpl\n\n\n@hookimpl\ndef register_queue_selectors():\n"
        "    return {'LEAST_BACKLOG': lambda: lambda queues, message, key: queues[0]}\n"
    )
    for spec in (str(file), "./rmq_redis_least_backlog.py"):
        listed = run(python, "-m", "rmq_redis", "plugin", "list", "--json", "--plugin", spec, cwd=tmp_path)
        found = [item for item in json.loads(listed) if "LEAST_BACKLOG" in item["offers"].get("load_balancer", [])]
        assert [item["origin"] for item in found] == [f"--plugin {spec}"]
    listed = run(python, "-m", "rmq_redis", "plugin", "list", "--json")
    assert "package rmq-redis-least-backlog" in {item["origin"] for item in json.loads(listed)}
