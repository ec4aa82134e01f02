"""What a user gets: the source distribution, and the image that compose.yaml builds."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ESSENTIAL = [
    "compose.yaml",
    "Dockerfile",
    "Makefile",
    ".ci/run",
    "README.md",
    "README.zh-CN.md",
    "CHANGELOG.md",
    "LICENSE",
]
PINNED = re.compile(r"[\w./-]+:\d+\.\d+\.\d+\S*")


def test_source_distribution_carries_everything_that_its_pages_name(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    scripts = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("benchmarks/*"), *ROOT.glob("examples/*.py")]
        if path.is_file()
    }
    assert {*ESSENTIAL, *scripts} - names == set()


def test_image_runs_as_ordinary_user_on_pinned_tags() -> None:
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
