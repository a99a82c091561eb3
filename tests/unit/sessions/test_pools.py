"""What is left of a pool when copied tunnels use some of its addresses."""
from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions import pools

CONF = """config setup
    logfile=x

conn roadwarrior
    leftsubnet=198.51.100.0/26
    rightaddresspool=198.51.100.192-198.51.100.223
    auto=add

conn other
    rightaddresspool=2001:db8:9::/112
"""


def addresses(*texts):
    return [ipaddress.ip_address(text) for text in texts]


@pytest.mark.parametrize(("pool", "used", "left"), [
    ("198.51.100.192-198.51.100.223", ["198.51.100.192", "198.51.100.193"], "198.51.100.194-198.51.100.223"),
    ("198.51.100.192-198.51.100.223", ["198.51.100.200"], "198.51.100.201-198.51.100.223"),
    ("198.51.100.192-198.51.100.223", ["198.51.100.220"], "198.51.100.192-198.51.100.219"),
    ("198.51.100.192/31", ["198.51.100.192", "198.51.100.193"], ""),
    ("2001:db8::/126", ["2001:db8::"], "2001:db8::2/127"),
    ("2001:db8::/126", ["2001:db8::3", "2001:db8::"], "2001:db8::2/128"),
    ("198.51.100.192/30", ["2001:db8::"], "198.51.100.192/30")])
def test_the_largest_free_part_is_left(pool, used, left):
    assert pools.narrowed(pool, addresses(*used)) == left


@given(st.sets(st.integers(0, 31), max_size=31))
def test_no_address_in_use_is_ever_given_out(used):
    base = int(ipaddress.ip_address("198.51.100.192"))
    left = pools.narrowed("198.51.100.192-198.51.100.223", [ipaddress.ip_address(base + each) for each in used])
    first, _, last = left.replace("/27", "").partition("-")
    inside = range(int(ipaddress.ip_address(first)) - base, int(ipaddress.ip_address(last or first)) - base + 1)
    assert not used & set(inside) and len(inside) >= 1


def test_only_the_pools_change_and_the_connections_are_named():
    text, changed = pools.rewritten(CONF, addresses("198.51.100.192"))
    assert changed == ["roadwarrior"]
    assert text == CONF.replace("198.51.100.192-198", "198.51.100.193-198")
    assert pools.rewritten(CONF, []) == (CONF, [])


def test_a_pool_that_is_full_stays_as_it_is_and_names_nothing():
    text = "conn a\n    rightaddresspool=198.51.100.1-198.51.100.1\n"
    assert pools.rewritten(text, addresses("198.51.100.1")) == (text, [])
