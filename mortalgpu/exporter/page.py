"""A page of metrics: collectors side by side, none of which can spoil the others' lines."""

import logging
from collections.abc import Callable, Iterable, Mapping

import trio

from mortalgpu.exporter import names
from mortalgpu.exporter.family import Family, family, single
from mortalgpu.exporter.text import Format, openmetrics_format, plain_format, prefers_openmetrics

log = logging.getLogger(__name__)

LONGEST_STRETCH_SECONDS = 0.002
"""For how long a page may keep the event loop, but for a single metric that takes longer."""

Collect = Callable[[], Iterable[Family]]


class Page:
    """Renders the page from what its collectors say at this moment. `age_seconds` tells how old the facts are."""

    def __init__(self, node: str, collectors: Mapping[str, Collect], age_seconds: Callable[[], float | None]) -> None:
        self._node = node
        self._collectors = {**collectors, "facts": lambda: [single(names.FACTS_AGE, age_seconds())]}
        self._plain = plain_format()
        self._openmetrics = openmetrics_format()
        self._failing: set[str] = set()
        self._rendering = trio.Lock()
        self._breathed_at = 0.0

    async def render(self, accept: str = "") -> tuple[str, bytes]:
        """Return content type and text, in the format that an Accept header prefers.

        Never raises for a collector's fault. Takes the event loop for some milliseconds at a time.
        """
        form = self._openmetrics if prefers_openmetrics(accept) else self._plain
        async with self._rendering:
            self._breathed_at = trio.current_time()
            parts: list[bytes] = []
            success: dict[str, bool] = {}
            for name, collect in self._collectors.items():
                lines = await self._lines(name, collect, form)
                success[name] = lines is not None
                parts += lines or ()
            rows = (((name,), float(is_good)) for name, is_good in success.items())
            parts.append(form.text(family(names.COLLECTOR_SUCCESS, rows), self._node))
            return form.content_type, b"".join([*parts, form.end])

    async def _breathe(self) -> None:
        """Let others run, if that is due."""
        if trio.current_time() - self._breathed_at > LONGEST_STRETCH_SECONDS:
            await trio.lowlevel.checkpoint()
            self._breathed_at = trio.current_time()

    async def _lines(self, name: str, collect: Collect, form: Format) -> list[bytes] | None:
        """Return one collector's lines, or None when it failed: said once, until it succeeds again."""
        try:
            lines = []
            for each in list(collect()):
                lines.append(form.text(each, self._node))
                await self._breathe()
        except Exception:
            if name not in self._failing:
                log.exception("collector failed; its metrics are missing", extra={"source": name})
            self._failing.add(name)
            return None
        self._failing.discard(name)
        return lines
