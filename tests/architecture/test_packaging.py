"""The wheel, the names in it, and the lock."""

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("bus", "connectors", "services", "schemas")
DATA = {".avsc", ".toml", ".json", ".hex"}
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> set[str]:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_four_packages_with_their_data_and_nothing_else(shipped):
    tops = {name.split("/")[0] for name in shipped}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    present = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and (path.suffix in DATA or path.suffix == ".py")
    }
    assert present <= shipped, sorted(present - shipped)
    assert {"schemas/canon/customer.avsc", "bus/embedded/jars.lock.json", "schemas/manifest.schema.json"} <= shipped


def test_the_wheel_declares_the_command(shipped):
    assert PROJECT["scripts"] == {"bus": "bus.cli.main:main"}
    assert any(name.endswith(".dist-info/entry_points.txt") for name in shipped)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_provides_our_names(package):
    owners = importlib.metadata.packages_distributions().get(package, [])
    assert set(owners) <= {PROJECT["name"]}
    assert Path(importlib.import_module(package).__file__).is_relative_to(ROOT)


def test_the_lock_pins_and_hashes_what_the_project_asks_for_and_names_no_host():
    text = (ROOT / "requirements.lock").read_text()
    pins = {canonicalize_name(name): version for name, version in PIN.findall(text)}
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)], prereleases=True), f"{line}: `make lock`"
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) == len(PIN.findall(text))
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text
    assert "--index" not in text


def test_what_is_imported_is_declared():
    done = subprocess.run(
        [sys.executable, "-m", "deptry", "--no-ansi", "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_help_explains_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: ([a-z-]+)$", text, re.MULTILINE)) - {"format-check"}
    done = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == targets
    assert {"venv", "check", "test", "lint", "types", "golden", "schemas", "demo", "up", "bench", "clean", "lock"} <= targets
