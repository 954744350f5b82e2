"""The sweep as a fixture, so that what was tried is told at the end of a run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.killing import supervisor
from tests.killing import sweep as sweeping
from tests.killing.sweep import Swept

_PROPERTY = "kill points"
_HERE = Path(__file__).parent
_SWEEP_SECONDS = 1800


@pytest.fixture
def sweep(record_property: Callable[[str, object], None]) -> Callable[..., Swept]:
    """Return `tests.killing.sweep.sweep`; where system calls cannot be held, skip."""
    if why := supervisor.unavailable():
        pytest.skip(why)

    def recorded(*arguments: object, **more: object) -> Swept:
        swept = sweeping.sweep(*arguments, **more)  # type: ignore[arg-type]
        record_property(_PROPERTY, str(swept))
        return swept

    return recorded


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give a sweep more time than a test, unless `--timeout` says how much: it has many passes."""
    if config.getoption("timeout") is not None:
        return
    for item in items:
        if item.path.parent == _HERE and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SWEEP_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Report how many points were tried: a sweep that tried few shows little."""
    lines = [
        f"{report.nodeid}: {value}"
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if lines:
        terminalreporter.section("kill points")
        for line in lines:
            terminalreporter.line(line)
    yield
