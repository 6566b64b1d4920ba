"""An institution's side of a session, as a library; `collabedit party` is its command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from collabedit.api.credentials import Credentials
from collabedit.api.joining import Joined, JoinOptions, join, prepare_directory, use_threads
from collabedit.api.reassertion import FILE as REASSERTIONS_FILE
from collabedit.api.reassertion import read_wish, take_reassertions
from collabedit.api.reporting import SILENT, Reporter
from collabedit.api.requests import TARGETS_FILE, Edits, own_edits, take_targets
from collabedit.party.editing.means import OWN_MEANS, Means
from collabedit.plan import Plan

if TYPE_CHECKING:
    from collabedit.party.editing.ranks import Ranks


class Party:
    """One institution of a plan.

    Args:
        plan: that all agree on.
        name: own name in it.
        work: private directory for targets, journal, update and report; made if missing. With the
            same one, a session whose process died is resumed.
        reporter: told what is done.
    """

    def __init__(self, plan: Plan, name: str, *, work: Path, reporter: Reporter = SILENT) -> None:
        self.plan = plan
        self.name = name
        self.id = plan.party_id(name)
        self.work = work
        self._reporter = reporter

    def prepare(
        self,
        model: Path,
        edits: Edits,
        *,
        previous: Sequence[Path] = (),
        reassert: Path | None = None,
        reassert_count: int | None = None,
        device: str = "auto",
        threads: int | None = None,
        ranks: "Ranks | None" = None,
        means: Means = OWN_MEANS,
    ) -> None:
        """Compute the targets of one's edits offline, the longest part of taking part.

        Args:
            model: directory of the unedited model.
            edits: own edits.
            previous: updates of earlier sessions that the model continues, oldest first.
            reassert: file of true facts, some to be re-asserted beside the edits.
            reassert_count: how many; None for as many as edits.
            device: see `JoinOptions`.
            threads: see `JoinOptions`.
            ranks: processes that share the edits; None is one.
            means: of the search: its memory, its precision.

        Raises:
            InputError: model, edits or earlier updates are not those of the plan.
        """
        from collabedit.party.editing.editor import load_plan_model
        from collabedit.party.editing.ranks import ALONE
        from collabedit.party.editing.selection import select_edits

        ranks = ranks or ALONE
        plan, say = self.plan, self._reporter.say
        records = own_edits(plan, self.name, edits)
        wish = read_wish(plan, self.name, records, self.work, file=reassert, count=reassert_count)
        if ranks.is_first:
            prepare_directory(self.work)
        use_threads(threads)
        loaded = load_plan_model(plan, model, device=device, previous=previous)
        path = self.work / TARGETS_FILE
        targets = take_targets(
            plan, loaded, records, path, ranks=ranks, means=means, reporter=self._reporter
        )
        say(f"{len(records)} targets are in {path} (private)")
        chosen = select_edits(records, targets, plan.editing.skip_residual)
        made = take_reassertions(
            plan, loaded, wish, chosen, self.work, reporter=self._reporter, ranks=ranks, means=means
        )
        ranks.finish()
        if made is not None:
            say(f"{len(made.facts)} re-assertions are in {self.work / REASSERTIONS_FILE} (private)")

    def join(
        self,
        address: str,
        credentials: Credentials,
        *,
        model: Path,
        edits: Edits,
        options: JoinOptions | None = None,
    ) -> Joined:
        """Take part in one session and keep the merged update.

        Everything that can be checked is checked before the first call.

        Args:
            address: HOST:PORT of the aggregator.
            credentials: own.
            model: directory of the unedited model.
            edits: own edits.
            options: see `JoinOptions`.

        Raises:
            InputError: something given does not fit the plan; nothing was sent.
            SessionAbortedError, TransportError, StorageError and others: see `run_session`.
        """
        return join(
            self.plan,
            self.name,
            self.work,
            address,
            credentials,
            model=model,
            edits=edits,
            options=options or JoinOptions(),
            reporter=self._reporter,
        )
