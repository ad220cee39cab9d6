"""Five hundred random steps under kubelet's own device manager, from a seed that a failure names."""

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.device_manager import DeviceManager
from tests.e2e.story import Story

STEPS = 500
SEEDS = (20240607,)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_story_loses_or_doubles_a_share(device_manager: DeviceManager, daemon: Daemon, seed: int) -> None:
    story = Story(device_manager, daemon, seed)
    for number in range(STEPS):
        try:
            story.step()
        except AssertionError as error:
            raise AssertionError(
                f"seed {seed}, step {number}, so far {dict(story.counts)}: {error}\n{daemon.log()[-5000:]}"
            ) from error
    story.finish()
    print(f"\n{dict(story.counts)}, registrations {device_manager.registrations.made}")
