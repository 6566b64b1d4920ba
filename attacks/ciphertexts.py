"""Attacks on sessions with ciphertexts, as audits run them; what they do is in `ckks_sessions`.

A module of its own, which loads without TenSEAL: lists of attacks are read where it is not
installed.
"""

from dataclasses import dataclass

from collabedit.attacks.attack import Finding, Prior
from collabedit.attacks.claims import Attempt, Attempts
from collabedit.attacks.encrypted_views import EncryptedCollusion, EncryptedView
from collabedit.attacks.registry import Entry
from collabedit.ids import LayerIndex
from collabedit.threat_model import Adversary


@dataclass(frozen=True, slots=True)
class SharedKey:
    """Membership in each single upload, decrypted with the key that every party has.

    Attributes:
        layer: None is the first edited layer.
    """

    layer: LayerIndex | None = None
    name: str = "shared-key"
    adversary: Adversary = Adversary.COLLUDING

    def run(self, view: EncryptedCollusion, prior: Prior) -> Finding:
        """Score the candidates against each upload: one row for each party."""
        from collabedit.attacks.ckks_sessions import CollusionSpan  # noqa: PLC0415  needs TenSEAL

        found = CollusionSpan(self.layer).run(view, prior)
        # The party that lends its key knows its own edits.
        others = [place for place, party in enumerate(found.about) if party != view.party.party]
        about = tuple(found.about[place] for place in others)
        return Finding(self.name, about, found.scores[others])


@dataclass(frozen=True, slots=True)
class KeyFromRelease:
    """The secret key, from every chunk of every sum that the opener gave back."""

    name: str = "ckks-key"
    adversary: Adversary = Adversary.HONEST_AGGREGATOR

    def run(self, view: EncryptedView, prior: Prior) -> Attempts:
        """Try each chunk. Without an opened sum there is nothing to try.

        A ternary solution of the equation is the key: a wrong one has residues all over the prime.

        Raises:
            ValueError: no sum was opened.
        """
        from collabedit.attacks.ckks_sessions import (  # noqa: PLC0415  needs TenSEAL
            keys_from_released,
        )

        del prior
        attempts = [
            Attempt(
                f"chunk {chunk} of task {task}",
                succeeded=key is not None,
                outcome="no ternary solution" if key is None else "a ternary solution: the key",
            )
            for task, keys in keys_from_released(view).items()
            for chunk, key in enumerate(keys)
        ]
        return Attempts(self.name, tuple(attempts))


KEY = Entry(
    name="ckks-key",
    asks="What is the secret key, by the sum that was opened with it?",
    adversary=Adversary.HONEST_AGGREGATOR,
    view=EncryptedView,
    make=KeyFromRelease,
    source="Li and Micciancio 2021 (EUROCRYPT), ePrint 2020/1533",
    departs="on integers in coefficients, of every chunk that the session opened",
    headline="success",
    needs=(),
)

SHARED = Entry(
    name="shared-key",
    asks="Which candidates did each party edit, if one party lends the aggregator its key?",
    adversary=Adversary.COLLUDING,
    view=EncryptedCollusion,
    make=SharedKey,
    source="Mouchet et al. 2021 (PoPETs), ePrint 2020/304, on what one key among parties means",
    departs="followed by the span test",
    headline="auc",
)
