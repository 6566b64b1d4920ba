"""The page says what the JSON says, loads nothing, and takes no string for markup."""

import base64
import hashlib
import html
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from collabedit.audit.page import render_page, write_page
from collabedit.audit.results import AuditReport, Verdict
from collabedit.errors import InputError
from tests.support.audit_reports import HOSTILE, cut, empty, hostile, large, rich

VOID = {"meta", "br", "img", "input", "link", "hr", "base"}


class Element:
    def __init__(self, tag: str, attributes: dict[str, str], inside: tuple[str, ...]) -> None:
        self.tag, self.attributes, self.inside = tag, attributes, inside
        self.text = ""


class Page(HTMLParser):
    """All elements in order, with their own and their descendants' text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        assert not self._open, [each.tag for each in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        inside = tuple(each.tag for each in self._open)
        element = Element(tag, {name: value or "" for name, value in attrs}, inside)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


def at(tree: Any, pointer: str) -> Any:  # noqa: ANN401
    for part in pointer.split("/")[1:]:
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def numbers_of(report: AuditReport) -> set[str]:
    """Pointers of every number that the page must show."""
    wanted = {"/comparisons"} if report.comparisons else set()
    for index, row in enumerate(report.rows):
        here = f"/rows/{index}"
        wanted |= {f"{here}/{name}" for name in ("parties", "edits", "saturation", "draws")}
        for place, metric in enumerate(row.metrics):
            names = {"value"} | ({"low", "high"} if metric.method != "none" else set())
            names |= {name for name in ("chance", "trials") if getattr(metric, name) is not None}
            wanted |= {f"{here}/metrics/{place}/{name}" for name in names}
        if row.epsilon is not None:
            wanted |= {f"{here}/epsilon/{name}" for name, _ in row.epsilon}
    for index, entry in enumerate(report.utility):
        names = {name for name, value in entry if isinstance(value, int | float)}
        wanted |= {f"/utility/{index}/{name}" for name in names}
        ends = [(place, end) for place in range(len(entry.intervals)) for end in (0, 1)]
        wanted |= {f"/utility/{index}/intervals/{place}/{end}" for place, end in ends}
    return wanted


def check_numbers(report: AuditReport, page: Page) -> None:
    tree = report.model_dump(mode="json")
    shown = [each for each in page.all("data") if "derived" not in each.attributes.get("class", "")]
    for element in shown:
        value = at(tree, element.attributes["data-at"])
        assert float(element.attributes["value"]) == value
        read = element.text.replace("\u202f", "")
        # At most half a unit of the last digit that is shown.
        digits, _, power = read.partition("e")
        unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
        assert abs(float(read) - value) <= 0.5 * unit * (1 + 1e-9), element.attributes
        if float(read) != value:
            assert element.attributes["title"] == element.attributes["value"]
    assert {element.attributes["data-at"] for element in shown} == numbers_of(report)


RICH = rich()


@pytest.fixture(scope="module")
def text() -> str:
    return render_page(RICH)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_number_is_the_jsons_and_all_of_them_are_shown(page: Page) -> None:
    check_numbers(RICH, page)


def test_cells_for_numbers_hold_no_others(page: Page, text: str) -> None:
    cells = re.findall(r'<td class="num">(.*?)</td>', text, flags=re.DOTALL)
    assert len(cells) > 100
    for cell in cells:
        rest = re.sub(r"<data [^>]*>[^<]*</data>|<[^>]*>", "", cell)
        assert not re.search(r"\d", rest), cell


def test_derived_numbers_are_bonferronis(page: Page) -> None:
    derived = [each for each in page.all("data") if "derived" in each.attributes.get("class", "")]
    values = [float(each.attributes["value"]) for each in derived]
    assert values == [min(1.0, 0.05 * RICH.comparisons), 0.05 / RICH.comparisons]
    few = Page(render_page(cut(RICH).model_copy(update={"comparisons": 4})))
    assert [each.text for each in few.all("data") if "class" in each.attributes] == [
        *("0.2", "0.0125"),
    ]


def test_contents_stand_in_their_order(page: Page) -> None:
    assert [each.text for each in page.all("h1")] == [RICH.title]
    assert [each.text for each in page.all("h2")] == [
        "Verdicts",
        "Attacks and defences",
        "All rows",
        "Receiver operating characteristics",
        "Saturation and number of parties",
        "Utility beside privacy",
        "Attacks",
        "Defences",
        "Assumptions",
        "What was not tested",
        "Multiple testing",
        "Configuration digests",
    ]


def test_words_of_the_report_are_all_there(text: str) -> None:
    words = [RICH.title, RICH.subject, *RICH.assumptions, *RICH.not_tested, *RICH.digests.values()]
    words += [verdict.text for verdict in RICH.verdicts]
    for card in RICH.attacks:
        words += [card.asks, card.source, card.departs, card.package]
    words += [word for card in RICH.defences for word in (card.title, card.text)]
    words += [word for row in RICH.rows for word in (*row.details, *row.failures)]
    for word in words:
        assert str(html.escape(word, quote=False)) in text.replace("&#34;", '"').replace(
            "&#39;", "'"
        )


def test_a_severity_is_a_word_and_a_shape_and_not_only_a_colour(page: Page) -> None:
    badges = [each for each in page.all("span") if "badge" in each.attributes.get("class", "")]
    assert {each.text for each in badges} == {
        *("Leaks", "Unclear", "At chance", "Refused", "Not tested"),
    }
    shapes = [each for each in page.all("use") if "shape" in each.attributes["href"]]
    assert len(shapes) == len(badges)


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    report = cut(RICH, 0, 1, 4, 20, 62)
    first = render_page(report)
    again = AuditReport.model_validate_json(report.model_dump_json())
    with mpl.rc_context({"font.size": 20.0, "xtick.major.size": 9.0, "svg.hashsalt": "x"}):
        assert render_page(again) == first
    write_page(report, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == first.encode()


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    report = cut(RICH, 0, 1, 4)
    (tmp_path / "report.json").write_text(report.model_dump_json())
    program = (
        "import sys; from pathlib import Path; from collabedit.audit.page import write_page; "
        "from collabedit.audit.results import AuditReport; "
        "report = AuditReport.model_validate_json(Path(sys.argv[1]).read_text()); "
        "write_page(report, Path(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "report.json", tmp_path / "page.html"],
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "LC_ALL": "C"},
        check=True,
        timeout=120,
    )
    assert (tmp_path / "page.html").read_bytes() == render_page(report).encode()


def test_nothing_is_loaded_and_one_script_may_run(page: Page, text: str) -> None:
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), name
            if name in {"src", "href", "action", "data", "xlink:href", "poster", "srcset"}:
                assert value.startswith("#"), value
    assert not {each.tag for each in page.elements} & {"link", "img", "iframe", "object", "base"}
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@import" not in text
    assert "http:" not in text
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    (policy,) = [
        each.attributes["content"]
        for each in page.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}';" in policy


def test_links_lead_somewhere_and_identifiers_are_unique(page: Page, text: str) -> None:
    names = Counter(each.attributes["id"] for each in page.elements if "id" in each.attributes)
    assert [name for name, count in names.items() if count > 1] == []
    wanted = {value[1:] for each in page.elements if (value := each.attributes.get("href"))}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", text))
    for each in page.elements:
        wanted |= set(each.attributes.get("aria-labelledby", "").split())
    assert wanted <= set(names)


def test_tables_and_plots_are_named(page: Page) -> None:
    captions = [each for each in page.all("caption") if each.text.strip()]
    assert len(captions) == len(page.all("table"))
    assert all(each.attributes.get("scope") for each in page.all("th"))
    for each in page.all("svg"):
        hidden = each.attributes.get("aria-hidden") == "true"
        assert hidden or (each.attributes["role"] == "img" and each.attributes["aria-label"])
    drawn = [each for each in page.all("svg") if each.attributes.get("role") == "img"]
    # 15 settings with curves, twice; 3 trends; 6 attacks with utility.
    assert len(drawn) == 30 + 3 + 6
    regions = [each for each in page.all("div") if each.attributes.get("class") == "scroll"]
    assert all(each.attributes["tabindex"] == "0" for each in regions)
    assert all(each.attributes["aria-label"] for each in regions)


def test_hostile_strings_stay_text() -> None:
    report = hostile()
    text = render_page(report)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    assert [each.text for each in page.all("h1")] == [HOSTILE]
    assert [each.text for each in page.all("title")] == [HOSTILE]
    assert not any(name.startswith("on") for each in page.elements for name in each.attributes)
    assert any(each.attributes.get("data-attack") == HOSTILE for each in page.all("tbody"))
    # matplotlib is given none of it.
    assert {each.text for each in page.all("text") if re.search(r"[^-−\d.e]", each.text)} <= {
        *("false positive rate", "true positive rate"),
        *("saturation: edits / d_out", "parties", "efficacy, percent"),
    }
    check_numbers(report, page)


def test_a_report_of_nothing_has_a_page() -> None:
    page = Page(render_page(empty()))
    assert len(page.all("h2")) == 12
    assert page.all("table") == []
    assert page.all("data") == []


def test_three_hundred_rows_are_all_there() -> None:
    report = cut(large(300), *range(40, 300), *range(10))
    page = Page(render_page(report))
    rows = [each for each in page.all("tbody") if each.attributes.get("id", "").startswith("row-")]
    assert len(rows) == 270
    check_numbers(report, page)


def test_a_quoted_row_must_exist() -> None:
    bad = Verdict(adversary="party", severity="leaks", text="It leaks.", evidence=(3,))
    report = empty().model_copy(update={"verdicts": (bad,)})
    with pytest.raises(InputError, match="quotes row 3, and there are 0"):
        render_page(report)


def test_unknown_words_are_shown_as_they_are() -> None:
    report = cut(RICH, 0)
    odd = report.rows[0].model_copy(
        update={
            "severity": "puzzling",
            "prior": "none at all",
            "metrics": (report.rows[0].metrics[0].model_copy(update={"method": "tea leaves"}),),
        }
    )
    page = Page(render_page(report.model_copy(update={"rows": (odd,)})))
    (row,) = [each for each in page.all("tbody") if each.attributes.get("id") == "row-0"]
    assert "puzzling" in row.text
    assert "none at all" in row.text
    assert "tea leaves" in row.text


def test_intervals_of_utility_go_with_their_measures(page: Page) -> None:
    place = next(i for i, each in enumerate(RICH.utility) if each.neighbourhood is None)
    full = RICH.utility[place].model_copy(
        update={"intervals": ((1.0, 2.0), (3.0, 4.0), (0.0, 0.0))}
    )
    unclear = full.model_copy(update={"intervals": ((1.0, 2.0),)})
    for entry, wanted in ((full, ["1.000", "2.000", "3.000", "4.000"]), (unclear, [])):
        short = cut(RICH).model_copy(update={"utility": (entry,)})
        shown = [
            each.text
            for each in Page(render_page(short)).all("data")
            if "intervals" in each.attributes.get("data-at", "")
        ]
        assert shown == wanted
