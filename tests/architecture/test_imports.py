"""The import laws hold, and each of them can be broken: one violation per contract, injected into a copy, is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bus", "connectors", "services", "schemas")
LINTER = Path(sys.executable).with_name("lint-imports")

SYSTEMS = {
    "acme/__init__.py": "",
    "acme/connector.py": "from bus.kit import connector\nfrom connectors.acme import mapping\n",
    "acme/mapping.py": "from schemas import canon\n",
    "acme/simulator.py": "from bus.simulation import simulator\n",
    "zenith/__init__.py": "",
    "zenith/mapping/__init__.py": "",
    "zenith/mapping/customer.py": "from schemas import canon\n",
    "zenith/simulation/__init__.py": "from bus.simulation import simulator\n",
}
"""Two made-up connectors, so that the contracts on connectors are tried whatever connectors there are."""

VIOLATIONS = [
    ("layers", "schemas/encoder.py", "import bus.core.errors"),
    ("layers", "bus/core/clock.py", "import bus.kit.manifest"),
    ("layers", "bus/kit/budget.py", "import bus.runtime.settings"),
    ("layers", "bus/kit/budget.py", "import bus.simulation.clock"),
    ("layers", "bus/runtime/settings.py", "import bus.embedded"),
    ("layers", "bus/runtime/settings.py", "import services.node"),
    ("layers", "services/node.py", "import bus.cli.main"),
    ("bus_exhaustive", "bus/utils/__init__.py", ""),
    ("connectors_independent", "connectors/acme/connector.py", "import connectors.zenith.mapping.customer"),
    ("connectors_unnamed", "services/node.py", "import connectors.acme.connector"),
    ("connectors_unnamed", "bus/cli/main.py", "import connectors.zenith.simulation"),
    ("connectors_transport", "connectors/acme/connector.py", "import confluent_kafka"),
    ("connectors_transport", "connectors/zenith/mapping/customer.py", "import requests"),
    ("mapping_pure", "connectors/acme/mapping.py", "import httpx"),
    ("mapping_pure", "connectors/zenith/mapping/customer.py", "import bus.kit.client"),
    ("simulators_independent", "connectors/acme/simulator.py", "import connectors.acme.mapping"),
    ("simulators_independent", "connectors/acme/simulator.py", "import bus.kit.auth"),
    ("simulators_independent", "connectors/zenith/simulation/__init__.py", "import connectors.zenith.mapping.customer"),
    ("production_real", "connectors/acme/connector.py", "import connectors.acme.simulator"),
    ("production_real", "bus/runtime/settings.py", "import bus.simulation.clock"),
    ("production_real", "services/sinks/app.py", "import bus.simulation.simulator"),
    ("core_pure", "bus/core/clock.py", "import httpx"),
    ("core_pure", "schemas/encoder.py", "import confluent_kafka"),
]


def lint(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(LINTER), "--no-logo", "--no-cache", "--config", "pyproject.toml", *arguments]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(root), "LANG": "C.UTF-8"}
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "samples", "history"))
    (root / "schemas" / "history").mkdir()
    (root / "schemas" / "history" / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, content in SYSTEMS.items():
        path = root / "connectors" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_the_laws_hold():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_laws_hold_in_the_copy_before_anything_is_injected(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_is_broken_once():
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["id"] for contract in contracts} == {contract for contract, _, _ in VIOLATIONS}


@pytest.mark.parametrize(("contract", "file", "line"), VIOLATIONS, ids=[f"{row[0]}: {row[1]} {row[2]}" for row in VIOLATIONS])
def test_a_violation_is_found(copy, contract, file, line):
    path = copy / file
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{before or ''}\n{line}\n")
    try:
        done = lint(copy, "--contract", contract)
    finally:
        if before is None:
            shutil.rmtree(path.parent)
        else:
            path.write_text(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
