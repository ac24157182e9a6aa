"""Link cases in a network of their own: nothing that is not public is connected to, and what is public is fetched."""

import json
import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from linkhouse import addresses, is_special

ROOT = Path(__file__).parent.parent
NETWORK = ["unshare", "--map-root-user", "--net", "--mount"]


def possible() -> bool:
    try:
        return subprocess.run([*NETWORK, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def report() -> Any:
    if not possible():
        if os.environ.get("CI") == "true":
            pytest.fail("no network namespaces here, and CI=true")
        pytest.skip("no network namespaces here: unshare is not there, or may not make one")
    done = subprocess.run([*NETWORK, sys.executable, str(ROOT / "tests" / "linkhouse.py")], cwd=ROOT, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def private(case: dict[str, Any]) -> list[Any]:
    """Return the connections of a case that came in on an address or a port that no link may lead to."""
    return [one for one in case["connected"] if is_special(one[0]) or one[1] not in {80, 443, 8080, 8443}]


def test_no_link_connects_to_what_is_not_public(report: Any) -> None:
    cases = report["refused"]
    assert len(cases) >= 120
    assert [case for case in cases if private(case)] == []
    assert [case["link"] for case in cases if case["said"] not in {"link_refused", "link_failed"}] == []


def test_what_is_refused_by_its_address_is_said_to_be_refused(report: Any) -> None:
    literal = [f"http://[{address}]/" if ":" in address else f"http://{address}/"
               for address, public in addresses().items() if not public]  # fmt: skip
    said = {case["link"]: case["said"] for case in report["refused"]}
    assert {link: said[link] for link in literal if said[link] != "link_refused"} == {}


def test_every_public_control_is_fetched(report: Any) -> None:
    cases = report["allowed"]
    assert len(cases) >= 40
    assert [case for case in cases if case["said"] != "media"] == []
    assert all(case["connected"] for case in cases)
    assert not [case for case in cases if private(case)]


def test_a_name_that_changes_its_mind_is_judged_anew_each_time(report: Any) -> None:
    assert [(case["said"], case["connected"]) for case in report["again"]] == [("link_refused", [])] * 2


def test_without_a_guard_they_are_reached(report: Any) -> None:
    """The control: the addresses are there, with servers on them."""
    reached = set(report["reached_without_guard"])
    assert {"10.0.0.0", "127.0.0.0", "169.254.169.254", "192.168.255.255", "fd00:ec2::254", "::1"} <= reached
    assert len(reached) >= 30
    assert {ip_address(address).version for address in reached} == {4, 6}
