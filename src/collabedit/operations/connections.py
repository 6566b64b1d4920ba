"""TCP connections of a listening port, as Linux counts them.

gRPC tells nobody how many connections it has; the kernel does. A connection of a stranger who has
not shown a certificate counts, too, which is what an operator wants to see.
"""

from pathlib import Path

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"


def open_connections(port: int) -> int | None:
    """Return how many established connections end at `port`; None where there is no /proc."""
    wanted = f":{port:04X}"
    count, found = 0, False
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        found = True
        for line in lines:
            fields = line.split()
            count += fields[1].endswith(wanted) and fields[3] == _ESTABLISHED
    return count if found else None
