"""What is to be said of certificates before they are used."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from trackproxy.certificates.reading import read, verify
from trackproxy.certificates.sources import Files, Source
from trackproxy.tls import CertificateError


@dataclass(frozen=True, slots=True)
class Findings:
    """What `examine` has found: certificates that cannot be used, and some that should not."""

    problems: list[str]
    warnings: list[str]


def examine(sources: Iterable[Source], now_s: float) -> Findings:
    """Verify all certificates as of a time in seconds since 1970; 5,000 take some seconds."""
    findings = Findings([], [])
    for source in sources:
        try:
            for files in source.scan():
                _examine(files, now_s, findings)
        except CertificateError as error:
            findings.problems.append(str(error))
    return findings


def problems(sources: Iterable[Source]) -> list[str]:
    """Return what is wrong with the certificates that cannot be used: each names file and reason."""
    return examine(sources, time.time()).problems


def unusable(source: Source) -> str:
    """Return why SOURCE is of no use at all: empty if it has one certificate that can be used."""
    first = ""
    try:
        for files in source.scan():
            found = Findings([], [])
            _examine(files, time.time(), found)
            if not found.problems:
                return ""
            first = first or found.problems[0]
    except CertificateError as error:
        return str(error)
    return first


def _examine(files: Files, now_s: float, findings: Findings) -> None:
    try:
        certificate = read(files)
        verify(certificate)
    except CertificateError as error:
        findings.problems.append(str(error))
        return
    if certificate.expires_s <= now_s:
        findings.warnings.append(f"{certificate.files.certificate} has expired")
    elif certificate.begins_s > now_s:
        findings.warnings.append(f"{certificate.files.certificate} is not valid yet")
