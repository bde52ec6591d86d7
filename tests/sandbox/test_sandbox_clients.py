"""The vendor's own clients, unchanged: aliyun-mns-sdk for all 14 queue operations, and its mnscmd."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.to_thread import run_sync
from mns.account import Account
from mns.message_property import MessagePropertyValue
from mns.mns_exception import MNSServerException
from mns.queue import Message, Queue, QueueMeta

from consumer.sandbox import Sandbox
from consumer.sandbox.protocol import QUEUE_OPERATIONS


@pytest.fixture
def account(sandbox: Sandbox) -> Iterator[Account]:
    client = Account(sandbox.url, "sandbox", "sandbox")
    yield client
    client.get_client().close_connection()


def refused(error: pytest.ExceptionInfo[MNSServerException]) -> str:
    return str(error.value.type)


def drive_queues(account: Account) -> None:
    queue: Queue = account.get_queue("sdk")
    assert queue.create(QueueMeta(vis_timeout=60, polling_wait_sec=1)).endswith("/queues/sdk")
    queue.create(QueueMeta(vis_timeout=60, polling_wait_sec=1))
    with pytest.raises(MNSServerException) as caught:
        queue.create(QueueMeta(vis_timeout=61))
    assert refused(caught) == "QueueAlreadyExist"
    queue.set_attributes(QueueMeta(vis_timeout=90))
    meta = queue.get_attributes()
    assert (meta.visibility_timeout, meta.polling_wait_seconds, meta.queue_name) == (90, 1, "sdk")
    account.get_queue("sdk-other").create(QueueMeta())
    urls, marker = account.list_queue("sdk", 1)
    assert (len(urls), marker) == (1, "sdk-other")
    assert account.list_queue("sdk", 1, marker) == ([f"{urls[0]}-other"], "")
    account.get_queue("sdk-other").delete()


def drive_messages(account: Account) -> None:
    queue: Queue = account.get_queue("sdk")
    for act in (lambda: queue.receive_message(0), queue.peek_message):
        with pytest.raises(MNSServerException) as caught:
            act()
        assert refused(caught) == "MessageNotExist"
    message = Message("ünï <x>", priority=3)
    message.add_user_property("n", MessagePropertyValue.create_number(7))
    sent = queue.send_message(message)
    assert queue.send_message(Message("later", delay_seconds=60)).receipt_handle
    assert queue.peek_message().message_body == "ünï <x>".encode()
    got = queue.receive_message(1)
    assert (got.message_id, got.message_body_md5) == (sent.message_id, sent.message_body_md5)
    assert got.message_body == "ünï <x>".encode()
    assert (got.priority, got.dequeue_count) == (3, 1)
    assert got.user_properties["n"].get_string_value_by_type() == "7"
    changed = queue.change_message_visibility(got.receipt_handle, 120)
    with pytest.raises(MNSServerException) as caught:
        queue.delete_message(got.receipt_handle)
    assert refused(caught) == "MessageNotExist"
    queue.delete_message(changed.receipt_handle)


def drive_batches(account: Account) -> None:
    queue: Queue = account.get_queue("sdk")
    sent = queue.batch_send_message([Message(f"{number}") for number in range(16)])
    assert len({one.message_id for one in sent}) == 16
    assert len(queue.batch_peek_message(16)) == 16
    got = queue.batch_receive_message(16, 1)
    assert sorted(int(one.message_body) for one in got) == list(range(16))
    queue.batch_delete_message([one.receipt_handle for one in got])
    with pytest.raises(MNSServerException) as caught:
        queue.batch_delete_message([got[0].receipt_handle])
    assert refused(caught) == "MessageNotExist"
    queue.delete()
    with pytest.raises(MNSServerException) as caught:
        queue.get_attributes()
    assert refused(caught) == "QueueNotExist"


# The SDK's own get_attributes sets the fields that the SDK itself calls deprecated.
@pytest.mark.filterwarnings("ignore:Call to deprecated function:DeprecationWarning")
async def test_the_python_sdk_unchanged(sandbox: Sandbox, account: Account) -> None:
    """aliyun-mns-sdk, unchanged, gets through each of the 14 queue operations and their usual errors."""
    for part in (drive_queues, drive_messages, drive_batches):
        await run_sync(part, account)
    assert set(QUEUE_OPERATIONS) == set(sandbox.log.by_operation)


async def test_the_sdk_with_an_sts_token() -> None:
    """The SDK's security token reaches the sandbox, and another one is refused."""
    async with Sandbox.on_free_port(security_token="t") as sandbox:
        for token, is_right in (("t", True), ("u", False)):
            client = Account(sandbox.url, "sandbox", "sandbox", token)
            try:
                if is_right:
                    assert await run_sync(client.list_queue) == ([], "")
                else:
                    with pytest.raises(MNSServerException, match="InvalidAccessKeyId"):
                        await run_sync(client.list_queue)
            finally:
                client.get_client().close_connection()


MNSCMD = shutil.which("mnscmd", path=str(Path(sys.executable).parent))


# One process runs every command: starting the client afresh for each would take most of the time.
DRIVER = """
import io, json, runpy, sys
from contextlib import redirect_stdout, suppress
for line in sys.stdin:
    sys.argv = json.loads(line)
    output = io.StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
    print(json.dumps(output.getvalue()), flush=True)
"""


def drive_mnscmd(mnscmd: str, keys: tuple[str, ...]) -> None:
    """Call the command with each of its subcommands for queues and messages."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, come = process.stdin, process.stdout

        def run(*words: str) -> str:
            to.write(json.dumps([mnscmd, *words, *keys]) + "\n")
            to.flush()
            return str(json.loads(come.readline()))

        def value_of(name: str, output: str) -> str:
            found = re.search(rf"^{name} *:(.*)$", output, re.MULTILINE)
            assert found is not None, output
            return found.group(1)

        assert "/queues/cmd" in run("createqueue", "-q", "cmd", "-v", "40")
        assert value_of("VisibilityTimeout", run("getqueueattr", "-q", "cmd")).strip() == "40"
        assert "ListQueueNumber:1" in run("listqueue")
        assert "succeed" in run("setqueueattr", "-q", "cmd", "-v", "50")
        run("sendmessage", "-q", "cmd", "-b", "hello there")
        assert "hello there" in run("peekmessage", "-q", "cmd", "-x", "True")
        received = run("receivemessage", "-q", "cmd", "-w", "1", "-x", "True")
        assert "hello there" in received
        hidden = run("changevisibility", "-q", "cmd", "-H", value_of("ReceiptHandle", received), "-v", "90")
        assert "fail" in run("deletemessage", "-q", "cmd", "-H", value_of("ReceiptHandle", received))
        assert "succeed" in run("deletemessage", "-q", "cmd", "-H", value_of("ReceiptHandle", hidden))
        assert "InvalidRequestURL" in run("listtopic")
        assert "succeed" in run("deletequeue", "-q", "cmd")
        to.close()


async def test_mnscmd_unchanged(sandbox: Sandbox, tmp_path: Path) -> None:
    """The vendor's command line: create, attributes, list, send, peek, receive, hide, delete."""
    assert MNSCMD is not None, "mnscmd comes with aliyun-mns-sdk; is it installed beside this Python?"
    keys = ("-e", sandbox.url, "-a", "sandbox", "-A", "sandbox", "-c", str(tmp_path / "credentials"))
    await run_sync(drive_mnscmd, MNSCMD, keys)
    assert sandbox.account.all() == []
