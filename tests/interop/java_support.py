"""What the drivers of Java clients need."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from interop_support import (
    ClientUnavailableError,
    Driver,
    install,
    prepared_dir,
    require_program,
)


def apache_jars() -> Path:
    """The directory of the pom, with the jars below lib."""
    require_java()
    shown = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', shown)
    if version is None or int(version[1]) < 17:
        raise ClientUnavailableError(f"Apache RocketMQ is tried on Java 17 and newer, here is: {shown.strip()}")

    def maven(directory: Path) -> None:
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib"]
        install("Apache RocketMQ", [command], cwd=directory)

    return prepared_dir("apache", maven)


def driver_or_skip(build: Callable[[], Driver]) -> Driver:
    try:
        return build()
    except ClientUnavailableError as error:
        pytest.skip(str(error))


def require_java(*programs: str) -> None:
    if os.environ.get("RMQ_INTEROP_JAVA") != "1":
        raise ClientUnavailableError("RMQ_INTEROP_JAVA=1 is not set (make interop sets it)")
    require_program("java", "mvn", *programs)
