"""Write tests/vectors/counting.json with the code under test.

    python tests/vectors/generate_counting.py [folder]

The counting task of a session of four parties (threshold 3), run with the machines that are
deployed, in a ring of 32 bits. Party 3 falls silent in r3 after two tiles, so its edits are not
counted. `README.md` says what the fields are.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from generate_session import FOLDER, PLAN, Run, content, write

from collabedit.aggregator.opening import OpenedTask
from collabedit.crypto.kdf import derive_key
from collabedit.crypto.ring import to_bytes
from collabedit.exchange import decode_counts
from collabedit.ids import PartyId, TaskIndex
from collabedit.party import states as s
from collabedit.party.contribution import contributed_vector
from collabedit.party.counting import Counter
from collabedit.party.decisions import decide
from collabedit.party.edits import Edit
from collabedit.party.items import Item, edit_items, items_to_bytes
from collabedit.proto.statements import owner_context

# Not a sparse graph at four parties, but a bound on collusion that a counting task does not heed.
COUNTING_PLAN = (
    PLAN.replace('"session-vector"', '"counting-vector"')
    .replace("threshold = 3\n", "threshold = 3\ncorruptions = 1\n")
    .replace("max_edits = 1 }", "max_edits = 3 }")
    .replace("max_edits = 2 }", "max_edits = 5 }")
    .replace("capacity = 13", "capacity = 22")
    .replace("ring_bits = 64", "ring_bits = 32")
    .replace("fractional_bits = 24", "fractional_bits = 16")
    + """
[overlap]
policy = "augment"
false_positive = 0.001
rows = 12
width = 30
paraphrases = 2
"""
)

EDITS: dict[int, list[Edit]] = {
    1: [
        Edit("a", "{} lives in", "Ada Lovelace", "Rome", relation="P551"),
        Edit(
            *("b", "{} plays the", "Bob", "guitar"),
            paraphrase_prompts=("Bob, Bob's band says, is on the", "He plays the", "Bob plays the"),
        ),
        Edit("c", "{} lives in", "Ada Lovelace", "Rome", relation="P551"),
    ],
    2: [
        Edit("d", "The home of {} is", "  ADA\tlovelace ", "rome", relation="p551"),
        Edit(
            *("e", "{} plays the", "Bob", "piano"),
            paraphrase_prompts=("One hears Bob on the",),
        ),
    ],
    3: [Edit("f", "{} plays the", "Bob", "piano")],
    4: [
        Edit(
            *("g", "{}  PLAYS the", "BOB", "Guitar"),
            paraphrase_prompts=("Bob and his", "What BOB plays is the", "See BOB at the"),
        ),
        Edit("h", "{} liegt an der", "Gießen", "Ｌａｈｎ"),
    ],
}
"""Rome three times by two parties; guitar twice against one piano, a second one being lost."""


class CountingRun(Run):
    """The first task of that session."""

    def tasks_to_run(self) -> range:
        return range(1)

    def items(self, party: PartyId) -> tuple[Item, ...]:
        return edit_items(EDITS[party])

    def bring(self, party: PartyId, task: TaskIndex) -> None:
        del party, task  # the vector follows from the group secret

    def upload(self, party: PartyId, state: s.Contributing) -> None:
        brought = items_to_bytes(self.items(party))
        self.encoded[party] = contributed_vector(state.setup, brought, state.group_secret)
        super().upload(party, state)

    def secret(self, party: PartyId) -> bytes:
        contributing: s.Contributing = self.state(party, s.Contributing)
        assert contributing.group_secret is not None
        return contributing.group_secret

    def further_masks(
        self, me: PartyId, contributing: s.Contributing
    ) -> list[tuple[str, int, bytes]]:
        del contributing
        owner = owner_context(self.context, me)
        return [("pad", 1, derive_key(self.secret(me), label="count-pad", context=owner))]

    def describe_brought(self, party: PartyId) -> dict[str, Any]:
        counter = Counter(self.plan, self.context, self.secret(party))
        return {
            "items": [
                {
                    "subject": edit.subject,
                    "prompt": edit.prompt,
                    "relation": edit.relation,
                    "object": edit.target_new,
                    "paraphrases": list(edit.paraphrase_prompts),
                    "topic": item.topic.hex(),
                    "fact": item.fact.hex(),
                    "topic_cells": counter.cells(item.topic, table=0).tolist(),
                    "fact_cells": counter.cells(item.fact, table=1).tolist(),
                }
                for edit, item in zip(EDITS[party], self.items(party), strict=True)
            ]
        }

    def describe_released(self, task: TaskIndex, opened: OpenedTask) -> dict[str, Any]:
        survivors = self.coordinator.records[task].survivors
        total = decode_counts(self.plan, task, opened.bundle)
        assert np.array_equal(total, opened.total)
        overlap = self.plan.overlap
        assert overlap is not None
        told, counts = {}, b""
        for party in sorted(survivors):
            items = self.items(party)
            own = [(item.topic, item.fact) for item in items]
            counter = Counter(self.plan, self.context, self.secret(party))
            tables = counter.open(total, survivors=survivors, own=own)
            counts = bytes(to_bytes(tables.counts))
            found = [tables.count(digests) for digests in own]
            room = self.plan.max_edits([party]) - len(items)
            told[str(party)] = [
                {
                    "claims": decision.claims,
                    "copies": decision.copies,
                    "kept": decision.is_kept,
                    "added": decision.added,
                }
                for decision in decide(overlap, items, found, room=room)
            ]
        return {"counts": counts.hex(), "decisions": told}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    with tempfile.TemporaryDirectory() as directory:
        run = CountingRun(Path(directory), {}, plan_text=COUNTING_PLAN).run()
    write(folder / "counting.json", content(run, generator="generate_counting.py"))


if __name__ == "__main__":
    main()
