"""
Alerts of the gateways, for operators
=====================================

Shows what is wrong now and when each target last took an alert, sends a test alert, silences a site during work. The
engine ``_engines/gateway_alerts.py`` sends the alerts themselves. See docs/monitoring.md.
"""
from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path
from typing import Any, cast

import salt.loader
import salt.template
import salt.utils.event
from salt.exceptions import SaltRunnerError

# Trap: Salt's loader has this file's own folder on the path, where runners are called like the packages. So the tree
# comes first in the path, and only for these imports.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    from alerts import authentic, catalogue, delivery, files, message, routes, settings
    from alerts.shapes import EngineStatus, Message
    from alerts.targets import Failed
finally:
    del sys.path[0]

__virtualname__ = "alerts"

_STALE_SECONDS = 30  # an older status file means that the engine does not run
_MAX_SILENCE_MINUTES = 7 * 24 * 60


def status() -> dict[str, Any]:
    """
    Whether alerts get through: the engine, the queue, and when each target last took an alert.

    Returns:
        ``engine``, ``rank``, ``targets``, ``gateways``, ``silent``, ``silences``, ``events``, ``reactions`` (how many
        wait, and what came of the events that fit an entry), ``dropped`` (by reason, how many messages on the bus were
        no verified event), ``mistakes`` (in pillar/alerts.sls, ``gateway_alerts`` or
        ``gateway_reactions``); ``retcode`` 1 when something is wrong.

    CLI Example:

    .. code-block:: bash

        salt-run alerts.status
    """
    found, now = files.read(_folder() / files.STATUS), time.time()
    if not isinstance(found, dict):
        return _result({"engine": "has never run; is etc/salt/master.d/gateway.conf of the tree in /etc/salt/master.d, "
                        "and was the master restarted since?"}, wrong=True)
    said = cast(EngineStatus, found)
    age = now - said["at"]
    runs = age < _STALE_SECONDS
    targets = {}
    for name, its in sorted(said["targets"].items()):
        targets[name] = f"took {its['sent']}, the last one {_ago(now, its['last_taken'])}" + (
            f" ({its['said']})" if its["said"] else "") + (f"; {its['waiting']} wait" if its["waiting"] else "") + (
            f"; FAILS since {_ago(now, its['failing_since'])}: {its['failure']}" if its["failure"] else "")
    failing = any(its["failure"] for its in said["targets"].values())
    counts, last = said["counts"], _ago(now, said["at"])
    return _result({
        "engine": f"runs (process {said['pid']})" if runs else f"DOES NOT RUN: its last status is of {last}",
        "rank": "the only master" if said["rank"] is None else said["rank"],
        "targets": targets, "gateways": said["gateways"], "silent": said["silent"], "silences": _silences(now),
        "events": f"{counts['events']} since it started, {counts['alerts']} alerts; {said['waiting_events']} wait, at "
                  f"most {counts['most_waiting']} did",
        "reactions": said.get("reactions", {}), "dropped": said["dropped"],
        "mistakes": said["mistakes"]}, wrong=not runs or failing or bool(said["mistakes"]))


def open_(site: str | None = None) -> list[dict[str, Any]] | dict[str, Any]:
    """
    What is wrong now, by the gateways' reports.

    Args:
        site: the site's name; left out, all sites.

    Returns:
        For each incident ``site``, ``severity``, ``since``, ``told`` (whether an alert went out) and ``conditions``, in
        words.

    CLI Example:

    .. code-block:: bash

        salt-run alerts.open
        salt-run alerts.open winterthur
    """
    state = files.read(_folder() / files.STATE)
    if not isinstance(state, dict):
        return []
    found = []
    for incident in state["machine"]["incidents"]:
        lines = [line for line in incident["lines"].values() if line["open"]]
        if lines and site in (None, incident["site"]):
            found.append({
                "site": incident["site"], "severity": incident["severity"],
                "since": message.iso(incident["opened"])[:19], "told": bool(incident["told"]),
                "conditions": [f"{catalogue.describe(line, incident['site'])['happened']} ({line['severity']}, since "
                               f"{line['since'][:19]})" for line in lines]})
    return sorted(found, key=lambda incident: (incident["site"], incident["since"]))


def test(site: str = "") -> dict[str, Any]:
    """
    Send a test alert to every target, without queue and limits, and wait for the answers.

    Args:
        site: the site that the test alert names; only the targets of this site's alerts get it. Left out: no site, all
            targets.

    Returns:
        ``targets``: by target, its answer; or ``mistakes``, of pillar/alerts.sls. ``retcode`` 1 when a target did not
        take the alert.

    CLI Example:

    .. code-block:: bash

        salt-run alerts.test
        salt-run alerts.test winterthur
    """
    configuration, mistakes = _configuration()
    if mistakes:
        return _result({"mistakes": mistakes}, wrong=True)
    wanted = set(configuration.targets)
    if site:
        wanted = {name for severity in authentic.SEVERITIES for name in configuration.of(site, severity)}
    now = time.time()
    one = message.simple("test", f"test-{int(now)}", now, "alert_path", "salt-run alerts.test", site)
    said, wrong = {}, False
    for name in sorted({*wanted, routes.BUS}):
        try:
            way = _bus if name == routes.BUS else delivery.way_to(configuration.targets[name])
            said[name] = way(one)
        except Failed as error:
            said[name], wrong = f"FAILED: {error}", True
    return _result({"targets": said}, wrong)


def silence(site: str, minutes: int = 60) -> dict[str, Any]:
    """
    Send no new alerts of a site for a while, to no target and not to the bus. When the silence ends, alerts of what is
    still wrong go out. The end of what was alerted before is told at once, also during the silence.

    Args:
        site: the site's name.
        minutes: how long, at most a week; 0 ends the silence.

    Returns:
        ``silences``: by site, until when; or ``mistakes`` and ``retcode`` 1.

    CLI Example:

    .. code-block:: bash

        salt-run alerts.silence winterthur 30
        salt-run alerts.silence winterthur 0
    """
    if not isinstance(site, str) or site not in _sites().names():
        known = ", ".join(_sites().names())
        return _result({"mistakes": [f"{str(site)[:60]!r} is no site; the sites are {known}"]}, wrong=True)
    if type(minutes) not in (int, float) or not 0 <= minutes <= _MAX_SILENCE_MINUTES:
        return _result({"mistakes": [f"minutes: give a number from 0 to {_MAX_SILENCE_MINUTES}"]}, wrong=True)
    now, path = time.time(), _folder() / files.SILENCES
    silences = files.read(path)
    silences = {each: until for each, until in (silences if isinstance(silences, dict) else {}).items() if until > now}
    silences.pop(site, None)
    if minutes:
        silences[site] = now + minutes * 60
    files.write(path, silences)
    return _result({"silences": _silences(now)})


def validate() -> dict[str, Any]:
    """
    Look for mistakes in pillar/alerts.sls, and in ``gateway_alerts`` of the master's configuration, as the files have
    them now (``gateway_alerts`` counts once the master was restarted). Sends nothing.

    Returns:
        ``targets``, ``routes`` in words, ``mistakes``; ``retcode`` 1 when there are mistakes. Shows no secret.

    CLI Example:

    .. code-block:: bash

        salt-run alerts.validate
    """
    configuration, mistakes = _configuration()
    mistakes = [*settings.read(__opts__.get("gateway_alerts")).mistakes, *mistakes]
    ways = [f"{', '.join(route.severities)} of {', '.join(route.sites) or 'all sites'} to {', '.join(route.targets)}"
            for route in configuration.routes]
    return _result({"targets": {name: target["type"] for name, target in configuration.targets.items()}, "routes": ways,
                    "mistakes": mistakes}, wrong=bool(mistakes))


def reference() -> str:
    """
    The table of all events, as Markdown, for docs/monitoring.md.

    CLI Example:

    .. code-block:: bash

        salt-run --no-color alerts.reference
    """
    rows = ["| Event | Severity | What happened | What it means for users | Done automatically | Next step |",
            "| --- | --- | --- | --- | --- | --- |"]
    stand = {"{node}": "NODE", "{site}": "SITE", "{subject}": "SUBJECT", "{was}": "BEFORE", "{now}": "NOW",
             "{id}": "ID"}
    for (beacon, condition), entry in catalogue.CATALOGUE.items():
        cells = [f"`{beacon}` `{condition}`", entry.severity, entry.happened, entry.means, entry.done, entry.todo]
        rows.append("| " + " | ".join(catalogue.filled(cell, stand).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


__func_alias__ = {"open_": "open"}


def _result(data: dict[str, Any], wrong: bool = False) -> dict[str, Any]:
    """Adds the return code, which salt-run and the job's event use."""
    __context__["retcode"] = 1 if wrong else 0
    return {**data, "retcode": __context__["retcode"]}


def _folder() -> Path:
    return files.folder(__opts__["cachedir"])


def _sites() -> authentic.Sites:
    return authentic.Sites(__opts__["pillar_roots"].get("base", []))


def _configuration() -> tuple[routes.Configuration, list[str]]:
    """The configuration in pillar/alerts.sls and its mistakes; without the file the default."""
    for root in __opts__["pillar_roots"].get("base", []):
        path = Path(root) / "alerts.sls"
        if path.is_file():
            return routes.check(_rendered(path), _sites().names())
    return routes.default(), []


def _rendered(path: Path) -> Any:
    try:
        rendered = salt.template.compile_template(
            str(path), salt.loader.render(__opts__, {}), __opts__["renderer"], __opts__["renderer_blacklist"],
            __opts__["renderer_whitelist"])
    except Exception as error:
        # Without the error's text: a renderer shows the line, and the line may hold a secret.
        raise SaltRunnerError(f"{path}: can not be rendered ({type(error).__name__}); is it YAML, with #!yaml|gpg as "
                              f"its first line where values are encrypted?") from None
    return rendered.get("alerts") if isinstance(rendered, dict) else None


def _bus(one: Message) -> str:
    with salt.utils.event.get_master_event(__opts__, __opts__["sock_dir"], listen=False) as bus:
        if not bus.fire_event(dict(one), f"gateway/alert/{one['site'] or 'all'}/{one['severity']}"):
            raise Failed("the master's bus does not take it; does the master run?")
    return "on the bus"


def _silences(now: float) -> dict[str, str]:
    said = files.read(_folder() / files.SILENCES)
    return {site: datetime.datetime.fromtimestamp(until).astimezone().isoformat(timespec="seconds")
            for site, until in (said if isinstance(said, dict) else {}).items() if until > now}


def _ago(now: float, at: float | None) -> str:
    if at is None:
        return "never"
    seconds = max(0, int(now - at))
    if seconds < 120:
        return f"{seconds} s ago"
    return f"{seconds // 60} min ago" if seconds < 7200 else f"{seconds // 3600} h ago"
