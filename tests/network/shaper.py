"""A slow, lossy wire in user space, for kernels without netem. Run as a file, in a namespace.

Ethernet frames that arrive at one interface leave by another one later, or never: what is lost is
lost to TCP, which has to repeat it. `wire A B` joins pairs of interfaces as a JSON list tells;
`plain INTERFACE` makes the kernel compute checksums and cut segments itself, since there is no
hardware behind these interfaces that would, and a raw socket sees frames as the hardware would.
Standard library only: it starts quickly.
"""

import array
import contextlib
import fcntl
import heapq
import json
import random
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SIOCETHTOOL = 0x8946
SET_OFF = (0x17, 0x1F, 0x24)
"""ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO of linux/ethtool.h."""

QUEUE_BYTES = 128 << 10
"""Longer queues drop at their end, as routers do; netem's default is 1000 frames."""


@dataclass
class Direction:
    """From one interface to another. `rate` is in bits per second, 0 for no limit."""

    source: socket.socket
    target: socket.socket
    delay: float
    loss: float
    rate: float
    dice: random.Random
    free_at: float = 0.0
    queue: list[tuple[float, int, bytes]] = field(default_factory=list)
    count: int = 0

    def take(self) -> None:
        """Take one frame that has arrived."""
        try:
            frame, address = self.source.recvfrom(1 << 16)
        except OSError:
            return  # the link was taken down
        if address[2] == PACKET_OUTGOING or self.dice.random() < self.loss:
            return
        now = time.monotonic()
        leaves = now
        if self.rate:
            leaves = max(now, self.free_at)
            if (leaves - now) * self.rate / 8 > QUEUE_BYTES:
                return
            leaves += 8 * len(frame) / self.rate
            self.free_at = leaves
        self.count += 1
        heapq.heappush(self.queue, (leaves + self.delay, self.count, frame))

    def release(self) -> float | None:
        """Send what is due; return the seconds until the next is."""
        while self.queue:
            wait = self.queue[0][0] - time.monotonic()
            if wait > 0:
                return wait
            frame = heapq.heappop(self.queue)[2]
            with contextlib.suppress(OSError):
                self.target.send(frame)
        return None


def open_raw(interface: str) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.bind((interface, 0))
    raw.setblocking(False)
    return raw


def wire(links: list[dict[str, object]]) -> None:
    """Forward for ever; each link has `outer`, `inner`, `delay`, `loss`, `up`, `down`."""
    selector = selectors.DefaultSelector()
    directions = []
    for number, link in enumerate(links):
        outer, inner = open_raw(str(link["outer"])), open_raw(str(link["inner"]))
        for source, target, rate in ((outer, inner, link["up"]), (inner, outer, link["down"])):
            dice = random.Random(f"{number} {rate}")  # noqa: S311  which frames get lost
            delay, loss = float(str(link["delay"])), float(str(link["loss"]))
            direction = Direction(source, target, delay, loss, float(str(rate)), dice)
            selector.register(source, selectors.EVENT_READ, direction)
            directions.append(direction)
    print("ready", flush=True)  # noqa: T201  whoever started us waits for it
    while True:
        waits = [wait for direction in directions if (wait := direction.release()) is not None]
        for key, _ in selector.select(min(waits, default=1.0)):
            key.data.take()


def make_plain(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in SET_OFF:
            value = array.array("B", struct.pack("II", command, 0))
            request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
            fcntl.ioctl(control, SIOCETHTOOL, request)


if __name__ == "__main__":
    if sys.argv[1] == "plain":
        make_plain(sys.argv[2])
    else:
        wire(json.loads(sys.argv[2]))
