"""The server-side functions: what must happen atomically, and only while this master is the group's master.

Each ``.lua`` file holds one subject; a comment above each function names its keys and arguments. The files are joined
to one library of Redis Functions under a name that contains a digest of its text, so brokers of two versions can share
a server. Servers without functions (fakeredis in unit tests) get the same functions by EVAL.

A function gets the group's epoch as first key and the caller's as first argument, and runs only if they are equal (see
``fenced`` in ``shared.lua``), unless it is one of ``UNFENCED``.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

READ_ONLY = frozenset({"due", "memory_usage", "queue_info"})
UNFENCED = READ_ONLY | {"take_lease", "claim_slave_id"}
"""Those that read, and those that decide who is the master."""
GROWING = frozenset({"append", "give_back", "prepare", "schedule"})
"""Those that store messages, which a server out of memory (``maxmemory``) refuses. All others go on: offsets are
committed, the oldest messages removed, due ones moved."""

_HELPERS = ("shared", "repeats")
_SUBJECTS = ("lease", "queues", "config", "offsets", "schedule", "transactions", "pop", "pop_order")
_FUNCTION = re.compile(r"^local function (\w+)\(.*?^end$", re.MULTILINE | re.DOTALL)
_EXPORTS = re.compile(r"^return \{(.*)\}$", re.MULTILINE)
_CALLED = re.compile(r"\b\w+(?=\()")


def source(subject: str) -> str:
    """The text of one ``.lua`` file."""
    return files(__name__).joinpath(f"{subject}.lua").read_text(encoding="utf-8")


def _functions_of(subject: str) -> dict[str, str]:
    return {match[1]: match[0] for match in _FUNCTION.finditer(source(subject))}


def _exports_of(subject: str) -> list[str]:
    names: str
    (names,) = _EXPORTS.findall(source(subject))
    return names.split(", ")


_TEXTS = {name: text for subject in (*_HELPERS, *_SUBJECTS) for name, text in _functions_of(subject).items()}
"""The functions in the order of their definition: one calls only those before it."""
NAMES = tuple(name for subject in _SUBJECTS for name in _exports_of(subject))


def _callback(name: str) -> str:
    return name if name in UNFENCED else f"fenced({name})"


def _library(digest: str) -> str:
    parts = [f"#!lua name=rmq_redis_{digest}", *_TEXTS.values()]
    for name in NAMES:
        flags = "" if name in GROWING else f", flags = {{'{'no-writes' if name in READ_ONLY else 'allow-oom'}'}}"
        registered = f"function_name = 'rmq_{name}_{digest}', callback = {_callback(name)}{flags}"
        parts.append(f"redis.register_function{{{registered}}}")
    return "\n".join(parts)


_DIGEST = hashlib.sha1(_library("").encode()).hexdigest()[:10]
LIBRARY_NAME = f"rmq_redis_{_DIGEST}"


def function_name(name: str) -> str:
    """The name under which a function is registered at the server."""
    return f"rmq_{name}_{_DIGEST}"


def library() -> str:
    """Text of the library, for FUNCTION LOAD REPLACE."""
    return _library(_DIGEST)


@cache
def script(name: str) -> str:
    """A function for EVAL, with those that it calls."""
    end = f"return {_callback(name)}(KEYS, ARGV)"
    needed, parts = {name, *_CALLED.findall(end)}, [end]
    for called, text in reversed(_TEXTS.items()):
        if called in needed:
            needed.update(_CALLED.findall(text))
            parts.append(text)
    return "\n".join(reversed(parts))
