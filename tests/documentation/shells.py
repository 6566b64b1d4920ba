"""Runs the blocks of a page as a reader would: in order, in terminals, in a copy of the folder.

The folder is an empty one with links to what the repository has, so nothing is written into the
checkout. The one thing that is changed in a block is the port, for a free one.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.documentation.blocks import ROOT, Block

LINKS: Final = (
    *(
        "Makefile",
        "README.md",
        "audits",
        "benchmarks",
        "constraints.txt",
        "deploy",
        "docs",
        "examples",
    ),
    *("experiments", "pyproject.toml", "src", "tests"),
)
PORT: Final = "7443"
FIRST: Final = "first"
SECONDS: Final = 240.0
"""Longest time for one block: a session of four processes on two busy cores."""


def _bash() -> str:
    found = shutil.which("bash")
    assert found is not None, "bash is not installed"
    return found


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Workspace:
    """A folder for one page, and its terminals.

    Attributes:
        folder: where the first terminal starts.
        private: for programs, logs and what terminals remember; not seen by the blocks.
        variables: of the environment, for all terminals.
        port: in place of the one in the text.
    """

    folder: Path
    private: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    _running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the folder and the programs that a virtual environment would have."""
        self.folder.mkdir(parents=True)
        for name in LINKS:
            (self.folder / name).symlink_to(ROOT / name)
        programs = self.private / "bin"
        programs.mkdir(parents=True)
        python = shlex.quote(sys.executable)
        for name, start in (
            ("python", python),
            ("collabedit", f"{python} -c 'from collabedit.cli import main; main()'"),
        ):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
            program.chmod(0o755)

    def write(self, names: str, text: str) -> None:
        """Write a block as one or several files."""
        for name in names.split(","):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def run(self, block: Block) -> str:
        """Run a block and return what it printed; nothing, if in the background.

        Raises:
            AssertionError: it, or what it waits for, ended with an error or took too long.
        """
        for name in filter(None, block.words.get("after", "").split(",")):
            self._await(name)
        variable, _, values = block.words.get("each", "").partition(":")
        terminals = values.split(",") if values else [block.words.get("terminal", FIRST)]
        for name in terminals:
            self._start(block, name, {variable: name} if variable else {})
        if "background" in block.words:
            return ""
        return "".join(self._await(name) for name in terminals)

    def finish(self) -> None:
        """Wait for everything that runs in the background."""
        for name in list(self._running):
            self._await(name)

    def close(self) -> None:
        """End what still runs."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running.clear()

    def _memory(self, terminal: str) -> Path:
        return self.private / f"{terminal}.state"

    def log(self, terminal: str) -> Path:
        """Return the file with what a terminal's last block printed."""
        return self.private / f"{terminal}.log"

    def _start(self, block: Block, terminal: str, variables: Mapping[str, str]) -> None:
        if terminal in self._running:
            self._await(terminal)
        memory, first = self._memory(terminal), self._memory(FIRST)
        lines = ["set -euo pipefail"]
        if memory.exists():
            lines.append(f". {shlex.quote(str(memory))}")
        else:
            if first.exists():
                lines.append(f". {shlex.quote(str(first))}")
            start = self.folder / block.words.get("in", ".")
            lines.append(f"cd {shlex.quote(str(start))}")
        lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        text = block.text.replace(PORT, str(self.port))
        if block.language == "python":
            text = f"python - <<'THE_BLOCK'\n{text}\nTHE_BLOCK\n"
        partial = shlex.quote(f"{memory}.partial")
        lines += [
            text,
            # What the next block of this terminal begins with.
            f'{{ declare -px; printf "cd %q\\n" "$PWD"; }} > {partial}',
            f"mv {partial} {shlex.quote(str(memory))}",
        ]
        script = "\n".join(lines)
        with self.log(terminal).open("wb") as log:
            self._running[terminal] = subprocess.Popen(
                [_bash(), "-c", script],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        return {
            **kept,
            "PATH": f"{self.private / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(filter(None, [str(ROOT / "src"), kept.get("PYTHONPATH")])),
            "HF_HUB_OFFLINE": "1",
            # Several processes at a time: more threads would be in each other's way.
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            **self.variables,
        }

    def _await(self, terminal: str) -> str:
        process = self._running.pop(terminal, None)
        if process is None:
            return ""
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = -signal.SIGKILL
        said = self.log(terminal).read_text(encoding="utf-8", errors="replace")
        assert code == 0, f"terminal {terminal} ended with {code}:\n{said}"
        return said


@contextlib.contextmanager
def workspace(folder: Path, **variables: str) -> Iterator[Workspace]:
    """Provide a workspace under `folder`, and end what it started."""
    # Outside of the folder that the blocks see; resolved, since `pwd` in a block is, too.
    made = Workspace(folder.resolve() / "checkout", folder.resolve() / "private", variables)
    made.prepare()
    try:
        yield made
    finally:
        made.close()
