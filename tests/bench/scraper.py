"""`python -m tests.bench.scraper HOST:PORT COUNT PAUSE`: scrape as Prometheus does; print the milliseconds of each as JSON."""

import gzip
import json
import sys
import time
from http.client import HTTPConnection

HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5",
    "Accept-Encoding": "gzip",
}


def scrape(connection: HTTPConnection) -> tuple[float, bytes]:
    """Fetch the page on a connection that is kept; return seconds and text."""
    begun = time.perf_counter()
    connection.request("GET", "/metrics", headers=HEADERS)
    answer = connection.getresponse()
    body = answer.read()
    took = time.perf_counter() - begun
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}")
    return took, gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body


def main(address: str, count: str, pause_seconds: str) -> None:
    """Scrape so often."""
    connection = HTTPConnection(address, timeout=10)
    times, page = [], b""
    for _ in range(int(count)):
        took, page = scrape(connection)
        times.append(took * 1000)
        time.sleep(float(pause_seconds))
    series = sum(not line.startswith(b"#") for line in page.splitlines())
    print(json.dumps({"ms": times, "series": [series]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
