"""A throw-away authority and parties in threads that talk real gRPC on loopback."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from collabedit.acceptance import Measures, Vote
from collabedit.aggregator.coordinator import Coordinator
from collabedit.aggregator.reporting import Observer, ignore
from collabedit.aggregator.service import AggregatorServer, ServerTls
from collabedit.aggregator.traffic import Traffic
from collabedit.crypto.certificates import Authority, create_authority, issue_certificate
from collabedit.crypto.rng import SystemRandomness
from collabedit.editing import Layer
from collabedit.ids import AGGREGATOR, LayerIndex, PartyId, TaskIndex
from collabedit.party.client import ClientTls, GrpcChannel
from collabedit.party.decisions import Decision
from collabedit.party.member import Editor, Member, SessionReport
from collabedit.party.recorded_channel import RecordedChannel
from collabedit.party.session import run_session
from collabedit.recorder import Recorder
from collabedit.recording import Delivery, Recording
from collabedit.sketch import LowRankUpdate, Matrix
from tests.support.federations import TestFederation, weighed

UNHARMED = Measures(efficacy=1.0, neighbourhood=1.0, perplexity=20.0)
HARMFUL: dict[Vote, Measures] = {
    Vote.ACCEPT: UNHARMED,
    Vote.OWN_EDITS: replace(UNHARMED, efficacy=0.0),
    Vote.NEIGHBOURHOOD: replace(UNHARMED, neighbourhood=0.0),
    Vote.PERPLEXITY: replace(UNHARMED, perplexity=2000.0),
}
"""What a party measures afterwards that votes so, in the plans of `federations`."""


def server_tls(authority: Authority, name: str) -> ServerTls:
    issued = issue_certificate(
        authority, name=name, hosts=["localhost", "127.0.0.1"], lifetime_days=2
    )
    return ServerTls(issued.certificate_pem, issued.key_pem, authority.certificate_pem)


def client_tls(authority: Authority, name: str, *, trusts: Authority | None = None) -> ClientTls:
    issued = issue_certificate(authority, name=name, hosts=[], lifetime_days=2)
    trusted = trusts or authority
    return ClientTls(issued.certificate_pem, issued.key_pem, trusted.certificate_pem)


@dataclass
class MatrixEditor:
    """An editor over given statistics; keeps what it was told."""

    federation: TestFederation
    party: PartyId
    applied: list[dict[LayerIndex, LowRankUpdate]] = field(default_factory=list)
    rolled_back: bool = False
    scale: float = 1.0
    decisions: tuple[Decision, ...] = ()

    def weigh(self, decisions: Sequence[Decision], past_claims: Sequence[int]) -> None:
        assert not past_claims
        self.decisions = tuple(decisions)

    before: Measures = UNHARMED
    after: Measures = UNHARMED
    measured: int = 0

    def statistics(self, layers: Sequence[Layer]) -> list[tuple[Matrix, Matrix]]:
        pairs = [self.federation.edits[self.party, TaskIndex(layer.index)] for layer in layers]
        return [
            weighed((keys * self.scale, residuals), self.decisions) for keys, residuals in pairs
        ]

    def apply(self, updates: Mapping[LayerIndex, LowRankUpdate]) -> None:
        self.applied.append(dict(updates))

    def rollback(self) -> None:
        self.rolled_back = True

    def measure(self) -> Measures:
        self.measured += 1
        return self.after if self.applied else self.before


@dataclass
class Network:
    """An aggregator on loopback and the parties' ends."""

    federation: TestFederation
    directory: Path
    authority: Authority = field(default_factory=lambda: create_authority("test authority"))
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    reports: dict[PartyId, SessionReport] = field(default_factory=dict)
    errors: dict[PartyId, BaseException] = field(default_factory=dict)
    editors: dict[PartyId, MatrixEditor] = field(default_factory=dict)
    records: Path | None = None

    def recorder(self, party: PartyId) -> Recorder | None:
        """Record an end's session under a directory of its own, if sessions are recorded."""
        if self.records is None:
            return None
        plan = self.federation.plan
        if party == AGGREGATOR:
            return Recorder(self.records / "aggregator", plan, role="aggregator")
        return Recorder(self.records / plan.party_name(party), plan, role="party", party=party)

    @property
    def transcript(self) -> tuple[Delivery, ...]:
        """What the aggregator recorded, once it let go of the file."""
        assert self.records is not None
        with Recording(self.records / "aggregator") as recording:
            return tuple(recording.deliveries())

    def coordinator(
        self, recorder: Recorder | None = None, *, observer: Observer = ignore
    ) -> Coordinator:
        plan = self.federation.plan

        def observe(event: str, fields: Mapping[str, object]) -> None:
            self.events.append((event, dict(fields)))
            observer(event, fields)

        return Coordinator(
            plan,
            self.federation.identities[AGGREGATOR],
            directory=self.directory,
            randomness=SystemRandomness(),
            observer=observe,
            recorder=recorder,
        )

    def server(
        self, coordinator: Coordinator, *, traffic: Traffic | None = None
    ) -> AggregatorServer:
        tls = server_tls(self.authority, self.federation.plan.federation.aggregator.name)
        return AggregatorServer(coordinator, address="127.0.0.1:0", tls=tls, traffic=traffic)

    def channel(self, party: PartyId, port: int, **options: object) -> GrpcChannel:
        plan = self.federation.plan
        values: dict[str, object] = {
            "tls": client_tls(self.authority, plan.party_name(party)),
            "server_name": plan.federation.aggregator.name,
            "patience": 5.0,
            **options,
        }
        return GrpcChannel(f"127.0.0.1:{port}", **values)  # type: ignore[arg-type]

    def join(
        self,
        party: PartyId,
        channel: GrpcChannel,
        *,
        scale: float = 1.0,
        editor: Editor | None = None,
        observer: Observer = ignore,
    ) -> threading.Thread:
        federation = self.federation
        if editor is None:
            editor = MatrixEditor(federation, party, scale=scale)
        if isinstance(editor, MatrixEditor):
            self.editors[party] = editor
        member = Member(federation.plan, party, federation.identities[party], SystemRandomness())

        def body() -> None:
            recorder = self.recorder(party)
            try:
                if recorder is None:
                    self.reports[party] = run_session(member, channel, editor, observer=observer)
                    return
                with recorder:
                    recorded = RecordedChannel(channel, recorder, party)
                    self.reports[party] = run_session(
                        member, recorded, editor, verified=recorder.verify
                    )
            except BaseException as error:  # noqa: BLE001  handed to the test
                self.errors[party] = error

        thread = threading.Thread(target=body)
        thread.start()
        return thread
