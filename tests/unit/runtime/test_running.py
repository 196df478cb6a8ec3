"""A running bus is found by its data folder; what it left behind when it was killed is not believed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bus.core.errors import SettingsError
from bus.runtime.running import FILE, announce, find, located
from bus.runtime.settings import BusSettings


def test_found_while_it_runs_and_not_after(tmp_path: Path) -> None:
    notice = announce(tmp_path, "a:1", "http://r")
    found = find(tmp_path)
    assert (found.kafka_bootstrap, found.registry_url, found.process_id) == ("a:1", "http://r", os.getpid())
    assert find(tmp_path) == found, "looking does not take the lock away"
    notice.withdraw()
    notice.withdraw()
    assert not list(tmp_path.iterdir())
    with pytest.raises(SettingsError, match=r"no bus runs on .*`bus up`.*BUS_DATA_DIR.*BUS_KAFKA_BOOTSTRAP"):
        find(tmp_path)


def test_what_a_killed_bus_left_is_not_believed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from bus.runtime.running import announce;"
        "notice = announce(pathlib.Path(sys.argv[1]), 'a:1', 'http://r'); os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert died.returncode == -9
    assert (tmp_path / FILE).exists()
    with pytest.raises(SettingsError, match=r"process \d+\) is gone: start one with `bus up`"):
        find(tmp_path)
    notice = announce(tmp_path, "b:2", "http://s")
    assert find(tmp_path).kafka_bootstrap == "b:2"
    notice.withdraw()


def test_a_child_of_the_bus_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, subprocess, sys; from bus.runtime.running import announce;"
        "notice = announce(pathlib.Path(sys.argv[1]), 'a:1', 'http://r');"
        "child = subprocess.Popen(['sleep', '30'], stdout=subprocess.DEVNULL); print(child.pid, flush=True);"
        "os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, stdout=subprocess.PIPE, text=True)
    try:
        with pytest.raises(SettingsError, match="is gone"):
            find(tmp_path)
    finally:
        os.kill(int(died.stdout), 9)


def test_a_file_of_somebody_else_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(SettingsError, match=rf"{FILE} is not what a bus writes: remove it"):
        find(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(SettingsError, match=rf"{FILE} cannot be read \(Is a directory\)"):
        find(tmp_path)


def test_a_cluster_of_ones_own_wins_and_is_asked_for_whole(tmp_path: Path) -> None:
    notice = announce(tmp_path, "a:1", "http://r")
    own = BusSettings(kafka_bootstrap="own:9", registry_url="http://own", data_dir=tmp_path)
    assert located(own) is own
    with pytest.raises(SettingsError, match="BUS_REGISTRY_URL is not set"):
        located(BusSettings(kafka_bootstrap="own:9", data_dir=tmp_path))
    found = located(BusSettings(registry_url="http://stale", data_dir=tmp_path))
    assert (found.kafka_bootstrap, found.registry_url) == ("a:1", "http://r")
    notice.withdraw()
