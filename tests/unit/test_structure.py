"""The structure of the package, as ``tools/measure.py`` sees it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure", ROOT / "tools" / "measure.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["measure"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def modules(measure: ModuleType) -> list[Any]:
    found: list[Any] = measure.load(ROOT / "rmq_redis")
    return found


def test_imports_point_downward_and_roles_are_independent(measure: ModuleType, modules: list[Any]) -> None:
    assert measure.upward_arrows(modules) == []


def test_every_package_belongs_to_a_layer(measure: ModuleType, modules: list[Any]) -> None:
    rooms = {module.room for module in modules}
    assert rooms - {"__init__"} == set(measure.RANK)


def test_only_the_store_and_two_helpers_import_redis(modules: list[Any]) -> None:
    users = {m.room for m in modules if "import redis" in m.text or "from redis" in m.text}
    assert users <= {"store", "testing", "idempotent", "labs"}


def test_periodic_loops_are_background_tasks(measure: ModuleType, modules: list[Any]) -> None:
    assert measure.sleeping_loops(modules) == []


def test_no_method_is_replaced_at_run_time(measure: ModuleType, modules: list[Any]) -> None:
    assert measure.replaced_methods(modules) == []


def test_wire_names_are_used_only_in_protocol(measure: ModuleType, modules: list[Any]) -> None:
    wire = measure.literals_outside_protocol(modules, measure.WIRE_LITERAL)
    assert sum(wire.values()) < 10, wire
    assert measure.literals_outside_protocol(modules, measure.property_literal(modules)) == {}


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("rmq_redis.guards", "rmq_redis.plugins.guards", "allocation_error"),
        ("rmq_redis.store.locate", "rmq_redis.store.redis.locate", "locator"),
        ("rmq_redis.client.sync", "rmq_redis.client.blocking", "background_loop"),
        ("rmq_redis.client.dead_letters", "rmq_redis.client.admin.dead_letters", "DeadLetters"),
    ],
)
def test_old_import_paths_work_with_a_deprecation_warning(old: str, new: str, name: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {new}"):
        module = importlib.import_module(old)
    assert getattr(module, name).__module__.startswith(new)
