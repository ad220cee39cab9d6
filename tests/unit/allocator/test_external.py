"""The external allocator program: real programs that answer, refuse, lie, flood, fork and hang."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import trio

from mortalgpu.allocator import program
from mortalgpu.allocator.base import Terms
from mortalgpu.allocator.external import ExternalAllocator, question
from mortalgpu.errors import ExternalAllocatorError, NotEnoughShares
from tests.unit.allocator.nodes import MAY_SPLIT, device, equal, ids, request

DEVICES = equal(2, 4)
ASKED = request(2, ids({"0": range(4), "1": range(4)}))
RIGHT = '{"deviceIDs": ["1::0", "1::1"]}'


class Programs:
    """Writes small programs and wraps each as an allocator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str, *, mode: int = 0o755) -> Path:
        path = self.folder / f"program-{len(list(self.folder.iterdir()))}"
        path.write_text(text)
        path.chmod(mode)
        return path

    def shell(
        self,
        script: str,
        *,
        timeout: float = 20.0,
        terms: Terms = MAY_SPLIT,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> ExternalAllocator:
        """A shell script in the test's folder."""
        path = self.write(f"#!/bin/sh\ncd '{self.folder}'\n{script}\n")
        return ExternalAllocator((str(path), *args), terms, timeout, env or {})

    def answering(self, text: str) -> ExternalAllocator:
        return self.shell(f"cat > /dev/null; printf '%s' '{text}'")


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


async def refusal(allocator: ExternalAllocator) -> str:
    with trio.fail_after(30):
        with pytest.raises(ExternalAllocatorError) as caught:
            await allocator.prefer(ASKED, DEVICES)
    text = str(caught.value)
    assert text.startswith(f"example.com/gpu: the allocator program {allocator.argv[0]} ")
    assert "\n" not in text
    return text


async def gone(pid_file: Path) -> bool:
    """Wait until the process whose number is in the file has ended."""
    pid = int(pid_file.read_text())
    with trio.move_on_after(10):
        while _lives(pid):
            await trio.sleep(0.01)
        return True
    return False


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_right_answer_is_used(programs: Programs) -> None:
    assert await programs.answering(RIGHT).prefer(ASKED, DEVICES) == ("1::0", "1::1")


async def test_the_program_reads_the_question_its_arguments_and_its_environment(programs: Programs) -> None:
    os.environ["MORTALGPU_TEST_INHERITED"] = "kept"
    script = f"cat > question; echo \"$1 $EXTRA $MORTALGPU_TEST_INHERITED\" > words; echo '{RIGHT}'"
    try:
        await programs.shell(script, env={"EXTRA": "added"}, args=["--deep"]).prefer(ASKED, DEVICES)
    finally:
        del os.environ["MORTALGPU_TEST_INHERITED"]
    assert (programs.folder / "words").read_text() == "--deep added kept\n"
    assert json.loads((programs.folder / "question").read_text()) == json.loads(question(ASKED, DEVICES))


def test_the_question_describes_gpus_and_partitions() -> None:
    devices = (device("GPU-a", 3, memory_bytes=900), device("MIG-b", 2, memory_bytes=500, gi_id=9, reserved=1))
    asked = request(2, ["MIG-b::0", "GPU-a::2", "GPU-a::1"], ["GPU-a::2"])
    assert json.loads(question(asked, devices)) == {
        "version": 1,
        "resource": "example.com/gpu",
        "size": 2,
        "available": ["GPU-a::1", "GPU-a::2", "MIG-b::0"],
        "mustInclude": ["GPU-a::2"],
        "devices": [
            {
                "uuid": "GPU-a",
                "model": "model",
                "memoryBytes": 900,
                "shares": 3,
                "free": 2,
                "parentUuid": None,
                "migGpuInstance": None,
            },
            {
                "uuid": "MIG-b",
                "model": "model",
                "memoryBytes": 500,
                "shares": 2,
                "free": 1,
                "parentUuid": "GPU-parent",
                "migGpuInstance": 9,
            },
        ],
    }


async def test_a_program_in_another_language_is_as_good(programs: Programs) -> None:
    path = programs.write(
        f"#!{sys.executable}\nimport json, sys\nq = json.load(sys.stdin)\n"
        "print(json.dumps({'deviceIDs': q['available'][: q['size']]}))\n"
    )
    assert await ExternalAllocator((str(path),), Terms(), 20.0).prefer(ASKED, DEVICES) == ("0::0", "0::1")


async def test_a_program_may_answer_without_reading_a_long_question(programs: Programs) -> None:
    many = (device("GPU-" + "x" * 36, 20_000),)
    asked = request(1, ids({many[0].uuid: range(20_000)}))
    answer = json.dumps({"deviceIDs": [f"{many[0].uuid}::5"]})
    assert await programs.shell(f"echo '{answer}'").prefer(asked, many) == (f"{many[0].uuid}::5",)


async def test_an_impossible_request_is_refused_without_asking(programs: Programs) -> None:
    allocator = programs.shell("touch asked")
    with pytest.raises(NotEnoughShares):
        await allocator.prefer(request(9, ASKED.available), DEVICES)
    assert not (programs.folder / "asked").exists()


WRONG: dict[str, tuple[str, str]] = {
    "nothing": ("", "did not answer with a JSON object; it wrote: nothing"),
    "garbage": ("hello", "did not answer with a JSON object; it wrote: hello"),
    "half an object": ('{"deviceIDs": [', "did not answer with a JSON object"),
    "two objects": (RIGHT + RIGHT, "did not answer with a JSON object"),
    "another key": ('{"deviceIds": []}', 'did not answer with {"deviceIDs": [ids]}'),
    "a list": ('["1::0", "1::1"]', 'did not answer with {"deviceIDs": [ids]}'),
    "numbers": ('{"deviceIDs": [0, 1]}', 'did not answer with {"deviceIDs": [ids]}'),
    "too few": ('{"deviceIDs": ["1::0"]}', "it names 1 ids instead of 2"),
    "too many": ('{"deviceIDs": ["1::0", "1::1", "1::2"]}', "it names 3 ids instead of 2"),
    "one twice": ('{"deviceIDs": ["1::0", "1::0"]}', "it names '1::0' twice"),
    "one not available": ('{"deviceIDs": ["1::0", "1::9"]}', "it names '1::9', which is not available"),
    "needlessly split": ('{"deviceIDs": ["0::0", "1::0"]}', "it uses 2 devices where 1 would do"),
}


@pytest.mark.parametrize(("answer", "problem"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_answer_is_refused_and_says_why(programs: Programs, answer: str, problem: str) -> None:
    assert problem in await refusal(programs.answering(answer))


async def test_a_nest_too_deep_to_read_is_refused(programs: Programs) -> None:
    assert "JSON" in await refusal(programs.shell("cat > /dev/null; head -c 200000 /dev/zero | tr '\\0' '['"))


async def test_an_answer_that_leaves_out_an_included_id_is_refused(programs: Programs) -> None:
    asked = request(2, ASKED.available, ["1::3"])
    with pytest.raises(ExternalAllocatorError, match="it leaves out '1::3', which must be included"):
        await programs.answering(RIGHT).prefer(asked, DEVICES)


async def test_a_device_in_use_is_refused_when_collocation_is_off(programs: Programs) -> None:
    asked = request(2, ids({"0": range(4), "1": range(3)}))
    allocator = programs.shell(f"cat > /dev/null; echo '{RIGHT}'", terms=Terms(allow_collocation=False))
    with pytest.raises(ExternalAllocatorError, match="it names '1::0', which this request may not use"):
        await allocator.prefer(asked, DEVICES)


REFUSALS: dict[str, tuple[str, str]] = {
    "with a reason": ("echo first >&2; echo 'no room for tenants' >&2; echo >&2; exit 3", "refused: no room for tenants"),
    "without a reason": ("exit 4", "refused with exit status 4 and no reason"),
    "although it answered": (f"echo '{RIGHT}'; exit 1", "refused with exit status 1 and no reason"),
    "by a signal": ("kill -SEGV $$", "was ended by signal 11 (Segmentation fault)"),
    "by a real-time signal": ("kill -40 $$", "was ended by signal 40"),
    "in bytes that are no text": ("printf '\\377\\033[31mred\\n' >&2; exit 1", "refused: �?[31mred"),
}


@pytest.mark.parametrize(("script", "expected"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_program_that_fails_is_a_refusal_with_its_reason(programs: Programs, script: str, expected: str) -> None:
    assert expected in await refusal(programs.shell(script))


async def test_a_long_reason_is_cut(programs: Programs) -> None:
    assert len(await refusal(programs.shell("head -c 9000 /dev/zero | tr '\\0' x >&2; exit 1"))) < 600


async def test_a_program_that_is_not_there_is_named(programs: Programs) -> None:
    allocator = ExternalAllocator((str(programs.folder / "none"),), MAY_SPLIT, 5.0)
    assert "cannot be started: No such file or directory" in await refusal(allocator)


async def test_a_file_that_may_not_be_run_is_named(programs: Programs) -> None:
    allocator = ExternalAllocator((str(programs.write("#!/bin/sh\n", mode=0o644)),), MAY_SPLIT, 5.0)
    assert "cannot be started: Permission denied" in await refusal(allocator)


async def test_a_file_that_is_no_program_gets_a_hint(programs: Programs) -> None:
    allocator = ExternalAllocator((str(programs.write("echo hello\n")),), MAY_SPLIT, 5.0)
    assert "cannot be started: Exec format error (it needs a first line" in await refusal(allocator)


async def test_an_environment_the_kernel_cannot_take_is_named(programs: Programs) -> None:
    assert "cannot be started: embedded null byte" in await refusal(programs.shell("exit 0", env={"A": "b\0c"}))


async def test_a_hung_program_is_stopped_with_all_it_started(programs: Programs) -> None:
    script = "sleep 1000 & echo $! > child; echo $$ > self; trap '' TERM; cat > /dev/null; wait"
    started = trio.current_time()
    assert "gave no answer within 0.5 s and was stopped" in await refusal(programs.shell(script, timeout=0.5))
    assert trio.current_time() - started < 5
    assert await gone(programs.folder / "self")
    assert await gone(programs.folder / "child")


async def test_a_hung_program_does_not_spoil_the_next_request(programs: Programs) -> None:
    await refusal(programs.shell("sleep 1000", timeout=0.2))
    assert await programs.answering(RIGHT).prefer(ASKED, DEVICES) == ("1::0", "1::1")


async def test_a_child_that_keeps_the_pipes_open_is_not_waited_for(programs: Programs) -> None:
    allocator = programs.shell(f"cat > /dev/null; sleep 1000 & echo $! > child; echo '{RIGHT}'")
    with trio.fail_after(10):
        assert await allocator.prefer(ASKED, DEVICES) == ("1::0", "1::1")
    assert await gone(programs.folder / "child")


async def test_a_child_that_left_the_group_is_not_waited_for(programs: Programs) -> None:
    daemon = "import os, time; os.setsid(); open('child', 'w').write(str(os.getpid())); time.sleep(60)"
    waiting = "while ! [ -s child ]; do sleep 0.01; done"
    allocator = programs.shell(f"'{sys.executable}' -c \"{daemon}\" & {waiting}; echo '{RIGHT}'")
    try:
        with trio.fail_after(10):
            assert await allocator.prefer(ASKED, DEVICES) == ("1::0", "1::1")
    finally:
        os.kill(int((programs.folder / "child").read_text()), 9)


async def test_a_flood_on_standard_output_is_cut_off(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_OUTPUT_BYTES", 100_000)
    assert "wrote more than" in await refusal(programs.shell("exec cat /dev/zero"))


async def test_a_flood_on_standard_error_is_cut_off(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MAX_OUTPUT_BYTES", 100_000)
    assert "wrote more than" in await refusal(programs.shell("exec cat /dev/zero >&2"))


async def test_a_cancelled_request_leaves_no_program(programs: Programs) -> None:
    allocator = programs.shell("echo $$ > self; sleep 1000")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(allocator.prefer, ASKED, DEVICES)
        with trio.fail_after(10):
            while not (programs.folder / "self").exists() or not (programs.folder / "self").read_text().endswith("\n"):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert await gone(programs.folder / "self")


async def test_many_runs_leave_no_open_files(programs: Programs) -> None:
    good, hung = programs.answering(RIGHT), programs.shell("sleep 1000", timeout=0.05)
    await good.prefer(ASKED, DEVICES)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await good.prefer(ASKED, DEVICES)
        await refusal(hung)
    assert len(os.listdir("/proc/self/fd")) == before
