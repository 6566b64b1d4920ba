"""The page in a real browser: it filters, sorts and folds, fits its window, loads nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from collabedit.audit.page import write_page
from tests.support.audit_reports import cut, hostile, large, rich
from tests.support.browser import NAMES, Browser, chromium, find_chromium

PROGRAM = find_chromium()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROGRAM is None, reason=f"no Chromium on the path ({', '.join(NAMES)}) nor in CHROMIUM"
    ),
]

RICH = rich()
SHOWN = "[...document.querySelectorAll('#rows-table > tbody')].filter(b => b.offsetHeight > 0)"
OVERLAPS = """
[...document.querySelectorAll('figure svg')].flatMap((svg) => {
  const boxes = [...svg.querySelectorAll('text')].map((t) => [t, t.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect();
  const found = [];
  boxes.forEach(([a, p], i) => {
    if (p.width && (p.left < frame.left - 1 || p.right > frame.right + 1 ||
        p.top < frame.top - 1 || p.bottom > frame.bottom + 1))
      found.push(`${svg.ariaLabel}: ${a.textContent} leaves the plot`);
    boxes.slice(i + 1).forEach(([b, q]) => {
      if (p.width && p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom)
        found.push(`${svg.ariaLabel}: ${a.textContent} | ${b.textContent}`);
    });
  });
  return found;
})
"""
# Elements that stick out of the window and of every box that scrolls or cuts.
STICKING_OUT = """
[...document.body.querySelectorAll('*')].filter((each) => {
  const box = each.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) &&
    !each.closest('.scroll, .skip, .shapes');
}).map((each) => each.outerHTML.slice(0, 200))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "rich": RICH,
        "hostile": hostile(),
        "large": cut(large(300), *range(40, 300)),
    }
    for name, report in reports.items():
        write_page(report, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in reports}


@pytest.fixture
def rich_page(browser: Browser, pages: dict[str, Path]) -> Browser:
    browser.visit(pages["rich"], width=1280)
    return browser


def choose(browser: Browser, key: str, value: str) -> None:
    browser.run(
        f"{{ const s = document.querySelector('[data-filter={key}]'); s.value = {value!r}; "
        "s.dispatchEvent(new Event('change')); }"
    )


def shown(browser: Browser) -> list[int]:
    ids: list[str] = browser.run(f"{SHOWN}.map(b => b.id)")
    return [int(each.removeprefix("row-")) for each in ids]


def press_head(browser: Browser, label: str) -> str:
    """Press a column's head, and return its state."""
    state: str = browser.run(
        "{ const b = [...document.querySelectorAll('#rows-table button.sort')]"
        f".find(each => each.textContent === {label!r}); b.click(); "
        "b.parentElement.getAttribute('aria-sort') }"
    )
    return state


def test_rows_are_filtered_by_all_four_and_come_back(rich_page: Browser) -> None:
    every = list(range(len(RICH.rows)))
    assert shown(rich_page) == every
    choose(rich_page, "attack", "sum-span")
    assert shown(rich_page) == [i for i in every if RICH.rows[i].attack == "sum-span"]
    choose(rich_page, "severity", "leaks")
    both = [
        i for i in every if (RICH.rows[i].attack, RICH.rows[i].severity) == ("sum-span", "leaks")
    ]
    assert shown(rich_page) == both
    assert rich_page.run("document.querySelector('.status').textContent") == (
        f"{len(both)} of {len(every)} rows."
    )
    choose(rich_page, "defence", "closed-sums")
    assert shown(rich_page) == []
    rich_page.run("document.querySelector('[data-action=reset]').click()")
    assert shown(rich_page) == every
    choose(rich_page, "adversary", "colluding")
    assert {RICH.rows[i].attack for i in shown(rich_page)} == {"collusion"}


def test_columns_are_sorted_both_ways_by_their_full_values(rich_page: Browser) -> None:
    def value(index: int) -> float:
        return RICH.rows[index].metrics[0].value

    with_figure = [i for i, row in enumerate(RICH.rows) if row.metrics]
    assert press_head(rich_page, "Value") == "ascending"
    order = shown(rich_page)
    assert order[:-1] == sorted(with_figure, key=value)
    assert order[-1] == next(i for i, row in enumerate(RICH.rows) if not row.metrics)
    assert press_head(rich_page, "Value") == "descending"
    order = shown(rich_page)
    assert [value(i) for i in order[:-1]] == sorted(map(value, with_figure), reverse=True)
    assert order[-1] not in with_figure
    assert press_head(rich_page, "Attack") == "ascending"
    names = [RICH.rows[i].attack for i in shown(rich_page)]
    assert names == sorted(names)
    states = rich_page.run(
        "[...document.querySelectorAll('#rows-table > thead th')]"
        ".map(th => th.getAttribute('aria-sort')).filter(s => s !== 'none')"
    )
    assert states == ["ascending"]
    # From the worst severity on.
    press_head(rich_page, "Severity")
    ranks = ["leaks", "unclear", "chance", "refused", "not-tested"]
    seen = [ranks.index(RICH.rows[i].severity) for i in shown(rich_page)]
    assert seen == sorted(seen)


def test_a_row_unfolds_by_keyboard(rich_page: Browser) -> None:
    height = "document.getElementById('more-60').offsetHeight"
    assert rich_page.run(height) == 0
    rich_page.run("document.querySelector('#row-60 button.fold').focus()")
    rich_page.press("Enter", "Enter", 13)
    assert rich_page.run(height) > 0
    assert "MERGE_UNVERIFIED" in rich_page.run("document.getElementById('row-60').innerText")
    assert (
        rich_page.run("document.querySelector('#row-60 button.fold').getAttribute('aria-expanded')")
        == "true"
    )
    rich_page.press(" ", "Space", 32)
    assert rich_page.run(height) == 0
    rich_page.run("document.querySelector('[data-action=unfold]').click()")
    assert rich_page.run(
        f"{SHOWN}.every(b => b.rows[1].offsetHeight > 0)",
    )


def test_the_keyboard_reaches_every_control(rich_page: Browser) -> None:
    reached = set()
    for _ in range(60):
        rich_page.press("Tab", "Tab", 9)
        reached.add(
            rich_page.run("(document.activeElement.className || document.activeElement.tagName)")
        )
    assert {"skip", "scroll", "row-link", "A"} <= reached
    rich_page.run("document.querySelector('.controls select').focus()")
    after = []
    for _ in range(8):
        after.append(
            rich_page.run(
                "document.activeElement.dataset.filter ?? "
                "document.activeElement.dataset.action ?? document.activeElement.className"
            )
        )
        rich_page.press("Tab", "Tab", 9)
    assert after == [
        *("adversary", "attack", "defence", "severity", "reset", "unfold", "scroll", "sort"),
    ]


def test_a_link_shows_its_row_even_if_it_was_filtered_away(rich_page: Browser) -> None:
    choose(rich_page, "attack", "collusion")
    rich_page.run("document.querySelector('.matrix a[href=\"#row-61\"]').click()")
    rich_page.run("new Promise(done => setTimeout(done, 200))")
    assert 61 in shown(rich_page)
    assert rich_page.run("document.getElementById('more-61').offsetHeight") > 0
    top = rich_page.run("document.getElementById('row-61').getBoundingClientRect().top")
    assert 0 <= top <= 900


def test_without_the_script_everything_is_shown(browser: Browser, pages: dict[str, Path]) -> None:
    browser.visit(pages["rich"], width=1280, script=False)
    assert len(shown(browser)) == len(RICH.rows)
    assert browser.run(f"{SHOWN}.every(b => b.rows[1].offsetHeight > 0)")
    assert browser.run("document.querySelector('form.controls').offsetHeight") == 0
    assert browser.run("document.querySelectorAll('button.sort').length") == 0


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["rich", "hostile", "large"])
def test_nothing_sticks_out_and_no_labels_overlap(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.visit(pages[name], width=width)
    browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    browser.run("document.querySelector('[data-action=unfold]').click()")
    assert browser.run("innerWidth") == width
    assert browser.run("document.scrollingElement.scrollWidth") <= width
    assert browser.run(STICKING_OUT) == []
    assert browser.run(OVERLAPS) == []
    assert browser.run("document.querySelectorAll('figure svg text').length") > 40


def test_all_columns_are_seen_at_once_in_a_wide_window(rich_page: Browser) -> None:
    for table in ("rows", "matrix", "utility"):
        region = f"document.querySelector('.{table}').parentElement"
        assert rich_page.run(f"{region}.scrollWidth - {region}.clientWidth") == 0, table


def test_colours_follow_the_scheme(browser: Browser, pages: dict[str, Path]) -> None:
    seen = []
    for dark in (False, True):
        browser.dark(dark=dark)
        browser.visit(pages["rich"], width=1280)
        seen.append(
            browser.run(
                "[getComputedStyle(document.body).backgroundColor, "
                "getComputedStyle(document.querySelector('figure svg text')).fill]"
            )
        )
    browser.dark(dark=False)
    assert seen[0] == ["rgb(255, 255, 255)", "rgb(51, 59, 66)"]
    assert seen[1] == ["rgb(20, 24, 28)", "rgb(198, 206, 213)"]


def test_text_stands_out_from_its_ground_in_both_schemes(
    browser: Browser, pages: dict[str, Path]
) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 and more, for body, notes, links and badges."""
    for dark in (False, True):
        browser.dark(dark=dark)
        browser.visit(pages["rich"], width=1280)
        pairs = browser.run(
            """
            ['body', '.who', 'main a', 'td .none', ...['leaks', 'unclear', 'chance', 'refused',
              'not-tested'].map(s => `.badge.sev-${s}`)].map((selector) => {
              const each = document.querySelector(selector);
              let back = each;
              while (back && getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)')
                back = back.parentElement;
              const ground = getComputedStyle(back).backgroundColor;
              return [selector, getComputedStyle(each).color, ground];
            })
            """
        )
        for selector, front, back in pairs:
            assert contrast(front, back) >= 4.5, (dark, selector, front, back)
    browser.dark(dark=False)


def contrast(front: str, back: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(front), luminance(back)))
    return (high + 0.05) / (low + 0.05)


def test_it_prints_every_row(browser: Browser, pages: dict[str, Path]) -> None:
    browser.visit(pages["rich"], width=1280)
    assert browser.printed().startswith(b"%PDF-")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.run(f"{SHOWN}.every(b => b.rows[1].offsetHeight > 0)")
        assert browser.run("document.querySelector('.controls').offsetHeight") == 0
    finally:
        browser.ask("Emulation.setEmulatedMedia", media="")


def test_no_request_leaves_and_nothing_goes_wrong(browser: Browser, pages: dict[str, Path]) -> None:
    browser.requests.clear()
    browser.errors.clear()
    for page in pages.values():
        browser.visit(page, width=1280)
        browser.run("new Promise(done => setTimeout(done, 200))")
    own = {page.resolve().as_uri() for page in pages.values()}
    assert {each for each in browser.requests if not each.startswith(("data:", "about:"))} == own
    assert browser.errors == []
    browser.visit(pages["hostile"], width=1280)
    assert browser.run("document.title").startswith("<script>")
