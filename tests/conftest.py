"""The campaigns' form and counts: `--campaign long`, the fixtures `tally` and `long_form`, and a line at the end of the run.

And a run in the background is as one in the foreground.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from tests.campaign import CAMPAIGNS, Tally

TALLIES = pytest.StashKey[dict[str, Tally]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose between minutes and hours."""
    parser.addoption("--campaign", choices=("short", "long"), default="short", help="the form of the campaigns")


def pytest_configure(config: pytest.Config) -> None:
    """Name the campaigns' markers, and begin to count."""
    for name, explanation in CAMPAIGNS.items():
        config.addinivalue_line("markers", f"{name}: {explanation}")
    config.stash[TALLIES] = {name: Tally() for name in CAMPAIGNS}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job ignores it and hands that on: what tests start could not be interrupted.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def campaign_of(item: pytest.Item) -> str | None:
    """The campaign to which a test belongs."""
    return next((name for name in CAMPAIGNS if item.get_closest_marker(name)), None)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """The counts of the test's campaign, which is one of its markers."""
    name = campaign_of(request.node)
    assert name is not None, f"a test that counts is marked with its campaign, one of {', '.join(CAMPAIGNS)}"
    return request.config.stash[TALLIES][name]


@pytest.fixture(scope="session")
def long_form(request: pytest.FixtureRequest) -> bool:
    """Whether a campaign may take its long form: hours, not minutes."""
    return bool(request.config.getoption("--campaign") == "long")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Take the time of a campaign's tests."""
    begun = monotonic()
    try:
        return (yield)
    finally:
        name = campaign_of(item)
        if name is not None:
            item.config.stash[TALLIES][name].seconds += monotonic() - begun


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what each campaign counted, and keep it in build/."""
    form = config.getoption("--campaign")
    for name, tally in config.stash[TALLIES].items():
        if tally.seconds:
            terminalreporter.write_line(f"campaign {name} ({form}): {tally.line()}")
            tally.write(Path(config.rootpath) / "build" / "campaigns" / f"{name}.json", form)
