"""Where the driver library is looked for, and what is said when it is not found."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mortalgpu.driver import library
from mortalgpu.errors import DriverError
from tests.standin.nvml import StateFile, build
from tests.standin.nvml.variant import another_build


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Leave the process with the library that the other tests use."""
    yield
    library.load(str(build()))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return three usual places, all empty, and a name that no loader knows."""
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(library, "LIBRARY_NAME", "libmortalgpu-none.so.1")
    monkeypatch.setattr(library, "USUAL_PLACES", tuple(str(folder / "lib.so") for folder in folders))
    return folders


def test_a_configured_path_is_loaded() -> None:
    assert library.load(str(build())) == str(build())


def test_a_configured_path_that_is_not_there_is_the_only_one_tried(places: list[Path]) -> None:
    shutil.copy(build(), places[0] / "lib.so")
    with pytest.raises(DriverError, match=r"looked at: /nowhere/lib\.so \(not there\)\. Install .* config\.driver\.library"):
        library.load("/nowhere/lib.so")


def test_the_usual_places_are_tried_in_order(places: list[Path]) -> None:
    for place in places[1:]:
        shutil.copy(build(), place / "lib.so")
    assert library.load() == str(places[1] / "lib.so")


def test_a_library_found_nowhere_says_where_it_was_looked_for(places: list[Path]) -> None:
    with pytest.raises(DriverError) as error:
        library.load()
    looked_at = ["libmortalgpu-none.so.1 (not known to the loader)", *(f"{place / 'lib.so'} (not there)" for place in places)]
    assert "; ".join(looked_at) in str(error.value)


def test_a_file_that_is_no_library_is_passed_over_and_named(places: list[Path]) -> None:
    (places[0] / "lib.so").write_text("not a library", encoding="ascii")
    with pytest.raises(DriverError, match=r"first/lib\.so \(.*(too short|invalid ELF header)"):
        library.load()
    shutil.copy(build(), places[1] / "lib.so")
    assert library.load() == str(places[1] / "lib.so")


@pytest.fixture
def upgraded(tmp_path: Path, machine: StateFile) -> str:
    """A library that is loaded and initialised, of build 1, on a driver that takes any."""
    path = str(another_build(tmp_path, 1))
    library.load(path)
    library.initialise()
    library.shut_down()
    return path


def test_a_replaced_library_is_taken_once_the_kernel_refuses_the_old_one(upgraded: str, machine: StateFile) -> None:
    for build_number in (2, 3):
        another_build(Path(upgraded).parent, build_number)
        library.load(upgraded)
        library.initialise()
        library.shut_down()
        machine.require_build(build_number)
        with pytest.raises(DriverError, match="of different versions"):
            library.initialise()
        assert library.load(upgraded) == upgraded
        library.initialise()
        library.shut_down()


def test_a_replaced_library_is_left_alone_while_the_old_one_works(upgraded: str, machine: StateFile) -> None:
    machine.require_build(1)
    another_build(Path(upgraded).parent, 2)
    library.load(upgraded)
    library.initialise()
    library.shut_down()


def test_a_library_that_is_gone_for_a_while_is_waited_for(upgraded: str, machine: StateFile) -> None:
    machine.require_build(2)
    Path(upgraded).unlink()
    for _ in range(3):
        library.load(upgraded)
        with pytest.raises(DriverError, match="of different versions"):
            library.initialise()
    another_build(Path(upgraded).parent, 2)
    library.load(upgraded)
    library.initialise()
    library.shut_down()


def test_a_broken_library_in_the_place_of_the_old_one_is_told_and_a_good_one_taken(upgraded: str, machine: StateFile) -> None:
    machine.require_build(2)
    with pytest.raises(DriverError, match="of different versions"):
        library.initialise()
    draft = Path(upgraded).with_name("draft")
    draft.write_text("half of it")
    draft.replace(upgraded)
    with pytest.raises(DriverError, match="cannot be loaded"):
        library.load(upgraded)
    another_build(Path(upgraded).parent, 2)
    library.load(upgraded)
    library.initialise()
    library.shut_down()
