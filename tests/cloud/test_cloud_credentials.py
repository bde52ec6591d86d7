"""The sources of keys; keys are never logged or printed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from consumer.cloud import credentials as module
from consumer.cloud import credentials as parts
from consumer.cloud.credentials import DefaultChain, Keys, StaticCredentials
from consumer.errors import CloudError, Fault

ASK = """
import asyncio, logging, sys
logging.basicConfig(level=0, stream=sys.stderr)
from consumer.cloud.credentials import DefaultChain
async def main():
    chain = DefaultChain()
    keys = await chain.keys()
    print(keys.access_key_id, keys.access_key_secret, keys.security_token, keys, chain)
try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, error)
"""


def run(code: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: the vendor's chain reads the environment when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ALIBABA_CLOUD")}
    clean |= {"HOME": str(home), "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true"} | env
    return subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, timeout=15, check=True
    )


@pytest.mark.measured
def test_keys_of_the_environment(tmp_path: Path) -> None:
    """The chain finds keys and token in the environment, and prints none of it."""
    ran = run(
        ASK,
        tmp_path,
        ALIBABA_CLOUD_ACCESS_KEY_ID="id1",
        ALIBABA_CLOUD_ACCESS_KEY_SECRET="hush1",
        ALIBABA_CLOUD_SECURITY_TOKEN="hush2",
    )
    assert ran.stdout == "id1 hush1 hush2 Keys(STS, hidden) DefaultChain()\n"
    assert "hush" not in ran.stderr


def test_keys_of_a_file(tmp_path: Path) -> None:
    """The chain finds keys in the aliyun CLI's configuration; where no token is, it is empty, not None."""
    folder = tmp_path / ".aliyun"
    folder.mkdir()
    profile = {"name": "p", "mode": "AK", "access_key_id": "id2", "access_key_secret": "hush"}
    (folder / "config.json").write_text(json.dumps({"current": "p", "profiles": [profile]}))
    assert run(ASK, tmp_path).stdout == "id2 hush  Keys(AccessKey, hidden) DefaultChain()\n"


@pytest.mark.measured
def test_no_keys_anywhere(tmp_path: Path) -> None:
    """Without keys there is soon one line that names what was tried and what to do, and nothing on stderr."""
    began = time.monotonic()
    ran = run(ASK, tmp_path)
    assert time.monotonic() - began < 8
    assert ran.stdout.count("\n") == 1
    assert "CloudError GetCredentials on the default chain failed: NoCredentials: tried environment:" in ran.stdout
    for tried in ("aliyun CLI's configuration", "credentials file", "ALIBABA_CLOUD_ACCESS_KEY_ID"):
        assert tried in ran.stdout
    assert ran.stderr == "" or "credentials" not in ran.stderr


def test_the_order_is_the_vendors(tmp_path: Path) -> None:
    """The parts are those of the vendor's own default chain, in its order."""
    code = """
import consumer.cloud.credentials as parts
from alibabacloud_credentials.provider.default import DefaultCredentialsProvider
theirs = DefaultCredentialsProvider()._DefaultCredentialsProvider__providers_chain
mine = [make() for make in parts.default_parts().values()]
print([type(p).__name__ for p in mine] == [type(p).__name__ for p in theirs], len(mine))
"""
    env = {
        "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "false",
        "ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/nowhere",
        "ALIBABA_CLOUD_ROLE_ARN": "arn",
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": "arn",
        "ALIBABA_CLOUD_CREDENTIALS_URI": "http://127.0.0.1:1/",
    }
    assert run(code, tmp_path, **env).stdout == "True 6\n"


def test_the_vendors_logger_is_left_as_it_was(tmp_path: Path) -> None:
    """The import leaves level and handlers of the logger ``credentials`` alone; only its own records go."""
    code = """
import io, logging
stream = io.StringIO()
log = logging.getLogger("credentials")
log.addHandler(logging.StreamHandler(stream)); log.setLevel(logging.ERROR)
import consumer.cloud.credentials as parts
parts.default_parts()
from alibabacloud_credentials.provider import refreshable
exec(compile("log.error('hush')", refreshable.__file__, "exec"), {"log": log})
log.error("a user's own")
print(len(log.handlers), log.level == logging.ERROR, repr(stream.getvalue()))
"""
    assert run(code, tmp_path).stdout == '1 True "a user\'s own\\n"\n'


def test_given_keys_never_import_the_chain(tmp_path: Path) -> None:
    """With keys in the settings, the chain and MPS's signer are imported only when they are needed."""
    code = """
import asyncio, sys
import consumer.cloud.mns, consumer.cloud.mps
from consumer.cloud.credentials import Keys, StaticCredentials
source = StaticCredentials(Keys("a", "b"))
asyncio.run(source.refresh())
print(asyncio.run(source.keys()).access_key_id)
print([name for name in sys.modules if name.startswith(("alibabacloud", "Tea", "requests", "darabonba"))])
"""
    assert run(code, tmp_path).stdout == "a\n[]\n"


def test_a_uri_that_quotes_its_keys(tmp_path: Path) -> None:
    """A provider's error that quotes keys, or the token of its URI, is cut before it is shown."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"Code": "Success", "AccessKeySecret": "hush-secret"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}/keys?token=hush-token"
    ran = run(ASK, tmp_path, ALIBABA_CLOUD_CREDENTIALS_URI=uri)
    server.shutdown()
    server.server_close()
    assert "credentials URI" in ran.stdout
    assert "hush" not in ran.stdout + ran.stderr


class Vendor:
    """In place of a provider of the vendor's chain; the test sets what it returns."""

    def __init__(self) -> None:
        self.asked = 0
        self.made = 0
        self.gives: Any = ("id", "hush", None)
        self.blocks = threading.Event()
        self.blocks.set()

    def make(self) -> Vendor:
        """Make this part, counted."""
        self.made += 1
        return self

    def get_credentials(self) -> Any:
        """Give what was set, once it may."""
        self.asked += 1
        given = self.gives
        self.blocks.wait(5)
        if isinstance(given, Exception):
            raise given
        return self

    def get_access_key_id(self) -> Any:
        """The id."""
        return self.gives[0]

    def get_access_key_secret(self) -> Any:
        """The secret."""
        return self.gives[1]

    def get_security_token(self) -> Any:
        """The token, None where there is none."""
        return self.gives[2]


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Vendor:
    """A chain of one part, without the vendor's environment at import; it is searched on threads of its own."""
    part = Vendor()
    monkeypatch.setattr(parts, "default_parts", lambda: {"the part": part.make})
    monkeypatch.setattr(parts, "_threads", parts._SearchThreads())
    return part


async def test_keys_are_kept_for_a_while(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent callers share one search, its keys are used for a minute, then the part is asked again."""
    chain = DefaultChain()
    found = await asyncio.gather(*(chain.keys() for _ in range(20)))
    assert {(keys.access_key_id, keys.security_token) for keys in found} == {("id", "")}
    await chain.keys()
    assert vendor.asked == 1
    monkeypatch.setattr(module, "_USED_FOR_S", 0.0)
    chain._ask_at = 0.0
    vendor.gives = ("id2", "hush", "token")
    assert (await chain.keys()).access_key_id == "id2"
    assert (vendor.asked, vendor.made) == (2, 1)


async def test_a_failed_renewal_keeps_the_current_keys(vendor: Vendor) -> None:
    """When the provider fails later, the old keys stay in use, and it isn't asked again at once."""
    chain = DefaultChain()
    await chain.keys()
    chain._ask_at = 0.0
    vendor.gives = ValueError("hush")
    for _ in range(3):
        assert (await chain.keys()).access_key_id == "id"
    assert vendor.asked == 2


async def test_a_slow_renewal_delays_no_request(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a renewal hangs, the current keys are given after a moment; its keys are used once it ends."""
    monkeypatch.setattr(module, "_RENEWAL_WAIT_S", 0.05)
    chain = DefaultChain()
    await chain.keys()
    chain._ask_at = 0.0
    vendor.blocks.clear()
    assert (await chain.keys()).access_key_id == "id"
    vendor.gives = ("id2", "hush", None)
    vendor.blocks.set()
    await asyncio.sleep(0.1)
    assert (await chain.keys()).access_key_id == "id2"
    assert vendor.asked == 2


async def test_a_first_search_has_a_deadline(vendor: Vendor) -> None:
    """A hanging first search is an error after its deadline; the loop continues, and the next call gets its result."""
    vendor.blocks.clear()
    chain = DefaultChain(deadline_s=0.1)
    with pytest.raises(CloudError, match=r"no keys within 0\.1 s") as caught:
        await chain.keys()
    assert caught.value.fault is Fault.CREDENTIALS
    vendor.blocks.set()
    assert (await chain.keys()).access_key_id == "id"
    assert vendor.asked == 1


async def test_refreshing_forgets(vendor: Vendor) -> None:
    """Refreshing replaces the keys and the parts, but not keys that were found just now."""
    chain = DefaultChain()
    await chain.keys()
    await chain.refresh()
    await chain.keys()
    assert vendor.made == 1
    chain._found_at -= 60
    await chain.refresh()
    vendor.gives = ("id2", "hush", None)
    assert (await chain.keys()).access_key_id == "id2"
    assert vendor.made == 2


async def test_a_search_of_before_a_refresh_is_not_kept(vendor: Vendor) -> None:
    """A search that began before the keys were refused does not bring the refused keys back."""
    chain = DefaultChain()
    vendor.blocks.clear()
    old = asyncio.create_task(chain.keys())
    await asyncio.sleep(0.05)
    await chain.refresh()
    vendor.blocks.set()
    await old
    assert chain._keys is None
    await chain.keys()
    assert vendor.made == 2


async def test_refused_keys_stay_until_others_are_found(vendor: Vendor) -> None:
    """When the search for other keys fails, the refused keys stay in use: perhaps they only lack a right."""
    chain = DefaultChain()
    await chain.keys()
    chain._found_at -= 60
    vendor.gives = RuntimeError("down")
    await chain.refresh()
    assert (await chain.keys()).access_key_id == "id"
    asked = vendor.asked
    assert (await chain.keys()).access_key_id == "id"
    assert vendor.asked == asked


async def test_a_right_that_is_missing_is_no_reason_to_search_for_ever(vendor: Vendor) -> None:
    """Other keys are searched for at most once in ten minutes when the service reports a missing right."""
    chain = DefaultChain()
    await chain.keys()
    for _ in range(5):
        chain._found_at -= 60
        await chain.refresh(denied=True)
        await chain.keys()
    assert vendor.made == 2


@pytest.mark.parametrize(
    "gives", [("", "hush", None), ("id", None, None), RuntimeError('result: {"Secret": "hush"}')], ids=str
)
async def test_a_part_without_keys_is_named(vendor: Vendor, gives: Any) -> None:
    """The error says in one line what a part lacks, with the part's own words scrubbed."""
    vendor.gives = gives
    with pytest.raises(CloudError, match="tried the part:") as caught:
        await DefaultChain().keys()
    assert "hush" not in str(caught.value)


async def test_a_broken_sdk_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other error ends the search; its kind is shown and its text is not."""

    def broken() -> Any:
        raise ImportError("hush")

    monkeypatch.setattr(parts, "default_parts", broken)
    with pytest.raises(CloudError, match="ImportError in the chain") as caught:
        await DefaultChain().keys()
    assert "hush" not in str(caught.value)


def test_a_search_that_outlives_its_loop_ends_quietly(vendor: Vendor) -> None:
    """The thread of a hanging search does nothing to a loop that has closed meanwhile."""
    vendor.blocks.clear()
    chain = DefaultChain(deadline_s=0.05)

    async def ask() -> None:
        with pytest.raises(CloudError):
            await chain.keys()

    asyncio.run(ask())
    vendor.blocks.set()
    deadline_s = time.monotonic() + 5
    while chain._search is not None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert chain._keys is not None


class NoThreads:
    """In place of ``threading.Thread.start``: after ``run_out`` no thread can be started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def run_out(self) -> None:
        """Refuse from now on."""

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self._monkeypatch.setattr(threading.Thread, "start", start)


async def test_keys_are_renewed_without_a_new_thread(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the first search does all later ones, so keys are renewed when no thread can be started."""
    chain = DefaultChain()
    await chain.keys()
    NoThreads(monkeypatch).run_out()
    chain._ask_at = 0.0
    vendor.gives = ("id2", "hush", None)
    assert (await chain.keys()).access_key_id == "id2"


async def test_a_refused_key_is_replaced_while_a_search_hangs_and_no_thread_is_left(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no thread can be started, a new search waits for the thread of the one that hangs."""
    chain = DefaultChain()
    await chain.keys()
    NoThreads(monkeypatch).run_out()
    monkeypatch.setattr(module, "_RENEWAL_WAIT_S", 0.05)
    vendor.blocks.clear()
    chain._ask_at = 0.0
    await chain.keys()
    chain._found_at -= 60
    await chain.refresh()
    vendor.blocks.set()
    vendor.gives = ("id3", "hush", None)
    assert (await chain.keys()).access_key_id == "id3"


async def test_a_first_search_without_a_thread_is_tried_again(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started for the first search, the error says so, and the next call searches again."""
    chain = DefaultChain()
    with monkeypatch.context() as inner:
        NoThreads(inner).run_out()
        with pytest.raises(CloudError, match="no thread could be started") as caught:
            await chain.keys()
    assert caught.value.fault is Fault.CREDENTIALS
    assert (await chain.keys()).access_key_id == "id"


def test_another_threads_event_loop_gets_the_same_keys(vendor: Vendor) -> None:
    """Event loops in several threads share one search."""
    chain = DefaultChain()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(chain.keys()).access_key_id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert found == ["id"] * 4
    assert vendor.asked == 1


def test_chains_share_a_thread(vendor: Vendor) -> None:
    """A chain that is searched after another uses its thread: chains that come and go leave no threads behind."""
    before = {thread for thread in threading.enumerate() if thread.name == parts.THREAD}
    for _ in range(3):
        asyncio.run(DefaultChain().keys())
        time.sleep(0.05)
    assert len({thread for thread in threading.enumerate() if thread.name == parts.THREAD} - before) == 1


async def test_nothing_secret_shows(start: Any, mns_reply: Any, caplog: pytest.LogCaptureFixture) -> None:
    """No repr, error or log record of any client contains a secret or a token, at any level."""
    caplog.set_level(logging.DEBUG)
    refused = b"<Error><Code>SignatureDoesNotMatch</Code><Message>m</Message><RequestId>r</RequestId></Error>"
    talk = await start(mns_reply(403, refused))
    source = StaticCredentials(Keys("hush-hush-id", "hush-hush-secret", "hush-hush-token"))
    shown = [repr(source), repr(await source.keys()), repr(talk.queue), repr(talk.mps), repr(talk.limiter)]
    for ask in (talk.queue.receive(1, 0), talk.queue.send("b"), talk.mps.query("j")):
        with pytest.raises(CloudError) as caught:
            await ask
        shown += [str(caught.value), repr(caught.value), repr(vars(caught.value))]
    assert "hush" not in "".join(shown) + caplog.text


async def test_refused_keys_are_forgotten(start: Any, mns_reply: Any) -> None:
    """When the service refuses the keys they are refreshed once; other refusals refresh nothing."""

    class Source(StaticCredentials):
        refreshed = 0
        denied: ClassVar[list[bool]] = []

        async def refresh(self, *, denied: bool = False) -> None:
            Source.refreshed += 1
            Source.denied.append(denied)

    refused, denied, missing = (
        mns_reply(status, b"<Error><Code>%s</Code></Error>" % code)
        for status, code in (
            (403, b"InvalidAccessKeyId"), (403, b"AccessDeniedByRamPolicy"), (404, b"QueueNotExist"),
        )
    )  # fmt: skip
    talk = await start(refused, denied, missing)
    talk.queue.credentials = Source(Keys("a", "b"))
    for _ in range(3):
        with pytest.raises(CloudError):
            await talk.queue.receive(1, 0)
    assert Source.denied == [False, True]
    assert Source.refreshed == 2


async def test_a_search_without_keys_is_observed_but_refreshes_nothing(
    start: Any, mns_reply: Any, vendor: Vendor
) -> None:
    """Without keys nothing is sent; the call counts as failed by its credentials."""
    vendor.gives = ValueError("none")
    talk = await start(mns_reply(204))
    talk.queue.credentials = DefaultChain()
    with pytest.raises(CloudError):
        await talk.queue.receive(1, 0)
    assert talk.observed == [("BatchReceiveMessage", "credentials")]
    assert talk.peer.asked == []
