"""Every parser of foreign bytes: committed inputs, and thousands of new ones, the same in every run; or an hour's search."""

import pytest

from tests.campaign import Tally
from tests.fuzz import guided
from tests.fuzz.corpus import CORPUS, files, keep, known
from tests.fuzz.mutation import inputs
from tests.fuzz.registry import TARGETS
from tests.fuzz.target import Target, probe

HOUR_SECONDS = 3600.0

pytestmark = pytest.mark.fuzz


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_committed_inputs_are_taken_well(target: Target, tally: Tally) -> None:
    for data in target.seeds:
        probe(target, data)
    for path in files(target):
        probe(target, path.read_bytes())
    tally.add("inputs tried", len(known(target)))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_damaged_inputs_are_taken_well(target: Target, tally: Tally) -> None:
    for data in inputs(known(target), target.words, target.inputs, target.name):
        try:
            probe(target, data)
        except Exception as error:
            error.add_note(f"the input is kept in {keep(target, data)}")
            raise
        tally.add("inputs tried")
    tally.add("targets")


@pytest.mark.timeout(2 * HOUR_SECONDS)
def test_an_hour_of_search_finds_nothing(long_form: bool, tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    if not long_form:
        pytest.skip("the short form tries a fixed number of inputs; --campaign long searches for an hour")
    results = [guided.search(target, HOUR_SECONDS / len(TARGETS)) for target in TARGETS.values()]
    with capsys.disabled():
        print(f"\n{guided.as_table(results)}")
    for result in results:
        tally.add("inputs tried", result.inputs)
        tally.add("edges covered", result.edges)
    assert [kept for result in results for kept in result.found] == []


def test_the_corpus_is_small_and_has_no_orphans() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) <= 300_000
