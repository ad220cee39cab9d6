"""Where the driver library is looked for, and what is said when it is not found."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mortalgpu.driver import library
from mortalgpu.errors import DriverError
from tests.standin.nvml import build


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
