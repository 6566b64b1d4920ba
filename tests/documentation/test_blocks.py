"""Every block of the README and of `docs/` is run, or read by the parser of what would run it."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.documentation import readers
from tests.documentation.blocks import (
    DATA,
    PAGES,
    PROSE,
    ROOT,
    RUN,
    Block,
    all_blocks,
    read_blocks,
)
from tests.documentation.pages import FAST, run_page
from tests.documentation.parsers import check, check_inline, check_python, recorded
from tests.documentation.shells import workspace

PARSED = [block for block in all_blocks() if block.language in RUN and "parse" in block.words]
READ = [block for block in all_blocks() if "reads" in block.words]


def place(block: Block) -> str:
    return block.place


@pytest.mark.parametrize("page", FAST)
def test_its_quick_blocks_run(page: str, tmp_path: Path) -> None:
    run_page(page, tmp_path, slow=False)


def check_all(text: str, folder: Path) -> None:
    commands = recorded(text, folder)
    assert commands, "it calls nothing"
    for command in commands:
        check(command)


@pytest.mark.parametrize("block", PARSED, ids=place)
def test_a_block_that_is_not_run_has_a_reason_and_real_commands(
    block: Block, tmp_path: Path
) -> None:
    assert len(block.reason) > 10, f"{block.place}: why is it not run?"
    if block.language == "python":
        check_python(block.text)
        return
    check_all(block.text, tmp_path / "calls")


@pytest.mark.parametrize("block", READ, ids=place)
def test_data_is_read_by_its_own_loader(block: Block, tmp_path: Path) -> None:
    getattr(readers, block.words["reads"])(block.text, tmp_path)


@pytest.mark.parametrize("block", all_blocks(), ids=place)
def test_it_is_known_what_reads_a_block(block: Block) -> None:
    if block.language in DATA:
        assert block.words.keys() & {"reads", "file"}, f"{block.place}: say what reads it"
    elif block.language in PROSE:
        lines = [line.removeprefix("$ ").split(" ")[0] for line in block.text.splitlines()]
        assert not {"collabedit", "make", "pip", "python"} & set(lines), (
            f"{block.place}: commands need a language"
        )
    else:
        assert block.language in RUN, f"{block.place}: nobody runs {block.language!r}"


def inline_commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for token in MarkdownIt("commonmark").enable("table").parse(text):
            for child in token.children or ():
                if child.type == "code_inline" and re.match(
                    r"(collabedit|make) [a-z.]", child.content
                ):
                    yield page, child.content


def test_commands_in_sentences_exist() -> None:
    wrong = []
    commands = sorted(set(inline_commands()))
    assert len(commands) > 20
    for page, code in commands:
        try:
            check_inline(code)
        except AssertionError as error:
            wrong.append(f"{page}: {error}")
    assert not wrong


# What holds the above: a mistake in a document is found.

BAD = [
    ("collabedit plan new --nothing", "nothing"),
    ("collabedit plan make", "make"),
    ("collabedit plan show", "plan_file"),
    ("collabedit party join ... --reassert-count many", "--reassert-count"),
    ("make no-such-target", "no-such-target"),
    ("make demo NOTHING=1", "NOTHING"),
    ("pytest tests/no_such_file.py", "no_such_file"),
    ("python benchmarks/bench_nothing.py", "bench_nothing"),
    ("python benchmarks/bench_masks.py --nothing", "takes no options"),
    ("python -m tests.fuzz.run --nothing", "--nothing"),
    ("pip install -e '.[nothing]'", "nothing"),
    ("for name in a b; do collabedit keys new; done", "out"),
    ("echo $(collabedit keys shew x)", "shew"),
    ("frobnicate x", "no parser"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_a_wrong_command_is_found(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        check_all(text, tmp_path / "calls")


def test_a_wrong_import_is_found() -> None:
    check_python("from collabedit import load_plan")
    with pytest.raises(AssertionError, match="load_plans"):
        check_python("from collabedit import load_plans")


def test_a_command_that_bash_does_not_reach_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="2 calls stand there"):
        recorded("collabedit --version\nfalse && collabedit demo", tmp_path / "calls")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("make no-such-target", "no-such-target"),
        ("collabedit party joint --review", "joint"),
        ("collabedit party join --revue", "--revue"),
    ],
)
def test_a_wrong_command_in_a_sentence_is_found(code: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_inline(code)


def test_comments_say_how_the_next_block_is_tested() -> None:
    page = """
<!-- docs-test-page: slow -->
<!-- docs-test: parse (it takes
an hour (or more)) -->
```sh
a
```

1. In a list

    <!-- docs-test: each=NAME:a,b background -->
    ```sh
    b
    ```

```sh
c
```
"""
    first, second, third = read_blocks("page", page)
    assert (first.words, first.reason) == (
        {"slow": "", "parse": ""},
        "it takes\nan hour (or more)",
    )
    assert second.text == "b\n"
    assert second.words == {"slow": "", "each": "NAME:a,b", "background": ""}
    assert (third.words, third.is_run) == ({"slow": ""}, True)


@pytest.mark.parametrize(
    "page", ["<!-- docs-test: pares (why) -->\n```sh\n```\n", "<!-- docs-test: slow -->\n\nText.\n"]
)
def test_comments_without_meaning_are_found(page: str) -> None:
    with pytest.raises(ValueError, match="page:"):
        list(read_blocks("page", page))


def block(text: str, **words: str) -> Block:
    return Block("page", 1, "sh", text, words)


def test_terminals_keep_their_variables_and_folders(tmp_path: Path) -> None:
    with workspace(tmp_path, GIVEN="yes") as terminals:
        terminals.run(block("export A='x y'; mkdir d; cd d"))
        assert terminals.run(block('echo "$A $GIVEN $(basename "$PWD")"')) == "x y yes d\n"
        words = {"terminal": "other", "in": "docs"}
        assert terminals.run(block('echo "$A"; ls SPEC.md', **words)) == "x y\nSPEC.md\n"


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    with workspace(tmp_path) as terminals:
        with pytest.raises(AssertionError, match="ended with 3"):
            terminals.run(block("(exit 3)\necho never"))
        terminals.run(block("sleep 0.1; exit 4", terminal="late", background=""))
        with pytest.raises(AssertionError, match="late ended with 4"):
            terminals.finish()


def test_the_background_is_ended_with_the_page(tmp_path: Path) -> None:
    with workspace(tmp_path) as terminals:
        terminals.run(block("sleep 600", terminal="server", background=""))
        before = time.monotonic()
    assert time.monotonic() - before < 60
