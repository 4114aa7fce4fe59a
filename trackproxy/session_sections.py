"""Settings of a service whose clients have sessions: NNTP, SMTP, or plain TCP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trackproxy.dialects import DIALECTS, Dialect
from trackproxy.explain import KeyPath
from trackproxy.sections import (
    EndpointSettings,
    ProbeTimes,
    Section,
    Service,
    SessionAccessLog,
    host_name,
)
from trackproxy.units import Address, Count, Duration, FilePath, Name, Network

ProxyProtocol = Literal["off", "v1", "v2"]


def _words(text: str) -> str:
    if not re.fullmatch(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*", text):
        raise ValueError("must be text without control characters other than line breaks and tabs")
    return text


class SessionTimeouts(Section):
    """How long each wait of an NNTP, SMTP or TCP service may last."""

    connect: Duration = Field(default=2, description="Until a node has taken a connection.")
    idle: Duration | None = Field(
        default=None, description="Silence of a session; unset is 35m for nntp, 15m for smtp, 1h for tcp."
    )
    half_closed: Duration = Field(default=60, description="Silence after one side has ended.")
    tls_handshake: Duration = Field(default=10, description="Until a client's TLS handshake is complete.")
    proxy_header: Duration = Field(default=3, description="Until a trusted proxy has said who the client is.")
    linger: Duration = Field(default=2, description="Reading on after a refusal, so that the client sees it.")


class PerClient(Section):
    """What one client may have: an IPv4 address, or an IPv6 network of 64 bits."""

    max_connections: Count = Field(default=0, description="Sessions at once; 0 is no limit.")
    max_connection_rate: Count = Field(default=0, description="New sessions a second; 0 is no limit.")


class SessionProbe(ProbeTimes):
    """How endpoints of an NNTP, SMTP or TCP service are checked."""

    type: Literal["nntp", "smtp", "tcp", "off"] | None = Field(
        default=None, description="A short polite session, a connection, or nothing; unset is the protocol's."
    )
    timeout: Duration = Field(default=2, description="How long one probe may take.")
    name: Annotated[str, AfterValidator(host_name)] = Field(
        default="", description="Who an SMTP probe says it is (EHLO); empty is this machine's name."
    )
    send: Annotated[str, AfterValidator(_words)] = Field(
        default="", description="What a TCP probe sends once it is connected."
    )
    expect: Annotated[str, AfterValidator(_words)] = Field(
        default="", description="Text that must come then within the first 64 KiB; empty is none."
    )


class SessionEndpointSettings(EndpointSettings):
    """What one NNTP, SMTP or TCP service changes about a node."""

    proxy_protocol: ProxyProtocol | None = Field(default=None, description="Instead of the service's own.")


class SessionService(Service):
    """An NNTP, SMTP or plain TCP service: newsgroups, incoming mail, anything else."""

    protocol: Literal["nntp", "smtp", "tcp"] = Field(description="What the service speaks.")
    balance: Literal["round_robin", "least_connections", "random_two", "source_hash"] = Field(
        default="least_connections", description="How an endpoint is picked."
    )
    trusted_proxies: list[Network] = Field(
        default=[], description="Peers that say with the PROXY protocol who their client is."
    )
    accept_proxy_protocol: bool = Field(
        default=False, description="Trusted proxies begin with a PROXY protocol header, v1 or v2."
    )
    proxy_protocol: ProxyProtocol = Field(
        default="off", description="Tell nodes who the client is; only for nodes that expect it."
    )
    name: Annotated[str, AfterValidator(host_name)] = Field(
        default="", description="What the service is called in lines of our own; empty is its name here."
    )
    greeting_timeout: Duration = Field(
        default=5, description="Silence of a node before its greeting that passes to the next one."
    )
    greeting_deadline: Duration = Field(
        default=20, description="By then a client is greeted by some node, or refused."
    )
    max_connections: Count = Field(default=0, description="Sessions of the service at once; 0 is no limit.")
    max_connection_rate: Count = Field(default=0, description="New sessions a second; 0 is no limit.")
    tls: Literal["off", "terminate", "passthrough"] = Field(
        default="off", description="Clients begin with TLS, which ends here or at the node."
    )
    certificate: FilePath = Field(
        default="", description="PEM file with the certificate and its chain, to end TLS here."
    )
    private_key: FilePath = Field(
        default="", description="PEM file with its key; empty is the certificate's own file."
    )
    per_client: PerClient = Field(default=PerClient(), description="What one client may have.")
    probe: SessionProbe = Field(default=SessionProbe(), description="How endpoints are checked.")
    timeouts: SessionTimeouts = Field(default=SessionTimeouts(), description="How long each wait may last.")
    access_log: SessionAccessLog = Field(default=SessionAccessLog(), description="One line for each session.")
    nodes: dict[Name, SessionEndpointSettings] = Field(
        default={}, description="The nodes of this service, and what it changes about them; empty is all."
    )

    @property
    def dialect(self) -> Dialect:
        """What is particular to its protocol, as far as it can be read here."""
        return DIALECTS["tcp" if self.tls == "passthrough" else self.protocol]

    @property
    def probe_type(self) -> str:
        """What probes speak."""
        return self.probe.type or self.protocol

    @property
    def default_port(self) -> int:
        """The port of a node that names none; 0 if there is no usual one."""
        dialect = DIALECTS[self.protocol]
        return dialect.tls_port if self.tls == "passthrough" else dialect.port

    @property
    def idle_s(self) -> float:
        """How long a session may be silent."""
        return self.timeouts.idle or DIALECTS[self.protocol].idle_s

    @property
    def listeners(self) -> list[Address]:
        """Where clients connect."""
        return self.listen

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why."""
        yield from (((key,), text) for key, text in self._contradictions())
        yield from ((("access_log", *keys), text) for keys, text in self.access_log.contradictions())

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if self.accept_proxy_protocol and not self.trusted_proxies:
            yield (
                "accept_proxy_protocol",
                'needs trusted_proxies, such as ["10.0.0.0/8"]',
            )
        if self.trusted_proxies and not self.accept_proxy_protocol:
            yield "trusted_proxies", "means nothing without accept_proxy_protocol = true"
        if (self.probe.send or self.probe.expect) and self.probe_type != "tcp":
            yield "probe", f'send and expect are for type = "tcp", and this one is "{self.probe_type}"'
        if self.tls != "terminate" and (self.certificate or self.private_key):
            yield "certificate", 'means nothing without tls = "terminate"'
        if self.tls == "terminate":
            yield from self._tls_problems()

    def _tls_problems(self) -> Iterator[tuple[str, str]]:
        from trackproxy.tls import CertificateError, server_context  # few services need it

        if not self.certificate:
            yield "tls", 'needs certificate = "/path/to/fullchain.pem"'
            return
        try:
            server_context(self.certificate, self.private_key)
        except CertificateError as error:
            yield "certificate", str(error)
