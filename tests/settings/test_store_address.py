"""The store's address: what each form means, and that an invalid one is refused without showing its password."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import ExitCode, SettingsError
from consumer.store_address import PostgresAddress, SqliteAddress, SslMode, StoreAddressError, parse_store_address

VARIABLES = ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSSLMODE")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def postgres(text: str) -> PostgresAddress:
    address = parse_store_address(text)
    assert isinstance(address, PostgresAddress)
    return address


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("/var/lib/x/store.db", "/var/lib/x/store.db", id="a path"),
        pytest.param(" /var/lib/x/store.db\n", "/var/lib/x/store.db", id="spaces around it"),
        pytest.param("films.db", "films.db", id="relative"),
        pytest.param("sqlite:///films.db", "films.db", id="three slashes are relative"),
        pytest.param("sqlite:////var/a%20b.db", "/var/a b.db", id="four are absolute, escapes resolved"),
        pytest.param("/var/a%20b.db", "/var/a%20b.db", id="a path has no escapes"),
        pytest.param("./postgresql:x.db", "postgresql:x.db", id="./ takes any name"),
        pytest.param("~/x.db", "/home/eve/x.db", id="home"),
        pytest.param("/var/f\u00fcr/\u4f60.db", "/var/f\u00fcr/\u4f60.db", id="any script"),
    ],
)
def test_paths_and_sqlite_urls_are_files(text: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path and sqlite:/// are files, which daemons do not share."""
    monkeypatch.setenv("HOME", "/home/eve")
    assert parse_store_address(text) == SqliteAddress(Path(path))
    assert not parse_store_address(text).is_shared


@pytest.mark.parametrize(
    ("text", "hosts", "database", "user", "password"),
    [
        pytest.param("postgresql://u:p@h:5/d", (("h", 5),), "d", "u", "p", id="all of it"),
        pytest.param("POSTGRES://u@H.example/d", (("H.example", 5432),), "d", "u", None, id="any case, default port"),
        pytest.param("postgresql://u:a:b@h:/d", (("h", 5432),), "d", "u", "a:b", id="colon in it, empty port"),
        pytest.param("postgresql://u:%40%2F%3A%23%25@h/d", (("h", 5432),), "d", "u", "@/:#%", id="escapes"),
        pytest.param("postgresql://u:a+b@h/d?search_path=s", (("h", 5432),), "d", "u", "a+b", id="plus is plus"),
        pytest.param("postgresql://h/d?user=u&password=a+b", (("h", 5432),), "d", "u", "a+b", id="in the query, too"),
        pytest.param(
            "postgresql://u:\u00fc\u4f60@h/\u4f60", (("h", 5432),), "\u4f60", "u", "\u00fc\u4f60", id="unicode"
        ),
        pytest.param("postgresql://u@[::1]:7/d", (("::1", 7),), "d", "u", None, id="IPv6"),
        pytest.param("postgresql://u@[fe80::1%25eth0]/d", (("fe80::1%eth0", 5432),), "d", "u", None, id="with a zone"),
        pytest.param("postgresql://u@a:1,b:2,[::2]/d", (("a", 1), ("b", 2), ("::2", 5432)), "d", "u", None, id="three"),
        pytest.param("postgresql:///d?host=a,b&port=1,2&user=u", (("a", 1), ("b", 2)), "d", "u", None, id="lists"),
        pytest.param("postgresql://u@%2Frun%2Fpg/d", (("/run/pg", 5432),), "d", "u", None, id="socket"),
        pytest.param(
            "postgresql:///d?host=/run/pg&port=6&user=u", (("/run/pg", 6),), "d", "u", None, id="socket, query"
        ),
        pytest.param("postgresql://u@/d", (), "d", "u", None, id="no host"),
        pytest.param("postgresql://u@h?dbname=d", (("h", 5432),), "d", "u", None, id="database in the query"),
        pytest.param("postgresql://u@h/a%2Fb%20c", (("h", 5432),), "a/b c", "u", None, id="odd database"),
    ],
)
def test_databases(
    text: str, hosts: tuple[tuple[str, int], ...], database: str, user: str, password: str | None
) -> None:
    """Each part of libpq's form means what libpq takes it for."""
    found = postgres(text)
    assert (found.hosts, found.database, found.user, found.password) == (hosts, database, user, password)
    assert found.is_shared


ODD = {
    "empty": "",
    "blank": "  ",
    "another scheme": "mysql://u:hush@h/d",
    "a dialect": "postgresql+asyncpg://u:hush@h/d",
    "java's": "jdbc:postgresql://u:hush@h/d",
    "two slashes": "sqlite://hush.db",
    "no path": "sqlite:///",
    "no slashes": "sqlite:hush.db",
    "sqlite with options": "sqlite:///hush.db?mode=ro",
    "sqlite, bad escape": "sqlite:///hush%zz.db",
    "sqlite, NUL": "sqlite:////var/hush%00.db",
    "NUL": "/var/hush\x00.db",
    "half a surrogate pair in a path": "/var/hush\ud800.db",
    "half a surrogate pair in a URL": "sqlite:///hush\ud800.db",
    "in memory": ":memory:",
    "in memory, by URL": "sqlite:///:memory:",
    "sqlite's own form": "file:hush.db?mode=ro",
    "home of an unknown user": "~stranger-of-this-name/hush.db",
    "no scheme": "u:hush@h/d",
    "no scheme, slashes": "//u:hush@h/d",
    "one slash": "postgresql:/u:hush@h/d",
    "libpq's key words": "host=h user=u password=hush dbname=d",
    "port is a word": "postgresql://u:hush@h:port/d",
    "port 0": "postgresql://u:hush@h:0/d",
    "port too large": "postgresql://u:hush@h:65536/d",
    "port with 5,000 digits": f"postgresql://u:hush@h:{'1' * 5000}/d",
    "port in other digits": "postgresql://u:hush@h:\u0665\u0664/d",
    "port negative": "postgresql://u:hush@h:-1/d",
    "two ports": "postgresql://u:hush@h:1:2/d",
    "port beside the host": "postgresql://u:hush@h/d?port=5",
    "more ports than hosts": "postgresql:///d?host=a&port=1,2&password=hush",
    "bad escape": "postgresql://u:hush%zz@h/d",
    "half an escape": "postgresql://u:hush%4@h/d",
    "escapes that are not UTF-8": "postgresql://u:hush%ff@h/d",
    "NUL in it": "postgresql://u:hush%00@h/d",
    "@ in the password": "postgresql://user:pa@hush@host/db",
    "/ in the password": "postgresql://u:pa/hush@h/d",
    "? in the password": "postgresql://u:pa?hush@h/d",
    "? and = in the password": "postgresql://u:123?a=hush@h/d",
    "# in the password": "postgresql://u:pa#hush@h/d",
    "space": "postgresql://u:hush @h/d",
    "line break": "postgresql://u:hush\n@h/d",
    "half a surrogate pair": "postgresql://u:hush\udcff@h/d",
    "host with a space": "postgresql://u:hush@h%20h/d",
    "host with two dots": "postgresql://u:hush@h..h/d",
    "host too long": f"postgresql://u:hush@{'h' * 64}.example/d",
    "host in another script": "postgresql://u:hush@\u4f60\u597d/d",
    "host empty in a list": "postgresql://u:hush@a,,b/d",
    "IPv6 without brackets": "postgresql://u:hush@::1/d",
    "IPv6 without an end": "postgresql://u:hush@[::1/d",
    "no IPv6": "postgresql://u:hush@[h]/d",
    "behind the brackets": "postgresql://u:hush@[::1]5/d",
    "no database": "postgresql://u:hush@h",
    "empty database": "postgresql://u:hush@h/",
    "two databases": "postgresql://u:hush@h/d/e",
    "a database twice": "postgresql://u:hush@h/d?dbname=e",
    "a password twice": "postgresql://u:hush@h/d?password=hush",
    "an option twice": "postgresql://u:hush@h/d?sslmode=require&sslmode=disable",
    "an option without a value": "postgresql://u:hush@h/d?sslmode",
    "an option with an empty value": "postgresql://u:hush@h/d?sslmode=",
    "an option that is none": "postgresql://u:hush@h/d?hush-hush=1",
    "sslmode misspelt": "postgresql://u:hush@h/d?sslmode=verify_full",
    "another word for it": "postgresql://u:hush@h/d?ssl=true",
    "the option misspelt": "postgresql://u:hush@h/d?sslmod=verify-full",
    "the file misspelt": "postgresql://u:hush@h/d?sslrootcrt=ca.pem",
    "a file that counts for nothing": "postgresql://u:hush@h/d?sslmode=prefer&sslrootcert=ca.pem",
    "an old TLS": "postgresql://u:hush@h/d?ssl_min_protocol_version=TLSv1",
    "an option of libpq alone": "postgresql://u:hush@h/d?channel_binding=require",
    "a service": "postgresql://u:hush@h/d?service=prod",
    "a session that is none": "postgresql://u:hush@h/d?target_session_attrs=writer",
    "a time-out that is none": "postgresql://u:hush@h/d?connect_timeout=soon",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_addresses(text: str) -> None:
    """An invalid address gives one line that says what was expected, exit code 78, and no password."""
    with pytest.raises(StoreAddressError) as caught:
        parse_store_address(text)
    assert isinstance(caught.value, SettingsError)
    assert caught.value.exit_code is ExitCode.SETTINGS
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert "hush" not in text.replace("./NAME", "")
    assert caught.value.__cause__ is None


@given(
    st.text(st.characters(), max_size=60), st.sampled_from(["", "postgresql://", "postgresql://u:p@h/d?", "sqlite:///"])
)
def test_any_text_is_an_address_or_refused(text: str, before: str) -> None:
    """Any text is parsed or refused; no other error is raised."""
    with contextlib.suppress(StoreAddressError):
        assert repr(parse_store_address(f"{before}{text}"))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("%2Frun%2Fpostgresql", True),
        ("", True),
        ("localhost,127.0.0.1", True),
        ("localhost.example", False),
        ("db", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("[::ffff:10.0.0.1]", False),
        ("[fe80::1%25eth0]", False),
        ("localhost,db", False),
        ("%2Frun%2Fpostgresql,db", False),
    ],
)
def test_tls_by_default(host: str, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a column
    """Except for loopback and sockets the certificate is verified in full, unless the address has a weaker mode."""
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert postgres(f"postgresql://u@{host}/d").tls_mode == (None if local else SslMode.VERIFY_FULL)
    assert postgres(f"postgresql://u@{host}/d?sslmode=prefer").tls_mode is SslMode.PREFER
    assert postgres(f"postgresql://u@{host}/d?sslrootcert=ca.pem").tls_mode is SslMode.VERIFY_FULL


def test_the_environment_completes_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOST, PGPORT, PGUSER and PGDATABASE complete the address; a host from there is verified, too."""
    for name, value in {"PGHOST": "db", "PGPORT": "7", "PGUSER": "eve", "PGDATABASE": "films"}.items():
        monkeypatch.setenv(name, value)
    found = postgres("postgresql://")
    assert (found.hosts, found.user, found.database) == ((("db", 7),), "eve", "films")
    assert found.tls_mode is SslMode.VERIFY_FULL


def test_a_system_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose user has no name the address must have a user."""

    def nameless() -> str:
        raise KeyError(os.getuid())

    monkeypatch.setattr("getpass.getuser", nameless)
    with pytest.raises(StoreAddressError, match="expected a user"):
        parse_store_address("postgresql://h/d")


def test_each_option_goes_to_the_driver_or_to_the_server() -> None:
    """Options of the driver go to the driver; all others are settings of the server's session."""
    found = postgres(
        "postgresql://u:one@h/d?sslmode=verify-ca&sslrootcert=ca.pem&sslcert=a&sslkey=b&sslpassword=two%21&sslcrl=c"
        "&ssl_min_protocol_version=TLSv1.3&sslnegotiation=direct&target_session_attrs=primary&passfile=/p"
        "&connect_timeout=3&search_path=x,y&application_name=films&my.setting=1"
    )
    assert found.sslmode is SslMode.VERIFY_CA
    assert found.tls == {
        "sslrootcert": "ca.pem",
        "sslcert": "a",
        "sslkey": "b",
        "sslcrl": "c",
        "ssl_min_protocol_version": "TLSv1.3",
    }
    assert (found.direct_tls, found.connect_timeout_s) == (True, 3)
    assert found.driver == {"target_session_attrs": "primary", "passfile": "/p"}
    assert found.server_settings == {"search_path": "x,y", "application_name": "films", "my.setting": "1"}
    assert set(found.secrets) == {"one", "two!", "two%21"}
    assert [word for word in ("one", "two") if word in repr(found) + str(found)] == []
