"""What a folder of thousands of certificates costs a worker: the time to load it, and memory for each.

Measured in a process of its own: before, with all names known, and after each name was asked for once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchlib.tls_peers import make_certificate

COUNT = 5000
REQUIRED = "5,000 loaded in less than 5 s, at most 20,480 bytes each"

LOADER = """
import gc, json, sys, time
from pathlib import Path
from trackproxy.certificates.index import Certificates
from trackproxy.certificates.sources import FileSource

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

folder, one, count = sys.argv[1:]
Certificates([FileSource([(one, "")], "")]).find(None)  # what any use of TLS takes
before, started = resident(), time.perf_counter()
certificates = Certificates([FileSource([], folder)])
took_s, known = time.perf_counter() - started, resident()
for number in range(int(count)):
    certificates.find(f"host{number}.example.com")
print(json.dumps([took_s, known - before, resident() - before]))
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """seconds: to load all. known_bytes, asked_bytes: for each, before and after it was asked for."""

    count: int
    seconds: float
    known_bytes: float
    asked_bytes: float


def measure_certificates(folder: Path, count: int = COUNT) -> Loaded:
    """Make COUNT certificates in FOLDER, and load them in another process."""
    many = folder / "certificates"
    many.mkdir()
    for number in range(count):
        make_certificate(many, f"host{number}.example.com")
    one = make_certificate(folder)
    command = [sys.executable, "-c", LOADER, str(many), str(one), str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)
    took_s, known, asked = json.loads(done.stdout)
    return Loaded(count, took_s, known / count, asked / count)
