"""A site's nodes as minions: their ids, and what they answer."""
from __future__ import annotations

from typing import Any

import salt.client
import salt.utils.minions

from nodes import asking
from nodes.keys import Keys

ANSWER_SECONDS = 15  # for the nodes to answer


def accepted(opts: dict[str, Any]) -> list[str]:
    """The ids of all minions with an accepted key."""
    found: list[str] = salt.utils.minions.CkMinions(opts).check_minions("*", "glob")["minions"]
    return found


def of_site(opts: dict[str, Any], site: str, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """The minion id of each of a site's nodes, by the node's name; a line for each node without just one."""
    known = accepted(opts)
    # NODE.SITE, or with a domain behind it: see pillar/top.sls.
    ids = {name: sorted(each for each in known if f"{each}.".startswith(f"{name}.{site}.")) for name in names}
    mistakes = [f"{site}: {name}: {', '.join(found) or 'no minion'} has an accepted key; there has to be one, with the "
                f"id {name}.{site}" for name, found in ids.items() if len(found) != 1]
    return {name: found[0] for name, found in ids.items() if len(found) == 1}, mistakes


def ask(opts: dict[str, Any], minions: list[str], function: str) -> dict[str, str]:
    """
    What a function returns on some minions, as text by id; a minion that does not answer is left out. An answer counts
    only if its node has signed it.
    """
    said = asking.ask(dict(opts), Keys(opts["pki_dir"]), minions, function, seconds=ANSWER_SECONDS)
    silent = {minion: f"silent ({why})" for minion, why in said.missing.items() if why != asking.SILENT}
    return silent | {minion: str(its.error or its.value) for minion, its in said.answers.items()}


def ask_unsigned(opts: dict[str, Any], minions: list[str], function: str) -> dict[str, str]:
    """As :func:`ask`, whoever signed the answer: for what is only shown, and what an old node could not sign."""
    with salt.client.get_local_client(mopts=opts) as client:
        answers = client.cmd(minions, function, tgt_type="list", timeout=ANSWER_SECONDS)
    return {minion: str(said) for minion, said in answers.items() if said is not False}
