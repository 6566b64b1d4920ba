"""Model cards say what was done, and nothing of what was edited."""

import json
from typing import Any

import pytest
from huggingface_hub import ModelCard

from collabedit.ids import LayerIndex
from collabedit.party.editing.cards import AuditSummary, SessionFigures, model_card
from collabedit.plan import Plan, format_digest
from tests.support.federations import build_federation

PLAN = build_federation(3).plan
SESSION = "sha256:" + "ab" * 32


def card(plan: Plan = PLAN, **changes: Any) -> str:  # noqa: ANN401  # any argument of a card
    arguments: dict[str, Any] = {
        "kind": "checkpoint",
        "base_model": "organisation/model",
        "sessions": [SESSION],
        "ranks": {LayerIndex(3): 7, LayerIndex(1): 5},
    }
    return model_card(plan, **arguments | changes)


def front_matter(text: str) -> dict[str, Any]:
    data = ModelCard(text, ignore_metadata_errors=False).data
    found: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize(
    ("kind", "library", "relation"),
    [("checkpoint", "transformers", "finetune"), ("adapter", "peft", "adapter")],
)
def test_the_front_matter_is_what_a_hub_reads(kind: str, library: str, relation: str) -> None:
    found = front_matter(card(kind=kind))
    assert found == {
        "base_model": "organisation/model",
        "base_model_relation": relation,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["knowledge-editing", "collabedit", PLAN.editing.editor],
    }


def test_it_says_what_was_done() -> None:
    text = card()
    assert "1 (rank 5), 3 (rank 7)" in text
    assert format_digest(PLAN.digest) in text
    assert PLAN.model.weights in text
    assert SESSION in text
    assert "No report of an audit was given." in text
    assert "3, of which 3 are needed" in text


def test_it_counts_survivors_and_votes_and_quotes_an_audit() -> None:
    values: dict[str, Any] = PLAN.model_dump(mode="json", exclude_none=True)
    values["acceptance"] = {
        "votes": 3,
        "efficacy": 0.5,
        "neighbourhood_drop": 0.5,
        "perplexity_ratio": 2.0,
    }
    text = card(
        Plan.model_validate(values),
        session=SessionFigures(survivors=3, accepting=2, voting=3, checked=0),
        audit=AuditSummary("yearly", (("recipient", "leaks", "Finds 3 of 4."),)),
    )
    assert "the edits of 3 are in" in text
    assert "at least 3 parties had to accept" in text
    assert "2 of 3 votes did" in text
    assert "- recipient: **leaks**. Finds 3 of 4." in text


def test_parties_have_no_names_in_it() -> None:
    text = card(session=SessionFigures(survivors=3, accepting=None, voting=None, checked=2))
    for party in PLAN.federation.parties:
        assert party.name not in text
        assert party.identity not in text


HOSTILE = 'x"\n---\ntags: [evil]\n| <script>alert(1)</script> [a](b) `c`'


def test_names_cannot_change_what_the_card_says() -> None:
    audit = AuditSummary(HOSTILE, ((HOSTILE, HOSTILE, HOSTILE),))
    text = card(base_model=HOSTILE, audit=audit)
    found = front_matter(text)
    assert found["base_model"] == HOSTILE
    assert "evil" not in found["tags"]
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body.replace("\\<script", "")
    assert "\n---\n" not in body
    assert "\n| <" not in body
    assert json.dumps(HOSTILE) in text
