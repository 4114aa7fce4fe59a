"""Settings of TLS, towards clients and towards nodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from trackproxy.explain import KeyPath
from trackproxy.sections import Section, host_name
from trackproxy.units import FilePath, ListenAddress, Port, Span

if TYPE_CHECKING:
    from trackproxy.certificates.findings import Findings
    from trackproxy.certificates.sources import FileSource


class Certificate(Section):
    """One certificate with its key."""

    certificate: FilePath = Field(description="PEM file with the certificate and its chain.")
    private_key: FilePath = Field(
        default="", description="PEM file with its key; empty is the certificate's own file."
    )


class Tls(Section):
    """TLS towards clients; on if there is a listener for it."""

    listen: list[ListenAddress] = Field(default=[], description='Where clients speak TLS, such as ":443".')
    certificates: list[Certificate] = Field(
        default=[], description="Certificates; the first one is for names that none of them has."
    )
    folder: FilePath = Field(
        default="",
        description="Folder of more: NAME.pem, NAME.crt and NAME.key, or NAME/fullchain.pem, privkey.pem.",
    )
    minimum: Literal["1.2", "1.3"] = Field(default="1.2", description="The oldest TLS that is spoken.")
    ciphers: str = Field(
        default="", description="Ciphers for TLS 1.2 as OpenSSL names them; empty is modern ones only."
    )
    hsts: Span = Field(
        default=0, description="How long browsers shall come with TLS only (HSTS); 0s says nothing."
    )
    port: Port | None = Field(
        default=None, description="Port of https URLs that are redirected to; unset is the listener's."
    )

    @property
    def public_port(self) -> int:
        """The port of https URLs."""
        ports = [address.port for address in self.listen if address.port]
        return self.port or (443 if 443 in ports or not ports else ports[0])

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why; looks at the files."""
        if not self.listen:
            for key in ("certificates", "folder", "hsts", "port"):
                if getattr(self, key):
                    yield (key,), 'means nothing without listen = [":443"]'
        elif not self.certificates and not self.folder:
            yield (
                ("listen",),
                'needs certificates = [{ certificate = "/path/to/fullchain.pem", private_key = "…" }]'
                " or folder",
            )
        else:
            yield from self._file_problems()
            yield from self._cipher_problems()

    def _file_problems(self) -> Iterator[tuple[KeyPath, str]]:
        from trackproxy.certificates.findings import problems, unusable  # few services need it
        from trackproxy.certificates.sources import FileSource

        for index, one in enumerate(self.certificates):
            for problem in problems([FileSource([(one.certificate, one.private_key)], "")]):
                yield ("certificates", index), problem
        if self.folder and (problem := unusable(FileSource([], self.folder))):
            yield ("folder",), problem

    def _cipher_problems(self) -> Iterator[tuple[KeyPath, str]]:
        from trackproxy.tls import check_ciphers

        if self.ciphers:
            try:
                check_ciphers(self.ciphers)
            except ValueError as error:
                yield ("ciphers",), str(error)

    def findings(self) -> Findings:
        """Look at every certificate; of those in the folder some may be bad, and the others are served."""
        from trackproxy.certificates.findings import examine

        return examine([self.source()] if self.listen else [], time.time())

    def source(self) -> FileSource:
        """Return where certificates come from."""
        from trackproxy.certificates.sources import FileSource

        return FileSource([(one.certificate, one.private_key) for one in self.certificates], self.folder)


class UpstreamTls(Section):
    """TLS towards nodes."""

    enabled: bool = Field(default=False, description="Speak TLS to nodes; their port is 443 then.")
    verify: bool = Field(default=True, description="Refuse nodes whose certificate is not good.")
    ca_file: FilePath = Field(
        default="", description="PEM file of whom to believe; empty is what this system believes."
    )
    server_name: Annotated[str, AfterValidator(host_name)] = Field(
        default="", description="Name that nodes' certificates must have; empty is the host of their address."
    )

    def contradictions(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield keys whose values are right alone and wrong together, and why; looks at the files."""
        if not self.enabled:
            for key in ("ca_file", "server_name"):
                if getattr(self, key):
                    yield (key,), "means nothing without enabled = true"
            return
        if self.ca_file and not self.verify:
            yield ("ca_file",), "means nothing with verify = false"
            return
        from trackproxy.tls import CertificateError, upstream_context  # few services need it

        try:
            upstream_context(self.verify, self.ca_file)
        except CertificateError as error:
            yield ("ca_file",), str(error)
