"""Which entry takes which device, and which entries are refused."""

import re
from dataclasses import replace

import pytest

from mortalgpu.errors import ConfigError
from mortalgpu.sharing.rules import ShareRule, check_rules, first_match, matches, resource_problem
from tests.unit.sharing.devices import A100, A100_MODEL, V100, V100_MODEL, WORKED_RULES, gpu, partition, worked_example

ANY = ShareRule("example.com/gpu", 10)
P2 = partition(2, 1000)

MATCHES = {
    "no list takes all": (ANY, gpu(), True),
    "no list takes a partition": (ANY, P2, True),
    "a GPU in MIG mode is never whole": (ANY, gpu(A100, mig_mode=True), False),
    "not even by its uuid": (replace(ANY, uuids=(A100,)), gpu(A100, mig_mode=True), False),
    "its uuid": (replace(ANY, uuids=("GPU-x", V100)), gpu(), True),
    "another uuid": (replace(ANY, uuids=("GPU-x",)), gpu(), False),
    "the parent's uuid takes the partition": (replace(ANY, uuids=(A100,)), P2, True),
    "the partition's own uuid": (replace(ANY, uuids=(P2.uuid,)), P2, True),
    "another partition's uuid": (replace(ANY, uuids=(P2.uuid,)), partition(3, 1000), False),
    "its model": (replace(ANY, models=("x", V100_MODEL)), gpu(), True),
    "a part of its model's name": (replace(ANY, models=("Tesla V100",)), gpu(), False),
    "its GPU instance": (replace(ANY, gi_ids=(3, 2)), P2, True),
    "another GPU instance": (replace(ANY, gi_ids=(3,)), P2, False),
    "a whole GPU has no GPU instance": (replace(ANY, gi_ids=(0,)), gpu(), False),
    "uuid and model must both pass": (replace(ANY, uuids=(V100,), models=("x",)), gpu(), False),
    "model and GPU instance must both pass": (replace(ANY, models=(A100_MODEL,), gi_ids=(3,)), P2, False),
    "all three pass": (replace(ANY, uuids=(A100,), models=(A100_MODEL,), gi_ids=(2,)), P2, True),
}


@pytest.mark.parametrize(("rule", "device", "expected"), MATCHES.values(), ids=MATCHES.keys())
def test_an_entry_takes_what_passes_all_its_lists(rule: ShareRule, device: object, expected: bool) -> None:
    assert matches(rule, device) is expected  # type: ignore[arg-type]


def test_the_first_entry_wins() -> None:
    rules = (replace(ANY, models=("x",)), replace(ANY, resource="a.b/c"), ANY)
    assert first_match(rules, gpu()) is rules[1]
    assert first_match(rules[:1], gpu()) is None


def test_the_worked_example_gives_each_partition_its_entry() -> None:
    check_rules(WORKED_RULES)
    taken = [first_match(WORKED_RULES, device) for device in worked_example()]
    assert [rule and rule.field[-2] for rule in taken] == ["0", None, "1", "2", "3", "3"]


GOOD_NAMES = ("mortalgpu/v100", "a/b", "a.b-c.d/X_y.Z-9", "example.com/" + "n" * 63, "x" * 244 + "/gpu", "kubernetes.iox/gpu")
BAD_NAMES = {
    "no domain part": "gpu",
    "nothing": "",
    "two slashes": "a.com/a/b",
    "Kubernetes' own": "kubernetes.io/gpu",
    "below Kubernetes' own": "x.kubernetes.io/gpu",
    "ending like Kubernetes' own": "notkubernetes.io/gpu",
    "a quota's prefix": "requests.a.com/gpu",
    "upper case in the domain": "Example.com/gpu",
    "an underscore in the domain": "a_b.com/gpu",
    "an empty label": "a..com/gpu",
    "a label that ends in a hyphen": "a-.com/gpu",
    "a domain too long": "x" * 245 + "/gpu",
    "no domain before the slash": "/gpu",
    "no name": "a.com/",
    "a name that begins with a hyphen": "a.com/-x",
    "a name that ends with a dot": "a.com/x.",
    "a name too long": "a.com/" + "n" * 64,
    "a space": "a.com/g pu",
    "a line end": "a.com/gpu\n",
    "letters Kubernetes does not know": "a.com/gpü",
}


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_that_kubernetes_takes_is_taken(name: str) -> None:
    assert resource_problem(name) is None


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_name_that_kubernetes_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_rules([replace(ANY, resource=name, field="config.deviceSharing[4]")])
    assert caught.value.field == "config.deviceSharing[4].resourceName"
    assert "\n" not in str(caught.value)


def at(position: int, **changes: object) -> ShareRule:
    return replace(ANY, field=f"config.deviceSharing[{position}]", **changes)  # type: ignore[arg-type]


CONTRADICTIONS: dict[str, tuple[tuple[ShareRule, ...], str, str]] = {
    "neither count nor chunk": ((at(0, metagpus_per_gpu=0),), "[0].metagpusPerGpu", "metagpusPerGpuMemoryChunkMB"),
    "a negative count": ((at(0, metagpus_per_gpu=-1),), "[0].metagpusPerGpu", "negative"),
    "a negative chunk": ((at(0, chunk_bytes=-1),), "[0].metagpusPerGpuMemoryChunkMB", "negative"),
    "a negative reserve": ((at(0, reserved=-1),), "[0].reservedChunks", "negative"),
    "more reserved than made": ((at(0, reserved=11),), "[0].reservedChunks", "11 .* only 10"),
    "an empty uuid": ((at(0, uuids=("",)),), "[0].uuid[0]", "empty"),
    "an empty model": ((at(0, models=("x", "")),), "[0].modelName[1]", "empty"),
    "a uuid twice in a list": ((at(0, uuids=("a", "b", "a")),), "[0].uuid[2]", "a is listed twice"),
    "a migid twice in a list": ((at(0, gi_ids=(1, 1)),), "[0].migid[1]", "1 is listed twice"),
    "a negative migid": ((at(0, gi_ids=(2, -1)),), "[0].migid[1]", "-1 is negative"),
    "a uuid in two entries": (
        (at(0, uuids=("a",)), at(1, uuids=("b", "a"))),
        "[1].uuid[1]",
        r"a is already claimed by config\.deviceSharing\[0\]\.uuid\[0\]",
    ),
    "a uuid in two entries for the same partition": (
        (at(0, uuids=("a",), gi_ids=(1, 2)), at(1, uuids=("a",), gi_ids=(2, 3))),
        "[1].uuid[0]",
        "already claimed",
    ),
    "a partition of a uuid claimed whole": (
        (at(0, uuids=("a",)), at(1, uuids=("a",), gi_ids=(2,))),
        "[1].uuid[0]",
        "already claimed",
    ),
    "an entry behind one that takes all": ((at(0), at(1, models=("x",))), "[1]", "can never match"),
    "an entry behind a wider one": (
        (at(0, models=("x", "y")), at(1, gi_ids=(7,)), at(2, models=("y",), gi_ids=(1,))),
        "[2]",
        r"config\.deviceSharing\[0\] takes",
    ),
}


@pytest.mark.parametrize(("rules", "key", "problem"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_contradiction_is_refused_with_its_key(rules: tuple[ShareRule, ...], key: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_rules(rules)
    assert caught.value.field == f"config.deviceSharing{key}"
    assert re.search(problem, caught.value.problem)


CONSISTENT: dict[str, tuple[ShareRule, ...]] = {
    "one resource over two entries": (at(0, models=("x",)), at(1, models=("y",))),
    "the rest behind the exception": (at(0, models=("x",)), at(1)),
    "one GPU by partitions": (at(0, uuids=("a",), gi_ids=(1,)), at(1, uuids=("a",), gi_ids=(2,))),
    "one GPU, some partitions and the rest": (at(0, uuids=("a",), gi_ids=(1,)), at(1, uuids=("a",))),
    "count and chunk, the count wins": (at(0, chunk_bytes=1),),
    "all shares reserved": (at(0, reserved=10),),
    "a reserve that only the device can judge": (at(0, metagpus_per_gpu=0, chunk_bytes=1, reserved=99),),
}


@pytest.mark.parametrize("rules", CONSISTENT.values(), ids=CONSISTENT.keys())
def test_consistent_entries_pass(rules: tuple[ShareRule, ...]) -> None:
    check_rules(rules)
