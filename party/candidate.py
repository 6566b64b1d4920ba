"""The model of a session: verified updates go in, and the last one is tried before it is voted on.

SPEC 4.7(h). What is measured stays with the editor and in the party's own files; the vote alone is
said. The model before the session is measured as late as it can be, right before the first update
goes in, since every deadline of the aggregator from then on is made for computing.
"""

from collabedit.acceptance import Assessment, Measures, Vote, judge
from collabedit.errors import MalformedMessageError, NumericError
from collabedit.ids import TaskIndex
from collabedit.party.closing import Released
from collabedit.party.entries import OpenSession, UpdateAccepted
from collabedit.party.member import Editor
from collabedit.plan import Plan


class Candidate:
    """An editor and what was applied to it in this process.

    Args:
        plan: the plan.
        editor: its model as it was before the session.
        has_voted: whether the vote of this session is in the journal, so that none is asked for.
    """

    def __init__(self, plan: Plan, editor: Editor, *, has_voted: bool = False) -> None:
        self._plan = plan
        self._editor = editor
        self._asks = plan.acceptance is not None and not has_voted
        self._before: Measures | None = None
        self._tried: TaskIndex | None = None
        self._fault: MalformedMessageError | NumericError | None = None

    def assess(self, released: Released) -> Assessment:
        """Apply the update that is to be voted on, measure, and hold the plan's bounds against it.

        It stays applied: `apply` has nothing left to do if the vote keeps it.
        """
        acceptance = self._plan.acceptance
        assert acceptance is not None  # noqa: S101  only a plan that has it asks for votes
        before = self._measured_before()
        self._tried = released.context.task
        try:
            self._editor.apply(released.opened.updates)
        except (MalformedMessageError, NumericError) as error:
            self._fault = error
            return Assessment(Vote.UNUSABLE, before, None)
        after = self._editor.measure()
        return Assessment(judge(acceptance, before, after), before, after)

    def apply(self, released: Released) -> None:
        """Apply the update of a completed task, unless `assess` did.

        Raises:
            MalformedMessageError, NumericError: it cannot be applied. If the others accepted it all
                the same, this is where a party that voted `UNUSABLE` leaves them.
        """
        if self._tried == released.context.task:
            if self._fault is not None:
                raise self._fault
            return
        if self._asks:
            self._measured_before()
        self._editor.apply(released.opened.updates)

    def _measured_before(self) -> Measures:
        if self._before is None:
            self._before = self._editor.measure()
        return self._before


def has_voted(session: OpenSession | None) -> bool:
    """Tell whether a journal's session holds this party's vote."""
    if session is None:
        return False
    votes = [entry.assessment for entry in session.inputs if isinstance(entry, UpdateAccepted)]
    votes += [done.assessment for done in session.completed]
    return any(vote is not None for vote in votes)
