"""The Lua of the server-side functions, as text: it compiles, keeps to the server's globals, and says what it takes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from importlib.resources import files

import pytest
from lupa import lua51

from rmq_redis.store.redis import functions
from rmq_redis.store.redis.functions import GROWING, NAMES, READ_ONLY, UNFENCED, library, script, source

SUBJECTS = sorted(path.name[:-4] for path in files(functions).iterdir() if path.name.endswith(".lua"))
SERVER_GLOBALS = {"redis", "ipairs", "math", "string", "tonumber", "tostring", "type", "unpack"}
GET_GLOBAL, SET_GLOBAL = 5, 7
DEFINED = re.compile(r"^(?:--.*\n)*local function (\w+)\(", re.MULTILINE)


class Bytecode:
    """The opcodes and constants of a chunk, by the format of Lua 5.1's ``string.dump`` on this machine."""

    def __init__(self, text: str) -> None:
        runtime = lua51.LuaRuntime(encoding=None)
        chunk = runtime.eval(b"function(text) return string.dump(assert(loadstring(text))) end")(text.encode())
        assert chunk[:5] == b"\x1bLua\x51"
        self.size_t = "Q" if chunk[8] == 8 else "I"
        self.data, self.at = chunk, 12

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from("=" + form, self.data, self.at)
        self.at += struct.calcsize("=" + form)
        return value

    def text(self) -> str:
        size = self.take(self.size_t)
        self.at += size
        return self.data[self.at - size : self.at - 1].decode("latin-1") if size else ""

    def constant(self) -> object:
        kind = self.take("B")
        return {0: lambda: None, 1: lambda: self.take("B"), 3: lambda: self.take("d"), 4: self.text}[kind]()

    def globals(self) -> Iterator[tuple[int, str]]:
        """(opcode, name) of every access to a global, in this function and those inside it."""
        self.text()
        self.at += 2 * 4 + 4
        code = [self.take("I") for _ in range(self.take("i"))]
        constants = [self.constant() for _ in range(self.take("i"))]
        for instruction in code:
            if instruction & 0x3F in (GET_GLOBAL, SET_GLOBAL):
                yield instruction & 0x3F, str(constants[instruction >> 14])
        for _ in range(self.take("i")):
            yield from self.globals()
        lines = self.take("i")
        self.at += 4 * lines
        for _ in range(self.take("i")):
            self.text()
            self.at += 8
        for _ in range(self.take("i")):
            self.text()


def accesses(text: str) -> tuple[set[str], set[str]]:
    found = list(Bytecode(text).globals())
    return (
        {name for opcode, name in found if opcode == GET_GLOBAL},
        {name for opcode, name in found if opcode == SET_GLOBAL},
    )


def test_library_uses_only_the_globals_of_the_server() -> None:
    read, assigned = accesses(library().partition("\n")[2])
    assert read - SERVER_GLOBALS == set()
    assert assigned == set()


@pytest.mark.parametrize("name", NAMES)
def test_script_has_every_function_that_it_calls(name: str) -> None:
    read, assigned = accesses(script(name))
    assert read - SERVER_GLOBALS - {"KEYS", "ARGV"} == set()
    assert assigned == set()


def test_globals_of_nested_functions_are_found() -> None:
    text = "local a = b\nreturn function(x) local function f() c = a + x + 1.5 end return f, d.e, nil, true, 'g' end"
    assert accesses(text) == ({"b", "d"}, {"c"})


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_lua_file_documents_its_subject_and_arguments(subject: str) -> None:
    text = source(subject)
    Bytecode(text)
    assert text.startswith("-- ")
    for match in DEFINED.finditer(text):
        assert match[0].startswith("--"), match[1]
        if match[1] in NAMES:
            assert "-- keys: " in match[0], match[1]
            assert "args: " in match[0] or match[1] == "queue_info", match[1]


def test_every_file_is_part_of_the_library_and_every_name_is_unique() -> None:
    defined = [name for subject in SUBJECTS for name in DEFINED.findall(source(subject))]
    assert len(set(defined)) == len(defined)
    assert set(NAMES) <= set(defined)
    assert library().count("register_function") == len(set(NAMES)) == len(NAMES)
    for name in defined:
        assert f"local function {name}(" in library()


def test_sets_of_functions_name_existing_ones() -> None:
    assert (READ_ONLY | UNFENCED | GROWING) - set(NAMES) == set()
