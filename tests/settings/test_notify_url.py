"""Rules of reading a NotifyUrl: the three networks, what each address leads to, and what is refused."""

from __future__ import annotations

import pytest
from alibabacloud_mts20140618.client import Client
from alibabacloud_tea_openapi.utils_models import Config
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import ExitCode
from consumer.message.key import message_key
from consumer.notify_url import _WITHOUT_OWN_MPS, EXPECTED, NotifyUrl, NotifyUrlError

OWN_MPS = (
    *("cn-beijing", "cn-zhangjiakou", "cn-hangzhou", "cn-shanghai", "cn-shenzhen", "cn-hongkong", "ap-northeast-1"),
    *("ap-southeast-1", "us-west-1", "eu-west-1", "eu-central-1"),
)
"""The regions that have an endpoint of their own by the vendor's pages (facts/iproduction.md#api-endpoints)."""


@pytest.mark.parametrize(
    ("network", "mps"),
    [
        pytest.param("", "https://mts.cn-shanghai.aliyuncs.com", id="public"),
        pytest.param("-internal", "https://mts-vpc.cn-shanghai.aliyuncs.com", id="internal"),
        pytest.param("-internal-vpc", "https://mts-vpc.cn-shanghai.aliyuncs.com", id="vpc"),
    ],
)
def test_each_network(network: str, mps: str) -> None:
    """Of each network's address come account, region, queue, both https endpoints and the text again."""
    text = f"mns://1234567890.mns.cn-shanghai{network}.aliyuncs.com/queues/my-Queue-1"
    url = NotifyUrl.parse(text)
    assert url == NotifyUrl(account="1234567890", region="cn-shanghai", network=network, queue="my-Queue-1")
    assert url.endpoint == f"https://1234567890.mns.cn-shanghai{network}.aliyuncs.com"
    assert url.mps_endpoint == mps
    assert str(url) == text


@pytest.mark.parametrize("network", ["", "-internal", "-internal-vpc"])
@pytest.mark.parametrize(
    "region", ["cn-chengdu", "cn-wulanchabu", "ap-southeast-2", "us-east-1", "cn-hangzhou-finance", "cn-north-2-gov-1"]
)
def test_a_region_without_an_mps_of_its_own(region: str, network: str) -> None:
    """Such a region is served by the central endpoint, from whatever network; MNS stays in the region."""
    url = NotifyUrl.parse(f"mns://1.mns.{region}{network}.aliyuncs.com/queues/q")
    assert url.mps_endpoint == "https://mts.aliyuncs.com"
    assert url.endpoint == f"https://1.mns.{region}{network}.aliyuncs.com"


@pytest.mark.parametrize("region", [*OWN_MPS, "cn-new-1", *sorted(_WITHOUT_OWN_MPS)])
def test_mps_is_where_the_vendors_client_finds_it(region: str) -> None:
    """For each region that is known, and for one that isn't, our address is the one that the SDK makes."""
    config = Config(access_key_id="a", access_key_secret="b", region_id=region)
    found = NotifyUrl.parse(f"mns://1.mns.{region}.aliyuncs.com/queues/q").mps_endpoint
    assert found == f"https://{Client(config)._endpoint}"


def test_no_finance_or_government_region_was_forgotten() -> None:
    """Every region of these kinds that the SDK sends to the central endpoint is in our table."""
    known = Client(Config(access_key_id="a", access_key_secret="b", region_id="cn-hangzhou"))._endpoint_map
    assert {region for region in known if "finance" in region or "-gov" in region} <= _WITHOUT_OWN_MPS


def test_a_queue_of_older_days_has_a_long_name() -> None:
    """A name of 256 characters is read, and its identity stays legible in a ledger key."""
    url = NotifyUrl.parse(f"mns://{'1' * 64}.mns.{'r' * 40}.aliyuncs.com/queues/{'q' * 256}")
    assert message_key(url.identity, "M").startswith(f"{url.identity}|")


def test_the_identity_is_the_queues_not_the_ways() -> None:
    """One queue reached by two networks is one queue, so that the ledger's keys agree."""
    texts = [f"mns://1.mns.cn-beijing{network}.aliyuncs.com/queues/q" for network in ("", "-internal", "-internal-vpc")]
    assert {NotifyUrl.parse(text).identity for text in texts} == {"1/cn-beijing/q"}


def test_blanks_around_and_a_last_slash_are_let_pass() -> None:
    """What copying an address adds at its ends changes nothing."""
    plain = NotifyUrl.parse("mns://1.mns.cn-beijing.aliyuncs.com/queues/q")
    assert NotifyUrl.parse(" mns://1.mns.cn-beijing.aliyuncs.com/queues/q/\n") == plain


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("q", id="a name alone"),
        pytest.param("http://1.mns.cn-beijing.aliyuncs.com/queues/q", id="http"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/topics/q", id="a topic"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/queues/", id="no name"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/queues/q/messages", id="more path"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/queues/q?a=b", id="a query"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com:443/queues/q", id="a port"),
        pytest.param("mns://mns.cn-beijing.aliyuncs.com/queues/q", id="no account"),
        pytest.param("mns://1.mns.aliyuncs.com/queues/q", id="no region"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com.evil.example/queues/q", id="another host"),
        pytest.param("mns://evil.example/1.mns.cn-beijing.aliyuncs.com/queues/q", id="host in the path"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/queues/-q", id="dash first"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/queues/a_b", id="underscore"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/queues/" + "q" * 257, id="name too long"),
        pytest.param("mns://1.mns.cn-beijing.aliyuncs.com/queues/\uff51", id="wide letter"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Another form is told with what came and what was expected, as a slip on the command line and in the settings."""
    with pytest.raises(NotifyUrlError) as caught:
        NotifyUrl.parse(text)
    address, mark, _ = text.partition("?")
    shown = f"{address}?..." if mark else address
    assert str(caught.value) == f"NotifyUrl {shown!r} is not an MNS queue address; expected {EXPECTED}"
    assert caught.value.exit_code is ExitCode.USAGE
    assert isinstance(caught.value, ValueError)


@given(st.text() | st.from_regex(r"mns://[\w.-]*\.mns\.[\w-]*\.aliyuncs\.com/queues/[\w-]*"))
def test_every_text_is_read_or_refused(text: str) -> None:
    """Any text gives a NotifyUrl that reads back as itself, or the one error."""
    try:
        url = NotifyUrl.parse(text)
    except NotifyUrlError:
        return
    assert NotifyUrl.parse(str(url)) == url
    assert url.endpoint.isascii()
