"""What a site's nodes answer as minions."""
from __future__ import annotations

from nodes.answers import NO_MODULE, Answer, explained
from sites import minions
from tests.unit.sites.door import ACCEPTED


def test_nodes_are_asked_with_a_time_limit(master, monkeypatch):
    """`False` is what Salt's client has for a minion that did not answer."""
    class Client:
        __enter__, __exit__ = lambda self: self, lambda *_: None

        def cmd(self, *asked, **named):
            self.asked = asked, named
            return {"gw1.winterthur": "1.0.0", "gw2.winterthur": False, "gw3.winterthur": 7}

    client = Client()
    monkeypatch.setattr(minions.salt.client, "get_local_client", lambda mopts: client)
    assert minions.ask_unsigned(master.__opts__, ["gw1.winterthur"], "gateway_version.installed") == {
        "gw1.winterthur": "1.0.0", "gw3.winterthur": "7"}
    assert client.asked == ((["gw1.winterthur"], "gateway_version.installed"), {"tgt_type": "list", "timeout": 15})


def test_roles_are_believed_only_if_their_node_has_signed_them(master, monkeypatch):
    why = explained("gw2.winterthur.example", NO_MODULE)
    monkeypatch.setattr(minions, "accepted", lambda _opts: ACCEPTED)
    monkeypatch.setattr(minions, "Keys", lambda _folder: None)
    monkeypatch.setattr(minions.asking, "ask", lambda *_args, **_more: minions.asking.Said(
        {"gw1.winterthur": Answer("active", "", 0, 0.0)}, {"gw2.winterthur.example": why}))
    its = master.pair("winterthur")
    assert its["standby"] == "" and its["roles"]["gw2.winterthur.example"] == f"silent ({why})"
    assert "saltutil.sync_modules" in its["mistakes"][0]
