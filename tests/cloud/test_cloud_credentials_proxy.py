"""The default chain and the environment's proxies: keys in the clear never pass a proxy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

KEYS = {
    "Code": "Success",
    "AccessKeyId": "STS.id",
    "AccessKeySecret": "hush",
    "SecurityToken": "token",
    "Expiration": "2099-01-01T00:00:00Z",
}
ASK = """
import asyncio, sys
import urllib3.util.connection as connection
real = connection.create_connection
def watched(address, *rest, **named):
    print("to", address[0], file=sys.stderr)
    if not address[0].startswith("127."):
        raise OSError("nothing leaves this machine")
    return real(address, *rest, **named)
connection.create_connection = watched
from consumer.cloud.credentials import DefaultChain
async def main():
    print((await DefaultChain().keys()).access_key_id)
try:
    asyncio.run(main())
except Exception as error:
    print(error)
"""


class Server(ThreadingHTTPServer):
    """Answers every request with keys, and remembers the requests; as a proxy it would do the same."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = json.dumps(KEYS).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.do_GET()

    def do_CONNECT(self) -> None:
        self.server.asked.append(f"CONNECT {self.path}")
        self.send_error(502)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def proxy() -> Iterator[Server]:
    """The environment's proxy."""
    with Server() as made:
        yield made
        made.shutdown()


@pytest.fixture
def local() -> Iterator[Server]:
    """A server on this machine that gives keys."""
    with Server() as made:
        yield made
        made.shutdown()


def ask(home: Path, proxy: Server, **env: str) -> tuple[str, list[str]]:
    """What the chain finds with that proxy in the environment, and which hosts it connected to."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    proxies = {name: proxy.url for each in names for name in (each, each.upper())}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ALIBABA_CLOUD")}
    clean.pop("NO_PROXY", None)
    clean.pop("no_proxy", None)
    clean |= {"HOME": str(home), "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"} | proxies | env
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=clean, capture_output=True, text=True, timeout=15, check=True
    )
    return done.stdout.strip(), [line[3:] for line in done.stderr.splitlines() if line.startswith("to ")]


@pytest.mark.measured
def test_a_credentials_uri_is_asked_directly(tmp_path: Path, proxy: Server, local: Server) -> None:
    """Keys of a server on this machine are requested directly, with any proxy in the environment."""
    found, _ = ask(tmp_path, proxy, ALIBABA_CLOUD_CREDENTIALS_URI=f"{local.url}/keys?token=t")
    assert found == "STS.id"
    assert local.asked == ["GET /keys?token=t"]
    assert proxy.asked == []


def test_the_metadata_server_is_asked_directly(tmp_path: Path, proxy: Server) -> None:
    """The keys of the instance's role are asked for at the metadata server's own address."""
    found, hosts = ask(tmp_path, proxy, ALIBABA_CLOUD_ECS_METADATA_DISABLED="false")
    assert "tried environment" in found
    assert set(hosts) == {"100.100.100.200"}
    assert proxy.asked == []


@pytest.mark.measured
def test_so_is_a_metadata_server_that_a_profile_names(tmp_path: Path, proxy: Server) -> None:
    """A role in the aliyun CLI's configuration is requested directly too."""
    folder = tmp_path / ".aliyun"
    folder.mkdir()
    profile = {"name": "p", "mode": "EcsRamRole", "ram_role_name": "role"}
    (folder / "config.json").write_text(json.dumps({"current": "p", "profiles": [profile]}), encoding="utf-8")
    _, hosts = ask(tmp_path, proxy, ALIBABA_CLOUD_ECS_METADATA_DISABLED="false")
    assert set(hosts) == {"100.100.100.200"}
    assert proxy.asked == []


def test_sts_may_pass_a_proxy_in_tls(tmp_path: Path, proxy: Server) -> None:
    """A call to STS is encrypted to its end: a proxy is asked for a tunnel and sees nothing of it."""
    token = tmp_path / "token"
    token.write_text("hush-token", encoding="utf-8")
    env = {"ROLE_ARN": "acs:ram::1:role/r", "OIDC_PROVIDER_ARN": "acs:ram::1:oidc-provider/p"}
    named = {f"ALIBABA_CLOUD_{name}": value for name, value in env.items()}
    ask(tmp_path, proxy, ALIBABA_CLOUD_OIDC_TOKEN_FILE=str(token), **named)
    assert proxy.asked
    assert {each.split()[0] for each in proxy.asked} == {"CONNECT"}
    assert "hush" not in "".join(proxy.asked)
