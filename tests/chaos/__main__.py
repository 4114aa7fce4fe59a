"""The command line behind `scripts/chaos`: run faults, print the table, tell what should not have been.

Exit codes: 0 if everything held, 1 if anything did not, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

from tests.chaos.faults import FAULTS
from tests.chaos.figures import Figures
from tests.chaos.processes import ChaosError
from tests.chaos.runs import CONNECTIONS, SHORT, Fault, Scale, perform
from tests.chaos.table import render

Found = dict[str, list[Figures]]


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"no fault is called {name!r}; there are: {', '.join(FAULTS)}")
    return names


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="Does the proxy lose requests while its surroundings fail?"
    )
    add = parser.add_argument
    add("--workers", type=int, default=2, help="processes that serve; 0 is none of their own")
    add("--seconds", type=float, help="how long a fault lasts")
    add("--connections", type=int, default=CONNECTIONS, help="clients at once")
    add("--only", type=_names, metavar="NAME,NAME", help=f"of: {', '.join(FAULTS)}")
    add("--repeat", type=int, default=1, metavar="N", help="run each fault N times")
    add("--short", action="store_true", help="as short as in the tests")
    add("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args(argv)


def scale_of(arguments: argparse.Namespace) -> Scale:
    """How much of everything the options ask for."""
    scale = replace(
        SHORT if arguments.short else Scale(), workers=arguments.workers, connections=arguments.connections
    )
    if arguments.seconds is None:
        return scale
    return replace(scale, fault_s=arguments.seconds, hang_s=arguments.seconds)


def tell(line: str) -> None:
    """Progress, beside the table."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def once(fault: Fault, scale: Scale) -> Figures:
    """Run a fault once and tell how it went; a run that breaks off is a problem like any other."""
    with tempfile.TemporaryDirectory(prefix="trackproxy-chaos-") as folder:
        try:
            figures, log = perform(fault, scale, Path(folder))
        except ChaosError as error:
            figures, log = broken(fault, error), ""
    for problem in figures.problems:
        tell(f"  {problem}")
    if figures.problems and log:
        tell(f"  the end of its log:\n{log}")
    return figures


def broken(fault: Fault, error: ChaosError) -> Figures:
    """What is left of a run that did not come to its end."""
    return Figures(fault.name, 0, 0, 0, 0, 0, None, None, 0.0, 0.0, [str(error)])


def main(argv: Sequence[str]) -> int:
    """Run what was asked for."""
    arguments = parse(argv)
    scale = scale_of(arguments)
    chosen = [FAULTS[name] for name in arguments.only or FAULTS]
    found: Found = {}
    for number in range(1, arguments.repeat + 1):
        for fault in chosen:
            if fault.workers and not scale.workers:
                continue
            tell(f"{fault.name}, run {number} of {arguments.repeat}")
            found.setdefault(fault.name, []).append(once(fault, scale))
    runs = {name: [asdict(one) for one in figures] for name, figures in found.items()}
    sys.stdout.write((json.dumps(runs, indent=2) if arguments.json else render(found)) + "\n")
    return 1 if any(one.problems for figures in found.values() for one in figures) else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Only once: a second signal must not disturb the ending of what was started."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _interrupt)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
