"""Seeded histories of a sink, of a poller and of two accounts both ways; and each broken build, which they must catch.

They run in processes of their own with PYTHONHASHSEED=0, so that a seed that fails here fails again for whoever plays it alone:
about 100 s of CPU. More seeds: `python -m tests.simulation sink --seeds 10000`.
"""

import os
import subprocess
import sys

import pytest

from tests.simulation.playing import MACHINES, play_one

HISTORIES = {"sink": 300, "poller": 200, "both": 120}
BROKEN_SEEDS_MAX = 1_500
"""A broken build is caught much earlier; how early changes with the code, since chance then takes other ways."""


def played(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a process that plays says, and how it ends."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    environment.pop("BUS_SIM_SEED", None)
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


@pytest.mark.parametrize("machine", HISTORIES)
def test_every_promise_holds_in_every_history(machine: str) -> None:
    found = played(machine, "--seeds", str(HISTORIES[machine]))
    assert found.returncode == 0, f"play one alone to read its story:\n{found.stdout}"
    assert f"{HISTORIES[machine]} histories, 0 failed" in found.stdout


@pytest.mark.parametrize("machine", MACHINES)
def test_every_broken_build_is_caught(machine: str) -> None:
    found = played("broken", "--of", machine, "--seeds", str(BROKEN_SEEDS_MAX))
    assert found.returncode == 0, found.stdout
    assert found.stdout.count("caught") >= 8


@pytest.mark.parametrize("machine", MACHINES)
def test_one_seed_is_one_history(machine: str) -> None:
    """Else a failing seed would say nothing."""
    for seed in range(3):
        assert play_one(machine, seed) == play_one(machine, seed)


def test_two_seeds_are_two_histories() -> None:
    assert play_one("sink", 1)[1] != play_one("sink", 2)[1]


def test_a_failing_seed_says_how_to_play_it_again() -> None:
    found = played("sink", "--broken", "nothing is tried again", "--seeds", "20", "--stop", "1")
    assert found.returncode == 1
    line = next(line for line in found.stdout.splitlines() if "again: " in line)
    seed = line.partition("BUS_SIM_SEED=")[2].split()[0]
    alone = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "sink", "--broken", "nothing is tried again"],
        env={**os.environ, "BUS_SIM_SEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode == 1
    assert "starts on machine" in alone.stdout, "the story is told"
    assert "P4" in alone.stdout
