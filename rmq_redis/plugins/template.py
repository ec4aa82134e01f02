"""The skeleton of a plugin package that ``rmq-redis plugin new`` writes: it works, and its tests pass, as it is."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path

from ..errors import ConfigError

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"

[project]
name = "{package}"
version = "0.1.0"
description = "A load balancer for rmq-redis"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["rmq-redis"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points.rmq_redis]
{package} = "{module}"

[tool.hatch.build.targets.wheel]
include = ["{module}.py"]

[tool.pytest.ini_options]
addopts = "-ra"
"""

_MODULE = '''\
"""A load balancer for rmq-redis: messages with a key stay together, the others go to the queues in turn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import count

from rmq_redis import Message, MessageQueue, hookimpl
from rmq_redis.plugins.hookspecs import QueueSelector


class {class_name}:
    """Called for every message, in the event loop: be quick, do not block. The result must be one of ``queues``."""

    by_key = True  # ask this selector, not HASH, for messages that are sent with key=...

    def __init__(self) -> None:
        self._turn = count()

    def __call__(self, queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
        number = next(self._turn) if key is None else zlib.crc32(key.encode())
        return queues[number % len(queues)]


@hookimpl
def register_queue_selectors() -> Mapping[str, Callable[[], QueueSelector]]:
    """Asked once per producer. The name is what ``load_balancer=...`` picks."""
    return {{"{strategy}": {class_name}}}
'''

_TEST = '''\
"""Tests of {module}: as a function, by its name, and as an installed package."""

from __future__ import annotations

from importlib.metadata import entry_points

import {module}
from rmq_redis import Message, MessageQueue
from rmq_redis.plugins.manager import create_plugin_manager, queue_selector

QUEUES = [MessageQueue("T", broker, number) for broker in ("broker-a", "broker-b") for number in range(4)]


def selector():
    return queue_selector("{strategy}", create_plugin_manager(plugins=({module},)))


def test_every_queue_gets_its_share():
    select = selector()
    chosen = [select(QUEUES, Message("T", b"x"), None) for _ in range(16)]
    assert sorted(chosen) == sorted(QUEUES * 2)


def test_messages_of_one_key_stay_together():
    select = selector()
    assert len({{select(QUEUES, Message("T", b"x"), "order-7") for _ in range(9)}}) == 1


def test_the_installed_package_is_found():
    assert [point.value for point in entry_points(group="rmq_redis") if point.name == "{package}"] == ["{module}"]
    assert queue_selector("{strategy}", create_plugin_manager(installed=True))
'''

_README = """\
# {package}

A load balancer for rmq-redis, `{strategy}`.

    pip install -e '.[test]'
    python -m pytest
    rmq-redis plugin list
    rmq-redis send --load-balancer {strategy} orders hello

In code: `Producer("group", load_balancer="{strategy}")`. All hooks are in `rmq_redis.plugins.hookspecs`.
"""


def _taken_by(module: str) -> str:
    """What a new module of this name would hide or be hidden by; "" if it is free."""
    if keyword.iskeyword(module):
        return "a keyword of Python"
    if module in sys.stdlib_module_names:
        return "a module of Python's standard library"
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    if found is None or found.origin is None:  # a directory that happens to be called so is no module
        return ""
    return f"an installed module ({found.origin})"


def write_plugin(name: str, directory: Path) -> list[Path]:
    """Writes the package ``name`` into a new directory ``directory``; the files.

    Raises:
        ConfigError: the name is none of a package or is that of another module, or the directory has files already.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*", name):
        raise ConfigError(f"{name!r} is no package name: letters and digits, in words joined by - or _")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty; choose another --directory")
    module = name.replace("-", "_").lower()
    taken = _taken_by(module)
    if taken:
        raise ConfigError(f"{name!r} cannot be the name of a plugin: {module} is {taken}; choose another name")
    names = {
        "package": name,
        "module": module,
        "class_name": "".join(word.capitalize() for word in module.split("_")),
        "strategy": module.upper(),
    }
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"{module}.py": _MODULE,
        f"test_{module}.py": _TEST,
    }
    written = []
    for file_name, text in files.items():
        written.append(directory / file_name)
        written[-1].write_text(text.format(**names))
    return written
