"""The status page in a real browser: it fits its window, runs nothing, and loads nothing."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from collabedit.operations.status import StatusPages
from collabedit.operations.web import WebServer
from collabedit.plan import Plan
from tests.support.browser import NAMES, Browser, chromium, find_chromium
from tests.support.federations import TestFederation, build_federation
from tests.unit.operations.test_status import status_of

PROGRAM = find_chromium()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROGRAM is None, reason=f"no Chromium on the path ({', '.join(NAMES)}) nor in CHROMIUM"
    ),
]

LONGEST_NAME = 63
STICKING_OUT = """
[...document.body.querySelectorAll('*')].filter((each) => {
  const box = each.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map((each) => each.outerHTML.slice(0, 200))
"""
CUT = """
[...document.body.querySelectorAll('*')].filter((each) =>
  each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== 'inline'
).map((each) => each.outerHTML.slice(0, 200))
"""
# Boxes of the roster and of the facts, and badges against the names beside them.
OVERLAPS = """
['ul.roster > li', 'dl.facts > div', 'ol.steps > li', 'ul.roster .name, ul.roster .badge'].flatMap(
  (what) => {
    const boxes = [...document.querySelectorAll(what)].map((e) => [e, e.getBoundingClientRect()]);
    return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
      .filter(([b, q]) => p.left < q.right - 1 && q.left < p.right - 1 &&
        p.top < q.bottom - 1 && q.top < p.bottom - 1)
      .map(([b]) => a.textContent + ' | ' + b.textContent));
  })
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as started:
        yield started


def crowded() -> TestFederation:
    """A hundred parties with the longest names that a plan takes, one without a place to break."""
    federation = build_federation(100)
    values = federation.plan.model_dump()
    for number, party in enumerate(values["federation"]["parties"]):
        start = f"{number}-" + ("institute-of-neurology." * 3 if number % 2 else "x" * 60)
        party["name"] = start[: LONGEST_NAME - 1] + "z"
    return TestFederation(Plan.model_validate(values), federation.identities, federation.edits)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of the pages of three sessions."""
    kinds = {"crowded": crowded(), "small": build_federation(3, layers=4)}
    kinds["aborted"] = build_federation(3)
    with pytest.MonkeyPatch.context() as patch:
        addresses = {}
        with ExitStack() as stack:
            for kind, federation in kinds.items():
                coordinator, pages = status_of(federation, tmp_path_factory.mktemp(kind))
                if kind == "aborted":
                    coordinator.close_round()
                if kind == "crowded":
                    busy(pages, patch)
                made = {"/": pages.html, "/status.json": pages.json}
                server = stack.enter_context(WebServer("127.0.0.1:0", made))
                addresses[kind] = f"http://{server.address}/"
            yield addresses


def busy(pages: StatusPages, patch: pytest.MonkeyPatch) -> None:
    """Show every state of a party, and large numbers."""
    status = pages.snapshot()
    for number, party in enumerate(status["parties"]):
        party["state"] = ("awaited", "joined", "dropped")[number % 3]
        if party["state"] == "dropped":
            party |= {"round": "r3-contribute", "reason": "INVALID_SEAL"}
            party["accuses"] = status["parties"][0]["name"]
    status["throughput"] |= {"received_bytes": 987654321987, "frames": 10**9}
    status["refused_calls"] = {"UnexpectedMessageError": 10**6}
    first = status["rounds"][0]
    status["rounds"] = [{**first, "seconds": 12345.6}] * 40 + [first]
    patch.setattr(pages, "snapshot", lambda: status)


@pytest.mark.parametrize("kind", ["crowded", "small", "aborted"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_its_window(
    browser: Browser, served: dict[str, str], tmp_path: Path, kind: str, width: int
) -> None:
    browser.visit(served[kind], width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(STICKING_OUT) == []
    assert browser.run(CUT) == []
    assert browser.run(OVERLAPS) == []
    # The style was taken, so the policy's digest is the style's.
    assert browser.run("getComputedStyle(document.querySelector('ul.roster')).display") == "grid"
    browser.screenshot(tmp_path / f"{kind}-{width}.png")
    assert (tmp_path / f"{kind}-{width}.png").stat().st_size > 1000


def test_dark_and_light_differ_and_both_can_be_read(
    browser: Browser, served: dict[str, str], tmp_path: Path
) -> None:
    found = []
    for dark in (False, True):
        browser.dark(dark=dark)
        browser.visit(served["small"], width=1280)
        style = "getComputedStyle(document.body)"
        found.append((browser.run(f"{style}.backgroundColor"), browser.run(f"{style}.color")))
        browser.screenshot(tmp_path / f"small-dark-{dark}.png")
    browser.dark(dark=False)
    assert found[0] == ("rgb(255, 255, 255)", "rgb(28, 35, 41)")
    assert found[1] == ("rgb(20, 24, 28)", "rgb(227, 231, 234)")


def test_it_asks_for_nothing_else_and_breaks_no_policy(
    browser: Browser, served: dict[str, str]
) -> None:
    del browser.requests[:], browser.errors[:]
    browser.visit(served["aborted"], width=1280)
    own = [url for url in browser.requests if url != "about:blank"]
    # A browser asks for an icon by itself, and is told that there is none.
    assert set(own) - {served["aborted"] + "favicon.ico"} == {served["aborted"]}
    assert not [error for error in browser.errors if "favicon" not in error and "404" not in error]
    assert browser.run("document.scripts.length") == 0


def test_it_works_without_scripts_and_comes_anew_by_itself(
    browser: Browser, served: dict[str, str]
) -> None:
    browser.visit(served["small"], width=1280, script=False)
    text = browser.run("document.body.innerText")
    for name in ("party-1", "party-2", "party-3", "r0-advertise"):
        assert name in text
