"""Network namespaces joined by veth pairs and a bridge, with links that are slow, lossy or cut.

One namespace for each end and one, the hub, between them, with the bridge. Delay, loss and rate
come from the kernel's netem where it has it, else from `shaper` in the hub, between two veth pairs.
A link is cut by taking its interface in the hub down, which is what a pulled cable looks like.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

SHAPER = Path(__file__).with_name("shaper.py")
HUB = "hub"
AGGREGATOR_ADDRESS = "10.77.0.1"


@dataclass(frozen=True, slots=True)
class Shape:
    """One link, alike in both directions but for the rates.

    Attributes:
        delay: one way, seconds.
        loss: probability that a frame is lost, each way.
        up: bits per second from the end to the hub; 0 for no limit.
        down: likewise from the hub.
    """

    delay: float = 0.0
    loss: float = 0.0
    up: float = 0.0
    down: float = 0.0


class NotPermittedError(Exception):
    """This machine does not let us make a network; says why."""


def run(*arguments: str) -> str:
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise NotPermittedError(f"{' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def find_mechanism() -> str:
    """Return `netem` or `userspace`.

    Raises:
        NotPermittedError: no namespaces here.
    """
    if os.geteuid() != 0:
        raise NotPermittedError("network namespaces need root: run it as root, or in a container")
    if shutil.which("ip") is None:
        raise NotPermittedError("there is no `ip` command: install iproute2")
    name = f"ce{os.getpid()}probe"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "add", "name", "a", "type", "veth", "peer", "name", "b")
        run("ip", "-n", name, "link", "add", "name", "c", "type", "bridge")
        try:
            run("tc", "-n", name, "qdisc", "add", "dev", "a", "root", *_netem(Shape(0.1), 1e6))
        except (NotPermittedError, OSError):
            return "userspace"
        return "netem"
    finally:
        run("ip", "netns", "del", name)


def _netem(shape: Shape, rate: float) -> list[str]:
    words = ["netem", "delay", f"{1000 * shape.delay:.3f}ms", "loss", f"{100 * shape.loss:.3f}%"]
    return words + (["rate", f"{rate:.0f}bit", "limit", "1000"] if rate else [])


@dataclass
class Lab:
    """A hub and its ends; leaving the context removes all of it.

    Attributes:
        shapes: the link of each end by the end's name.
        mechanism: as `find_mechanism` says.
    """

    shapes: Mapping[str, Shape]
    mechanism: str
    addresses: dict[str, str] = field(default_factory=dict)
    _shaper: "subprocess.Popen[str] | None" = None
    _made: list[str] = field(default_factory=list)

    def namespace(self, end: str) -> str:
        return f"ce{os.getpid()}{end}"

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._remove()

    def _build(self) -> None:
        hub = self._add_namespace(HUB)
        run("ip", "-n", hub, "link", "add", "name", "br0", "type", "bridge")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        links = [self._add_end(number, end) for number, end in enumerate(self.shapes)]
        if self.mechanism == "userspace":
            command = [*self.enter(HUB), sys.executable, "-S", str(SHAPER), "wire"]
            self._shaper = subprocess.Popen(
                [*command, json.dumps(links)], stdout=subprocess.PIPE, text=True
            )
            assert self._shaper.stdout is not None
            if self._shaper.stdout.readline() != "ready\n":
                raise NotPermittedError("no raw sockets in a namespace")

    def _add_namespace(self, end: str) -> str:
        name = self.namespace(end)
        run("ip", "netns", "add", name)
        self._made.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        with contextlib.suppress(NotPermittedError):
            # Its discovery would only add frames of its own.
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        return name

    def _add_end(self, number: int, end: str) -> dict[str, object]:
        hub, own, shape = self.namespace(HUB), self._add_namespace(end), self.shapes[end]
        outer, inner, port = f"u{number}", f"d{number}", f"b{number}"
        address = self.addresses[end] = f"10.77.0.{number + 1}"
        run("ip", "-n", hub, "link", "add", "name", outer, "type", "veth", "peer", "name", "eth0")
        run("ip", "-n", hub, "link", "set", "eth0", "netns", own)
        run("ip", "-n", own, "addr", "add", f"{address}/24", "dev", "eth0")
        if self.mechanism == "userspace":
            run("ip", "-n", hub, "link", "add", "name", inner, "type", "veth", "peer", "name", port)
            run("ip", "-n", hub, "link", "set", inner, "up")
            run(*self.enter(end), sys.executable, "-S", str(SHAPER), "plain", "eth0")
        else:
            port = outer
            for place, device, rate in ((own, "eth0", shape.up), (hub, outer, shape.down)):
                words = _netem(shape, rate)
                run("tc", "-n", place, "qdisc", "add", "dev", device, "root", *words)
        run("ip", "-n", hub, "link", "set", port, "master", "br0")
        run("ip", "-n", hub, "link", "set", port, "up")
        run("ip", "-n", hub, "link", "set", outer, "up")
        run("ip", "-n", own, "link", "set", "eth0", "up")
        shaped = {"delay": shape.delay, "loss": shape.loss, "up": shape.up, "down": shape.down}
        return {"outer": outer, "inner": inner, **shaped}

    def _remove(self) -> None:
        if self._shaper is not None:
            self._shaper.kill()
            self._shaper.communicate()
        for name in self._made:
            with contextlib.suppress(NotPermittedError):
                run("ip", "netns", "del", name)

    def enter(self, end: str) -> Sequence[str]:
        """Return the words before a command that is to run at this end."""
        return ("ip", "netns", "exec", self.namespace(end))

    def cut(self, end: str) -> None:
        """Pull the cable of an end."""
        self._set(end, "down")

    def restore(self, end: str) -> None:
        """Put it back."""
        self._set(end, "up")

    @contextlib.contextmanager
    def cut_for(self, end: str) -> Iterator[None]:
        """Keep the link of an end cut inside the context."""
        self.cut(end)
        try:
            yield
        finally:
            self.restore(end)

    def _set(self, end: str, state: str) -> None:
        number = list(self.shapes).index(end)
        run("ip", "-n", self.namespace(HUB), "link", "set", f"u{number}", state)
