"""check and the rights of the keys: each one is tried, what is missing is named, the policy grants what is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from consumer.cli.check import NO_HANDLE, Severity, _of_attributes
from consumer.cloud.messages import QueueAttributes
from consumer.config import load
from consumer.notify_url import NotifyUrl
from consumer.rights import ALSO, COMMANDS, RIGHTS, RUN, Also, ram_policy

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]
Deny = Callable[..., None]

NEEDED: Final = [action for call in RUN for action in RIGHTS[call].actions]


@pytest.fixture
def deny(keys: str, fetch: Callable[..., str]) -> Iterator[Deny]:
    """Refuse calls as the services do, with a given status and code."""

    def refuse(*calls: str, code: str = "", status: int = 403) -> None:
        rules = [
            {
                "kind": "error",
                "operations": [call],
                "status": status,
                "code": code or ("Forbidden.RAM" if RIGHTS[call].service == "mts" else "AccessDenied"),
            }
            for call in calls
        ]
        fetch(f"{keys}/_sandbox/faults", "PUT", json.dumps(rules).encode())

    yield refuse
    fetch(f"{keys}/_sandbox/faults", "DELETE")


@pytest.fixture
def grant(keys: str, fetch: Callable[..., str]) -> Iterator[Callable[..., None]]:
    """Grant these RAM actions and no others."""

    def only(*actions: str) -> None:
        fetch(f"{keys}/_sandbox/rights", "PUT", json.dumps({"allow": actions}).encode())

    yield only
    fetch(f"{keys}/_sandbox/rights", "PUT", b"{}")


@pytest.fixture
def queue(keys: str, queue_url: QueueUrl, fetch: Callable[..., str]) -> str:
    """The NotifyUrl of a queue that exists and holds one message."""
    fetch(f"{keys}/_sandbox/queues/rights/messages", "POST", b"body")
    return queue_url("rights")


def lines(ran: Any, level: str) -> list[str]:
    """The lines of one level, without it."""
    return [line[5:] for line in ran.out.splitlines() if line.startswith(f"{level} ")]


def test_the_rights_of_run_are_enough(cli: Cli, queue: str, grant: Callable[..., None]) -> None:
    """With only the rights of run nothing is bad, and each right that can be tried is reported as given."""
    grant(*NEEDED)
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert (ran.code, lines(ran, "bad")) == (0, [])
    given = [line.split(": ")[0] for line in lines(ran, "ok") if "right to" in line]
    assert given == [f"rights, right to {what}" for what in ("delete", "hide", "query jobs")]
    assert len(lines(ran, "warn")) == 1


@pytest.mark.parametrize("action", NEEDED)
def test_each_missing_action_is_named(cli: Cli, queue: str, grant: Callable[..., None], action: str) -> None:
    """Where one action of run is missing, the line of its right names it."""
    (call,) = [call for call in RUN if action in RIGHTS[call].actions]
    grant(*(other for other in NEEDED if other != action))
    ran = cli("check", "--shipped", "--notify-url", queue)
    # Receiving can't be tried, and the daemon works without a queue's attributes.
    is_bad = call not in {"BatchReceiveMessage", "GetQueueAttributes"}
    assert ran.code == is_bad
    (named,) = [line for level in ("bad", "warn") for line in lines(ran, level) if action in line]
    assert len(lines(ran, "bad")) == is_bad
    if call != "BatchReceiveMessage":
        assert "grant" in named
    if is_bad and RIGHTS[call].service == "mns":
        assert "when the account or the region in the NotifyUrl is wrong" in named


@pytest.mark.parametrize(
    ("call", "code", "status", "printed"),
    [
        pytest.param("QueryIProductionJob", "Forbidden.RAM", 400, "mts:QueryIProductionJob", id="RAM with 400"),
        pytest.param("QueryIProductionJob", "NoPermission.User", 400, "mts:QueryIProductionJob", id="NoPermission"),
        pytest.param("QueryIProductionJob", "InvalidIdentity.ServiceDisabled", 403, "AliyunMTSDefaultRole", id="off"),
        pytest.param("QueryIProductionJob", "PermissionDenied.ResourceAccess", 403, "own service role", id="bucket"),
        pytest.param("QueryIProductionJob", "PermissionDenied.ResourceQuotaExceed", 403, "a quota", id="quota"),
        pytest.param("QueryIProductionJob", "MissingSecurityToken", 400, "set security_token", id="no STS token"),
        pytest.param("QueryIProductionJob", "InvalidAction.NotFound", 404, "not an endpoint of MPS", id="endpoint"),
        pytest.param("QueryIProductionJob", "RequestsTooFrequent", 403, "too many requests", id="throttled"),
        pytest.param("QueryIProductionJob", "MissingParameter", 400, "MissingParameter", id="anything else"),
        pytest.param("BatchDeleteMessage", "AccessDeniedByRamPolicy", 403, "mns:BatchDeleteMessage", id="RAM policy"),
        pytest.param("BatchDeleteMessage", "InvalidArgument", 400, "InvalidArgument", id="a refused handle"),
        pytest.param("ChangeMessageVisibility", "InternalError", 500, "try again soon", id="a fault"),
    ],
)
def test_each_refusal_has_its_advice(
    cli: Cli, queue: str, deny: Deny, *, call: str, code: str, status: int, printed: str
) -> None:
    """A refusal that does not prove the right is bad, with what to do about it."""
    deny(call, code=code, status=status)
    ran = cli("check", "--shipped", "--notify-url", queue)
    (line,) = lines(ran, "bad")
    assert ran.code == 1
    assert code in line
    assert printed in line


@pytest.mark.parametrize(
    ("call", "code", "status"),
    [
        ("QueryIProductionJob", "InvalidParameter.JobNotFound", 404),
        ("QueryIProductionJob", "InvalidParameter", 400),
        ("BatchDeleteMessage", "MessageNotExist", 404),
        ("BatchDeleteMessage", "ReceiptHandleError", 400),
        ("ChangeMessageVisibility", "MessageNotExist", 404),
    ],
)
def test_what_shows_that_a_right_is_there(
    cli: Cli, queue: str, deny: Deny, *, call: str, code: str, status: int
) -> None:
    """A refusal of the job or the receipt handle itself proves the right."""
    deny(call, code=code, status=status)
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert (ran.code, lines(ran, "bad")) == (0, [])


def test_one_denied_entry_of_a_delete(cli: Cli, queue: str, keys: str, fetch: Callable[..., str], deny: Deny) -> None:
    """A right that a batch delete denies for each entry is missing."""
    deny()
    rule = {"kind": "entry_error", "operations": ["BatchDeleteMessage"], "code": "AccessDenied"}
    fetch(f"{keys}/_sandbox/faults", "PUT", json.dumps([rule]).encode())
    (line,) = lines(cli("check", "--shipped", "--notify-url", queue), "bad")
    assert "grant mns:BatchDeleteMessage and mns:DeleteMessage" in line


def test_rights_of_other_commands(cli: Cli, queue: str, deny: Deny) -> None:
    """Rights beyond those of run are tried when they are asked for; sending can't be."""
    deny("BatchPeekMessage", "SubmitIProductionJob")
    ran = cli("check", "--shipped", "--notify-url", queue, *(f"--also={word}" for word in ALSO))
    assert ran.code == 1
    peek, submit = lines(ran, "bad")
    assert "grant mns:BatchPeekMessage and mns:PeekMessage" in peek
    assert "`mns-consumer check --policy --also peek`" in peek
    assert "grant mts:SubmitIProductionJob" in submit
    assert any("right to send: not tried" in line and "mns:SendMessage" in line for line in lines(ran, "warn"))
    deny("SubmitIProductionJob", code="InvalidParameter.FunctionNotSupported", status=400)
    ran = cli("check", "--shipped", "--notify-url", queue, "--also", "submit", "--also", "peek")
    assert (ran.code, lines(ran, "bad")) == (0, [])
    assert any("right to submit: given" in line for line in lines(ran, "ok"))


def test_a_job_that_was_made_after_all(cli: Cli, queue: str) -> None:
    """A service that takes a FunctionName of no algorithm has made a job, which is reported with its id."""
    ran = cli("check", "--shipped", "--notify-url", queue, "--also", "submit")
    assert ran.code == 0
    assert any("NoSuchFunction" in line and "may be billed" in line for line in lines(ran, "warn"))


def test_a_lost_answer_of_the_submission(cli: Cli, queue: str, deny: Deny) -> None:
    """If the answer to the tried submission is lost, the line says that a job may exist."""
    deny("SubmitIProductionJob", code="InternalError", status=500)
    (line,) = lines(cli("check", "--shipped", "--notify-url", queue, "--also", "submit"), "bad")
    assert line.endswith("a job may have been made")


def test_the_receipt_handle_is_of_the_real_shape() -> None:
    """The invented receipt handle has the length and the characters of a real one."""
    assert 36 <= len(NO_HANDLE) <= 37
    assert NO_HANDLE.replace("-", "").isalnum()


def test_unencrypted_endpoints(cli: Cli, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address without TLS is a warning, unless it is this machine's own."""
    assert "not encrypted" not in cli("check", "--shipped", "--notify-url", queue).out
    monkeypatch.setattr("consumer.cli.check.is_loopback", lambda host: host != "127.0.0.1")
    warned = [line for line in lines(cli("check", "--shipped", "--notify-url", queue), "warn") if "encrypted" in line]
    assert [line.partition(":")[0] for line in warned] == ["rights, endpoint", "rights, mps_endpoint"]


@pytest.mark.parametrize(
    ("dlq_policy", "warned"),
    [("Enabled=true MaxReceiveCount=3", True), ('{"Enabled": false}', False), ("enabled=False", False), (None, False)],
)
def test_a_dead_letter_policy_of_the_queue(queue_url: QueueUrl, *, dlq_policy: str | None, warned: bool) -> None:
    """A queue with a dead-letter policy of its own is a warning, which has the policy."""
    attributes = QueueAttributes("q", 30, 345_600, 0, 0, 65_536, 1, 0, 0, 0, 0, dlq_policy)
    settings = load({"notify_url": queue_url("q")})
    found = list(_of_attributes(settings, settings.queues()[0], attributes))
    policies = [finding for finding in found if finding.what == "DlqPolicy"]
    assert [(one.severity, str(dlq_policy) in one.text) for one in policies] == [(Severity.WARNING, True)] * warned


def granted(printed: str) -> dict[str, list[str]]:
    """The resources of each action of a policy."""
    found = json.loads(printed)
    assert found["Version"] == "1"
    assert {statement["Effect"] for statement in found["Statement"]} == {"Allow"}
    return {action: one["Resource"] for one in found["Statement"] for action in one["Action"]}


def test_the_printed_policy(cli: Cli, queue_url: QueueUrl) -> None:
    """The policy names every action of run for each queue, without keys, store or network."""
    other = "mns://42.mns.cn-shanghai-internal.aliyuncs.com/queues/songs"
    argv = ("check", "--policy", "--notify-url", queue_url("films"), "--notify-url", other)
    ran = cli(*argv, "--endpoint", "http://127.0.0.1:9", "--store", "/no/such/folder/x.db")
    assert ran.code == 0
    arns = ["acs:mns:cn-hangzhou:1234567890123456:/queues/films", "acs:mns:cn-shanghai:42:/queues/songs"]
    found = granted(ran.out)
    assert list(found) == NEEDED
    assert found["mns:BatchReceiveMessage"] == [f"{arn}/messages" for arn in arns]
    assert found["mns:GetQueueAttributes"] == arns
    assert found["mts:QueryIProductionJob"] == ["*"]
    assert cli("check", "--policy").code == 78


@pytest.mark.parametrize("word", ALSO)
def test_the_policy_of_other_commands(cli: Cli, queue_url: QueueUrl, word: Also) -> None:
    """With --also the policy names what that command needs too, and only that."""
    ran = cli("check", "--policy", "--also", word, "--notify-url", queue_url("films"))
    more = {action for call in COMMANDS[ALSO[word]] for action in RIGHTS[call].actions}
    assert set(granted(ran.out)) == {*NEEDED, *more}


def test_every_word_is_a_command() -> None:
    """The words of --also are those of the table and stand for its commands; every call is some command's."""
    assert list(Also) == list(ALSO)
    assert set(ALSO.values()) < set(COMMANDS)
    assert {call for calls in COMMANDS.values() for call in calls} == set(RIGHTS)


def test_a_policy_names_nothing_twice() -> None:
    """Calls and queues that are given twice are listed once."""
    url = NotifyUrl.parse("mns://1.mns.cn-x.aliyuncs.com/queues/q")
    assert ram_policy([url, url], ["SendMessage", "SendMessage"])["Statement"] == [
        {"Effect": "Allow", "Action": ["mns:SendMessage"], "Resource": ["acs:mns:cn-x:1:/queues/q/messages"]}
    ]
