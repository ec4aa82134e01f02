"""The options of the commands, and those that come from the configuration classes."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer
from cli_commands import commands_of
from typer.testing import CliRunner

from rmq_redis import __version__, cli
from rmq_redis.cli import create_app, lazy
from rmq_redis.cli.broker import ALIASES as BROKER_ALIASES
from rmq_redis.cli.nameserver import ALIASES as NAMESRV_ALIASES
from rmq_redis.cli.option_groups import Settings, with_option_groups
from rmq_redis.cli.options import SETTINGS, LogLevel
from rmq_redis.config import BrokerConfig, NameServerConfig, env_name
from rmq_redis.errors import RemotingError

app = create_app()

runner = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
COMMANDS = [
    ["up"],
    ["demo"],
    ["namesrv"],
    ["broker"],
    ["send"],
    ["consume"],
    *(["topic", command] for command in ("list", "show", "route", "create", "delete")),
]


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("RMQ_REDIS_"):
            monkeypatch.delenv(name)


def options_of(path: tuple[str, ...], command: Any) -> Iterator[Any]:
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            yield parameter


def test_every_command_has_help_and_only_settings_have_variables() -> None:
    found = dict(commands_of(typer.main.get_command(app)))
    assert {tuple(command) for command in COMMANDS} <= set(found)
    for path, command in found.items():
        assert command.help, path
        for parameter in options_of(path, command):
            assert parameter.help, (path, parameter.name)
            if parameter.envvar is not None:
                assert str(parameter.envvar).removeprefix("RMQ_REDIS_").lower() in SETTINGS, (path, parameter.name)
        if path in (("namesrv",), ("broker",)):
            assert all(parameter.envvar for parameter in options_of(path, command))


MEANINGS = {
    "-a": "--all",
    "-d": "--directory",
    "-f": "--file",
    "-g": "--group",
    "-h": "--help",
    "-i": "--msg-id",
    "-n": "--namesrv",
    "-p": "--property",
    "-q": "--queues",
    "-t": "--topic",
    "-v": "--verbose",
    "-y": "--yes",
}


def test_short_option_has_one_meaning_in_all_commands() -> None:
    for path, command in commands_of(typer.main.get_command(app)):
        for parameter in options_of(path, command):
            for short in (name for name in parameter.opts if not name.startswith("--")):
                if short == "-k":  # the key of a message, or several of them
                    assert {"--key", "--keys"} & set(parameter.opts), path
                else:
                    assert MEANINGS[short] in parameter.opts, path


def test_option_has_one_meaning_in_all_commands() -> None:
    """The words may differ, the kind of value does not; sharding keys are never just keys."""
    kinds: dict[str, set[tuple[Any, ...]]] = {}
    for path, command in commands_of(typer.main.get_command(app)):
        for parameter in options_of(path, command):
            for name in (name for name in parameter.opts if name.startswith("--")):
                kinds.setdefault(name, set()).add((parameter.is_flag, parameter.count))
                if name in ("--key", "--keys"):
                    assert parameter.help.startswith("Message key"), path
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


DESTRUCTIVE = [
    ["topic", "delete", "t"],
    ["group", "delete", "g"],
    ["offset", "reset", "g", "t", "--to", "last"],
    ["offset", "reset", "g", "t", "--to", "first", "--only-back"],
    ["dlq", "resend", "g", "--all"],
    ["dlq", "resend", "g", "--all", "--again"],
]


@pytest.mark.parametrize("command", DESTRUCTIVE, ids=" ".join)
@pytest.mark.parametrize("answer", ["", "y\n"])
def test_without_a_terminal_destructive_commands_need_yes(command: list[str], answer: str) -> None:
    variables = {"RMQ_REDIS_YES": "1", "RMQ_REDIS_FORCE": "1", "RMQ_REDIS_ALL": "1", "RMQ_REDIS_DRY_RUN": "1"}
    result = runner.invoke(app, [*command, "-n", "127.0.0.1:1"], input=answer, env=variables)
    assert result.exit_code == 2
    assert "give --yes" in " ".join(result.output.replace("│", " ").split())
    for flag in ("--yes", "-y", "--dry-run"):  # it goes on, and finds no NameServer
        assert isinstance(runner.invoke(app, [*command, flag, "-n", "127.0.0.1:1"]).exception, RemotingError)


def test_only_settings_are_read_from_the_environment() -> None:
    names = ["JSON", "ALL", "YES", "FORCE", "MAX", "TIMEOUT", "GROUP", "TAGS", "CLUSTER_NAME", "DIRECTORY", "SEED"]
    variables = {f"RMQ_REDIS_{name}": "7" for name in names}
    shown = runner.invoke(app, ["plugin", "list"], env=variables)
    assert shown.output == runner.invoke(app, ["plugin", "list"]).output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_is_shown(command: list[str]) -> None:
    for flag in ("--help", "-h"):
        shown = runner.invoke(app, [*command, flag])
        assert shown.exit_code == 0
        assert "Usage:" in shown.output


@pytest.mark.parametrize(
    ("config_type", "aliases"), [(NameServerConfig, NAMESRV_ALIASES), (BrokerConfig, BROKER_ALIASES)]
)
def test_every_setting_is_an_option_with_its_default_variable_and_help(
    config_type: type, aliases: dict[str, tuple[str, ...]]
) -> None:
    made = probe(config_type, aliases)
    options = {parameter.name: parameter for parameter in typer.main.get_command(made.app).params}  # type: ignore[attr-defined]
    for field in dataclasses.fields(config_type):
        option = options[field.name]
        assert "--" + field.name.replace("_", "-") in option.opts
        assert set(aliases.get(field.name, ())) <= set(option.opts)
        default = str(field.default).lower() if isinstance(field.default, bool) else field.default
        assert (option.envvar, option.default, option.help) == (env_name(field.name), default, field.metadata["help"])
    result = runner.invoke(made.app, [])
    assert result.exit_code == 0, result.output
    assert made.configs == [config_type()]


class probe:  # noqa: N801  (reads as a function)
    """A command that remembers the configurations it was given."""

    def __init__(self, config_type: Any, aliases: dict[str, tuple[str, ...]]) -> None:
        self.configs: list[Any] = []
        self.levels: list[str] = []

        def command(*, config: Any, log_level: LogLevel = "info") -> None:
            """Remembers."""
            self.configs.append(config)
            self.levels.append(log_level)

        command.__annotations__["config"] = Annotated[config_type, Settings(aliases)]
        self.app = typer.Typer()
        self.app.command()(with_option_groups(command))


def test_flag_overrides_variable_and_variable_overrides_default() -> None:
    made = probe(BrokerConfig, BROKER_ALIASES)
    variables = {"RMQ_REDIS_BROKER_NAME": "from-env", "RMQ_REDIS_ZONE": "z", "RMQ_REDIS_AUTO_CREATE_TOPIC_ENABLE": "no"}
    arguments = ["--name", "from-flag", "--id", "3", "-n", "h:1", "--port", "0", "--max-message-bytes", "7"]
    result = runner.invoke(made.app, [*arguments, "--log-level", "debug"], env=variables)
    assert result.exit_code == 0, result.output
    assert made.configs == [
        BrokerConfig(
            broker_name="from-flag",
            broker_id=3,
            namesrv_addr="h:1",
            listen_port=0,
            max_message_bytes=7,
            zone="z",
            auto_create_topic_enable=False,
        )
    ]
    assert made.levels == ["debug"]


def test_invalid_value_is_a_usage_error_that_names_the_variable() -> None:
    result = runner.invoke(app, ["broker"], env={"RMQ_REDIS_LISTEN_PORT": "many"})
    assert result.exit_code == 2
    assert "RMQ_REDIS_LISTEN_PORT" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["broker", "--auto-create-topic-enable", "perhaps"],
        ["up", "--brokers", "0"],
        ["up", "--namesrvs", "many"],
        ["send"],
        ["send", "t", "x", "--file", "f"],
        ["send", "t", "x", "--property", "no-equals-sign"],
        ["consume", "t", "--from", "middle"],
        ["consume", "t", "--max", "0"],
        ["topic", "create", "t", "--perm", "x"],
        ["topic", "create", "t", "--queues", "0"],
        ["demo", "--file", "/no/such/file"],
        ["topic", "create", "a b"],
        ["topic", "delete", "a/b", "--yes"],
        ["group", "set", "a b", "--retry-max-times", "1"],
        ["group", "delete", "a b", "--yes"],
        ["offset", "reset", "g", "a b", "--to", "first", "--yes"],
        ["dlq", "list", "a b"],
        ["consume", "t", "--group", "a b"],
        ["message", "show", "no-id"],
        ["message", "query", "a b", "--key", "k"],
        ["message", "at", "t", "broker-a", "-1", "0"],
        ["group", "set", "g", "--retry-delays", "soon"],
    ],
    ids=" ".join,
)
def test_usage_error_exits_with_2_and_a_clear_message(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert "Error" in result.output or "Usage" in result.output


def test_version_and_completion_are_printed() -> None:
    assert runner.invoke(app, ["--version"]).output == f"rmq-redis {__version__}\n"
    assert "--install-completion" in runner.invoke(app, ["--help"]).output


def test_names_are_not_truncated_in_a_help_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in (["consume"], ["group", "set"], ["topic", "create"], ["namesrv"], ["dlq", "resend"], ["up"]):
        monkeypatch.setattr(sys, "argv", ["rmq-redis", *command, "--help"])
        with pytest.raises(SystemExit):
            cli.main()
        text = capsys.readouterr().out.replace("S,S,…", "")
        assert "--help" in text
        assert "…" not in text, command


def test_help_loads_only_required_modules() -> None:
    heavy = ["asyncio", "redis", "uvloop", "tenacity", "pluggy", "rich", "rmq_redis.broker", "subprocess"]
    code = "import sys, typer; before = set(sys.modules); import rmq_redis.cli; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(heavy) & set(done.stdout.split()) == set()


def test_command_loads_only_its_own_file() -> None:
    code = "import sys; from rmq_redis import cli; sys.argv = ['rmq-redis', 'topic', 'list', '--help']; cli.main()"
    check = "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules)); "
    done = subprocess.run([sys.executable, "-c", check + code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("LOADED ")[2].split())
    assert "rmq_redis.cli.topic" in loaded
    assert loaded & {f"rmq_redis.cli.{name}" for name in ("broker", "group", "send", "simulate", "plugin")} == set()
    assert "List the topics." in done.stdout


def test_single_subcommand_equals_that_of_the_whole_command_line() -> None:
    for path, _ in commands_of(typer.main.get_command(app)):
        name, subcommand = (*path, "")[:2]
        single = dict(commands_of(typer.main.get_command(create_app([name], subcommand))))
        assert path in single
        assert runner.invoke(create_app([name], subcommand), [*path, "--help"]).exit_code == 0


def test_running_the_module_runs_the_command() -> None:
    module = importlib.import_module("rmq_redis.__main__")
    assert inspect.getmodule(module.main).__name__ == "rmq_redis.cli"  # type: ignore[union-attr]


def test_every_lazy_name_loads_and_is_declared_for_the_type_checker() -> None:
    tree = ast.parse(inspect.getsource(lazy))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {
        alias.asname for node in block.body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names
    }
    assert declared == {*lazy._HOME, *lazy._MODULES}
    for name in declared:
        assert getattr(lazy, str(name))
