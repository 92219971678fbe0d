"""Processes side by side: results in order, and errors and deaths told in one line."""

import importlib
import os
import signal
import time
from pathlib import Path

import pytest

from genie.errors import UserError

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def recorders(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("recorders")


def count(name: str, tell) -> str:
    tell(3)
    return name


def fail(how: str, tell) -> str:
    """One process fails as it is told, the other would go on for ever."""
    if how == "error":
        raise UserError("there is no such game")
    if how == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1000)
    return how


def test_results_come_in_order_and_what_was_told_is_summed(recorders, tmp_path):
    told = []
    with recorders.side_by_side(count, [("a",), ("b",)], told.append, tmp_path) as results:
        assert results == ["a", "b"]
    assert told[-1] == 6


@pytest.mark.parametrize(("how", "message"), [("error", "no such game"), ("death", "SIGKILL")])
def test_one_that_fails_ends_the_others(recorders, tmp_path, how, message):
    with (
        pytest.raises(UserError, match=message),
        recorders.side_by_side(fail, [("sleep",), (how,)], print, tmp_path),
    ):
        pytest.fail("a result of processes that failed")
