"""Which calls the AccessKey may make: the actions of the one table, allowed and denied."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from alibabacloud_mts20140618.client import Client
from alibabacloud_mts20140618.models import QueryIProductionJobRequest, SubmitIProductionJobRequest
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.models import Config
from pydantic import ValidationError

from consumer.rights import RIGHTS
from consumer.sandbox import Sandbox, SandboxSettings
from consumer.sandbox.access import ACTIONS, Grants
from consumer.sandbox.protocol import IMS_OPERATIONS, JOB_OPERATIONS, QUEUE_OPERATIONS

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Reply]]
Texts = Callable[[bytes, str], list[str]]

CALLS = {
    "CreateQueue": ("PUT", "/queues/n", b""),
    "SetQueueAttributes": ("PUT", "/queues/q?metaoverride=true", b"<Queue/>"),
    "GetQueueAttributes": ("GET", "/queues/q", b""),
    "DeleteQueue": ("DELETE", "/queues/n", b""),
    "ListQueue": ("GET", "/queues", b""),
    "SendMessage": ("POST", "/queues/q/messages", b"<Message><MessageBody>x</MessageBody></Message>"),
    "BatchSendMessage": (
        *("POST", "/queues/q/messages"),
        b"<Messages><Message><MessageBody>x</MessageBody></Message></Messages>",
    ),
    "ReceiveMessage": ("GET", "/queues/q/messages", b""),
    "BatchReceiveMessage": ("GET", "/queues/q/messages?numOfMessages=16", b""),
    "PeekMessage": ("GET", "/queues/q/messages?peekonly=true", b""),
    "BatchPeekMessage": ("GET", "/queues/q/messages?peekonly=true&numOfMessages=16", b""),
    "DeleteMessage": ("DELETE", "/queues/q/messages?ReceiptHandle=8-x", b""),
    "BatchDeleteMessage": (
        *("DELETE", "/queues/q/messages"),
        b"<ReceiptHandles><ReceiptHandle>8-x</ReceiptHandle></ReceiptHandles>",
    ),
    "ChangeMessageVisibility": ("PUT", "/queues/q/messages?ReceiptHandle=8-x&VisibilityTimeout=9", b""),
}


def test_every_operation_has_its_actions() -> None:
    """Operations of the table need its actions, all others the one of their own name."""
    assert set(ACTIONS) == {*QUEUE_OPERATIONS, *JOB_OPERATIONS, *IMS_OPERATIONS}
    assert set(CALLS) == set(QUEUE_OPERATIONS)
    assert all(ACTIONS[name] == (name,) for name in IMS_OPERATIONS)
    assert {name: ACTIONS[name] for name in RIGHTS} == {name: right.actions for name, right in RIGHTS.items()}
    assert ACTIONS["ListQueue"] == ("mns:ListQueue",)


@pytest.mark.parametrize("operation", QUEUE_OPERATIONS)
async def test_each_call_needs_each_of_its_actions(sandbox: Sandbox, ask: Ask, texts: Texts, operation: str) -> None:
    """A call goes through with all its actions and nothing else, and is AccessDenied with any one of them missing."""
    sandbox.put("q", "x")
    method, target, body = CALLS[operation]
    actions = ACTIONS[operation]
    for missing in actions:
        for allow, deny in (([one for one in actions if one != missing], []), (None, [missing])):
            sandbox.grants.set(allow, deny)
            status, _, answer = await ask(method, target, body)
            assert (status, texts(answer, "Code")) == (403, ["AccessDenied"])
            assert texts(answer, "Message") == [
                "The OwnerId that your Access Key Id associated to is forbidden for this operation."
            ]
    sandbox.grants.set(actions)
    assert (await ask(method, target, body))[0] != 403


async def test_rights_are_checked_before_the_queue_is_looked_up(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A denied call on a queue that does not exist is AccessDenied, not QueueNotExist."""
    sandbox.grants.set(deny=["mns:GetQueueAttributes"])
    _, _, body = await ask("GET", "/queues/none")
    assert texts(body, "Code") == ["AccessDenied"]


async def denied_by_mps(sandbox: Sandbox, operation: str) -> ClientException:
    endpoint = sandbox.url.removeprefix("http://")
    client = Client(Config(access_key_id="sandbox", access_key_secret="sandbox", protocol="http", endpoint=endpoint))
    calls = {
        "SubmitIProductionJob": lambda: client.submit_iproduction_job_async(
            SubmitIProductionJobRequest(function_name="Cover", job_params="{}")
        ),
        "QueryIProductionJob": lambda: client.query_iproduction_job_async(QueryIProductionJobRequest(job_id="x")),
    }
    with pytest.raises(ClientException) as caught:
        await calls[operation]()
    return caught.value


@pytest.mark.parametrize("operation", JOB_OPERATIONS)
@pytest.mark.parametrize("kind", ["ImplicitDeny", "ExplicitDeny"])
async def test_mps_names_the_missing_action(sandbox: Sandbox, kind: str, operation: str) -> None:
    """MPS refuses with 403 Forbidden.RAM, and AccessDeniedDetail names the action and how it came to be missing."""
    action = f"mts:{operation}"
    if kind == "ExplicitDeny":
        sandbox.grants.set(deny=[action])
    else:
        sandbox.grants.set(allow=["mns:SendMessage"])
    error = await denied_by_mps(sandbox, operation)
    assert len(sandbox.jobs) == 0
    assert (error.status_code, error.code) == (403, "Forbidden.RAM")
    detail: Any = error.access_denied_detail
    assert (detail["AuthAction"], detail["NoPermissionType"]) == (action, kind)


async def test_mps_can_refuse_plainly() -> None:
    """With plain denials MPS answers 400, the same code, and no detail."""
    settings = SandboxSettings(port=0, denied_actions=("mts:QueryIProductionJob",), plain_denials=True)
    async with Sandbox(settings) as sandbox:
        error = await denied_by_mps(sandbox, "QueryIProductionJob")
    assert (error.status_code, error.code, error.access_denied_detail) == (400, "Forbidden.RAM", None)


async def test_rights_over_http(sandbox: Sandbox, ask: Ask, control: Callable[..., Any]) -> None:
    """Rights are taken and given while it runs; the control API itself needs none."""
    assert (await control("PUT", "/rights", {"allow": []}))[0] == 200
    assert (await ask("GET", "/queues"))[0] == 403
    assert (await control("PUT", "/rights", {"allow": ["mns:ListQueue"]}))[0] == 200
    assert (await ask("GET", "/queues"))[0] == 200
    assert (await control("PUT", "/rights", {"deny": ["mns:ListQueue"]}))[0] == 200
    assert (await ask("GET", "/queues"))[0] == 403
    status, answer = await control("PUT", "/rights", {"deny": ["mns:ListQueues"]})
    assert (status, "'mns:ListQueue'" in answer["error"][0]["msg"]) == (400, True)


@pytest.mark.parametrize("wrong", ["mns:RecieveMessage", "mns:receivemessage", "ReceiveMessage"])
def test_the_error_for_an_unknown_action_names_the_nearest(wrong: str) -> None:
    """A name that is no action is refused, and the nearest one named."""
    with pytest.raises(ValueError, match=f"unknown action '{wrong}'; the nearest is 'mns:ReceiveMessage'"):
        Grants(allow=[wrong])
    with pytest.raises(ValidationError, match="the nearest is 'mns:ReceiveMessage'"):
        SandboxSettings(denied_actions=(wrong,))
