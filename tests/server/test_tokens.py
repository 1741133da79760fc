"""Capability tokens: what clients read in them, what the network accepts, and what it refuses."""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pubnub.managers import TokenManager

from blocks_network.server.access.authorizer import Authorizer, Bits, Denied, Grant, Need
from blocks_network.server.access.keysets import Keyset
from blocks_network.server.access.patterns import Pattern
from blocks_network.server.access.revocations import Revocations
from blocks_network.server.access.tokens import CapabilityTokens, prefix_pattern
from blocks_network.server.limits import Limits

EXAMPLE = (
    "qEF2AkF0GmVT8QBDdHRsGDxDcmVzpURjaGFuoWJjMQNDZ3JwoENzcGOgQ3VzcqBEdXVpZKBDcGF0pURjaGFuoENncnCgQ3NwY6BDdXNyoER1dWlk"
    "oERtZXRhoER1dWlkYnUxQ3NpZ1gg6PI8oapS9CuSllGshIKDFxseb5lIAs6MtI_irculqBI="
)
KEYSET = Keyset("playground", "pub-c-1", "sub-c-1", "example-secret")


class Clock:
    def __init__(self, now_s: float = 1_700_000_000) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> CapabilityTokens:
    return CapabilityTokens(clock=clock)


def check(
    tokens: CapabilityTokens,
    token: str | None,
    needs: Sequence[Need],
    *,
    uuid: str = "u1",
    keyset: Keyset = KEYSET,
    signature_only: bool = False,
) -> Grant:
    query: Mapping[str, str] = {"uuid": uuid} | ({} if token is None else {"auth": token})
    authorizer = Authorizer(tokens, skew_s=60)
    return authorizer.check(
        keyset,
        method="GET",
        raw_path="/v2/x",
        raw_query=b"",
        query=query,
        body=b"",
        needs=needs,
        signature_only=signature_only,
    )


def test_a_token_has_the_documented_bytes(tokens: CapabilityTokens) -> None:
    minted = tokens.mint(KEYSET, ttl_minutes=60, channels={"c1": Bits.READ | Bits.WRITE}, uuid="u1")
    assert minted == EXAMPLE


def test_the_client_reads_all_of_a_token(tokens: CapabilityTokens) -> None:
    minted = tokens.mint(
        KEYSET,
        ttl_minutes=5,
        channels={"c1": Bits.READ | Bits.WRITE, "ümlaut": 239},
        groups={"g": Bits.MANAGE},
        uuids={"u9": Bits.GET},
        patterns={prefix_pattern("task."): Bits.READ},
        group_patterns={"^g-.*$": Bits.READ},
        meta={"org": "acme", "n": 1},
    )
    parsed = TokenManager.parse_token(minted)
    assert (parsed["version"], parsed["timestamp"], parsed["ttl"]) == (2, 1_700_000_000, 5)
    assert parsed["authorized_uuid"] is None
    assert parsed["meta"] == {"org": "acme", "n": 1}
    channels = parsed["resources"]["channels"]
    assert set(channels) == {"c1", "ümlaut"}
    assert (channels["c1"]["read"], channels["c1"]["write"], channels["c1"]["delete"]) == (True, True, False)
    assert parsed["resources"]["groups"]["g"]["manage"]
    assert parsed["resources"]["uuids"]["u9"]["get"]
    assert parsed["patterns"]["channels"][r"^task\..*$"]["read"]
    assert parsed["patterns"]["groups"]["^g-.*$"]["read"]


def test_a_token_allows_what_it_names_and_nothing_else(tokens: CapabilityTokens) -> None:
    token = tokens.mint(
        KEYSET,
        ttl_minutes=1,
        channels={"c1": Bits.READ},
        groups={"g1": Bits.READ},
        patterns={"^task\\..*$": Bits.WRITE},
    )
    grant = check(tokens, token, [Need("c1", Bits.READ), Need("g1", Bits.READ, group=True), Need("task.7", Bits.WRITE)])
    assert grant == Grant(tokens.verify(KEYSET, token).token_id, 1_700_000_060.0, False)
    bad = [Need("c1", Bits.WRITE), Need("g1", Bits.READ), Need("task.7", Bits.READ), Need("task7", Bits.WRITE)]
    with pytest.raises(Denied) as denied:
        check(tokens, token, [Need("c1", Bits.READ), *bad])
    assert list(denied.value.refused) == bad
    assert denied.value.cause == "9999"


def test_an_exact_entry_and_patterns_add_up(tokens: CapabilityTokens) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, channels={"room-1": 1}, patterns={"room-": 2, "^room-1$": 8, "nope": 64})
    assert tokens.verify(KEYSET, token).bits_on("room-1") == 11


def test_any_of_the_bits_of_a_need_is_enough(tokens: CapabilityTokens) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, groups={"g": Bits.READ})
    assert check(tokens, token, [Need("g", Bits.MANAGE | Bits.READ, group=True)]).token_id


def test_a_token_bound_to_a_uuid_serves_nobody_else(tokens: CapabilityTokens) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, channels={"c": 1}, uuid="u1")
    assert check(tokens, token, [Need("c", Bits.READ)], uuid="u1")
    with pytest.raises(Denied):
        check(tokens, token, [Need("c", Bits.READ)], uuid="u2")
    with pytest.raises(Denied):
        check(tokens, token, [], uuid="u2")


def test_no_token_is_refused_unless_the_keyset_is_open(tokens: CapabilityTokens) -> None:
    with pytest.raises(Denied) as denied:
        check(tokens, None, [Need("c", Bits.READ)])
    assert denied.value.refused == (Need("c", Bits.READ),)
    assert check(tokens, None, [Need("c", Bits.READ)], keyset=replace(KEYSET, access_control=False)) == Grant()


def test_what_only_a_signature_allows_no_token_does(tokens: CapabilityTokens) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, patterns={".*": 239})
    with pytest.raises(Denied):
        check(tokens, token, [], signature_only=True)


def test_a_token_ends_with_its_time(tokens: CapabilityTokens, clock: Clock) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, channels={"c": 1})
    clock.now_s += 59.9
    assert tokens.verify(KEYSET, token).expires_at_s == 1_700_000_060
    clock.now_s += 0.1
    with pytest.raises(Denied, match="expired"):
        tokens.verify(KEYSET, token)
    assert tokens.parse(KEYSET, token).expires_at_s == 1_700_000_060


def test_a_revoked_token_is_refused_and_announced_once(tokens: CapabilityTokens) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, channels={"c": 1})
    heard: list[str] = []
    Authorizer(tokens, skew_s=60).on_revoked(heard.append)
    verified = tokens.verify(KEYSET, token)
    tokens.revoke(verified)
    tokens.revoke(verified)
    assert heard == [verified.token_id]
    with pytest.raises(Denied, match="Token is revoked") as denied:
        check(tokens, token, [Need("c", Bits.READ)])
    assert denied.value.cause == "4001"
    with pytest.raises(Denied, match="Token is revoked"):  # another spelling of the same token
        tokens.verify(KEYSET, token.rstrip("="))


def test_revocations_survive_a_restart_until_the_token_ends(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "revocations.jsonl"
    first = Revocations(path, clock=clock)
    first.revoke("long", clock.now_s + 100)
    first.revoke("short", clock.now_s + 10)
    with path.open("ab") as file:
        file.write(b'{"id": "torn"')
    clock.now_s += 50
    again = Revocations(path, clock=clock)
    assert ("long" in again, "short" in again, "torn" in again) == (True, False, False)
    assert path.read_bytes().count(b"\n") == 1
    again.revoke("third", clock.now_s + 100)
    assert "third" in Revocations(path, clock=clock)


def test_a_follower_that_stopped_hears_nothing(clock: Clock) -> None:
    revocations, heard = Revocations(clock=clock), list[str]()
    revocations.follow(heard.append)()
    revocations.revoke("a", clock.now_s + 1)
    assert heard == []


def test_a_token_of_another_keyset_is_refused(tokens: CapabilityTokens) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, channels={"c": 1})
    with pytest.raises(Denied):
        tokens.verify(replace(KEYSET, subscribe_key="sub-c-2", secret_key="another"), token)


@pytest.mark.parametrize("ttl", [0, -1, 43_201])
def test_a_ttl_out_of_range_is_refused(tokens: CapabilityTokens, ttl: int) -> None:
    with pytest.raises(ValueError, match="43200"):
        tokens.mint(KEYSET, ttl_minutes=ttl, channels={"c": 1})


@pytest.mark.parametrize("bits", [-1, 256, "1", None])
def test_bits_that_are_none_are_refused(tokens: CapabilityTokens, bits: int) -> None:
    with pytest.raises(ValueError, match="permission"):
        tokens.mint(KEYSET, ttl_minutes=1, channels={"c": bits})


def test_a_token_too_large_for_an_address_is_not_minted(tokens: CapabilityTokens) -> None:
    with pytest.raises(ValueError, match="characters"):
        tokens.mint(KEYSET, ttl_minutes=1, channels={f"channel-{n}": 1 for n in range(3_000)})
    with pytest.raises(Denied):
        tokens.verify(KEYSET, "q" * 40_000)


@settings(max_examples=200)
@given(st.integers(0, len(EXAMPLE) - 2), st.characters(codec="ascii"))
def test_a_changed_token_is_refused(position: int, char: str) -> None:
    tokens = CapabilityTokens(clock=Clock())
    changed = EXAMPLE[:position] + char + EXAMPLE[position + 1 :]
    if changed == EXAMPLE:
        return
    try:
        same = base64.b64decode(changed, b"-_", validate=True) == base64.b64decode(EXAMPLE, b"-_")
    except ValueError:
        same = False
    if same:  # the last characters hold bits that mean nothing
        return
    with pytest.raises(Denied):
        tokens.verify(KEYSET, changed)


@settings(max_examples=200)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_text_makes_verification_fail_otherwise(text: str) -> None:
    with pytest.raises(Denied):
        CapabilityTokens(clock=Clock()).verify(KEYSET, text)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {b"v": 1},
        [1],
        {b"v": 2, b"t": "1", b"ttl": 1, b"res": {}, b"pat": {}},
        {b"v": 2, b"t": 1, b"ttl": 1, b"res": {b"chan": 1, b"grp": {}}, b"pat": {b"chan": {}, b"grp": {}}},
        {b"v": 2, b"t": 1, b"ttl": 1, b"res": {b"chan": None, b"grp": {}}, b"pat": {b"chan": {}, b"grp": {}}},
        {b"v": 2, b"t": 1, b"ttl": 1, b"res": {b"chan": {}, b"grp": []}, b"pat": {b"chan": {}, b"grp": {}}},
        {b"v": 2, b"t": 1, b"ttl": 1, b"res": {b"chan": {"c": "x"}, b"grp": {}}, b"pat": {b"chan": {}, b"grp": {}}},
        {b"v": 2, b"t": 1, b"ttl": 1, b"res": {b"chan": {}, b"grp": {}}, b"pat": {b"chan": {"(": 1}, b"grp": {}}},
    ],
)
def test_a_signed_map_that_is_no_token_is_refused(tokens: CapabilityTokens, content: dict[bytes, object]) -> None:
    plain = cbor2.dumps(content)
    signature = hmac.digest(KEYSET.secret_key.encode(), plain, "sha256")
    raw = bytes([plain[0] + 1]) + plain[1:] + b"\x43sig\x58\x20" + signature
    with pytest.raises(Denied, match="Invalid token"):
        tokens.verify(KEYSET, base64.urlsafe_b64encode(raw).decode())


def test_verified_tokens_are_kept_within_their_bound(clock: Clock) -> None:
    tokens = CapabilityTokens(limits=Limits(tokens_cached_chars=1_000), clock=clock)
    minted = [tokens.mint(KEYSET, ttl_minutes=1, channels={f"c{n}": 1}) for n in range(20)]
    kept = [tokens.verify(KEYSET, token) for token in minted]
    assert tokens.verify(KEYSET, minted[-1]) is kept[-1]
    assert tokens.verify(KEYSET, minted[0]) is not kept[0]


def test_equal_tokens_take_one_place(clock: Clock) -> None:
    """Those of one second, for the same: they are one text."""
    tokens = CapabilityTokens(limits=Limits(tokens_cached_chars=2_000), clock=clock)
    for _ in range(100):
        often = tokens.mint(KEYSET, ttl_minutes=1, channels={"c": 1}, shown_soon=True)
    kept = tokens.verify(KEYSET, often)
    for number in range(4):
        tokens.mint(KEYSET, ttl_minutes=1, channels={f"c{number}": 1}, shown_soon=True)
    assert tokens.verify(KEYSET, often) is kept


def test_a_known_token_is_checked_in_microseconds(tokens: CapabilityTokens) -> None:
    token = tokens.mint(KEYSET, ttl_minutes=1, patterns={prefix_pattern(f"task.{n}."): 3 for n in range(50)}, uuid="u1")
    needs = [Need("task.49.events", Bits.WRITE)]
    check(tokens, token, needs)
    began = time.perf_counter()
    for _ in range(1_000):
        check(tokens, token, needs)
    assert time.perf_counter() - began < 0.1  # 100 us each: ten times what a loaded machine takes


PIECES = ["a", "b", "c", ".", "\\.", "[ab]", "[^a]", "(a|b)", "(?:ab)", "^", "$", "\\d", "\\w", "|", "1", "-", "[a-c1]"]
REPEATS = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{1,}", "*?"]


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(REPEATS)), max_size=6),
    st.text(alphabet="abc1-.", max_size=8),
)
def test_patterns_match_as_regular_expressions_do(parts: list[tuple[str, str]], name: str) -> None:
    text = "".join(piece if piece in "^$|" else piece + repeat for piece, repeat in parts)
    assert Pattern(text, max_chars=512).found_in(name) == (re.search(text, name) is not None), text


@pytest.mark.parametrize(
    "text",
    [
        *[
            "(",
            ")",
            "[",
            "*a",
            "a**",
            "a{2}{3}",
            "a{3,2}",
            "(?=a)",
            "\\1",
            "\\",
            "[z-a]",
            "(" * 30 + ")" * 30,
            "a" * 600,
        ],
        *["((((a{99}){99}){99}){99})", "((((){999}){999}){999}){999}"],
    ],
)
def test_a_pattern_that_is_not_offered_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Pattern(text, max_chars=512)


def test_a_pattern_made_to_take_for_ever_does_not() -> None:
    pattern = Pattern("^(a+)+(a*)*(a|aa)+$", max_chars=512)
    began = time.perf_counter()
    assert not pattern.found_in("a" * 255 + "!")
    assert time.perf_counter() - began < 0.5


@given(st.text(max_size=20), st.text(max_size=10).filter(lambda rest: "\n" not in rest))
def test_a_prefix_pattern_matches_what_begins_with_it(prefix: str, rest: str) -> None:
    pattern = Pattern(prefix_pattern(prefix), max_chars=512)
    assert pattern.found_in(prefix + rest)
    if not rest.startswith(prefix):
        assert pattern.found_in(rest) == (prefix == "")
