"""Transfers between parties and one aggregator: who shares which line, and when each is done.

Every party has a line of its own, the aggregator one that all share, and on it everybody gets the
max-min fair share (Bertsekas and Gallager 1992, Data Networks, section 6.5.2), which is what long
TCP flows of equal round-trip times come close to. Rates change only when a transfer begins or ends,
so the model steps from event to event and is exact for what it describes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from collabedit.aggregator.connections import WINDOW_BYTES

GOODPUT: Final = 1448 / 1538
"""Payload of a full Ethernet frame with TCP timestamps over what it occupies on the line: 1500 - 52
of 1500 + 38 bytes. Records of TLS and frames of HTTP/2 take another 0.3 %, which is left out."""

FIRST_WINDOW: Final = 10 * 1448
"""Bytes that a connection sends before the first acknowledgement (RFC 6928)."""

WINDOW: Final = WINDOW_BYTES + (1 << 20)
"""Bytes that a connection has under way at most: the aggregator's window and the frame that it
reads, of the usual tiles (SPEC 5.5). It limits a distant party to WINDOW/RTT whatever its line. A
download may have more, up to Linux's 4 MiB for a sender's buffer; it is held to the same here."""


@dataclass(frozen=True, slots=True)
class Link:
    """A party's line, in both directions alike.

    Attributes:
        bits: per second, on the line.
        rtt: seconds to the aggregator and back.
    """

    bits: float
    rtt: float

    @property
    def rate(self) -> float:
        """Bytes of payload per second that one connection gets when nothing else is in its way."""
        line = self.bits / 8 * GOODPUT
        return min(line, WINDOW / self.rtt) if self.rtt else line

    def slow_start(self, size: float) -> float:
        """Seconds by which `size` bytes come later than at the full rate: the window grows first.

        It doubles each round trip until it covers the link's rate (RFC 5681, section 3.1); what is
        lost is the part of each round trip in which nothing could be sent.
        """
        lost, sent, window = 0.0, 0.0, float(FIRST_WINDOW)
        while window < self.rate * self.rtt and sent + window < size:
            lost += self.rtt - window / self.rate
            sent += window
            window *= 2
        return lost


@dataclass(frozen=True, slots=True)
class Flow:
    """One transfer.

    Attributes:
        start: seconds, when its first byte may leave.
        size: bytes.
        rate: bytes per second at most, by the slowest thing that is its alone.
    """

    start: float
    size: float
    rate: float


def finish(flows: Sequence[Flow], *, capacity: float = math.inf) -> list[float]:
    """Return when each flow's last byte arrives, in seconds.

    Args:
        flows: that share the line.
        capacity: bytes per second of all together.
    """
    left = [flow.size for flow in flows]
    ends = [flow.start if not flow.size else math.inf for flow in flows]
    now = 0.0
    while waiting := [i for i, end in enumerate(ends) if end == math.inf]:
        active = [i for i in waiting if flows[i].start <= now]
        starts = [flows[i].start for i in waiting if flows[i].start > now]
        rates = dict(
            zip(active, fair_shares([flows[i].rate for i in active], capacity), strict=True)
        )
        step = min(
            min((left[i] / rate for i, rate in rates.items()), default=math.inf),
            min(starts, default=math.inf) - now,
        )
        # Those that end now are told by the quotient that made the step: no remainder is compared.
        ending = [i for i, rate in rates.items() if left[i] / rate <= step]
        now += step
        for i, rate in rates.items():
            left[i] -= rate * step
        for i in ending:
            ends[i] = now
    return ends


def fair_shares(limits: Sequence[float], capacity: float) -> list[float]:
    """Share `capacity` max-min fairly among users that cannot use more than their limits."""
    shares = [0.0] * len(limits)
    order = sorted(range(len(limits)), key=lambda i: limits[i])
    for served, i in enumerate(order):
        shares[i] = min(limits[i], capacity / (len(limits) - served))
        capacity -= shares[i]
    return shares
