"""Figures from a page of metrics, as far as the bench needs them. Blocks: run it in a thread."""

import re
from collections import defaultdict
from urllib.request import urlopen

SERIES = re.compile(r"(?m)^(\w+)(?:\{[^\n]*\})? (\S+)")


def figures_of(address: str) -> dict[str, float]:
    """Return a page's figures by the metric's name, the series of one name added up. Raises OSError."""
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = defaultdict(float)
    for name, value in SERIES.findall(text):
        found[name] += float(value)
    return found
