"""How fast a peer may begin calls: the purse, who shares it, and a server that goes by it."""

import pytest
import trio
from trio.testing import MockClock

from mortalgpu.rpc.allowance import MOST_PEERS, Allowance, Allowances


async def seconds_for(purse: Allowance, *payments: int) -> float:
    began = trio.current_time()
    for calls in payments:
        await purse.pay(calls)
    return trio.current_time() - began


async def test_who_stays_within_the_purse_waits_for_nothing(autojump_clock: MockClock) -> None:
    assert await seconds_for(Allowance(10), 0, 4, 6) == 0


@pytest.mark.parametrize(("payments", "seconds"), [((11,), 0.1), ((10, 5), 0.5), ((1,) * 30, 2.0), ((40,), 3.0)])
async def test_who_spends_more_waits_until_it_has_come_in(
    autojump_clock: MockClock, payments: tuple[int, ...], seconds: float
) -> None:
    assert await seconds_for(Allowance(10), *payments) == pytest.approx(seconds)


async def test_the_purse_fills_again_and_never_beyond_a_seconds_worth(autojump_clock: MockClock) -> None:
    purse = Allowance(10)
    await purse.pay(10)
    await trio.sleep(1000)
    assert await seconds_for(purse, 10) == 0
    assert await seconds_for(purse, 10) == pytest.approx(1.0)


async def test_connections_of_one_address_share_a_purse_and_others_have_their_own(autojump_clock: MockClock) -> None:
    purses = Allowances(10)
    await purses.of("greedy").pay(10)
    assert await seconds_for(purses.of("greedy"), 10) == pytest.approx(1.0)
    assert await seconds_for(purses.of("modest"), 10) == 0


async def test_the_purses_of_a_million_addresses_are_not_kept(autojump_clock: MockClock) -> None:
    purses = Allowances(10)
    kept = purses.of("regular")
    for number in range(MOST_PEERS - 1):
        purses.of(f"{number}")
    assert purses.of("regular") is kept
    for number in range(2 * MOST_PEERS):
        purses.of(f"other {number}")
    assert purses.of("regular") is not kept


async def test_an_endless_purse_lets_nobody_wait(autojump_clock: MockClock) -> None:
    assert await seconds_for(Allowance(float("inf")), 10**9, 10**9) == 0
