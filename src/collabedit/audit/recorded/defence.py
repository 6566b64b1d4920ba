"""The defence of a recorded session, as its plan says."""

from collections.abc import Mapping

from collabedit.audit.results import DefenceCard
from collabedit.plan import Plan


def defence_of(plan: Plan) -> DefenceCard:
    """Describe what a plan resists attacks with.

    Names are those of `audit.defences` where there is one. It counts as deployed whatever it is:
    the session took place.
    """
    if plan.is_encrypted:
        name, title = "ckks", "Closed sums over ciphertexts"
        said = "Uploads are encrypted under a key that all parties have, and sums are closed"
    elif plan.closed is not None:
        name, title = "closed", "Closed sums"
        said = "Uploads are masked, and their sum is opened in a basis that the parties alone know"
    else:
        name, title = "masked", "Masked sum"
        said = "Uploads are masked, and their sum is opened in the model's own coordinates"
    more = []
    equal = plan.editing.key_length is not None
    if equal:
        more.append("keys have one length")
    if plan.decoys:
        more.append("residuals have decoys")
    if plan.cover_edits:
        more.append(f"each party adds {plan.cover_edits} cover edits")
    if plan.privacy is not None:
        more.append("parties add noise")
    # `closed+lengths` has covers, as a session of `audit run` under that name.
    if equal or plan.decoys:
        name, title = f"{name}+lengths", f"{title}, keys of one length"
    elif plan.cover_edits:
        name, title = f"{name}+covers", f"{title} with cover edits"
    if plan.privacy is not None:
        name, title = f"{name}+noise", f"{title} with noise"
    text = "; ".join([said, *more])
    return DefenceCard(name=name, title=title, text=f"{text}.", deployed=True)


def told(plan: Plan, *, parties: int) -> Mapping[str, object]:
    """Return what the plan tells adversaries, by field of attacks.

    Args:
        plan: of the session.
        parties: in the sum.
    """
    return {"covers": parties * plan.cover_edits} if plan.cover_edits else {}
