"""The code stays tidy. Every rule has a twin that breaks it."""

import json
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from tests.architecture.tidiness import RULES, named_systems

ROOT = Path(__file__).parents[2]
SHIPPED = ("bus", "connectors", "services", "schemas")
FILES = sorted(
    path.relative_to(ROOT) for package in SHIPPED for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts
)
SYSTEMS = sorted(path.name for path in (ROOT / "connectors").iterdir() if path.is_dir() and path.name.isidentifier())
FILE_BYTES_MAX = 1024 * 1024
REGISTRIES = "|".join(["pypi", "pythonhosted", "maven", "npmjs", r"crates\.io", r"golang\.org"])
PACKAGE_HOST = re.compile(rf'https?://[^ "\']*({REGISTRIES})[^ "\']*', re.IGNORECASE)
MACHINE_PATH = re.compile(r"(?:^|[^\w.])/(?:" + "|".join(["work", "farm"]) + r")/[A-Za-z.]", re.MULTILINE)
"""Folders of the machines that this is written on."""

LONG = "def f():\n" + "    x = 1\n" * 70
TWINS = [
    ("long_functions", "services/sinks/app.py", LONG),
    ("long_functions", "connectors/acme/connector.py", "async def f():\n" + "    x = 1\n" * 60),
    ("long_files", "bus/core/money.py", "x = 1\n" * 651),
    ("long_files", "connectors/acme/mapping.py", "x = 1\n" * 401),
    ("banned_words", "bus/core/money_utils.py", ""),
    ("banned_words", "bus/core/money.py", "class TapReader: ..."),
    ("banned_words", "bus/core/money.py", "def f(bookmark): ..."),
    ("banned_words", "bus/core/money.py", "poison_count = 1"),
    ("banned_calls", "bus/core/money.py", "print(1)"),
    ("banned_calls", "bus/core/money.py", "import time\ntime.sleep(1)"),
    ("banned_calls", "bus/core/money.py", "from time import sleep"),
    ("banned_calls", "bus/core/money.py", "try:\n    x = 1\nexcept:\n    x = 2"),
    ("banned_calls", "connectors/acme/mapping/order.py", "x = float('1')"),
    ("ownerless_todos", "bus/core/money.py", "x = 1  # TODO later"),
]


@pytest.mark.parametrize("rule", RULES)
def test_the_code_keeps_the_rule(rule):
    found = [f"{file}:{offence}" for file in FILES for offence in RULES[rule](PurePosixPath(file), (ROOT / file).read_text())]
    assert found == []


@pytest.mark.parametrize(("rule", "file", "text"), TWINS)
def test_a_broken_twin_is_seen(rule, file, text):
    assert list(RULES[rule](PurePosixPath(file), text))


def test_every_rule_has_a_twin():
    assert {rule for rule, _, _ in TWINS} == set(RULES)


def test_lawful_code_is_left_alone():
    text = "from email.utils import parsedate\nx = 1  # TODO(anna, 2026-11-30): ask the vendor\nfloat('1')\n"
    assert not [offence for rule in RULES.values() for offence in rule(PurePosixPath("bus/core/money.py"), text)]


def test_no_system_is_named_outside_its_folder():
    found = [
        f"{file}:{offence}"
        for file in FILES
        for offence in named_systems(PurePosixPath(file), (ROOT / file).read_text(), SYSTEMS)
    ]
    assert found == []
    assert list(named_systems(PurePosixPath("bus/core/money.py"), "if system == 'acme':", ["acme"]))
    assert not list(named_systems(PurePosixPath("bus/core/money.py"), "acme_rate = pacme", ["acme"]))


def test_every_sample_has_its_source():
    found = []
    for samples in sorted((ROOT / "connectors").glob("*/samples")):
        sources = (samples / "SOURCES.md").read_text()
        for sample in sorted(samples.rglob("*.json")):
            json.loads(sample.read_bytes())
            if sample.name not in sources:
                found.append(f"{sample.relative_to(ROOT)} is not in {samples.relative_to(ROOT)}/SOURCES.md")
    assert found == []


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git work tree")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_what_is_tracked_is_small_and_names_no_host_of_packages_nor_path_of_a_machine():
    found = []
    for path in tracked():
        content = path.read_bytes()
        if len(content) > FILE_BYTES_MAX:
            found.append(f"{path.relative_to(ROOT)} has {len(content)} bytes")
        text = content.decode(errors="ignore")
        if path.suffix != ".md":
            found += [f"{path.relative_to(ROOT)} names a package host: {match[0]}" for match in PACKAGE_HOST.finditer(text)]
        found += [f"{path.relative_to(ROOT)} names a folder of a machine: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (PACKAGE_HOST, "https://files." + "pythonhosted" + ".org/x"),
        (MACHINE_PATH, "cd /" + "work/main"),
        (MACHINE_PATH, "/" + "farm/a"),
    ],
)
def test_what_must_not_be_tracked_is_seen(pattern, text):
    assert pattern.search(text)
    assert not pattern.search("see https://example.org/works/network and docs/work/x")
