"""Fixtures for driving unmodified third-party clients; see README.md in this directory."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("interop_support", "scenarios")

from interop_support import (  # noqa: E402
    ClientUnavailableError,
    Cluster,
    Driver,
    RemotingError,
    cache_dir,
    has_route,
    install,
    prepared_dir,
    require_program,
)
from java_support import apache_jars, driver_or_skip, require_java  # noqa: E402

START_DEADLINE_S = 60.0
APACHE_START_DEADLINE_S = 180.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def terminate(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The NameServer of RMQ_INTEROP_NAMESRV if that is set, else a cluster of ours in a process of its own."""
    external = os.environ.get("RMQ_INTEROP_NAMESRV")
    if external:
        yield Cluster(namesrv_addr=external, is_external=True)
        return
    data_dir = tmp_path_factory.mktemp("interop-cluster")
    port = free_port()
    log_path = data_dir / "up.stderr"
    command = [sys.executable, "-m", "rmq_redis", "up", "--namesrvs", "1", "--namesrv-port", str(port)]
    command += ["--brokers", "1", "--slaves", "0", "--broker-port", "0", "--data-dir", str(data_dir / "data")]
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    printed: list[str] = []
    ready = threading.Event()

    def read(lines: Iterator[str]) -> None:
        for line in lines:  # to the end: a full pipe would stop the cluster
            printed.append(line)
            if line.startswith("ready"):
                ready.set()

    reader = threading.Thread(target=read, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        for _ in range(int(START_DEADLINE_S * 10)):
            if ready.wait(0.1) or process.poll() is not None:
                break
        if not ready.is_set():
            pytest.fail(
                f"`rmq_redis up` was not ready, exit status {process.poll()}\n{''.join(printed[-20:])}\n"
                f"{log_path.read_text()[-3000:]}"
            )
        yield Cluster(namesrv_addr=f"127.0.0.1:{port}", is_external=False)
    finally:
        terminate(process)
        reader.join(5)
        process.stdout.close()


# ---- Apache's own servers


def free_apache_ports() -> tuple[int, int]:
    """One for the NameServer, one for a broker, which also takes the ports two below (fast) and one above (HA).

    Below the ports that systems give to outgoing connections, as it takes seconds until they are listened on.
    """
    for _ in range(1000):
        base = random.randrange(12000, 32000)
        try:
            for port in range(base, base + 5):
                with socket.socket() as listener:
                    listener.bind(("", port))
        except OSError:
            continue
        return base, base + 3
    pytest.fail("no free ports for Apache RocketMQ")


@pytest.fixture(scope="session")
def apache_namesrv_addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The NameServer of RMQ_INTEROP_NAMESRV if that is set, else one of Apache's with a broker, started here."""
    external = os.environ.get("RMQ_INTEROP_NAMESRV")
    if external:
        yield external
        return
    try:
        jars = apache_jars()
    except ClientUnavailableError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("apache")
    namesrv_port, broker_port = free_apache_ports()
    address = f"127.0.0.1:{namesrv_port}"
    (home / "conf").mkdir()
    (home / "conf" / "namesrv.conf").write_text(f"listenPort={namesrv_port}\nbindAddress=127.0.0.1\n")
    (home / "conf" / "broker.conf").write_text(
        f"{(jars / 'broker.conf').read_text()}\nnamesrvAddr={address}\nlistenPort={broker_port}\n"
        f"storePathRootDir={home / 'store'}\nstorePathCommitLog={home / 'store' / 'commitlog'}\n"
    )
    options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Duser.home={home}"]
    # By default a broker refuses messages on a disk that is 90% full.
    options += ["-Drocketmq.broker.diskSpaceWarningLevelRatio=0.99"]
    options += [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.nio", "sun.nio.ch")]
    options += ["--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED", "-cp", f"{home / 'conf'}:{jars / 'lib'}/*"]
    memory = {
        "namesrv": ["-Xms128m", "-Xmx256m"],
        "broker": ["-Xms384m", "-Xmx768m", "-XX:MaxDirectMemorySize=512m"],
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, limits in memory.items():
            main = f"org.apache.rocketmq.{name}.{name.capitalize()}Startup"
            with (home / f"{name}.out").open("w") as output:
                processes[name] = subprocess.Popen(
                    ["java", *limits, *options, main, "-c", str(home / "conf" / f"{name}.conf")],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "ROCKETMQ_HOME": str(home)},
                )
        wait_for_apache(Cluster(address, is_external=True), processes, home)
        yield address
    finally:
        for name in reversed(processes):
            terminate(processes[name])
        shutil.rmtree(home / "store", ignore_errors=True)


def wait_for_apache(cluster: Cluster, processes: Mapping[str, subprocess.Popen[bytes]], home: Path) -> None:
    """Until the broker has registered the topic that lets others be created."""
    end = time.monotonic() + APACHE_START_DEADLINE_S
    while time.monotonic() < end and all(process.poll() is None for process in processes.values()):
        try:
            if has_route(cluster, "TBW102"):
                return
        except (OSError, RemotingError):
            pass  # it does not listen yet
        time.sleep(0.2)
    logs = [*sorted(home.glob("*.out")), *sorted(home.glob("logs/rocketmqlogs/*.log"))]
    tails = [f"---- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in logs if log.stat().st_size]
    states = {name: process.poll() for name, process in processes.items()}
    pytest.fail(f"Apache RocketMQ was not ready, exit status {states}\n" + "\n".join(tails), pytrace=False)


# ---- clients


def build_node_driver() -> Driver:
    require_program("node", "npm")

    def npm_install(directory: Path) -> None:
        install("ali-ons", [["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]], cwd=directory)

    return Driver(["node", str(prepared_dir("node", npm_install) / "driver.js")])


def java_command() -> list[str]:
    """How to call a class of the Java client, of its tools or of the driver."""
    require_java("javac")

    def maven(directory: Path) -> None:
        command = ["mvn", "-q", "-B", "compile", "dependency:copy-dependencies", "-DincludeScope=runtime"]
        install("Java client", [command], cwd=directory)

    target = prepared_dir("java", maven) / "target"
    options = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Duser.home={cache_dir() / 'home'}"]
    return ["java", *options, "-cp", f"{target / 'classes'}:{target / 'dependency'}/*"]


def build_java_driver() -> Driver:
    return Driver([*java_command(), "interop.Driver"])


@pytest.fixture(scope="session")
def mqadmin(cluster: Cluster) -> Callable[..., str]:
    """Runs one command of RocketMQ's mqadmin; what it printed."""
    try:
        java = java_command()
    except ClientUnavailableError as error:
        pytest.skip(str(error))
    command = [*java, f"-Drocketmq.namesrv.addr={cluster.namesrv_addr}"]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*command, "org.apache.rocketmq.tools.command.MQAdminStartup", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=float(os.environ.get("RMQ_INTEROP_RUN_DEADLINE_S", "180")),
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=False,
        )
        # It ends with 0 whatever happens, and prints the stack of an error.
        assert "Exception" not in done.stdout, f"mqadmin {' '.join(arguments)}\n{done.stdout}"
        return done.stdout

    return run


def build_go_driver() -> Driver:
    if os.environ.get("RMQ_INTEROP_GO") != "1":
        raise ClientUnavailableError("RMQ_INTEROP_GO=1 is not set (make interop sets it)")
    require_program("go")

    def go_build(directory: Path) -> None:
        install("Go client", [["go", "build", "-mod=readonly", "-o", "driver", "."]], cwd=directory)

    return Driver([str(prepared_dir("go", go_build) / "driver")])


def build_cpp_driver() -> Driver:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise ClientUnavailableError("librocketmq is on PyPI for Linux on x86_64 only")

    def pip_install(directory: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install"]
        if importlib.util.find_spec("pip") is None:  # an environment made by uv
            require_program("uv")
            pip = ["uv", "pip", "install", "--python", sys.executable]
        arguments = ["--only-binary", ":all:", "--target", "packages", "--requirement", "requirements.txt"]
        install("client-cpp", [[*pip, *arguments]], cwd=directory)

    directory = prepared_dir("cpp", pip_install)
    home = cache_dir() / "home"
    home.mkdir(exist_ok=True)
    return Driver(
        [sys.executable, str(directory / "driver.py")],
        env={"PYTHONPATH": str(directory / "packages"), "HOME": str(home)},
        consumer_options={"properties": "shop,a"},
    )


@pytest.fixture(scope="session")
def node_driver() -> Driver:
    return driver_or_skip(build_node_driver)


@pytest.fixture(scope="session")
def java_driver() -> Driver:
    return driver_or_skip(build_java_driver)


@pytest.fixture(scope="session")
def go_driver() -> Driver:
    return driver_or_skip(build_go_driver)


@pytest.fixture(scope="session")
def cpp_driver() -> Driver:
    return driver_or_skip(build_cpp_driver)
