"""Which certificate a name gets, and how new ones get in; with real files, and a clock that tests move."""

from __future__ import annotations

import os
import ssl
from collections.abc import Hashable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from trackproxy.certificates.findings import examine, problems
from trackproxy.certificates.index import Certificates
from trackproxy.certificates.sources import Files, FileSource
from trackproxy.tls import CertificateError, Rules, check_ciphers, upstream_context

RSA_KEY = rsa.generate_private_key(65537, 2048)  # once: it takes time
NOW_S = datetime.now(UTC).timestamp()


def make(
    *names: str,
    common_name: str = "x",
    days: float = 30,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    password: bytes | None = None,
) -> tuple[bytes, bytes]:
    """Return a self-signed certificate for the names and its key, in PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False
        )
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return (
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked),
    )


def put(path: Path, *names: str, days: float = 30, **how: object) -> str:
    """Write chain and key into one file, in place."""
    path.write_bytes(b"".join(make(*names, days=days, **how)))  # type: ignore[arg-type]
    settle(path)
    return str(path)


def settle(path: Path) -> None:
    """Let the file be old enough not to be suspected of changing once more within a tick."""
    settle.count += 1  # type: ignore[attr-defined]
    os.utime(path, (NOW_S - 1000 + settle.count,) * 2)  # type: ignore[attr-defined]


settle.count = 0  # type: ignore[attr-defined]


class Clock:
    """Time that tests move."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A folder, a clock, and the certificates read from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()

    def open(self, *pairs: tuple[str, str], folder: bool = True, live: int = 10) -> Certificates:
        source = FileSource(list(pairs), str(self.folder) if folder else "")
        certificates = Certificates([source], live=live, clock=self.clock)
        certificates.look()
        return certificates

    def look(self, certificates: Certificates) -> list[str]:
        """Let a second pass and look."""
        self.clock.now += 1.1
        return certificates.look()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def names_in(folder: Path, pairs: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    files = FileSource(list(pairs), str(folder)).scan()
    return [(os.path.relpath(each.certificate, folder), os.path.relpath(each.key, folder)) for each in files]


# --- which files ---


def test_a_folder_may_be_laid_out_in_each_known_way_and_other_files_do_not_count(tmp_path: Path) -> None:
    for name in ("a.pem", "b.crt", "b.key", "c.cer", "c.key", "d.pem", "d.crt", "d.key"):
        (tmp_path / name).touch()
    for name in ("README", "e.txt", "f.key", ".g.pem", "h.pem~", "pem"):
        (tmp_path / name).touch()
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "real.pem").touch()
    (tmp_path / "z.org").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("fullchain.pem", "privkey.pem", "chain.pem", "README"):
        (tmp_path / "z.org" / name).symlink_to("../archive/real.pem")
    assert names_in(tmp_path) == [
        ("a.pem", "a.pem"),
        ("b.crt", "b.key"),
        ("c.cer", "c.key"),
        ("d.pem", "d.key"),
        ("z.org/fullchain.pem", "z.org/privkey.pem"),
    ]


def test_a_folder_that_is_missing_or_empty_is_a_problem(tmp_path: Path) -> None:
    assert problems([FileSource([], f"{tmp_path}/no")]) == [
        f"{tmp_path}/no cannot be read: No such file or directory"
    ]
    assert problems([FileSource([], str(tmp_path))]) == [f"{tmp_path} holds no certificates"]


# --- which one a name gets ---


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.example.com", "exact.pem"),
        ("A.Example.COM", "exact.pem"),
        ("b.example.com", "wild.pem"),
        ("b.a.example.com", "default.pem"),
        ("example.com", "default.pem"),
        ("other.org", "default.pem"),
        ("common.org", "common.pem"),
        ("hidden.org", "default.pem"),
        ("", "default.pem"),
        (None, "default.pem"),
    ],
)
def test_a_name_gets_its_own_certificate_then_a_wildcard_then_the_default(
    stage: Stage, name: str | None, file: str
) -> None:
    put(stage.folder / "wild.pem", "*.example.com")
    put(stage.folder / "exact.pem", "a.example.com", common_name="hidden.org")
    put(stage.folder / "common.pem", common_name="Common.org")
    default = put(stage.folder / "default.pem", "default.org")
    certificates = stage.open((default, ""))
    same = {
        "exact.pem": "a.example.com",
        "wild.pem": "www.example.com",
        "common.pem": "common.org",
        "default.pem": "default.org",
    }
    assert certificates.find(name) is certificates.find(same[file])
    assert len({id(certificates.find(each)) for each in same.values()}) == 4


def test_without_explicit_ones_the_first_of_the_folder_by_name_is_the_default(stage: Stage) -> None:
    put(stage.folder / "b.pem", "b.org")
    certificates = stage.open()
    assert certificates.find(None) is certificates.find("b.org")
    put(stage.folder / "a.pem", "a.org")
    stage.look(certificates)
    assert certificates.find(None) is certificates.find("a.org")


def test_one_context_holds_the_certificates_of_both_kinds_of_key(stage: Stage) -> None:
    put(stage.folder / "ec.pem", "a.org", "b.org")
    put(stage.folder / "rsa.pem", "a.org", key=RSA_KEY)
    certificates = stage.open()
    assert [kinds_of(certificates.find(name)) for name in ("a.org", "b.org")] == [
        {"ECDSA", "RSA"},
        {"ECDSA"},
    ]


def kinds_of(context: ssl.SSLContext) -> set[str]:
    """Return the kinds of keys a handshake over TLS 1.2 may use."""
    return {kind for kind in ("ECDSA", "RSA") if shake(context, f"ECDHE-{kind}-AES128-GCM-SHA256")}


def shake(server: ssl.SSLContext, ciphers: str = "", name: str = "a.org") -> bytes:
    """Shake hands in memory; the certificate (DER), or nothing if it failed."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if ciphers:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(ciphers)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    ]
    done = [False, False]
    for turn in range(10):
        try:
            ends[turn % 2].do_handshake()
            done[turn % 2] = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return b""
    return (ends[0].getpeercert(binary_form=True) or b"") if all(done) else b""


def served(certificates: Certificates, name: str | None) -> bytes:
    return shake(certificates.find(name))


def der(path: Path) -> bytes:
    """Return the first certificate in the file."""
    pem = path.read_text()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(pem[: pem.index(end) + len(end)])


def test_of_two_for_one_name_the_one_that_expires_later_is_served(stage: Stage) -> None:
    put(stage.folder / "a.pem", "a.org", days=5)
    put(stage.folder / "b.pem", "a.org", days=9)
    put(stage.folder / "c.pem", "a.org", days=7)
    certificates = stage.open()
    assert served(certificates, "a.org") == der(stage.folder / "b.pem")
    (stage.folder / "b.pem").unlink()
    stage.look(certificates)
    stage.look(certificates)
    assert served(certificates, "a.org") == der(stage.folder / "c.pem")


def test_few_contexts_are_kept_and_all_are_served(stage: Stage) -> None:
    for number in range(5):
        put(stage.folder / f"{number}.pem", f"{number}.org")
    certificates = stage.open(live=2)
    for number in (0, 1, 2, 3, 4, 0, 4, 0):
        assert served(certificates, f"{number}.org") == der(stage.folder / f"{number}.pem")
    assert len(certificates._contexts) == 2


def test_rules_have_contexts_of_their_own(stage: Stage) -> None:
    put(stage.folder / "a.pem", "a.org")
    certificates = stage.open()
    strict = certificates.find("a.org", Rules(ciphers="ECDHE-ECDSA-AES256-GCM-SHA384"))
    assert strict is not certificates.find("a.org")
    assert not shake(strict, "ECDHE-ECDSA-AES128-GCM-SHA256")
    assert shake(certificates.find("a.org"), "ECDHE-ECDSA-AES128-GCM-SHA256")


# --- changes ---


def test_a_changed_file_is_served_at_the_next_handshake_without_a_look(stage: Stage) -> None:
    path = stage.folder / "a.pem"
    put(path, "a.org")
    certificates = stage.open()
    served(certificates, "a.org")
    put(path, "a.org")
    stage.clock.now += 1.1
    assert served(certificates, "a.org") == der(path)
    assert [line.partition(":")[0] for line in certificates.look()] == ["loaded again"]


def test_a_file_is_looked_at_once_a_second_at_most(stage: Stage) -> None:
    path = stage.folder / "a.pem"
    put(path, "a.org")
    certificates = stage.open()
    stage.look(certificates)
    put(path, "a.org")
    stage.clock.now += 0.9
    assert served(certificates, "a.org") != der(path)
    stage.clock.now += 0.2
    assert served(certificates, "a.org") == der(path)


def test_a_file_that_changes_but_for_its_size_and_time_is_read_again(stage: Stage) -> None:
    path = stage.folder / "a.pem"
    path.write_bytes(b"".join(make("a.org")))
    certificates = stage.open()
    state = path.stat()
    path.write_bytes(b"".join(make("a.org")))
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))
    stage.look(certificates)
    assert served(certificates, "a.org") == der(path)


def test_names_move_with_a_changed_file(stage: Stage) -> None:
    put(stage.folder / "a.pem", "default.org")
    put(stage.folder / "b.pem", "old.org", "both.org")
    certificates = stage.open()
    put(stage.folder / "b.pem", "both.org", "new.org")
    stage.look(certificates)
    new = der(stage.folder / "b.pem")
    assert [served(certificates, name) == new for name in ("old.org", "both.org", "new.org")] == [
        False,
        True,
        True,
    ]


def test_new_and_removed_files_are_noticed(stage: Stage) -> None:
    put(stage.folder / "a.pem", "a.org")
    certificates = stage.open()
    new = put(stage.folder / "b.pem", "b.org")
    (line,) = stage.look(certificates)
    assert line.startswith(f"loaded: {new} for b.org until ")
    assert served(certificates, "b.org") == der(stage.folder / "b.pem")
    (stage.folder / "b.pem").unlink()
    lines = stage.look(certificates) + stage.look(certificates) + stage.look(certificates)
    assert lines[-1] == f"{new} is gone and no longer served"
    assert served(certificates, "b.org") == der(stage.folder / "a.pem")


def test_a_link_that_is_away_for_a_moment_loses_nothing(stage: Stage) -> None:
    for name in ("a", "b"):
        (stage.folder / name).mkdir()
        put(stage.folder / name / "fullchain.pem", f"{name}.org")
        (stage.folder / name / "privkey.pem").symlink_to("fullchain.pem")
    certificates = stage.open()
    path = stage.folder / "b" / "fullchain.pem"
    old = der(path)
    path.rename(stage.folder / "b" / "away")
    stage.look(certificates)
    assert served(certificates, "b.org") == old
    put(path, "b.org")
    stage.look(certificates)
    assert served(certificates, "b.org") == der(path)
    assert len(certificates) == 2


@pytest.mark.parametrize("live", [10, 0], ids=["context kept", "context dropped"])
@pytest.mark.parametrize("damage", ["half", "key", "empty", "gone"])
def test_what_is_broken_later_is_served_as_it_was_and_said_once(stage: Stage, damage: str, live: int) -> None:
    path = stage.folder / "a.pem"
    pair = (put(path, "a.org"), "")
    certificates = stage.open(pair, folder=False, live=live)
    old, text = der(path), path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        half = text[: len(text) // 3]
        path.write_bytes({"half": half, "key": make("a.org")[0] + make()[1], "empty": b""}[damage])
    lines = [line for _ in range(3) for line in stage.look(certificates)]
    assert [line.partition("; ")[2] for line in lines] == ["it is served as it was"]
    assert served(certificates, "a.org") == old
    put(path, "a.org")
    assert len(stage.look(certificates)) == 1
    assert served(certificates, "a.org") == der(path)


def test_what_was_broken_from_the_start_is_said_not_served_and_tried_again(stage: Stage) -> None:
    put(stage.folder / "a.pem", "a.org")
    bad = stage.folder / "b.pem"
    bad.write_bytes(make("b.org")[0] + make()[1])
    settle(bad)
    certificates = stage.open()
    assert served(certificates, "b.org") == der(stage.folder / "a.pem")
    assert certificates.look() == [
        f"the key in {bad} does not belong to the certificate in {bad}; it is not served"
    ]
    put(bad, "b.org")
    stage.look(certificates)
    assert served(certificates, "b.org") == der(bad)


def test_a_folder_that_is_away_or_emptied_leaves_all_as_it_was(stage: Stage) -> None:
    put(stage.folder / "a.pem", "a.org")
    certificates = stage.open()
    old = served(certificates, "a.org")
    (stage.folder / "a.pem").unlink()
    lines = [line for _ in range(15) for line in stage.look(certificates)]
    assert f"{stage.folder} holds no certificates; what was found before stays" in lines
    assert len(lines) == 2
    assert served(certificates, "a.org") == old


def test_no_certificate_at_all_is_an_error_at_the_handshake_and_not_before(stage: Stage) -> None:
    with pytest.raises(CertificateError, match="there is no certificate that can be used"):
        stage.open(("/no.pem", "")).find("a.org")


class Many:
    """A source of more files than one look has time for."""

    def __init__(self, clock: Clock, path: str) -> None:
        self.files = [Files(path, path)]
        self.clock = clock

    def scan(self) -> Iterable[Files]:
        for files in self.files:
            self.clock.now += 0.001
            yield files

    def stamp(self) -> Hashable:
        return len(self.files)


def test_a_look_that_has_no_time_left_goes_on_in_the_next(tmp_path: Path) -> None:
    clock = Clock()
    source = Many(clock, put(tmp_path / "0.pem", "0.org"))
    certificates = Certificates([source], clock=clock)
    for number in range(1, 10):
        path = put(tmp_path / f"{number}.pem", f"{number}.org")
        source.files.append(Files(path, path))
    looks = 0
    while len(certificates) < 10 and looks < 10:
        certificates.look()
        looks += 1
        assert certificates.behind is (len(certificates) < 10)
    assert looks == 4


# --- before they are used ---


def test_each_certificate_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path) -> None:
    chain, key = make("a.org")
    locked = make("a.org", password=b"secret")[1]
    contents = {
        "good.pem": chain + key,
        "late.pem": b"".join(make("a.org", days=-1)),
        "locked.pem": chain + locked,
        "mixed.pem": chain + make()[1],
        "nokey.pem": chain,
        "none.pem": key,
        "rubbish.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + key,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = examine([FileSource([("/no/a.pem", "/no/a.key")], str(tmp_path))], NOW_S)
    assert found.problems == [
        "/no/a.pem cannot be read: No such file or directory",
        f"the key in {tmp_path}/locked.pem is encrypted",
        f"the key in {tmp_path}/mixed.pem does not belong to the certificate in {tmp_path}/mixed.pem",
        f"{tmp_path}/nokey.pem holds no PEM key",
        f"{tmp_path}/none.pem holds no PEM certificate",
        f"{tmp_path}/rubbish.pem holds no certificate that can be read",
    ]
    assert found.warnings == [f"{tmp_path}/late.pem has expired"]


# --- contexts ---


@pytest.mark.parametrize(
    "text", ["", "ECDHE+AESGCM", "ECDHE-RSA-AES128-SHA256", "HIGH:!aNULL:!MD5", "ALL,!aNULL"]
)
def test_lists_of_ciphers_that_protect_are_taken(text: str) -> None:
    check_ciphers(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nonsense", '"nonsense" is no cipher that OpenSSL knows'),
        ("ECDHE+AESGCM:nonsense", '"nonsense" is no cipher that OpenSSL knows'),
        (
            "TLS_AES_128_GCM_SHA256",
            '"TLS_AES_128_GCM_SHA256" is a cipher of TLS 1.3, which are always on: .*',
        ),
        ("NULL@SECLEVEL=0", '".*" has .*NULL.* in it, which protects nothing'),
        ("ADH@SECLEVEL=0", '".*" has ADH-.* in it, which protects nothing'),
    ],
)
def test_lists_of_ciphers_that_protect_nothing_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}"):
        check_ciphers(text)


def test_a_node_is_verified_with_the_given_authority_and_its_name(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    put(path, "node.org")
    context = upstream_context(True, str(path))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.cert_store_stats()["x509"] == 1
    assert upstream_context(False, "").verify_mode == ssl.CERT_NONE


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(CertificateError, match=r"ca.pem cannot be read: No such file or directory$"):
        upstream_context(True, str(path))
    path.touch()
    with pytest.raises(CertificateError, match=r"ca.pem holds no PEM certificates$"):
        upstream_context(True, str(path))
