"""NotifyUrl: the three networks, the endpoints of each address, and what is refused."""

from __future__ import annotations

import pytest
from alibabacloud_mts20140618.client import Client
from alibabacloud_tea_openapi.utils_models import Config
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import ExitCode
from consumer.message.notification import message_key
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
    """Each network's address gives account, region, queue, both https endpoints, and its own text again."""
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
def test_a_region_without_its_own_mps(region: str, network: str) -> None:
    """The central endpoint serves such a region, from every network; MNS stays in the region."""
    url = NotifyUrl.parse(f"mns://1.mns.{region}{network}.aliyuncs.com/queues/q")
    assert url.mps_endpoint == "https://mts.aliyuncs.com"
    assert url.endpoint == f"https://1.mns.{region}{network}.aliyuncs.com"


@pytest.mark.parametrize("region", [*OWN_MPS, "cn-new-1", *sorted(_WITHOUT_OWN_MPS)])
def test_the_mps_endpoint_is_that_of_the_vendors_client(region: str) -> None:
    """For each known region, and for an unknown one, the endpoint is the same as the SDK's."""
    config = Config(access_key_id="a", access_key_secret="b", region_id=region)
    found = NotifyUrl.parse(f"mns://1.mns.{region}.aliyuncs.com/queues/q").mps_endpoint
    assert found == f"https://{Client(config)._endpoint}"


def test_every_finance_and_government_region_is_listed() -> None:
    """Every region of these kinds that the SDK sends to the central endpoint is in our table."""
    known = Client(Config(access_key_id="a", access_key_secret="b", region_id="cn-hangzhou"))._endpoint_map
    assert {region for region in known if "finance" in region or "-gov" in region} <= _WITHOUT_OWN_MPS


def test_an_old_queue_may_have_a_long_name() -> None:
    """A name of 256 characters is parsed, and its identity stays whole in a ledger key."""
    url = NotifyUrl.parse(f"mns://{'1' * 64}.mns.{'r' * 40}.aliyuncs.com/queues/{'q' * 256}")
    assert message_key(url.identity, "M").startswith(f"{url.identity}|")


def test_the_identity_does_not_depend_on_the_network() -> None:
    """A queue has the same identity on every network, so that the ledger's keys agree."""
    texts = [f"mns://1.mns.cn-beijing{network}.aliyuncs.com/queues/q" for network in ("", "-internal", "-internal-vpc")]
    assert {NotifyUrl.parse(text).identity for text in texts} == {"1/cn-beijing/q"}


def test_blanks_around_it_and_a_final_slash_are_ignored() -> None:
    """Copying an address may add them."""
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
    """The error shows what came and what was expected; it is a usage error and a ``ValueError``."""
    with pytest.raises(NotifyUrlError) as caught:
        NotifyUrl.parse(text)
    address, mark, _ = text.partition("?")
    shown = f"{address}?..." if mark else address
    assert str(caught.value) == f"expected a NotifyUrl, {EXPECTED}, got {shown!r}"
    assert caught.value.exit_code is ExitCode.USAGE
    assert isinstance(caught.value, ValueError)


@given(st.text() | st.from_regex(r"mns://[\w.-]*\.mns\.[\w-]*\.aliyuncs\.com/queues/[\w-]*"))
def test_every_text_is_parsed_or_refused(text: str) -> None:
    """Any text gives a NotifyUrl whose text parses to the same value, or ``NotifyUrlError``."""
    try:
        url = NotifyUrl.parse(text)
    except NotifyUrlError:
        return
    assert NotifyUrl.parse(str(url)) == url
    assert url.endpoint.isascii()
