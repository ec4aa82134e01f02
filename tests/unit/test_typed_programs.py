"""Type checkers find what users get wrong, and nothing in what is right."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rmq_redis.client.admin.admin import AsyncAdmin
from rmq_redis.client.app import App
from rmq_redis.client.consume.pull import AsyncPullConsumer
from rmq_redis.client.consume.push import AsyncPushConsumer
from rmq_redis.client.consume.simple import AsyncSimpleConsumer
from rmq_redis.client.core import settings
from rmq_redis.client.produce.producer import AsyncProducer
from rmq_redis.client.produce.transaction import AsyncTransactionProducer
from rmq_redis.config import ClientConfig

PROGRAMS = Path(__file__).parent / "typed_programs"


def mypy(program: Path, directory: Path) -> dict[int, str]:
    """The errors of ``mypy --strict`` by line."""
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={directory}", str(program)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode in (0, 1), result.stdout + result.stderr
    errors = re.findall(r"^.*?(\w+\.py):(\d+): error: (.*)$", result.stdout, re.MULTILINE)
    assert {name for name, _, _ in errors} <= {program.name}, result.stdout
    return {int(line): text for _, line, text in errors}


def pyright(program: Path, directory: Path) -> dict[int, str]:
    """The errors of pyright's strict mode by line."""
    (directory / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "reportUnusedExpression": False})
    )
    copied = directory / program.name
    copied.write_text(program.read_text())
    result = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(copied)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=directory,
    )
    found = json.loads(result.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1: one["message"] for one in found if one["severity"] == "error"}


CHECKERS = [pytest.param(mypy, "mypy", id="mypy"), pytest.param(pyright, "basedpyright", id="pyright")]


@pytest.mark.parametrize(("check", "package"), CHECKERS)
@pytest.mark.parametrize("name", ["right.py", "wrong.py"])
def test_type_checker_reports_exactly_the_marked_lines(
    check: Callable[[Path, Path], dict[int, str]], package: str, name: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    program = PROGRAMS / name
    lines = enumerate(program.read_text().splitlines(), 1)
    marked = {number for number, line in lines if "# error" in line}
    assert bool(marked) == (name == "wrong.py")
    found = check(program, tmp_path)
    assert set(found) == marked, found


def test_typed_settings_equal_the_configuration_fields() -> None:
    expected = dict(settings.hints_of(ClientConfig))
    del expected["namesrv_addr"]  # a parameter of its own
    assert settings.hints_of(settings.ClientSettings) == expected


@pytest.mark.parametrize(
    ("kind", "options", "own"),
    [
        (AsyncProducer, settings.ProducerOptions, ("group",)),
        (AsyncTransactionProducer, settings.TransactionProducerOptions, ("group", "listener")),
        (AsyncPushConsumer, settings.PushConsumerOptions, ("group",)),
        (AsyncPullConsumer, settings.PullConsumerOptions, ("group",)),
        (AsyncSimpleConsumer, settings.SimpleConsumerOptions, ("group",)),
        (AsyncAdmin, settings.ClientSettings, ()),
    ],
)
def test_typed_options_equal_the_constructor_parameters(kind: type, options: type, own: tuple[str, ...]) -> None:
    names = set(inspect.signature(kind).parameters) - {"namesrv_addr", "config", "settings", *own}
    assert names == set(settings.hints_of(options)) - set(settings.hints_of(settings.ClientSettings))


def test_app_handler_options_equal_those_of_a_push_consumer() -> None:
    mine = set(settings.hints_of(settings.ConsumeOptions))
    assert set(settings.hints_of(settings.PushConsumerOptions)) - mine == {"plugins", "interceptors"}
    assert "options" in inspect.signature(App.consumer).parameters
