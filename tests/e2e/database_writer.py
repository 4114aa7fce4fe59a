"""Children that change a database until they are killed, one after the other: `python -m … FOLDER`.

Each line on standard input is the step to begin with; a child answers with its process id, then with the
number of each step once that is kept. When it is dead, "dead" follows.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from trackproxy.control.database import Database
from trackproxy.control.overrides import Added, node_scope

STEPS = 4  # after which it begins anew, with another number


def do(database: Database, step: int) -> None:
    """Do one step: each is one change, the last one of three rows."""
    number, at = divmod(step, STEPS)
    match at:
        case 0:
            database.put(node_scope("a"), "weight", number + 2, 1, "writer", float(number))
        case 1:
            database.add_node(Added("x", "10.0.0.1", {"weight": number}, float(number), "writer"))
        case 2:
            database.put(node_scope("x"), "weight", number + 2, 1, "writer", float(number))
        case _:
            database.remove_node("x")


def state_after(step: int) -> tuple[int, int, int]:
    """Return what `look` sees once STEP has been done, and none after it."""
    number, at = divmod(step, STEPS)
    return number + 2, number if at in (1, 2) else -1, number + 2 if at == 2 else -1


def look(database: Database) -> tuple[int, int, int]:
    """Return the weights of a, of x as it was added, and of x as it was set; -1 for none."""
    weights = {one.scope: int(one.value) for one in database.overrides()}
    added = [int(node.settings["weight"]) for node in database.nodes()]
    return weights.get(node_scope("a"), -1), (added or [-1])[0], weights.get(node_scope("x"), -1)


def write(folder: Path, first: int) -> None:
    """Do one step after the other, and tell."""
    os.write(1, b"%d\n" % os.getpid())
    database = Database.open(folder)
    for step in count(first):
        do(database, step)
        os.write(1, b"%d\n" % step)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            write(Path(sys.argv[1]), int(line))
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
