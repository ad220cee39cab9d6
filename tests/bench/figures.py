"""Every figure of the bench, in the order of the table: what it is, what it aims at, and what counts as a change of it.

A figure is declared here and nowhere else; the subject files measure what is declared. An aim is a promise to a person who
runs a node; a figure without one is there to be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.bench.forms import FROZEN, UNFROZEN

NO_FORM = ""
"""The form of a figure that does not depend on how the daemon is started."""
LOOP, PASS = "python_loop", "python_pass"
"""The calibration: what a slower machine, or a busier one, stretches as it stretches other figures."""
SIZES = {320: 1, 6_400: 8, 60_000: 8}
"""Meta-devices in all, and on how many devices."""
AIMED_AT = 6_400


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `judged` is the percentile of its samples that the aim looks at."""

    name: str
    title: str
    unit: str
    aims: Mapping[str, float] = field(default_factory=dict)
    """By form, the value that is good enough. A form that is not named promises nothing."""
    judged: str = "p50"
    higher_is_better: bool = False
    stretch: str = ""
    """The calibration figure it grows with on a slower machine; empty: it does not grow."""
    band: float = 1.5
    """Noise: up to this ratio between two runs nothing has changed."""
    grain: float = 0.0
    """Noise too: a difference up to this, in its unit."""
    loose: float = 3.0
    """The short form fails where the median is worse than the aim by more than this factor."""
    headline: bool = False
    """Whether the README shows it."""

    def meets(self, form: str, value: float) -> bool | None:
        """Return whether a value meets the form's aim; None where nothing was promised."""
        aim = self.aims.get(form)
        if aim is None:
            return None
        return value >= aim if self.higher_is_better else value <= aim


def both(aim: float) -> Mapping[str, float]:
    """Return an aim of both forms."""
    return {UNFROZEN: aim, FROZEN: aim}


_WORK = Figure("", "", "ms", stretch=LOOP, grain=1.0)
"""Work of the daemon that somebody waits for."""
_PROGRAM = Figure("", "", "ms", stretch=PASS, grain=10.0)
"""A program from its start to its end."""
_START = Figure("", "", "s", stretch=PASS, grain=0.1)
_REACTION = Figure("", "", "s", grain=0.6)
"""Mostly waiting for the next look or probe, on any machine: one more of them is no change."""
_KILL = Figure("", "", "ms", judged="p99", grain=20)
_RESIDENT = Figure("", "", "MiB", band=1.05, grain=0.5, loose=1.5)
_CPU = Figure("", "", "% of a core", stretch=LOOP, band=1.35, grain=0.25, loose=4.0)
_SIZE = Figure("", "", "MB", band=1.05, loose=1.0)
_COUNT = Figure("", "", "", band=1.05)


def _as(kind: Figure, name: str, title: str, **changes: Any) -> Figure:
    return replace(kind, name=name, title=title, **changes)


def _calls(count: int) -> tuple[Figure, ...]:
    """The device plugin under kubelet's calls, with so many meta-devices, all free; 40 of them are asked for."""
    at = f"{count:,} meta-devices: "
    aims = {"list": both(50), "preferred": both(10), "allocate": both(5)} if count == AIMED_AT else {}
    changes: dict[str, Any] = {"judged": "p99", "headline": count == AIMED_AT}
    return (
        _as(_WORK, f"list_{count}", f"{at}first ListAndWatch", aims=aims.get("list", {}), headline=count == AIMED_AT),
        _as(_WORK, f"preferred_{count}", f"{at}GetPreferredAllocation", aims=aims.get("preferred", {}), **changes),
        _as(_WORK, f"allocate_{count}", f"{at}Allocate", aims=aims.get("allocate", {}), **changes),
    )


FIGURES = (
    _as(_WORK, LOOP, "calibration: a fixed loop in Python", stretch="", band=10),
    _as(_PROGRAM, PASS, "calibration: python -c pass", stretch="", band=10),
    # What is installed.
    _as(_SIZE, "binary_size", "the static binary", aims={FROZEN: 20}, headline=True),
    _as(_SIZE, "mgctl_size", "the mgctl directory"),
    _as(_SIZE, "image_size", "the container image"),
    # From nothing, and back.
    _as(_START, "version", "mortalgpu --version", aims={FROZEN: 0.6}, headline=True),
    _as(
        _START, "registered", "process start to registered, 6,400 meta-devices", aims={UNFROZEN: 1, FROZEN: 1.5}, headline=True
    ),
    _as(_REACTION, "registered_again", "kubelet's socket back to registered again", aims=both(1), headline=True),
    _as(_REACTION, "lost_unhealthy", "GPU lost to unhealthy in kubelet", aims=both(1), headline=True),
    _as(_REACTION, "xid_unhealthy", "XID 79 to unhealthy in kubelet", aims=both(1)),
    _as(_REACTION, "found_healthy", "GPU back to healthy in kubelet"),
    # The device plugin.
    *(figure for count in SIZES for figure in _calls(count)),
    # What it costs to be there.
    _as(_RESIDENT, "resident_idle", "resident: 6,400 meta-devices, everything on", aims=both(45), headline=True),
    _as(_RESIDENT, "resident_work", "resident: and 40 containers with 200 processes", aims={FROZEN: 45}, headline=True),
    _as(_RESIDENT, "resident_full", "resident: and 200 containers with 800 processes"),
    _as(_CPU, "cpu_idle", "CPU: no process on any GPU", aims=both(0.5), headline=True),
    _as(_CPU, "cpu_work", "CPU: 40 containers with 200 processes, nothing moves", aims=both(1), headline=True),
    _as(_CPU, "cpu_full", "CPU: 200 containers with 800 processes, nothing moves"),
    _as(_CPU, "cpu_churn", "CPU: one process of 200 allocates and frees all the time"),
    _as(_COUNT, "wake_ups", "wake-ups a second, no process on any GPU", band=1.35, grain=5),
    # Holding the limit.
    _as(_KILL, "over_limit_dead", "over the limit to dead: 8 GPUs, 200 processes", aims=both(200), headline=True),
    _as(_KILL, "metagpu_dead", "the same by MetaGPU's loop, modelled", headline=True),
    _as(_WORK, "scan", "full scan: 8 GPUs, 800 processes", aims=both(20), headline=True),
    # Metrics of 200 containers on 8 GPUs.
    _as(_WORK, "scrape_gpus", "scrape of the GPU page, 200 containers", judged="p99", aims=both(20), headline=True),
    _as(_WORK, "scrape_daemon", "scrape of the daemon's page", judged="p99", aims=both(20), headline=True),
    _as(_COUNT, "series_gpus", "series on the GPU page"),
    _as(_COUNT, "series_daemon", "series on the daemon's page"),
    _as(_COUNT, "looks_kept", "quick looks kept while scraped", unit="%", higher_is_better=True, aims=both(95), headline=True),
    # The device API of 200 containers with 800 processes.
    _as(_WORK, "containers", "device API: the whole node, 800 processes"),
    _as(_WORK, "stream_first", "device API: stream opened to the first whole snapshot"),
    _as(_REACTION, "stream_change", "device API: memory moved to the snapshot that shows it", unit="ms", grain=50),
    _as(_PROGRAM, "mgctl_version", "mgctl version, fresh process", aims={FROZEN: 150}, headline=True),
    _as(_PROGRAM, "mgctl_processes", "mgctl get processes, 800 of them", aims={FROZEN: 300}, headline=True),
)
"""In the table's order."""

BY_NAME = {figure.name: figure for figure in FIGURES}
