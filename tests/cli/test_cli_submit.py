"""submit: what is refused before anything is sent, what is printed, waiting for a result."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import CROWD
from tests.stores import new_file

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]
Spoil = Callable[..., None]

BUCKET = "oss://b.oss-cn-hangzhou.aliyuncs.com"
STILLS = f"{BUCKET}/{{source}}-{{sequenceId}}.jpg"
FILES = ("--input", f"{BUCKET}/a.mp4", "--output", STILLS)
PIPELINE = "39f8e0bc005e4f309379701645f4abcd"
CLIP = ("--input", f"{BUCKET}/a.mp4", "--output", f"{BUCKET}/b.mp4", "--pipeline-id", PIPELINE)
DEMIX = ("submit", "--function", "MusicDemix", "--pipeline-id", PIPELINE, "--force")
COVER = ("submit", "--function", "Cover", *FILES, "--pipeline-id", PIPELINE)


@pytest.fixture
def spoil(keys: str, fetch: Callable[..., str]) -> Iterator[Spoil]:
    """Spoil calls to MPS by a fault of the sandbox."""

    def begin(kind: str, operation: str = "submit", **more: object) -> None:
        rule = {"kind": kind, "operations": [operation], **more}
        fetch(f"{keys}/_sandbox/faults", "PUT", json.dumps([rule]).encode())

    yield begin
    fetch(f"{keys}/_sandbox/faults", "DELETE")


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        pytest.param(["--function", ""], "FunctionName: expected a FunctionName such as Cover; came ''", id="no name"),
        pytest.param(["--function", "Co ver"], "FunctionName: expected", id="a blank in it"),
        pytest.param(["--function", "Covr"], "did you mean Cover?", id="a misspelt name"),
        pytest.param(["--params", "{"], "JobParams: expected a JSON object", id="no JSON"),
        pytest.param(["--params", "[1]"], "JobParams: expected a JSON object", id="an array"),
        pytest.param(["--param", "model=png"], "JobParams.model: expected what is made", id="a wrong parameter"),
        pytest.param(["--param", "model"], "--param number 1: expected NAME=VALUE", id="no value"),
        pytest.param(["--param", "=gif"], "--param number 1: expected NAME=VALUE", id="no name of a parameter"),
        pytest.param(["--param", "a=1", "--param", "a=2"], "--param a: expected each name once", id="twice"),
        pytest.param(["--param", "a=1", "--params", '{"a":1}'], "it is in --params too", id="in both"),
        pytest.param(["--param", "a=1", "--params", "[]"], "--params '[]': expected a JSON object", id="no base"),
        pytest.param(["--schedule-params", "1"], "ScheduleParams: expected a JSON object", id="a number"),
        pytest.param(["--input", "a.mp4"], "Input: expected oss://BUCKET.oss-REGION", id="no URL"),
        pytest.param(["--output", f"{BUCKET}/a.jpg"], "Output: expected {sequenceId} in it", id="no placeholder"),
        pytest.param(
            ["--notify-url", "mns://1.mns.cn-beijing.aliyuncs.com/queues/q"],
            "Input: expected a bucket in cn-beijing, the region of MPS",
            id="another region",
        ),
        pytest.param(["--region", "cn-beijing"], "says Success and writes nothing", id="MPS in another region"),
        pytest.param(
            ["--endpoint", "https://mts-vpc.cn-beijing.aliyuncs.com"], "a bucket in cn-beijing", id="by its address"
        ),
        pytest.param(["--pipeline-id", "p"], "PipelineId: expected 32 hex digits; came 'p'", id="no pipeline"),
        pytest.param(["--params", '{"sandbox":{}}'], "JobParams.sandbox: expected parameters of MPS", id="orders"),
        pytest.param([], "no region of MPS", id="MPS is not known"),
    ],
)
def test_refused(cli: Cli, argv: list[str], printed: str) -> None:
    """A wrong argument ends with 2 and names what was expected."""
    ran = cli(*COVER, *argv)
    assert ran.code == 2
    assert printed in ran.err
    assert ran.out == ""


def test_every_problem_is_printed_and_nothing_sent(cli: Cli, keys: str, fetch: Callable[..., str]) -> None:
    """All problems come in one run, one line each, and MPS is not asked."""
    before = submissions(keys, fetch)
    ran = cli(
        "submit", "--function", "Cover", "--param", "Model=png", "--output", f"{BUCKET}/{{Source}}.jpg", "--force"
    )
    assert ran.code == 2
    fields = [line.removeprefix("error: ").split(":")[0] for line in ran.err.splitlines() if line.startswith("error:")]
    assert fields == ["Output", "Input", "Output", "JobParams.Model"]
    assert submissions(keys, fetch) == before


def test_refused_as_json(cli: Cli) -> None:
    """With --json the findings are one object on stdout, each with its field, level and source."""
    ran = cli(*COVER, "--output", f"{BUCKET}/a.jpg", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["refused"]) == (2, True)
    (finding,) = found["findings"]
    assert (finding["field"], finding["level"]) == ("Output", "error")
    assert finding["source"].endswith("#cover")


def test_force(cli: Cli, keys: str, fetch: Callable[..., str]) -> None:
    """What only an inferred rule refuses is sent with --force, as it came, with a warning; the error names the flag."""
    argv = (*COVER, "--param", "mode=gif")
    refused = cli(*argv)
    assert refused.code == 2
    assert "JobParams.mode: expected a documented parameter; did you mean Model?" in refused.err
    assert "--force sends it all the same" in refused.err
    sent = cli(*argv, "--force")
    assert sent.code == 0
    assert "warning: forced: JobParams.mode: expected" in sent.err
    assert job_of(keys, fetch, sent.out)["function"] == "Cover"
    shown = json.loads(cli(*argv, "--force", "--dry-run", "--json").out)
    assert (shown["refused"], shown["request"]["JobParams"]) == (False, '{"mode":"gif"}')


def test_typed_parameters(cli: Cli) -> None:
    """Parameters of the command line are written with the type and the name that are documented."""
    argv = ("--input", f"{BUCKET}/a.mp4", "--output", f"{BUCKET}/{{resultType}}", "--pipeline-id", PIPELINE)
    given = ("--param", "fps=3", "--param", "sep=true", "--params", '{"track": "main"}')
    ran = cli("submit", "--function", "CaptionExtraction", *argv, *given, "--dry-run", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["request"]["JobParams"] == '{"fps":3,"sep":true,"track":"main"}'


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_dry_run(cli: Cli, keys: str, fetch: Callable[..., str], flags: tuple[str, ...]) -> None:
    """A dry run prints the request as it would be sent, and sends nothing."""
    before = submissions(keys, fetch)
    ran = cli(*COVER, "--param", "model=gif", "--schedule-params", "null", "--dry-run", *flags)
    request = {
        "FunctionName": "Cover",
        "JobParams": '{"Model":"gif"}',
        "Input": f"{BUCKET}/a.mp4",
        "Output": STILLS,
        "PipelineId": PIPELINE,
    }
    assert ran.code == 0
    if flags:
        assert json.loads(ran.out) == {"refused": False, "findings": [], "request": request}
    else:
        assert ran.out.splitlines() == [f"{name}: {value}" for name, value in request.items()]
    assert submissions(keys, fetch) == before


def test_a_dry_run_needs_no_place(cli: Cli) -> None:
    """Without keys and region the request is checked all the same."""
    assert cli(*COVER, "--dry-run").code == 0
    assert cli(*COVER, "--dry-run", "--param", "model=png").code == 2


def test_another_account(cli: Cli, queue_url: QueueUrl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NotifyUrl of an account that the settings do not consume is refused."""
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", queue_url("mine"))
    ran = cli(*COVER, "--notify-url", queue_url("mine").replace("3456.", "6543."), "--dry-run")
    assert ran.code == 2
    assert "NotifyUrl: expected a queue of account 1234567890123456" in ran.err


def job_of(keys: str, fetch: Callable[..., str], printed: str) -> dict[str, Any]:
    """The sandbox's record of the job whose id a command printed."""
    jobs: list[dict[str, Any]] = json.loads(fetch(f"{keys}/_sandbox/jobs"))
    return next(job for job in jobs if job["job_id"] == printed.strip())


def test_the_job_id_is_printed(cli: Cli, keys: str, queue_url: QueueUrl, fetch: Callable[..., str]) -> None:
    """The JobId is all that stdout gets, and MPS knows the job with every parameter."""
    ran = cli(
        *(*COVER, "--params", '{"Model":"gif"}', "--model-id", "m", "--user-data", "mine"),
        *("--notify-url", queue_url("sub"), "--schedule-params", "{}"),
    )
    assert ran.code == 0
    assert "warning: this job is not recorded: store" in ran.err
    job = job_of(keys, fetch, ran.out)
    assert (job["function"], job["user_data"], job["notify_queue"]) == ("Cover", "mine", "sub")


def test_a_job_is_recorded(cli: Cli, keys: str, queue_url: QueueUrl, tmp_path: Path, fetch: Callable[..., str]) -> None:
    """Where a store is, the submission is recorded in it, and its ref submits one job, however often it is typed."""
    path = tmp_path / "state" / "s.db"
    new_file(path).close()
    argv = (*COVER, "--notify-url", queue_url("sub"), "--store", str(path), "--ref", "film-7", "--json")
    before = submissions(keys, fetch)
    first, second = cli(*argv), cli(*argv)
    assert (first.code, first.err) == (0, "")
    one, other = json.loads(first.out), json.loads(second.out)
    assert (one["ref"], one["submission"], one["is_new"], other["is_new"]) == ("film-7", 1, True, False)
    assert one["job_id"] == other["job_id"]
    assert submissions(keys, fetch) == before + 1
    changed = cli(*argv, "--user-data", "other")
    assert changed.code == 2
    assert "ref 'film-7' belongs to submission 1 of Cover" in changed.err


@pytest.mark.parametrize("place", [("--pipeline-id", PIPELINE), ("--store", "/nowhere/s.db")])
def test_a_ref_needs_a_record(cli: Cli, keys: str, fetch: Callable[..., str], place: tuple[str, str]) -> None:
    """A ref without a queue or a store to record it in is refused, and nothing is sent."""
    before = submissions(keys, fetch)
    queue = () if place[0] == "--pipeline-id" else ("--notify-url", "mns://1.mns.cn-hangzhou.aliyuncs.com/queues/q")
    ran = cli(*COVER, *place, *queue, "--ref", "film-7")
    assert ran.code == 2
    assert "--ref film-7: it needs a record" in ran.err
    assert submissions(keys, fetch) == before


def test_json_output(cli: Cli, keys: str) -> None:
    """With --json the ids come as one object; a missing NotifyUrl is a warning on stderr."""
    ran = cli("submit", "--function", "Cover", *FILES, "--json")
    assert ran.code == 0
    assert len(json.loads(ran.out)["job_id"]) == 32
    assert "warning: NotifyUrl: expected one, or a PipelineId" in ran.err


@pytest.mark.parametrize(
    ("name", "hint"), [("Covr", "did you mean Cover?"), ("Qqqqqqqq", "documented are AudioBeatDetection")]
)
def test_unknown_names_are_sent_by_force(cli: Cli, keys: str, name: str, hint: str) -> None:
    """A name outside of the documented ones is refused with the nearest one, and sent with --force."""
    argv = ("submit", "--function", name, "--pipeline-id", PIPELINE)
    refused = cli(*argv)
    assert refused.code == 2
    assert hint in refused.err
    assert cli(*argv, "--force").code == 0


def test_waiting_prints_the_typed_result(cli: Cli, keys: str) -> None:
    """With --wait the end is printed: state, summary, the typed result."""
    ran = cli(*COVER, "--wait")
    assert ran.code == 0
    assert "Success: stills: 5, best:" in ran.out
    assert '"Url": "oss://b.oss-cn-hangzhou.aliyuncs.com/' in ran.out


def test_waiting_as_json(cli: Cli, keys: str) -> None:
    """With --wait and --json stdout is one object, typed and with UserData decoded."""
    ran = cli("submit", "--function", "VideoClip", *CLIP, "--user-data", '{"a":1}', "--wait", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["job_state"], found["typed"], found["user_data"]) == (0, "Success", True, {"a": 1})


def test_a_failed_job(cli: Cli, keys: str) -> None:
    """A failed job ends with 1 and its own code and message."""
    params = '{"sandbox":{"fail":{"code":"Bad","message":"worse"}}}'
    ran = cli(*COVER, "--params", params, "--wait")
    assert ran.code == 1
    assert "Fail: Bad: worse" in ran.out


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_success_that_wrote_nothing(cli: Cli, keys: str, flags: tuple[str, ...]) -> None:
    """A job that says Success and has written no file is a failed one: exit code 1, a code of its own, no URL."""
    text = "oss fail to save the image in the given bucket"
    params = json.dumps({"sandbox": {"result": {"Code": "Success", "Data": json.dumps([{"Url": text}])}}})
    ran = cli(*COVER, "--params", params, "--wait", *flags)
    assert ran.code == 1
    assert "OutputNotWritten" in ran.out
    assert f"{text}: is the output bucket in the region of MPS?" in ran.out
    assert f"{BUCKET}/{text}" not in ran.out


def test_a_result_that_does_not_fit(cli: Cli, keys: str) -> None:
    """A result of another shape is printed as it came, with a warning why."""
    params = '{"sandbox":{"result":{"Code":"Success","Data":"[{\\"Score\\":\\"high\\"}]"}}}'
    ran = cli(*COVER, "--params", params, "--wait")
    assert ran.code == 0
    assert "does not fit CoverResult" in ran.err
    assert '"Score": "high"' in ran.out


def test_a_function_without_a_model(cli: Cli, keys: str) -> None:
    """The result of an unknown FunctionName is printed as it came."""
    ran = cli(*DEMIX, "--wait", "--json")
    found = json.loads(ran.out)
    assert (ran.code, found["typed"], found["result"]) == (0, False, {"Details": []})


def test_waiting_ends(cli: Cli, keys: str) -> None:
    """The error for a job that runs longer than the wait names the flag that waits longer."""
    params = '{"sandbox":{"stuck":true}}'
    argv = (*COVER, "--params", params, "--wait", "--wait-seconds")
    ran = cli(*argv, "0.3")
    assert ran.code == 1
    assert "still Analysing after 0.3 s" in ran.err


def test_keys_by_flag(cli: Cli, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address and id may stand on the command line, the secret may not; the error for wrong keys says so."""
    argv = [*COVER, "--endpoint", sandbox_url, "--access-key-id"]
    assert cli(*argv, "alone").code == 78
    refused = cli(*argv, "sandbox", "--access-key-secret", "sandbox")
    assert refused.code == 2
    assert "not taken from the command line" in refused.err
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", "sandbox")
    assert cli(*argv, "sandbox").code == 0
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", "other")
    wrong = cli(*argv, "sandbox")
    assert wrong.code == 1
    assert "SignatureDoesNotMatch" in wrong.err


def test_the_settings_queue(
    cli: Cli, keys: str, monkeypatch: pytest.MonkeyPatch, queue_url: QueueUrl, sandbox_url: str
) -> None:
    """Where the command line names no place, the settings' first queue says where MPS is."""
    monkeypatch.delenv("MNS_CONSUMER_ENDPOINT")
    monkeypatch.setenv("MNS_CONSUMER_MPS_ENDPOINT", sandbox_url)
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", queue_url("mine"))
    assert cli(*COVER).code == 0
    assert cli(*COVER, "--notify-url", queue_url("mine")).code == 0
    monkeypatch.delenv("MNS_CONSUMER_NOTIFY_URL")
    assert cli(*COVER, "--region", "cn-hangzhou").code == 0


def submissions(keys: str, fetch: Callable[..., str]) -> int:
    """How many submissions the sandbox has seen."""
    counted: int = json.loads(fetch(f"{keys}/_sandbox/state"))["requests"].get("SubmitIProductionJob", 0)
    return counted


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param({"kind": "drop_after"}, "Disconnected", id="connection lost"),
        pytest.param({"kind": "truncate"}, "AnswerCutShort", id="half an answer"),
        pytest.param({"kind": "html", "status": 200}, "NotMps", id="a page"),
        pytest.param({"kind": "redirect"}, "NotMps", id="a redirect"),
        pytest.param({"kind": "error", "status": 502, "xml": False}, "Http502", id="a front end's 502"),
        pytest.param({"kind": "error", "status": 500, "code": "InternalError"}, "InternalError", id="a fault of MPS"),
    ],
)
def test_a_lost_answer(
    cli: Cli, keys: str, spoil: Spoil, fetch: Callable[..., str], *, fault: dict[str, Any], code: str
) -> None:
    """After a lost answer the job may exist: that is said with what to do, 76, and nothing is sent again."""
    before = submissions(keys, fetch)
    spoil(**fault)
    ran = cli(*COVER, "--wait")
    assert (ran.code, ran.out) == (76, "")
    assert code in ran.err
    assert "the job may exist and be billed" in ran.err
    assert submissions(keys, fetch) == before + 1


@pytest.mark.parametrize(
    ("endpoint", "code"),
    [pytest.param("http://127.0.0.1:9", "ConnectRefused", id="refused"), pytest.param(None, "TlsFailed", id="no TLS")],
)
def test_nothing_was_sent(cli: Cli, keys: str, endpoint: str | None, code: str) -> None:
    """A failure before anything was sent is an ordinary one."""
    place = endpoint or keys.replace("http:", "https:")
    ran = cli(*COVER, "--endpoint", place)
    assert ran.code == 1
    assert code in ran.err
    assert "may exist" not in ran.err


def test_a_refusal_is_certain(cli: Cli, spoil: Spoil) -> None:
    """A refused submission made no job; a missing right is named."""
    spoil("error", status=400, code="Forbidden.RAM")
    ran = cli(*COVER)
    assert ran.code == 1
    assert "grant mts:SubmitIProductionJob" in ran.err
    assert "may exist" not in ran.err


def test_an_interrupted_submission(
    start: Callable[..., Any], keys: str, spoil: Spoil, fetch: Callable[..., str]
) -> None:
    """Ctrl-C while MPS is asked says that the job may exist."""
    before = submissions(keys, fetch)
    spoil("hang")
    running = start(*COVER)
    until = time.monotonic() + CROWD * 10
    while submissions(keys, fetch) == before and time.monotonic() < until:
        time.sleep(0.02)
    assert running.end(signal.SIGINT) == 130
    assert "warning: interrupted before MPS answered; the job may exist" in running.text()


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_lost_end_keeps_the_job_id(cli: Cli, spoil: Spoil, flags: tuple[str, ...]) -> None:
    """When MPS can't be asked for the end of a submitted job, the error names the job."""
    spoil("error", "query", status=403, code="Forbidden.RAM")
    ran = cli(*COVER, "--wait", *flags)
    assert ran.code == 1
    job_id = ran.err.split("error: job ")[1].split()[0]
    assert len(job_id) == 32
    assert "was submitted, but its end is unknown" in ran.err
    assert "grant mts:QueryIProductionJob" in ran.err


def test_parameters_of_null(cli: Cli, keys: str) -> None:
    """The JSON text null stands for a parameter that is not given."""
    argv = (*COVER, "--schedule-params", "null", "--params", "null")
    assert cli(*argv).code == 0


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_texts_of_mps_do_not_steer_a_terminal(cli: Cli, keys: str, flags: tuple[str, ...]) -> None:
    """Control characters, C1, bidi marks and line breaks in what MPS says are escaped, in text and in JSON."""
    evil = "a\x1b[2Jb\x9bc\u202ed\u2028e\nf\x7f"
    params = json.dumps({"sandbox": {"fail": {"code": evil, "message": evil}}})
    argv = (*COVER, "--params", params, "--user-data", evil, "--wait")
    ran = cli(*argv, *flags)
    assert ran.code == 1
    assert all(line.isprintable() for line in (ran.out + ran.err).split("\n"))
    if flags:
        found = json.loads(ran.out)
        assert (found["code"], found["message"], found["user_data"]) == (evil, evil, evil)
    else:
        assert ran.out.splitlines()[1].startswith(r"Fail: a\x1b[2Jb\x9bc\u202ed\u2028e\nf\x7f: a")


def test_a_result_is_escaped(cli: Cli, keys: str) -> None:
    """A result is printed as JSON that reads the same and holds nothing that can't be printed."""
    data = {"Details": [], "evil": "\x1b]0;x\x07\u202e\U000e0001"}
    params = json.dumps({"sandbox": {"result": data}})
    ran = cli(*DEMIX, "--params", params, "--wait")
    assert ran.code == 0
    lines = ran.out.split("\n")
    assert all(line.isprintable() for line in lines)
    assert data["evil"] in json.loads("\n".join(lines[2:]))["evil"]
