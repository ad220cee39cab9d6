"""Where the API is, and how long to wait before asking it again."""

from pathlib import Path

import pytest

from mortalgpu.cluster.access import ApiAccess, in_cluster
from mortalgpu.cluster.backoff import Backoff


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}, "https://10.96.0.1:443"),
        ({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443"),
        ({"KUBERNETES_SERVICE_HOST": "[fd00::1]", "KUBERNETES_SERVICE_PORT": "6443"}, "https://[fd00::1]:6443"),
        ({"KUBERNETES_SERVICE_HOST": "api.example", "KUBERNETES_SERVICE_PORT": ""}, "https://api.example:443"),
    ],
)
def test_a_pod_is_told_where_the_api_is(tmp_path: Path, environ: dict[str, str], url: str) -> None:
    (tmp_path / "token").write_text("x")
    assert in_cluster(environ, tmp_path) == ApiAccess(url, tmp_path / "ca.crt", tmp_path / "token")


def test_outside_of_a_pod_there_is_no_access(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    assert in_cluster({}, tmp_path) is None


def test_a_pod_without_a_service_account_has_no_access(tmp_path: Path) -> None:
    assert in_cluster({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, tmp_path) is None


def test_waits_double_up_to_the_cap_and_start_anew_after_a_success() -> None:
    backoff = Backoff(lambda: 1.0, base_seconds=1, cap_seconds=5)
    assert [backoff.failed() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.succeeded()
    assert backoff.failed() == 1


def test_jitter_spreads_over_the_upper_half_of_a_wait() -> None:
    assert Backoff(lambda: 0.0, base_seconds=1).failed() == 0.5
    assert Backoff(lambda: 0.999, base_seconds=1).failed() == pytest.approx(1, abs=0.001)


def test_what_the_other_side_asks_for_is_honoured_but_not_beyond_the_cap() -> None:
    backoff = Backoff(lambda: 1.0, base_seconds=1, cap_seconds=30)
    assert backoff.failed(at_least_seconds=10) == 10
    assert backoff.failed(at_least_seconds=86_400) == 30


def test_failures_without_end_do_not_overflow() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.failed() for _ in range(5000)][-1] == 30
