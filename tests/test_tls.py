"""Certificates by name, versions, clients' certificates, reload and backends: against openssl and
curl where what they make of it matters, in memory otherwise."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from lb.config import TlsConfig
from lb.config_service import UpstreamTlsConfig
from lb.tls import CIPHERS, ServerTls, TlsError, check, client_context, peer_name, server_hostname
from tests.tls_harness import PATIENCE_S, Authority, Pair, curl, handshake, join, s_client, serving


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def config(*pairs: Pair, **settings: Any) -> TlsConfig:
    return TlsConfig.model_validate(
        {"certificates": [{"cert": str(p.cert), "key": str(p.key)} for p in pairs], **settings}
    )


def served(tmp_path: Path, *pairs: Pair, **settings: Any) -> ServerTls:
    return ServerTls(config(*pairs, **settings), tmp_path / "home")


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.path)
    context.check_hostname = False
    return context


def subject(connection: ssl.SSLObject) -> str:
    certificate: Any = connection.getpeercert()
    return str(dict(pair for part in certificate["subject"] for pair in part)["commonName"])


# ── certificates by name ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("one.example.org", "one"),
        ("TWO.Example.Org", "two"),
        ("two.example.org.", "two"),
        ("two.example.org", "two"),
        ("www.two.example.org", "wild"),
        ("api.two.example.org", "exact"),
        ("a.b.two.example.org", "one"),
        ("localhost", "one"),
        ("elsewhere.example.com", "one"),
        (None, "one"),
    ],
)
def test_the_certificate_is_the_one_for_the_name(
    tmp_path: Path, authority: Authority, asked: str | None, expected: str
) -> None:
    tls = served(
        tmp_path,
        authority.issue("one", "one.example.org"),
        authority.issue("wild", "*.two.example.org"),
        authority.issue("two", "two.example.org", "also.two.example.net"),
        authority.issue("exact", "api.two.example.org"),
        authority.issue("late", "one.example.org"),
    )
    client = trusting(authority)
    connection, _ = handshake(client, tls.context, asked)
    assert subject(connection) == expected


async def test_openssl_gets_two_certificates_by_sni(tmp_path: Path, authority: Authority) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    one = authority.issue("one", "one.example.org")
    two = authority.issue("two", "two.example.org", key=rsa_key)
    async with serving(served(tmp_path, one, two).context) as port:
        for version in ("-tls1_2", "-tls1_3"):
            for name in ("one", "two"):
                ran = await s_client(
                    port, version, "-servername", f"{name}.example.org", "-CAfile", authority.path,
                    "-verify_return_error", "-verify_hostname", f"{name}.example.org",
                )  # fmt: skip
                assert f"subject=CN = {name}" in ran.out
                assert "Verify return code: 0 (ok)" in ran.out
        ran = await s_client(port, "-noservername", "-CAfile", authority.path)
        assert "subject=CN = one" in ran.out


async def test_curl_gets_its_answer(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("one", "one.example.org")
    async with serving(served(tmp_path, pair).context) as port:
        ran = await curl(port, "one.example.org", "--cacert", authority.path)
        assert (ran.code, ran.out) == (0, "None")
        ran = await curl(port, "two.example.org", "--cacert", authority.path)
        assert ran.code == 60, "a certificate for another name"


# ── versions, ciphers, ALPN ──────────────────────────────────────────────────────────────────────


async def test_openssl_may_speak_1_2_and_1_3_and_no_less(
    tmp_path: Path, authority: Authority
) -> None:
    pair = authority.issue("one", "one.example.org")
    # else this openssl would not even ask for 1.1
    old = ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    async with serving(served(tmp_path, pair).context) as port:
        for version, says in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
            ran = await s_client(port, version)
            assert f"New, {says}" in ran.out
            assert "HTTP/1.1 200 OK" in ran.out
            assert "Compression: NONE" in ran.out
        ran = await s_client(port, *old)
        assert "alert protocol version" in ran.out
        assert "200 OK" not in ran.out
    async with serving(served(tmp_path, pair, min_version="1.3").context) as port:
        ran = await s_client(port, "-tls1_2")
        assert "alert protocol version" in ran.out
        assert "200 OK" in (await s_client(port, "-tls1_3")).out


async def test_ciphers_are_modern_and_the_clients_choice(
    tmp_path: Path, authority: Authority
) -> None:
    async with serving(served(tmp_path, authority.issue("one")).context) as port:
        for weak in ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256"):
            ran = await s_client(port, "-tls1_2", "-cipher", weak)
            assert "alert handshake failure" in ran.out
        for first in ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"):
            ran = await s_client(port, "-tls1_2", "-cipher", f"{first}:{CIPHERS}")
            assert f"Cipher is {first}" in ran.out


async def test_alpn_is_http_1_1(tmp_path: Path, authority: Authority) -> None:
    async with serving(served(tmp_path, authority.issue("one")).context) as port:
        ran = await s_client(port, "-alpn", "h2,http/1.1")
        assert "ALPN protocol: http/1.1" in ran.out
        ran = await s_client(port, "-alpn", "h2")
        assert "No ALPN negotiated" in ran.out


async def test_a_client_cannot_renegotiate(tmp_path: Path, authority: Authority) -> None:
    async with serving(served(tmp_path, authority.issue("one")).context) as port:
        process = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            process.stdin.write(b"R\n")
            said = await process.stdout.read()
            assert await process.wait() != 0
        assert b"RENEGOTIATING" in said
        assert b":no renegotiation:" in said


async def test_who_does_not_speak_tls_is_let_go_at_once(
    tmp_path: Path, authority: Authority
) -> None:
    async with serving(served(tmp_path, authority.issue("one")).context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: one.example.org\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()


async def test_a_name_of_odd_bytes_gets_the_certificate_there_is(
    tmp_path: Path, authority: Authority
) -> None:
    async with serving(served(tmp_path, authority.issue("one", "one.org")).context) as port:
        ran = await s_client(port, "-servername", "\xe5.org")
        assert "subject=CN = one" in ran.out


# ── clients' certificates ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    auth: str
    shown: str
    """none, good or foreign."""
    body: str | None
    """None: no answer."""


@pytest.mark.parametrize(
    "case",
    [
        Case("off", "none", "None"),
        Case("off", "good", "None"),
        Case("optional", "none", "None"),
        Case("optional", "good", "CN=alice"),
        Case("optional", "foreign", None),
        Case("required", "none", None),
        Case("required", "good", "CN=alice"),
        Case("required", "foreign", None),
    ],
    ids=lambda case: f"{case.auth} {case.shown}",
)
async def test_curl_with_and_without_a_certificate(
    tmp_path: Path, authority: Authority, case: Case
) -> None:
    (tmp_path / "other").mkdir()
    alice = {
        "none": [],
        "good": [authority.issue("alice")],
        "foreign": [Authority(tmp_path / "other", "stranger").issue("alice")],
    }[case.shown]
    shown = [x for pair in alice for x in ("--cert", pair.cert, "--key", pair.key)]
    tls = served(
        tmp_path, authority.issue("one", "one.example.org"), authority.issue("two", "two.org"),
        client_auth=case.auth, client_ca=str(authority.path) if case.auth != "off" else "",
    )  # fmt: skip
    async with serving(tls.context) as port:
        for name in ("one.example.org", "two.org"):
            for version in ("1.2", "1.3"):
                ran = await curl(
                    port, name, "--cacert", authority.path, "--tls-max", version, *shown
                )
                if case.body is None:
                    assert ran.code != 0
                    assert "alert" in ran.out
                else:
                    assert (ran.code, ran.out) == (0, case.body)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (
            [(NameOID.COUNTRY_NAME, "NO"), (NameOID.ORGANIZATION_NAME, "Ex, Inc."),
             (NameOID.COMMON_NAME, "alice")],
            "CN=alice,O=Ex\\, Inc.,C=NO",
        ),
        ([(NameOID.COMMON_NAME, "a\r\nX-Admin: yes")], "CN=a\\0D\\0AX-Admin: yes"),
        ([(NameOID.COMMON_NAME, "Åse")], "CN=\\C3\\85se"),
        ([(NameOID.COMMON_NAME, '# "q" \\ +;<>= ')], 'CN=\\# \\"q\\" \\\\ \\+\\;\\<\\>\\=\\20'),
        ([(NameOID.EMAIL_ADDRESS, "a@b.c")], "emailAddress=a@b.c"),
    ],
)  # fmt: skip
def test_a_clients_name_is_its_subject_and_harmless(
    tmp_path: Path, authority: Authority, parts: list[tuple[x509.ObjectIdentifier, str]], name: str
) -> None:
    who = x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])
    assert _seen(tmp_path, authority, authority.issue("alice", subject=who)) == name


def test_a_client_without_a_subject_is_named_by_its_alternative_names(
    tmp_path: Path, authority: Authority
) -> None:
    pair = authority.issue("alice", subject=x509.Name([]), uris=["spiffe://example.org/web"])
    assert _seen(tmp_path, authority, pair) == "URI:spiffe://example.org/web"


def test_who_shows_nothing_has_no_name(tmp_path: Path, authority: Authority) -> None:
    _, at_server = handshake(trusting(authority), served(tmp_path, authority.issue("one")).context)
    assert peer_name(at_server) is None
    assert peer_name(None) is None


def _seen(tmp_path: Path, authority: Authority, pair: Pair) -> str | None:
    tls = served(
        tmp_path, authority.issue("one"), client_auth="required", client_ca=str(authority.path)
    )
    client = trusting(authority)
    client.load_cert_chain(pair.cert, pair.key)
    _, at_server = handshake(client, tls.context)
    return peer_name(at_server)


# ── reload ───────────────────────────────────────────────────────────────────────────────────────


async def test_reload_while_a_connection_is_open(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("one", "one.example.org")
    tls = served(tmp_path, pair)
    ask = b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"
    async with serving(tls.context) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(authority))
        before = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        authority.issue("one", "one.example.org")  # renewed, in the same files
        tls.reload(config(pair))
        for _ in range(2):
            writer.write(ask)
            assert (await reader.readuntil(b"None")).startswith(b"HTTP/1.1 200 OK")
        _, other = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(authority))
        after = other.get_extra_info("ssl_object").getpeercert()["serialNumber"]
        assert after != before
        for end in (writer, other):
            end.close()
            await end.wait_closed()


async def test_a_session_from_before_a_reload_is_not_resumed(
    tmp_path: Path, authority: Authority
) -> None:
    """It would come in without the certificate that is required now."""
    pair = authority.issue("one", "one.example.org")
    tls = served(tmp_path, pair)
    for version in ("-tls1_2", "-tls1_3"):
        tls.reload(config(pair))
        session = tmp_path / f"session{version}"
        async with serving(tls.context) as port:
            await s_client(port, version, "-sess_out", session)
            ran = await s_client(port, version, "-sess_in", session)
            assert "Reused, TLSv1." in ran.out
            assert "200 OK" in ran.out
            tls.reload(config(pair, client_auth="required", client_ca=str(authority.path)))
            ran = await s_client(port, version, "-sess_in", session)
            assert "Reused" not in ran.out
            assert "200 OK" not in ran.out


def test_reload_adds_and_removes_names(tmp_path: Path, authority: Authority) -> None:
    one, two = authority.issue("one", "one.org"), authority.issue("two", "two.org")
    tls = served(tmp_path, one)
    context, client = tls.context, trusting(authority)

    def gets(name: str) -> str:
        return subject(handshake(client, context, name)[0])

    assert gets("two.org") == "one"
    tls.reload(config(one, two))
    assert gets("two.org") == "two"
    tls.reload(config(two))
    assert gets("one.org") == "two"
    assert tls.context is context


def test_what_is_loaded_is_served_once_it_is_used(tmp_path: Path, authority: Authority) -> None:
    one, two = authority.issue("one", "one.org"), authority.issue("two", "two.org")
    tls, client = served(tmp_path, one), trusting(authority)
    loaded = tls.load(config(two))
    assert subject(handshake(client, tls.context)[0]) == "one"
    tls.use(loaded)
    assert subject(handshake(client, tls.context)[0]) == "two"


# ── files that cannot be served ──────────────────────────────────────────────────────────────────


Breaking = Callable[[Path, Authority], tuple[TlsConfig, str]]


def _missing_cert(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    pair = authority.issue("bad")
    pair.cert.unlink()
    return config(pair), r"cannot read .*/bad\.pem: no such file or directory"


def _missing_key(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    pair = authority.issue("bad")
    pair.key.unlink()
    return config(pair), r"cannot read .*/bad\.key: no such file or directory"


def _other_key(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    pair, other = authority.issue("bad"), authority.issue("other")
    return config(Pair(pair.cert, other.key)), r"other\.key: it is not the key of .*/bad\.pem"


def _other_kind_of_key(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    other = authority.issue("other", key=rsa.generate_private_key(65537, 2048))
    pair = Pair(authority.issue("bad").cert, other.key)
    return config(pair), r"other\.key: it is not the key of .*/bad\.pem"


def _encrypted_key(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    return config(authority.issue("bad", passphrase=b"secret")), r"bad\.key: it is encrypted"


def _no_pem(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    pair = authority.issue("bad")
    pair.cert.write_text("hello")
    return config(pair), r"bad\.pem: it holds no certificate in PEM form"


def _broken_pem(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    pair = authority.issue("bad")
    pair.cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return config(pair), r"bad\.pem: it holds no certificate in PEM form"


def _no_pem_key(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    pair = authority.issue("bad")
    pair.key.write_text("hello")
    return config(pair), r"bad\.key: it holds no private key in PEM form"


def _weak_key(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    return config(authority.issue("bad", key=weak)), r"bad\.pem: OpenSSL says ee key too small"


def _folder(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    pair = Pair(folder, authority.issue("bad").key)
    return config(pair), r"cannot read .*: is a directory"


def _no_authority(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    bad = config(authority.issue("bad"), client_auth="required", client_ca=str(folder / "none.pem"))
    return bad, r"cannot read .*/none\.pem: no such file or directory"


def _empty_authority(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    (folder / "empty.pem").write_text("")
    bad = config(
        authority.issue("bad"), client_auth="optional", client_ca=str(folder / "empty.pem")
    )
    return bad, r"empty\.pem: it holds no certificates in PEM form"


def _none(folder: Path, authority: Authority) -> tuple[TlsConfig, str]:
    return TlsConfig(), "names no certificate"


BREAKING: list[Breaking] = [
    _missing_cert, _missing_key, _other_key, _other_kind_of_key, _encrypted_key, _no_pem,
    _broken_pem, _no_pem_key, _weak_key, _folder, _no_authority, _empty_authority, _none,
]  # fmt: skip


@pytest.mark.parametrize("breaking", BREAKING, ids=lambda f: f.__name__.strip("_"))
def test_a_bad_file_is_named_and_changes_nothing(
    tmp_path: Path, authority: Authority, breaking: Breaking
) -> None:
    tls = served(tmp_path, authority.issue("one", "one.org"), authority.issue("two", "two.org"))
    bad, says = breaking(tmp_path, authority)
    with pytest.raises(TlsError, match=says):
        ServerTls(bad, tmp_path / "home")
    if bad.offered:
        with pytest.raises(TlsError, match=says):
            check(bad)
    with pytest.raises(TlsError, match=says) as caught:
        tls.reload(bad)
    assert "\n" not in str(caught.value)
    client = trusting(authority)
    assert subject(handshake(client, tls.context, "one.org")[0]) == "one"
    assert subject(handshake(client, tls.context, "two.org")[0]) == "two"
    assert [c.names for c in tls.certificates] == [("one.org",), ("two.org",)]


def test_a_check_serves_and_makes_nothing(tmp_path: Path, authority: Authority) -> None:
    check(TlsConfig())
    check(TlsConfig(self_signed=True))
    check(config(authority.issue("one"), client_auth="required", client_ca=str(authority.path)))
    assert not (tmp_path / "home").exists()
    with pytest.raises(TlsError, match=r"none\.pem"):
        check(TlsConfig(self_signed=True, client_auth="optional", client_ca="none.pem"))


def test_an_expired_certificate_is_served_with_a_warning(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.issue("old", "old.org", valid_for=timedelta(days=-1))
    tls = served(tmp_path, pair)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"{pair.cert} expired at " in warning
    client = trusting(authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(client, tls.context)


def test_a_key_file_may_begin_with_its_curve(tmp_path: Path, authority: Authority) -> None:
    """As `openssl ecparam -genkey` writes it."""
    pair = authority.issue("one", "one.org")
    curve = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    pair.key.write_text(curve + pair.key.read_text())
    assert served(tmp_path, pair).certificates[0].names == ("one.org",)


# ── self-signed ──────────────────────────────────────────────────────────────────────────────────


async def test_curl_trusts_the_self_signed_certificate_it_is_shown(tmp_path: Path) -> None:
    home = tmp_path / "home"
    tls = ServerTls(TlsConfig(self_signed=True), home, ["lb.example.org", "0.0.0.0"])
    async with serving(tls.context) as port:
        for name in ("localhost", "127.0.0.1", "lb.example.org"):
            ran = await curl(port, name, "--cacert", home / "tls" / "self-signed.pem")
            assert (ran.code, ran.out) == (0, "None")
        assert (await curl(port, "localhost")).code == 60, "nobody else vouches for it"


def test_it_is_made_anew_for_further_names(tmp_path: Path) -> None:
    config = TlsConfig(self_signed=True)
    tls = ServerTls(config, tmp_path)
    tls.use(tls.load(config, ["lb.example.org"]))
    assert "lb.example.org" in tls.certificates[0].names


def test_where_it_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(TlsError, match=r"cannot keep a self-signed certificate: "):
        ServerTls(TlsConfig(self_signed=True), tmp_path / "home")


# ── towards backends ─────────────────────────────────────────────────────────────────────────────


def to_backends(**settings: Any) -> ssl.SSLContext:
    context = client_context(UpstreamTlsConfig(enabled=True, **settings))
    assert context is not None
    return context


def test_plain_backends_need_no_context() -> None:
    assert client_context(UpstreamTlsConfig()) is None


def test_a_backend_must_prove_who_it_is(tmp_path: Path, authority: Authority) -> None:
    backend = served(tmp_path, authority.issue("one", "one.org", "10.0.0.5")).context
    knows = to_backends(ca=str(authority.path))
    handshake(knows, backend, "one.org")
    handshake(knows, backend, "10.0.0.5")
    for wrong in ("two.org", "10.0.0.6"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            handshake(knows, backend, wrong)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        handshake(to_backends(), backend, "one.org")
    handshake(to_backends(verify=False), backend, "two.org")


def test_what_a_backend_is_asked_for() -> None:
    plain, named = UpstreamTlsConfig(enabled=True), UpstreamTlsConfig(server_name="web.internal")
    assert server_hostname(plain, "one.org:8443") == "one.org"
    assert server_hostname(plain, "[::1]:8443") == "::1"
    assert server_hostname(named, "10.0.0.5:8443") == "web.internal"


def test_our_own_certificate_is_shown_to_backends(tmp_path: Path, authority: Authority) -> None:
    backend = served(
        tmp_path, authority.issue("one", "one.org"),
        client_auth="required", client_ca=str(authority.path),
    ).context  # fmt: skip
    own = authority.issue("balancer")
    context = to_backends(ca=str(authority.path), cert=str(own.cert), key=str(own.key))
    at_us, at_backend = handshake(context, backend, "one.org")
    assert peer_name(at_backend) == "CN=balancer"
    assert at_us.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize("broken", ["ca", "cert", "key"])
def test_files_for_backends_are_named_too(
    tmp_path: Path, authority: Authority, broken: str
) -> None:
    own = authority.issue("balancer")
    files = {"ca": authority.path, "cert": own.cert, "key": own.key}
    files[broken].write_text("hello")
    with pytest.raises(TlsError, match=files[broken].name):
        to_backends(**{key: str(path) for key, path in files.items()})


def test_a_backends_connection_that_just_ends_is_no_clean_end(
    tmp_path: Path, authority: Authority
) -> None:
    """A body without a length would else be cut short unseen."""
    backend = served(tmp_path, authority.issue("one", "one.org")).context
    client, server, to_client, _ = join(to_backends(ca=str(authority.path)), backend, "one.org")
    server.write(b"half an answer")
    assert client.read(100) == b"half an answer"
    to_client.write_eof()
    with pytest.raises(ssl.SSLEOFError):
        client.read(100)
