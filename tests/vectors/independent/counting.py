"""SPEC 6.7: a counting task, from edits in plain text to decisions. No project code.

Taken from counting.json, beyond what `session` takes: the edits. A counting task has no numbers
that depend on a library, so the bundle is computed, too, and everything is compared byte for byte.
"""

import hmac
import re
import struct
import unicodedata
from dataclasses import dataclass, field

from independent import primitives as p
from independent.party import Draws, Party
from independent.plan import Plan
from independent.session import Replay, compare, task_draws
from independent.statements import owner_bytes
from independent.wire import Json, context_bytes, un

BLANKS = re.compile("[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def normalise(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return BLANKS.sub(" ", unicodedata.normalize("NFKC", folded)).strip(" ")


def item_of(edit: Json) -> tuple[bytes, bytes]:
    """Topic and fact, (a)."""
    if edit["relation"] is None:
        fields = [normalise(edit["subject"]), "prompt", normalise(edit["prompt"])]
    else:
        fields = [normalise(edit["subject"]), "id", normalise(edit["relation"])]
    fact = p.labelled_hash("fact", *fields, normalise(edit["object"]))
    return p.labelled_hash("topic", *fields), fact


def expand(secret: bytes, label: str, context: bytes, size: int) -> bytes:
    """HKDF of SPEC 1.4 for more than one block."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    info, out, block = p.encode("collabedit/v1/" + label, context), b"", b""
    for number in range(1, -(-size // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([number]), "sha256")
        out += block
    return out[:size]


@dataclass
class Tables:
    """What follows from the group secret."""

    plan: Plan
    context: Json
    secret: bytes

    def cells(self, table: int, item: bytes) -> list[int]:
        """(b)."""
        rows, width = self.plan.table
        key = p.derive(self.secret, "count-key", context_bytes(self.context))
        stream = expand(key, "count-cell", p.encode(table, item), 8 * rows)
        return [
            (table * rows + r) * width + int.from_bytes(stream[8 * r : 8 * r + 8], "big") % width
            for r in range(rows)
        ]

    def count(self, items: list[tuple[bytes, bytes]]) -> list[int]:
        rows, width = self.plan.table
        cells = [0] * (2 * rows * width)
        for item in items:
            for table in (0, 1):
                for cell in self.cells(table, item[table]):
                    cells[cell] += 1
        return cells

    def checks(self, cells: list[int]) -> list[int]:
        """(d)."""
        bytes_each = self.plan.width
        key = p.derive(self.secret, "count-check", context_bytes(self.context))
        found = []
        for k in range(self.plan.check_elements):
            stream = p.elements_of(p.keystream(key, k, len(cells) * bytes_each), bytes_each)
            product = sum(a * cell for a, cell in zip(stream, cells, strict=True))
            found.append(product % 2 ** (8 * bytes_each))
        return found

    def pad_key(self, party: int) -> bytes:
        """(c)."""
        return p.derive(self.secret, "count-pad", owner_bytes(self.context, party))

    def read(self, total: list[int], survivors: list[int]) -> list[int]:
        """(f), less the comparison with one's own."""
        width, at, opened = self.plan.width, 0, list(total)
        for index, size in enumerate(self.plan.tile_sizes(self.context["task"])):
            for party in survivors:
                stream = p.keystream(self.pad_key(party), index, size * width)
                for i, pad in enumerate(p.elements_of(stream, width)):
                    opened[at + i] = (opened[at + i] - pad) % 2 ** (8 * width)
            at += size
        rows, columns = self.plan.table
        cells, checks = opened[: 2 * rows * columns], opened[2 * rows * columns :]
        most = self.plan.max_edits(survivors)
        sums = {sum(cells[i : i + columns]) for i in range(0, len(cells), columns)}
        if max(cells) > most or checks != self.checks(cells) or len(sums) != 1 or max(sums) > most:
            raise ValueError("the tables are refused")
        return cells


@dataclass
class CountingParty(Party):
    """A party that counts: its vector follows from the group secret."""

    items: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def tables(self) -> Tables:
        return Tables(self.plan, self.context, self.group_secret)

    def further_masks(self) -> list[tuple[str, int, bytes]]:
        cells = self.tables.count(self.items)
        self.encoded = cells + self.tables.checks(cells)
        return [("pad", 1, self.tables.pad_key(self.me))]


def templates(edit: Json) -> list[str]:
    """(g): paraphrases that name the subject, each once, other than the prompt."""
    found: list[str] = []
    for text in edit["paraphrases"]:
        subject = re.escape(edit["subject"])
        words = [match.start() for match in re.finditer(rf"(?<!\w){subject}(?!\w)", text)]
        at = words[-1] if words else text.rfind(edit["subject"])
        if at < 0 or "{}" in text:
            continue
        template = text[:at] + "{}" + text[at + len(edit["subject"]) :]
        if template != edit["prompt"] and template not in found:
            found.append(template)
    return found


class CountingReplay(Replay):
    def prepare(self, party: int, task: int, context: Json) -> Party:
        given = self.given["tasks"][task]["parties"][str(party)]
        draws = Draws(task_draws(un(given["seed"]), owner_bytes(context, party)))
        items = [item_of(edit) for edit in given["items"]]
        return CountingParty(self.plan, party, self.seeds[party], context, draws, [], items=items)

    def bundle_of(self, task: int, total: bytes) -> bytes:
        """(e)."""
        del task
        return b"CEC1" + struct.pack("<III", self.plan.width, *self.plan.table) + total

    def brought(self, given: Json) -> Json:
        tables = self.any_party.tables
        names = ("subject", "prompt", "relation", "object", "paraphrases")
        shown = []
        for edit in given["items"]:
            topic, fact = item_of(edit)
            shown.append(
                {name: edit[name] for name in names}
                | {
                    "topic": topic.hex(),
                    "fact": fact.hex(),
                    "topic_cells": tables.cells(0, topic),
                    "fact_cells": tables.cells(1, fact),
                }
            )
        return {"items": shown}

    @property
    def any_party(self) -> CountingParty:
        party = self.parties[min(self.parties)]
        assert isinstance(party, CountingParty)
        return party

    def merged(self, task: int, total: bytes, survivors: list[int], bundle: bytes) -> Json:
        del bundle
        tables, width = self.any_party.tables, self.plan.width
        cells = tables.read(p.elements_of(total, width), survivors)
        everything = [item_of(edit) for party in survivors for edit in self.edits(task, party)]
        decisions: dict[str, list[Json]] = {}
        for party in survivors:
            room = self.plan.max_edits([party]) - len(self.edits(task, party))
            decisions[str(party)] = []
            for edit in self.edits(task, party):
                topic, fact = item_of(edit)
                claims = min(cells[cell] for cell in tables.cells(0, topic))
                copies = min(claims, *(cells[cell] for cell in tables.cells(1, fact)))
                plain = (
                    sum(other[0] == topic for other in everything),
                    sum(other[1] == fact for other in everything),
                )
                if (claims, copies) != plain:
                    self.lines.append(f"tasks[{task}].decisions.{party}: not the plain counts")
                added = 0
                if claims > copies and 2 * copies > claims:
                    most = self.plan.values["overlap"]["paraphrases"]
                    added = min(most, len(templates(edit)), room)
                    room -= added
                told = {"claims": claims, "copies": copies, "kept": True, "added": added}
                decisions[str(party)].append(told)
        return {"counts": p.bytes_of(cells, width).hex(), "decisions": decisions}

    def edits(self, task: int, party: int) -> list[Json]:
        items: list[Json] = self.given["tasks"][task]["parties"][str(party)]["items"]
        return items


def verify_counting(given: Json) -> list[str]:
    replay = CountingReplay(given)
    computed = replay.run()
    return compare(given, computed) + replay.lines
