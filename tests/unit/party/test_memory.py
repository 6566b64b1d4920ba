"""Past edits on disk: sealed, whole at every crash, of one history; and which of them count."""

import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from collabedit.cli.memory import _record
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import write_private
from collabedit.errors import KeyFileError, MemoryFileError, StorageError
from collabedit.party import memory as memories
from collabedit.party.edits import Edit, load_edits
from collabedit.party.memory import (
    FILE,
    MemoryFile,
    RememberedSession,
    check_history,
    contested_topic,
    recall,
)
from tests.support.crashes import CrashError, CrashPoints

CANARY = "Zanzibarland"


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def edit(number: int, *, subject: str | None = None, relation: str | None = None) -> Edit:
    return Edit(
        case_id=f"case-{number}",
        prompt="{} lives in",
        subject=f"{CANARY} {number}" if subject is None else subject,
        target_new=f"{CANARY} new",
        target_true=f"{CANARY} true",
        paraphrase_prompts=(f"At home {CANARY} is in",),
        neighborhood=((f"{CANARY}'s neighbour lives in", f"{CANARY} true"),),
        generation_prompts=(f"{CANARY} lives",),
        relation=relation,
    )


def remembered(number: int, count: int = 2) -> RememberedSession:
    edits = tuple(edit(10 * number + place) for place in range(count))
    return RememberedSession(digest(number), f"plan-{number}", edits)


def memory(work: Path, *, key: str = "journal.key") -> MemoryFile:
    if not (work / key).exists():
        write_private(work / key, SystemRandomness().random_bytes(32))
    return MemoryFile(work / FILE, key_file=work / key, randomness=SystemRandomness())


# The file.


def test_sessions_come_back_in_order_and_each_once(tmp_path: Path) -> None:
    file = memory(tmp_path)
    assert file.sessions() == ()
    for number in (1, 2, 3):
        file.remember(remembered(number))
    file.remember(remembered(2, count=5))
    assert memory(tmp_path).sessions() == (remembered(1), remembered(3), remembered(2, count=5))
    assert file.forget(digest(3)) == remembered(3)
    assert memory(tmp_path).sessions() == (remembered(1), remembered(2, count=5))
    with pytest.raises(MemoryFileError, match=f"remembers nothing of session {digest(3)}"):
        file.forget(digest(3))


def test_what_was_contested_comes_back(tmp_path: Path) -> None:
    session = RememberedSession(digest(1), "p", (), ("ab" * 32,))
    memory(tmp_path).remember(session)
    assert memory(tmp_path).sessions() == (session,)


def test_a_moved_file_can_still_be_read(tmp_path: Path) -> None:
    file = memory(tmp_path)
    file.remember(remembered(1))
    elsewhere = tmp_path / "elsewhere.sealed"
    file.path.rename(elsewhere)
    moved = MemoryFile(elsewhere, key_file=tmp_path / "journal.key", randomness=SystemRandomness())
    assert moved.sessions() == (remembered(1),)


def test_files_are_private_and_show_nothing(tmp_path: Path) -> None:
    file = memory(tmp_path)
    for number in (1, 2):
        file.remember(remembered(number))
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        content = path.read_bytes()
        assert CANARY.encode()[:6] not in content
        assert b"plan-1" not in content
        assert digest(1).encode()[-8:] not in content
    assert CANARY not in repr(remembered(1)) + repr(file) + repr(
        recall([remembered(1)], history=[digest(1)], new=(), limit=3)
    )


def test_another_key_is_named(tmp_path: Path) -> None:
    memory(tmp_path).remember(remembered(1))
    with pytest.raises(MemoryFileError, match=r"memory\.sealed: was not written under the key in"):
        memory(tmp_path, key="other.key").sessions()
    with pytest.raises(MemoryFileError, match="--journal-key"):
        memory(tmp_path, key="other.key").remember(remembered(2))
    assert memory(tmp_path).sessions() == (remembered(1),)


def test_a_key_that_is_missing_or_none_is_named(tmp_path: Path) -> None:
    file = memory(tmp_path)
    file.remember(remembered(1))
    (tmp_path / "journal.key").rename(tmp_path / "away.key")
    with pytest.raises(KeyFileError, match=r"journal\.key.*--journal-key"):
        file.sessions()
    write_private(tmp_path / "journal.key", b"too short")
    with pytest.raises(KeyFileError, match="has 9 bytes, not 32"):
        file.sessions()


def test_an_altered_byte_anywhere_is_named(tmp_path: Path) -> None:
    file = memory(tmp_path)
    file.remember(remembered(1))
    whole = file.path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        file.path.write_bytes(bytes(damaged))
        with pytest.raises(MemoryFileError, match=r"memory\.sealed.*(--memory|--journal-key)"):
            file.sessions()
    file.path.write_bytes(whole)
    assert file.sessions() == (remembered(1),)


@pytest.mark.parametrize("left", [0, 3, 51, 52, 70, -1, -30, -37])
def test_a_file_that_is_cut_is_named(left: int, tmp_path: Path) -> None:
    file = memory(tmp_path)
    file.remember(remembered(1))
    file.path.write_bytes(file.path.read_bytes()[:left])
    with pytest.raises(MemoryFileError, match=r"memory\.sealed: is (not whole|damaged)"):
        file.sessions()


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("session"),
        lambda values: values["edits"][0].pop("relation"),
        lambda values: values["edits"][0].update(colour="red"),
        lambda values: values.update(edits=[7]),
    ],
)
def test_a_record_of_another_version_is_named_without_its_text(
    change: Callable[[dict[str, object]], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = memories._encode

    def other(session: RememberedSession) -> bytes:
        values = json.loads(true(session))
        change(values)
        return json.dumps(values).encode()

    file = memory(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(memories, "_encode", other)
        file.remember(remembered(1))
    with pytest.raises(MemoryFileError, match="another version") as caught:
        file.sessions()
    assert CANARY not in str(caught.value)


def test_a_crash_at_any_moment_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (remembered(1),), (remembered(1), remembered(2))
    seen = []
    for deadly in range(100):
        work = tmp_path / str(deadly)
        work.mkdir()
        file = memory(work)
        file.remember(remembered(1))
        points = CrashPoints(deadly=deadly)
        with monkeypatch.context() as patched, points.alive():
            points.patch(patched)
            try:
                file.remember(remembered(2))
            except CrashError:
                pass
            else:
                break
        found = memory(work).sessions()
        assert found in {old, new}
        seen.append(found)
        # Whatever is left lying does not hinder the next attempt, and shows nothing.
        file.remember(remembered(2))
        assert file.sessions() == new
        assert {path.name for path in work.iterdir()} == {FILE, f"{FILE}.lock", "journal.key"}
    assert seen.index(new) > 8
    assert set(seen[: seen.index(new)]) == {old}
    assert set(seen[seen.index(new) :]) == {new}


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in range(20):
        work = tmp_path / str(room)
        work.mkdir()
        file = memory(work)
        file.remember(remembered(1))
        points = CrashPoints(room=room)
        with monkeypatch.context() as patched, points.alive():
            points.patch(patched)
            try:
                file.remember(remembered(2))
            except StorageError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
            else:
                break
        assert file.sessions() == (remembered(1),)
    assert room > 2


def test_writers_take_turns(tmp_path: Path) -> None:
    memory(tmp_path)
    threads = [
        threading.Thread(target=memory(tmp_path).remember, args=(remembered(number),))
        for number in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = {session.session for session in memory(tmp_path).sessions()}
    assert found == {digest(number) for number in range(1, 9)}


# One history.


def test_a_memory_of_another_history_is_refused(tmp_path: Path) -> None:
    sessions = [remembered(1), remembered(2)]
    check_history(tmp_path, sessions, [digest(2), digest(1), digest(3)])
    check_history(tmp_path, [], [])
    with pytest.raises(MemoryFileError, match=f"session {digest(2)} of plan 'plan-2'.*forget"):
        check_history(tmp_path, sessions, [digest(1)])


# Which past edits count.

EVERYTHING = [digest(number) for number in range(1, 6)]


def test_the_newest_edits_come_first_and_the_oldest_are_left_out() -> None:
    sessions = [remembered(1), remembered(2), remembered(3)]
    found = recall(sessions, history=EVERYTHING, new=(), limit=3)
    assert found.edits == (*remembered(3).edits, remembered(2).edits[0])
    assert (found.superseded, found.left_out) == (0, 3)
    assert recall(sessions, history=EVERYTHING, new=(), limit=0).edits == ()


def test_only_sessions_of_the_history_count() -> None:
    found = recall([remembered(1), remembered(9)], history=EVERYTHING, new=(), limit=9)
    assert found.edits == remembered(1).edits


@pytest.mark.parametrize(
    "newer",
    [
        edit(99, subject=f"{CANARY} 10"),
        edit(99, subject=f"  {CANARY.upper()}   10 "),
        edit(99, subject=f"{CANARY} 10", relation="P19"),
    ],
    ids=["the same", "written otherwise", "with a relation besides"],
)
def test_an_edit_of_the_same_subject_and_relation_supersedes(newer: Edit) -> None:
    sessions = [remembered(1)]
    found = recall(sessions, history=EVERYTHING, new=[newer], limit=9)
    assert found.edits == remembered(1).edits[1:]
    assert (found.superseded, found.left_out) == (1, 0)
    # The same between sessions: the newer one stays.
    later = RememberedSession(digest(2), "later", (newer,))
    found = recall([*sessions, later], history=EVERYTHING, new=(), limit=9)
    assert found.edits == (newer, remembered(1).edits[1])
    assert found.superseded == 1


def test_one_relation_in_two_wordings_is_one() -> None:
    past = RememberedSession(digest(1), "p", (edit(1, relation="P19"),))
    reworded = Edit("7", "The home of {} is", f"{CANARY} 1", "Oslo", relation="p19")
    assert not recall([past], history=EVERYTHING, new=[reworded], limit=9).edits
    other = Edit("7", "The home of {} is", f"{CANARY} 1", "Oslo", relation="P20")
    assert recall([past], history=EVERYTHING, new=[other], limit=9).edits == past.edits


def test_what_somebody_else_wrote_over_is_not_brought_any_more() -> None:
    claimed = remembered(1).edits[0]
    middle = RememberedSession(digest(2), "p", (edit(20),), (contested_topic(claimed),))
    found = recall([remembered(1), middle], history=EVERYTHING, new=(), limit=9)
    assert found.edits == (edit(20), remembered(1).edits[1])
    assert found.superseded == 1
    # Written again after that, it holds again.
    again = RememberedSession(digest(3), "p", (claimed,))
    found = recall([remembered(1), middle, again], history=EVERYTHING, new=(), limit=9)
    assert found.edits == (claimed, edit(20), remembered(1).edits[1])


def test_edits_that_the_model_holds_come_first_and_supersede_their_own_past() -> None:
    held = edit(10)
    found = recall([remembered(1)], history=EVERYTHING, new=[held, edit(50)], held=[held], limit=9)
    assert found.edits == (held, remembered(1).edits[1])
    assert found.superseded == 1
    room_for_one = recall([remembered(1)], history=EVERYTHING, new=[held], held=[held], limit=1)
    assert room_for_one.edits == (held,)
    assert room_for_one.left_out == 1


# In clear, for the owner.


@pytest.mark.parametrize(
    "given",
    [
        edit(1, relation="P19"),
        Edit("2", "{} plays the", "Zed", "piano"),
        Edit(
            "3",
            "{} plays the",
            "Zed",
            "piano",
            "guitar",
            paraphrase_prompts=("On stage Zed plays the",),
            neighborhood=(("Bob plays the", "drum"),),
        ),
    ],
    ids=["counterfact", "bare", "neighbour of its own"],
)
def test_an_exported_edit_is_read_back(given: Edit, tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([_record(given)]))
    assert load_edits(path) == (given,)
