"""What a campaign (faults, hostile tenants, foreign bytes) counts: told at the end of every run that has any of it."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

CAMPAIGNS = {
    "faults": "the fault campaign: partners and ports that fail, hang, lie and vanish",
    "hostile": "the hostile tenant campaign: what a container may try, and what it gains",
    "fuzz": "the fuzzing campaign: every parser of foreign bytes",
}
"""The campaigns, which are pytest's markers, and what each is."""


@dataclass(slots=True)
class Tally:
    """Counts of one campaign by what was counted, such as `faults injected`, and the seconds that its tests ran."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, what: str, count: int = 1) -> None:
        """Count something that was really done: after it was done."""
        self.counts[what] += count

    def line(self) -> str:
        """The counts, in the order in which they were first counted."""
        counts = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        return f"{counts or 'nothing counted'} in {self.seconds:.0f} s"

    def write(self, path: Path, form: str) -> None:
        """Keep the counts as JSON in `path`; `form` is short or long."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"form": form, "seconds": round(self.seconds), **self.counts}, indent=2) + "\n")
