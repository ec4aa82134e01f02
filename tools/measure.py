"""Measures the structure of the package: ``python tools/measure.py [DIRECTORY]`` prints one figure per line.

The tests of ``tests/unit/test_structure.py`` hold some of these figures at zero; the others are for comparing commits.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

WIRE_LITERAL = re.compile(r"[a-z]+(?:[A-Z][a-z0-9]*)+")
LAYERS = (
    ("cli", "__main__"),
    ("labs", "testing", "idempotent"),
    ("localcluster",),
    ("nameserver", "broker", "client"),
    ("store", "remoting"),
    ("plugins", "hookspecs", "interceptors", "guards"),
    ("protocol",),
    ("model", "config", "runtime", "data_dir", "hosts", "background"),
    ("errors",),
    ("codes", "durations", "file_lock", "child_guard", "counted_warning"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
ROLES = frozenset({"nameserver", "broker", "client"})


class Module:
    """A parsed file of the package."""

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path
        self.name = ".".join(path.relative_to(root).with_suffix("").parts)
        self.room = self.name.partition(".")[0]
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

    def literals(self, pattern: re.Pattern[str]) -> int:
        """Strings that match as a whole; docstrings and messages never do."""
        constants = (node.value for node in ast.walk(self.tree) if isinstance(node, ast.Constant))
        return sum(isinstance(value, str) and pattern.fullmatch(value) is not None for value in constants)

    def imports(self) -> set[str]:
        """First-level names of the package that this file imports."""
        package = self.name.split(".")[:-1]
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - node.level + 1]
                full = [*base, *(node.module or "").split(".")] if node.module else base
                found |= {full[0]} if full else {alias.name for alias in node.names if alias.name in RANK}
        return found - {self.room, ""}


def load(root: Path) -> list[Module]:
    """The modules under ``root``, in the order of their paths."""
    return [Module(root, path) for path in sorted(root.rglob("*.py"))]


def upward_arrows(modules: list[Module]) -> list[str]:
    """Imports from a lower layer to a higher one, or from one role to another."""
    arrows = []
    for module in modules:
        for target in sorted(module.imports()):
            between_roles = module.room in ROLES and target in ROLES
            if RANK.get(target, -1) < RANK.get(module.room, -1) or between_roles:
                arrows.append(f"{module.name} -> {target}")
    return arrows


def sleeping_loops(modules: list[Module]) -> list[str]:
    """``while True`` with a sleep, outside ``background.py``: such a loop ends with its first error."""
    found = []
    for module in modules:
        if module.name == "background":
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value is True:
                calls = (call.func for call in ast.walk(node) if isinstance(call, ast.Call))
                if any(isinstance(call, ast.Attribute) and call.attr == "sleep" for call in calls):
                    found.append(f"{module.name}:{node.lineno}")
    return found


def replaced_methods(modules: list[Module]) -> list[str]:
    """Methods that are replaced on an object, by what mypy and this project call it."""
    return [f"{m.name}: {found}" for m in modules for found in re.findall(r"method-assign|def attach\w*", m.text)]


def literals_outside_protocol(modules: list[Module], pattern: re.Pattern[str]) -> dict[str, int]:
    """Number of literals per module outside ``protocol`` and ``model``, which define them."""
    counts = {m.name: m.literals(pattern) for m in modules if m.room not in ("protocol", "model", "codes")}
    return {name: count for name, count in counts.items() if count}


def property_literal(modules: list[Module]) -> re.Pattern[str]:
    """Matches the name of any message property that the package has a constant for.

    WAIT is also a command of Redis, DELAY a message type.
    """
    text = "\n".join(module.text for module in modules if module.room in ("protocol", "model"))
    names = set(re.findall(r'^PROPERTY_\w+ = "(\w+)"', text, re.M)) - {"WAIT", "DELAY"}
    return re.compile("|".join(sorted(names)))


def constants_without_reason(modules: list[Module]) -> int:
    """Numeric constants of modules with neither a comment, nor a docstring behind them."""
    count = 0
    for module in modules:
        body = module.tree.body
        for node, after in zip(body, [*body[1:], None], strict=False):
            if not isinstance(node, ast.Assign | ast.AnnAssign) or not _is_number(node.value):
                continue
            has_docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            around = module.lines[max(0, node.lineno - 2) : node.end_lineno]
            count += not has_docstring and not any("#" in line for line in around)
    return count


def _is_number(value: ast.expr | None) -> bool:
    if isinstance(value, ast.BinOp):
        return _is_number(value.left) and _is_number(value.right)
    return (
        isinstance(value, ast.Constant) and isinstance(value.value, int | float) and not isinstance(value.value, bool)
    )


def main(root: Path) -> None:
    modules = load(root)
    lengths = [(f.end_lineno or 0) - f.lineno + 1 for m in modules for f in m.functions()]
    parameters = [len(f.args.args + f.args.kwonlyargs + f.args.posonlyargs) for m in modules for f in m.functions()]
    lines = sum(len(m.lines) for m in modules)
    wire = literals_outside_protocol(modules, WIRE_LITERAL)
    properties = literals_outside_protocol(modules, property_literal(modules))
    figures = {
        "files / lines": f"{len(modules)} / {lines}",
        "functions over 40 lines / over 60": f"{sum(n > 40 for n in lengths)} / {sum(n > 60 for n in lengths)}",
        "files over 400 lines": sum(len(m.lines) > 400 for m in modules),
        "largest parameter list": max(parameters),
        "'is not None' per 1,000 lines": f"{1000 * sum(m.text.count('is not None') for m in modules) / lines:.1f}",
        "camelCase literals outside protocol": sum(wire.values()),
        "property literals outside protocol": sum(properties.values()),
        "loops with a sleep outside background.py": len(sleeping_loops(modules)),
        "methods replaced at run time": len(replaced_methods(modules)),
        "upward package arrows": len(upward_arrows(modules)),
        "numeric constants without a reason": constants_without_reason(modules),
    }
    for name, figure in figures.items():
        print(f"{name:<42} {figure}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "rmq_redis"))
