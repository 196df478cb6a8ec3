"""Commands run on a board (see board.py), or on nothing."""

import asyncio
import pkgutil
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

import bus.cli
import bus.runtime
from bus.cli import session
from bus.cli.group import bus as command
from bus.runtime.publication import Published
from tests.unit.cli.board import Board


class Terminal:
    """Runs commands."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def run(self, *words: str, **more: Any) -> Result:
        return CliRunner().invoke(command, words, **more)

    def said(self, *words: str, code: int = 0, **more: Any) -> str:
        found = self.run(*words, **more)
        assert found.exit_code == code, (found.output, found.exception)
        assert "Traceback" not in found.output
        return found.output

    def plain(self, *words: str) -> Any:
        return msgspec.json.decode(self.said(*words, "--json"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal at a board: what commands read stands there, what they ask for is remembered there."""
    board = Board()

    def connected(work: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            return await work(board.settings, board.codec)

        return asyncio.run(run())

    async def read_published(_settings: Any, _codec: Any) -> Published:
        return board.published

    given = {"connected": connected, "read_published": read_published, "LogReader": board.reader}
    # All are imported before the first is changed: one imported later would take a board's function for the real one, for good.
    modules = [
        import_module(found.name)
        for package in (bus.cli, bus.runtime)
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    for module in modules:
        for name, value in given.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("bus.runtime.requests.ask", board.ask)
    for module_name in ("braking", "linking", "replaying"):
        monkeypatch.setattr(f"bus.cli.{module_name}.ANSWER_WAIT_S", 0.05)
    monkeypatch.setattr(session, "PIPE_WIDTH", 100)
    return Terminal(board)
