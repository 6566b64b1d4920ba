"""Real sessions of benchmarks: everybody's identities, parties with random edits, and gauges."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collabedit.acceptance import Measures
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.journal import Journal
from collabedit.aggregator.reporting import Observer
from collabedit.aggregator.service import ServerTls
from collabedit.crypto.certificates import Authority, issue_certificate
from collabedit.crypto.rng import SystemRandomness
from collabedit.crypto.signing import SigningKey
from collabedit.editing import Layer
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.decisions import Decision
from collabedit.plan import Plan
from collabedit.sketch import LowRankUpdate, Matrix

_LIBC = ctypes.CDLL(None)

Peaks = dict[str, float]
"""MiB beyond what was there when the phase began, by phase."""


class Gauge:
    """Peak memory of this process, phase after phase."""

    def __init__(self, phase: str) -> None:
        self.peaks: Peaks = {}
        self._phase = phase
        self._begin()

    def _begin(self) -> None:
        # What was freed is given back first: a phase must not find room that another one left.
        _LIBC.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = memory("VmRSS")

    def enter(self, phase: str) -> None:
        """End the phase that runs, and begin another one."""
        used = max(0.0, memory("VmHWM") - self._before)
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0.0), used)
        self._phase = phase
        self._begin()


def memory(field: str) -> float:
    """Return a field of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


@dataclass(frozen=True)
class Setting:
    """What every process is given; identities as PEM, by id."""

    plan: Plan
    identities: dict[PartyId, bytes]
    authority: Authority
    directory: Path

    def identity(self, member: PartyId) -> SigningKey:
        """Return the key of a party, or of the aggregator."""
        return SigningKey.from_pem(self.identities[member])

    def coordinator(self, observer: Observer) -> Coordinator:
        """Make the aggregator's state, with a journal on disk."""
        place = self.directory / "aggregator"
        place.mkdir()
        return Coordinator(
            self.plan,
            self.identity(AGGREGATOR),
            directory=place,
            randomness=SystemRandomness(),
            journal=Journal(place / "journal.sqlite"),
            observer=observer,
        )

    def server_tls(self) -> ServerTls:
        """Issue the aggregator's certificate."""
        hosts = ["localhost", "127.0.0.1"]
        issued = issue_certificate(self.authority, name="aggregator", hosts=hosts, lifetime_days=2)
        return ServerTls(issued.certificate_pem, issued.key_pem, self.authority.certificate_pem)

    def channel(self, party: PartyId, port: int) -> GrpcChannel:
        """Make a party's end of the wire."""
        issued = issue_certificate(
            self.authority, name=self.plan.party_name(party), hosts=[], lifetime_days=2
        )
        return GrpcChannel(
            f"127.0.0.1:{port}",
            tls=ClientTls(issued.certificate_pem, issued.key_pem, self.authority.certificate_pem),
            server_name="aggregator",
            rate_limit=self.rate_limit(party),
        )

    def rate_limit(self, party: PartyId) -> float | None:
        """Return the bytes per second that a party holds its upload to; None for no limit."""
        del party
        return None


class FixedEditor:
    """One edit of random statistics, of a plan with one layer."""

    def __init__(self, plan: Plan, party: PartyId) -> None:
        rng = np.random.default_rng(party)
        (layer,) = plan.editing.layers
        self._pair = (
            rng.normal(size=(layer.mapped, 1)) * 0.1,
            rng.normal(size=(layer.outputs, 1)),
        )

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        """See `Editor`."""
        return [self._pair for _ in layers]

    def weigh(self, decisions: Sequence[Decision], past_claims: Sequence[int]) -> None:
        """See `Editor`."""

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        """See `Editor`."""

    def rollback(self) -> None:
        """See `Editor`."""

    def measure(self) -> Measures:
        """See `Editor`."""
        return Measures(efficacy=1.0, neighbourhood=1.0, perplexity=1.0)
