"""The adversaries that claims and attacks are about, and the floors that parties enforce.

`docs/THREAT_MODEL.md` has one section for each member of `Adversary`. The floors are constants of
the client, never parameters that a coordinator may lower (Bonawitz et al. 2017, section 6.2: with
t > 2N/3 a coordinator that lies to two groups cannot make both reach the threshold).
"""

import enum

MINIMUM_PARTIES = 3
"""A sum over two opens each to the other, so three is the smallest sum that is ever opened."""

MAXIMUM_PARTIES = 500
"""Bound on the lists of a message, so that `RelayShares` stays under the largest packet."""


class Adversary(enum.Enum):
    """Who is trying to learn something. Each attack names one, each claim names what it resists."""

    NETWORK = "network"
    """Sees TLS traffic: sizes and times."""
    HONEST_AGGREGATOR = "honest-aggregator"
    """Follows the protocol and keeps everything sent to it, over any number of sessions."""
    MALICIOUS_AGGREGATOR = "malicious-aggregator"
    """Sees the same, and lies: swaps keys, forks rosters, drops, replays, alters sums."""
    PARTY = "party"
    """Has its own edits and every released update."""
    COLLUDING = "colluding"
    """The aggregator together with c parties: c < t if it follows the protocol, and if it lies
    c <= t - 2 and c < 2t - N, since a liar can ask two groups for different kinds of share."""
    RECIPIENT = "recipient"
    """Holds the model before and after."""


def minimum_threshold(parties: int) -> int:
    """Return the smallest threshold that parties accept: max(3, ⌊2N/3⌋ + 1) for N parties."""
    return max(MINIMUM_PARTIES, 2 * parties // 3 + 1)


def maximum_corruptions(parties: int, threshold: int) -> int:
    """Return how many of N parties may collude with a lying aggregator: c < 2t - N, c <= t - 2.

    With more it could collect both kinds of share of a victim, or leave one honest party in a sum.
    """
    return min(2 * threshold - parties - 1, threshold - 2)


def proposed_corruptions(parties: int) -> int:
    """Return the bound on collusion that a new plan with a sparse graph states: every fifth party.

    docs/adr/0010 has the reason and what other bounds cost.
    """
    return parties // 5
