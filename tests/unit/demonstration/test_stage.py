"""The folder of a demo: emptied when it is its own, and by one demo at a time."""

from pathlib import Path

import pytest

from services.demonstration.stage import DemoError, emptied


def test_emptied_when_a_demo_made_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "demo"
    with emptied(folder):
        (folder / "embedded").mkdir()
        (folder / "embedded" / "data").touch()
        (folder / "master.key").touch()
    with emptied(folder):
        assert [path.name for path in folder.iterdir()] == ["demo.lock"]


def test_two_demos_in_one_folder(tmp_path: Path) -> None:
    with emptied(tmp_path), pytest.raises(DemoError, match=f"another demo runs in {tmp_path}"), emptied(tmp_path):
        pass


def test_what_no_demo_made_stays(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(DemoError, match="left alone"), emptied(tmp_path):
        pass
    assert (tmp_path / "letter.txt").exists()
