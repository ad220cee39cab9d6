"""Listings: a pid that the driver shows may be a dead process's, and its number somebody else's by now."""

from mortalgpu.host.base import HostProcess
from mortalgpu.model.device import Fault, GpuProcess
from mortalgpu.scan.listings import Listings
from tests.unit.scan.making import gpu, host, ref

OLD, NEW = host(7, ref(1), 100), host(7, ref(2), 900)


def look(listings: Listings, present: HostProcess | None, *listed: GpuProcess) -> bool:
    """Take in one scan of pid 7 and tell whether its listing is disbelieved."""
    return bool(listings.disbelieved({"GPU-a": listed}, {7: present} if present else {}))


def test_a_listing_belongs_to_the_process_it_was_first_seen_with() -> None:
    listings = Listings()
    assert not look(listings, OLD, gpu(7, 500))
    assert not look(listings, OLD, gpu(7, 500))
    assert look(listings, NEW, gpu(7, 500))
    assert look(listings, NEW, gpu(7, 500))


def test_the_memory_of_a_dead_process_is_not_put_down_to_who_gets_its_number() -> None:
    listings = Listings()
    assert not look(listings, None, gpu(7, 500))
    assert look(listings, NEW, gpu(7, 500))


def test_another_figure_is_the_new_process_own() -> None:
    listings = Listings()
    look(listings, OLD, gpu(7, 500))
    assert not look(listings, NEW, gpu(7, 20))


def test_a_listing_that_vanished_between_starts_anew() -> None:
    listings = Listings()
    look(listings, OLD, gpu(7, 500))
    look(listings, None)
    assert not look(listings, NEW, gpu(7, 500))


def test_the_process_itself_is_believed_again_when_it_shows_another_figure() -> None:
    listings = Listings()
    look(listings, OLD, gpu(7, 500))
    assert look(listings, NEW, gpu(7, 500))
    assert not look(listings, NEW, gpu(7, 501))


def test_a_device_that_gives_no_list_keeps_what_was_known_of_it() -> None:
    listings = Listings()
    look(listings, OLD, gpu(7, 500))
    assert not listings.disbelieved({"GPU-a": Fault("lost")}, {})
    assert look(listings, NEW, gpu(7, 500))


def test_unknown_memory_that_stays_unknown_is_no_other_figure() -> None:
    listings = Listings()
    look(listings, OLD, gpu(7, None))
    assert look(listings, NEW, gpu(7, None))


def test_a_process_that_moved_to_another_container_is_still_itself() -> None:
    listings = Listings()
    look(listings, OLD, gpu(7, 500))
    assert not look(listings, host(7, ref(3), 100), gpu(7, 500))
