"""_modules/firewall.py: the ruleset of the shipped sites, and when it counts as changed. Real packets: tests/lab."""
from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import jinja2
import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import TREE, load_module

RECORDED = Path(__file__).parent.parent / "recorded/firewall"


class Nft:
    """A kernel with a table; loading a ruleset file makes its text the one that nft lists."""

    def __init__(self) -> None:
        self.table = ""
        self.refuses = ""
        self.says = ""      # of a ruleset; {} stands for the file's path
        self.commands: list[list[str]] = []

    def run_all(self, argv: list[str], **options: object) -> dict:
        assert options["python_shell"] is False
        self.commands.append(argv)
        refused = {"retcode": 1, "stdout": "", "stderr": self.refuses}
        if "--check" in argv:
            return refused if self.refuses else {"retcode": 0, "stdout": "", "stderr": ""}
        if argv[0] == "unshare":
            if self.says:
                return {"retcode": 1, "stdout": "", "stderr": self.says.replace("{}", argv[-1])}
            text = Path(argv[-1]).read_text()
            return {"retcode": 0, "stdout": text.split("delete table inet gateway\n")[1], "stderr": ""}
        assert argv[0] == "nft"
        if argv[1] == "-f":
            self.table = Path(argv[2]).read_text().split("delete table inet gateway\n")[1].strip()
            return {"retcode": 0, "stdout": "", "stderr": ""}
        return {"retcode": 0 if self.table else 1, "stdout": self.table, "stderr": ""}


@pytest.fixture
def nft() -> Nft:
    return Nft()


@pytest.fixture
def module(nft: Nft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_module("_modules/firewall.py")
    guard = load_module("_modules/commit_confirm.py")
    monkeypatch.setattr(guard, "_FOLDER", tmp_path / "run")
    monkeypatch.setattr(guard, "_LASTING", tmp_path / "lasting")
    monkeypatch.setattr(guard, "_ORIGINALS", str(tmp_path / "originals"))
    monkeypatch.setattr(module, "_FOLDER", tmp_path / "run/firewall")
    monkeypatch.setattr(module, "_FILE", str(tmp_path / "nftables.conf"))
    monkeypatch.setattr(module, "__salt__", {
        "cmd.run_all": nft.run_all,
        "ipsec.esp_proposals": load_module("_modules/ipsec.py").esp_proposals,
        "tunnel_sizes.segment": load_module("_modules/tunnel_sizes.py").segment,
        "commit_confirm.prepare": guard.prepare,
        "commit_confirm.keep_original": guard.keep_original,
        "commit_confirm.replace_file": guard.replace_file,
    }, raising=False)
    monkeypatch.setattr(module.salt.utils.path, "which", lambda name: f"/usr/sbin/{name}")
    return module


@pytest.fixture
def whole(module, settings):
    """The template, rendered for a node. `local`: by connection, what replaces this end's settings."""
    def render(site: str, node: str, local: dict | None = None, **firewall: object) -> str:
        its = settings(site, node)
        for connection in its["connections"]:
            connection["local"].update((local or {}).get(connection["name"], {}))
        its["firewall"].update(firewall)
        template = (TREE / "salt/firewall/files/ruleset.nft.jinja").read_text()
        strict = jinja2.Environment(undefined=jinja2.StrictUndefined)
        return strict.from_string(template).render(rules=module.rules(its))
    return render


@pytest.fixture
def ruleset(whole):
    """The chains of a node's ruleset, by name."""
    return lambda site, node, **firewall: dict(
        re.findall(r"chain (\w+) \{\n(.*?)\n    \}", whole(site, node, **firewall), re.DOTALL))


def test_ike_and_esp_for_the_virtual_addresses_only(ruleset):
    chain = ruleset("bern", "gw-a")["input"]
    for match in ("ip daddr { 192.0.2.74 }", "ip6 daddr { 2001:db8:be::a }"):
        assert f'iifname "outside" {match} udp dport {{ 500, 4500 }} accept' in chain
        assert f'iifname "outside" {match} meta l4proto esp accept' in chain
    assert len(re.findall("500|esp", chain)) == 2 * 3


def test_heartbeats_from_the_other_node_only(ruleset):
    assert 'iifname "bond1" ip saddr { 198.51.100.12 } udp dport 694 accept' in ruleset("winterthur", "gw1")["input"]
    assert 'iifname "bond1" ip saddr { 198.51.100.11 } udp dport 694 accept' in ruleset("winterthur", "gw2")["input"]


def test_a_nodes_own_broadcast_heartbeats_do_not_fill_the_log(ruleset):
    assert 'iifname "bond1" ip saddr { 198.51.100.11 } udp dport 694 drop' in ruleset("winterthur", "gw1")["input"]


def test_nothing_is_forwarded_but_by_a_tunnel(ruleset):
    """Never by connection tracking: after a takeover it knows none of the connections in the tunnels."""
    chain = ruleset("winterthur", "gw1")["forward"].replace("\\\n", "")
    rules = [line for line in chain.splitlines() if "accept" in line]
    assert len(rules) == 4
    for rule in rules:
        assert re.search(r"(meta|rt) ipsec exists", rule) and "ct " not in rule
    assert "policy drop;" in chain


def test_what_comes_out_of_a_tunnel_does_not_reach_the_node(ruleset):
    chain = ruleset("winterthur", "gw1")["input"]
    assert chain.index("tcp dport 22") < chain.index("meta ipsec exists goto input_drop") < chain.index("echo-request")


def test_an_inner_source_from_outside_is_dropped_before_ssh_is_let_in(ruleset):
    chain = ruleset("winterthur", "gw1")["input"]
    spoofed = 'iifname "bond0" meta ipsec missing ip saddr { 198.51.100.0/26 } goto input_drop'
    assert chain.index(spoofed) < chain.index("tcp dport 22")


SITES = [("winterthur", "gw1"), ("winterthur", "gw2"), ("bern", "gw-a"), ("bern", "gw-b")]


def rules_of(chain: str) -> list[str]:
    """The rules of a chain, one an entry."""
    lines = [line.strip() for line in chain.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "type "))]


@pytest.mark.parametrize(("name", "node"), SITES)
def test_no_rule_of_the_sites_own_stands_above_what_the_gateway_lives_on(ruleset, name, node):
    """On both nodes at once, `udp dport 694 drop` would make both active."""
    cut = "meta l4proto { udp, tcp, icmp, icmpv6, esp, ah } drop"
    chains = ruleset(name, node, extra={"input": [cut], "forward": [cut], "output": [cut]})
    for chain, needed in {"input": ["udp dport 694 accept", "udp dport { 500, 4500 } accept", "l4proto esp accept",
                                    "nd-neighbor-advert", "ct state established,related accept", "tcp dport 22"],
                          "output": ["udp dport 694 accept", "udp sport { 500, 4500 } accept", "l4proto esp accept",
                                     "nd-neighbor-advert", 'oifname "lo" accept', "icmp type echo-request accept"],
                          "forward": ["meta ipsec exists"]}.items():
        rules = rules_of(chains[chain])
        for each in needed:
            places = [number for number, rule in enumerate(rules) if each in rule]
            assert places and max(places) < rules.index(cut), f"{chain}: {each}"


@pytest.mark.parametrize(("name", "node"), SITES)
def test_nothing_of_a_tunnel_is_accepted_by_the_node_but_ssh_and_answers(ruleset, name, node):
    """A hop limit of 255, a virtual address and the peer's source address are all easily made in a tunnel."""
    rules = rules_of(ruleset(name, node)["input"])
    before = rules[:rules.index("meta ipsec exists goto input_drop")]
    for rule in before:
        assert (not rule.endswith("accept") or rule.startswith("meta ipsec missing ")
                or re.search(r'^iifname "lo" |^ct state established,related |tcp dport 22 accept$', rule)), rule
    for kind in ("nd-neighbor-advert", "nd-redirect", "mld2-listener-report", "icmp type { redirect", "igmp"):
        dropped = [number for number, rule in enumerate(before)
                   if kind in rule and re.search("^meta ipsec exists .* goto input_drop$", rule)]
        established = next(number for number, rule in enumerate(before) if "established" in rule)
        assert dropped and dropped[0] < established, kind


def kernel_filters() -> bool:
    """Whether nft can be asked here, in a network namespace of its own."""
    command = ["unshare", "--net", "nft", "--check", "--file", "-"]
    try:
        return subprocess.run(command, input="table inet probe { }\n", text=True, capture_output=True, check=False,
                              timeout=20).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(os.geteuid() != 0 or not kernel_filters(), reason="needs root, nft, and inet in the kernel")
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize(("name", "node"), [("winterthur", "gw1"), ("bern", "gw-a")])
def test_the_kernel_takes_the_ruleset(whole, name, node, everything):
    text = whole(name, node, {"roadwarrior": {"subnets": ["0.0.0.0/0"]}} if everything else {})
    assert ("snat ip to" in text) == everything
    done = subprocess.run(["unshare", "--net", "nft", "--check", "--file", "-"], input=text, text=True,
                          capture_output=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr


def test_rules_of_the_sites_own_and_silence(ruleset):
    chains = ruleset("winterthur", "gw1", log_dropped=False,
                     extra={"input": ["tcp dport 9100 accept"], "forward": [], "output": ["ip daddr 192.0.2.99 drop"]})
    assert "tcp dport 9100 accept" in chains["input"] and "192.0.2.99" in chains["output"]
    assert not any(" log " in chain for chain in chains.values())


@pytest.mark.parametrize(("texts", "merged"), [
    (["198.51.100.0/25", "198.51.100.64/26"], ["198.51.100.0/25"]),
    (["198.51.100.192-198.51.100.223"], ["198.51.100.192/27"]),
    (["198.51.100.10-198.51.100.12"], ["198.51.100.10/31", "198.51.100.12"]),
    (["2001:db8::1", "192.0.2.1"], ["192.0.2.1"]),
    (["0.0.0.0/0"], ["0.0.0.0/0"]),
])
def test_sets_never_overlap(module, texts, merged):
    assert module._networks(texts, 4) == merged


def test_persons_addresses_pass_like_the_pools(module, settings):
    remote = module.rules(settings("bern", "gw-a"))["families"][0]["tunnels"][0]["remote"]
    assert remote == ["198.51.100.224/28", "198.51.100.240"]


def test_roadwarriors_without_a_pool_come_with_any_address(module, settings):
    its = settings("winterthur", "gw1")
    its["connections"] = [{**its["connections"][0], "pool": [], "persons": {}}]
    assert module.rules(its)["families"][0]["tunnels"][0]["remote"] == ["0.0.0.0/0"]


def clamps(chain: str) -> dict[str, list[int]]:
    """By networks, as source and destination, the MSS above which a chain of the ruleset lowers it, and to which."""
    found = {}
    for rule in rules_of(chain):
        match = re.fullmatch(r"(.*\S)\s+tcp option maxseg size > (\d+) tcp option maxseg size set (\d+)", rule)
        assert match, rule
        found[match[1]] = [int(match[2]), int(match[3])]
    return found


def test_the_mss_is_lowered_by_network_in_both_directions(ruleset):
    chains = ruleset("winterthur", "gw1")
    assert clamps(chains["mss_from_tunnels"]) == {
        "ip saddr { 198.51.100.192/27 } ip daddr { 198.51.100.0/26 }": [1398, 1398],
        "ip saddr { 198.51.100.64/26 } ip daddr { 198.51.100.0/26 }": [1398, 1398]}
    assert clamps(chains["mss_into_tunnels"]) == {
        "ip saddr { 198.51.100.0/26 } ip daddr { 198.51.100.192/27 }": [1398, 1398],
        "ip saddr { 198.51.100.0/26 } ip daddr { 198.51.100.64/26 }": [1398, 1398]}


@pytest.mark.parametrize("name, node", SITES)
def test_no_packet_is_accepted_or_dropped_before_its_mss_is_lowered(ruleset, name, node):
    chains = ruleset(name, node)
    syn = "tcp flags & (fin | syn | rst) == syn jump"
    assert rules_of(chains["forward"])[:2] == [f"meta ipsec exists {syn} mss_from_tunnels",
                                               f"rt ipsec exists {syn} mss_into_tunnels"]
    assert rules_of(chains["output"])[0] == f"rt ipsec exists {syn} mss_into_tunnels"
    rules = rules_of(chains["input"])
    place = rules.index(f"meta ipsec exists {syn} mss_from_tunnels")
    # of what came out of a tunnel: before this, only what no TCP is
    assert not [rule for rule in rules[:place] if rule.endswith("accept")
                and not rule.startswith(("meta ipsec missing", 'iifname "lo"'))]


@pytest.mark.parametrize(("changes", "version", "mss"), [
    ({}, 4, 1398), ({}, 6, 1378),
    ({"mtu": 1400}, 4, 1298), ({"mtu": 1400}, 6, 1278),
    ({"mss": 1240}, 4, 1240), ({"mss": 1240}, 6, 1220),
    ({"mss": 1450}, 4, 1398),                                               # does not fit
    ({"local": {"address": "2001:db8::a"}}, 4, 1378),                       # 20 more outside
    ({"proposals": {"esp": ["aes_gcm256", "aes256-sha2_512"]}}, 4, 1366),
    ({"ike": "ikev1"}, 4, 1382),                                            # AES-CBC among its defaults
])
def test_the_mss_of_a_connection(module, settings, changes, version, mss):
    assert module._mss({**settings("winterthur", "gw1")["connections"][0], **changes}, version) == mss


def test_a_site_without_tunnels_has_no_chains_for_them(module, settings):
    its = settings("winterthur", "gw1")
    its["connections"] = []
    template = jinja2.Template((TREE / "salt/firewall/files/ruleset.nft.jinja").read_text())
    assert "mss_" not in template.render(rules=module.rules(its))


def test_who_sends_everything_leaves_outside_under_the_virtual_address(module, gateway, schema, site):
    its = site("bern")
    its["connections"]["roadwarrior"]["local"] = {"subnets": "0.0.0.0/0"}
    assert gateway.find_mistakes(its, schema) == []
    four, six = module.rules(gateway.derive(its, schema, "gw-a"))["families"]
    assert four["outward"] == {
        "sources": ["198.51.100.224/28", "198.51.100.240"], "to": "192.0.2.74", "ports": "192.0.2.74:10000-65535",
        # its own inside, the peer's networks, and the other roadwarriors
        "kept": ["198.51.100.0/25", "198.51.100.224/28", "198.51.100.240"]}
    assert six["outward"] == {}
    # Addresses beside one another are one network in a set.
    its["bonds"]["external"]["virtual"] = ["192.0.2.74", "192.0.2.73"]
    assert module.rules(gateway.derive(its, schema, "gw-a"))["families"][0]["outward"]["to"] == "192.0.2.74"


def test_nothing_is_translated_where_nobody_sends_everything(ruleset):
    for name, node in SITES:
        chains = ruleset(name, node)
        assert "translate" not in chains and not re.search(r"\bct ", chains["forward"])


def goes_well(name: str, undo: list[str], apply: Callable, keep: Callable, *_: object) -> str:
    """commit_confirm.guarded, with a master that answers."""
    apply()
    keep()
    return ""


RULES = "table inet gateway {\n\tchain input { }\n}"


def test_loaded_then_written_and_nothing_the_second_time(module, nft, monkeypatch):
    Path(module._FILE).write_text("flush ruleset\n")
    monkeypatch.setitem(module.__salt__, "commit_confirm.guarded", goes_well)
    done = module.apply(RULES)
    assert done["problem"] == "" and set(done["changes"]) == {"table inet gateway", module._FILE}
    assert nft.table == RULES
    assert Path(module._FILE).stat().st_mode & 0o777 == 0o600 and RULES in Path(module._FILE).read_text()
    assert module.apply(RULES) == {"changes": {}, "problem": ""}


def test_a_rule_changed_by_hand_is_noticed(module, nft, monkeypatch):
    monkeypatch.setitem(module.__salt__, "commit_confirm.guarded", goes_well)
    module.apply(RULES)
    nft.table = nft.table.replace("{ }", "{\n\t\ttcp dport 23 accept\n\t}")
    todo = module.plan(RULES)
    assert todo["table"] and not todo["file"]
    assert "-\t\ttcp dport 23 accept" in todo["changes"]["table inet gateway"]["diff"]


def test_the_way_back_is_the_table_as_it_was(module, nft, monkeypatch):
    nft.table = "table inet gateway {\n\tchain old { }\n}"
    seen = {}

    def lost(name: str, undo: list[str], apply: object, keep: object, *_: object) -> str:
        seen["undo"] = Path(undo[1]).read_text()
        seen["old"] = (module._FOLDER / "old").read_text()
        apply()
        nft.run_all(["nft", "-f", str(module._FOLDER / "old")], python_shell=False)
        return "no answer from salt port 4506 (after the change)"

    monkeypatch.setitem(module.__salt__, "commit_confirm.guarded", lost)
    done = module.apply(RULES)
    assert done["changes"] == {} and done["problem"].endswith("(after the change); the old ruleset is back")
    assert seen["old"].startswith("table inet gateway\ndelete table inet gateway\n") and "chain old" in seen["old"]
    assert f"nft -f {module._FOLDER / 'old'}" in seen["undo"] and f"rm -f {module._FILE}" in seen["undo"]


def test_the_way_back_looks_no_name_up(module, nft, monkeypatch):
    nft.table = "table inet gateway { }"
    monkeypatch.setitem(module.__salt__, "commit_confirm.guarded", goes_well)
    module.apply(RULES)
    assert ["nft", "--numeric-protocol", "list", "table", "inet", "gateway"] in nft.commands


# nft 1.0.6, of a ruleset whose fourth line is `include "/etc/shadow"`, and of one with a mistake of its own
INCLUDED = """In file included from {}:4:2-22:
/etc/shadow:1:5-5: Error: syntax error, unexpected $name secret-word
root:$y$j9T$secret:19700:0:99999:7:::
    ^
"""
MISTAKEN = """{}:7:16-18: Error: syntax error, unexpected foo
 meta l4proto foo secret
              ^^^
"""


@pytest.mark.parametrize("rule", ['include "/etc/shadow"', 'accept; include "/etc/shadow"',
                                  'accept;include"/etc/shadow"', 'comment "a # b" include "/etc/shadow"'])
def test_a_ruleset_that_reads_another_file_never_reaches_nft(module, nft, rule):
    with pytest.raises(CommandExecutionError, match="has an `include`"):
        module.plan(f"table inet gateway {{\n\tchain input {{\n{rule}\n}}\n}}")
    assert nft.commands == []


@pytest.mark.parametrize("text", ['log prefix "include "', "# include what is needed"])
def test_the_word_alone_reads_no_file(module, text):
    module.plan(f"table inet gateway {{\n\tchain input {{\n{text}\n}}\n}}")


def test_nothing_that_nft_shows_of_a_file_is_passed_on(module, nft):
    nft.says = INCLUDED
    with pytest.raises(CommandExecutionError) as error:
        module.plan(RULES)
    assert "secret" not in str(error.value) and "root" not in str(error.value)
    nft.says = MISTAKEN
    with pytest.raises(CommandExecutionError) as error:
        module.plan(RULES)
    said = "the ruleset has a mistake: Error: syntax error, unexpected foo (line 7: }"
    assert str(error.value).startswith(said) and "secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_kernel_without_the_packet_filter_is_an_error(module, nft):
    nft.refuses = (RECORDED / "kernel-without-inet.txt").read_text()
    with pytest.raises(CommandExecutionError, match=r"CONFIG_NF_TABLES_INET.*Operation not supported.*firewall: false"):
        module.plan(RULES)
