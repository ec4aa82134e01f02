"""A stranger's package, installed into a fresh environment, in processes: NameServer, producer, consumer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from cli_support import CliProcess, run_cli

ROOT = Path(__file__).parent.parent.parent
PACKAGE = """
import os
from rmq_redis import hookimpl
from rmq_redis.model import TopicRouteData


def note(text):
    with open(os.environ["STRANGER_NOTES"], "a") as notes:
        print(text, os.getpid(), file=notes)


def last_queue(queues, message, key):
    return queues[-1]


def one_after_the_other(group, cid, mq_all, cid_all):
    note("allocated")
    return mq_all[cid_all.index(cid)::len(cid_all)]


def without_broker_b(request, route):
    if request.topic != "T":
        return route
    note("route")
    return TopicRouteData(
        [broker for broker in route.broker_datas if broker.broker_name != "broker-b"],
        [queue for queue in route.queue_datas if queue.broker_name != "broker-b"],
    )


@hookimpl
def register_queue_selectors():
    return {"STRANGE": lambda: last_queue}


@hookimpl
def register_allocate_strategies():
    return {"STRANGE": one_after_the_other}


@hookimpl
def register_route_filters():
    return {"STRANGE": lambda: without_broker_b}


@hookimpl
def role_started(role):
    note(f"{role} started")
"""
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "a-stranger"
version = "7.0"
[project.entry-points.rmq_redis]
stranger = "a_stranger"
[tool.hatch.build.targets.wheel]
include = ["a_stranger.py"]
"""


def fresh_environment(base: Path) -> Path:
    """A Python that sees what this one has, and the package, which this one has not."""
    package = base / "package"
    package.mkdir()
    (package / "a_stranger.py").write_text(PACKAGE)
    (package / "pyproject.toml").write_text(PYPROJECT)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    python = base / "venv/bin/python"
    show = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip())
    (site / "ours.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    install: list[str | Path] = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
        site,
        package,
    ]
    subprocess.run([sys.executable, *install], check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    return python


def test_installed_plugin_package_is_used_in_every_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = fresh_environment(tmp_path)
    notes = tmp_path / "notes"
    notes.touch()
    unknown = run_cli("send", "T", "x", "--load-balancer", "STRANGE", "-n", "127.0.0.1:1")
    assert unknown.returncode == 2
    assert "load_balancer='STRANGE' is unknown" in unknown.stderr
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("STRANGER_NOTES", str(notes))

    def cli(*arguments: str) -> str:
        done = run_cli(*arguments, RMQ_REDIS_ALLOCATE_STRATEGY="strange")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "stranger  (package a-stranger 7.0)" in cli("plugins", "list")
    numbers = ("--namesrvs", "1", "--brokers", "2", "--slaves", "0", "--namesrv-port", "0", "--broker-port", "0")
    with CliProcess("up", *numbers, "--data-dir", str(tmp_path / "data"), RMQ_REDIS_ROUTE_FILTER="strange") as cluster:
        address = cluster.wait_until_ready()
        cli("topic", "create", "T", "--queues", "4", "-n", address)
        send = ("--load-balancer", "strange", "--json", "-n", address)
        sent = [json.loads(cli("send", "T", f"m{number}", *send)) for number in range(3)]
        assert {(item["broker_name"], item["queue_id"]) for item in sent} == {("broker-a", 3)}
        assert cli("consume", "T", "--max", "3", "--timeout", "50", "-n", address).split() == ["m0", "m1", "m2"]
    told = notes.read_text()
    for text in ("namesrv started", "broker started", "producer started", "consumer started", "route", "allocated"):
        assert text in told, told
