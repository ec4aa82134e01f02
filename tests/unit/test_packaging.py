"""What a user gets: the distributions, and the image that compose.yaml builds."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ESSENTIAL = [
    "compose.yaml",
    "Dockerfile",
    "Makefile",
    ".ci/run",
    ".luacheckrc",
    "README.md",
    "README.zh-CN.md",
    "CHANGELOG.md",
    "LICENSE",
]
PINNED = re.compile(r"[\w./-]+:\d+\.\d+\.\d+\S*")


LUA = {str(path.relative_to(ROOT)) for path in ROOT.glob("rmq_redis/**/*.lua")}


def build(target: str, directory: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)], cwd=ROOT, check=True
    )
    (archive,) = (path for path in directory.iterdir() if path.is_file())
    return archive


def test_wheel_contains_the_server_side_functions(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        assert LUA
        assert LUA - set(wheel.namelist()) == set()


def test_source_distribution_contains_every_documented_file(tmp_path: Path) -> None:
    archive = build("sdist", tmp_path)
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    scripts = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("benchmarks/*"), *ROOT.glob("examples/*.py")]
        if path.is_file()
    }
    assert {*ESSENTIAL, *scripts, *LUA} - names == set()


def test_image_runs_as_unprivileged_user_on_pinned_tags() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert PINNED.fullmatch(base), base
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    foreign = {service["image"] for service in services if "build" not in service}
    assert foreign
    assert [image for image in foreign if not PINNED.fullmatch(image)] == []
