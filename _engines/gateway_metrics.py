"""
Figures of both engines, for Prometheus
=======================================

Runs on the master as long as the master runs, where its configuration lists this engine. Every few seconds it writes
what the engines ``gateway_alerts`` and ``gateway_resync`` say of themselves into a textfile of node_exporter. It reads
their status files, so it goes on when one of them hangs, and says since when nothing was heard of it. docs/metrics.md.

Master's configuration, in a file of its own in master.d::

    engines:
      - gateway_metrics: {}
    gateway_metrics:        # all optional
      file: /var/lib/prometheus/node-exporter/gateway-master.prom
      every: 15             # seconds
"""
from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

# The tree comes last in the path, so that nothing in it shadows an installed package.
sys.path += [root for root in [str(Path(__file__).resolve().parent.parent)] if root not in sys.path]

from figures import textfile  # noqa: E402

log = logging.getLogger(__name__)

__virtualname__ = "gateway_metrics"


def __virtual__() -> str | tuple[bool, str]:
    if __opts__.get("__role") != "master":
        return False, "gateway_metrics is an engine of the master"
    usable = textfile.exposition().__virtual__()
    return __virtualname__ if isinstance(usable, str) else usable


def start() -> None:
    """
    Works until the master ends. Salt restarts it when it fails.

    CLI Example:

    .. code-block:: yaml

        engines:
          - gateway_metrics: {}
    """
    its = textfile.settings(__opts__.get("gateway_metrics"))
    for line in its.mistakes:
        log.error("%s; no figures are written", line)
    cachedir, last = __opts__["cachedir"], ""
    while True:
        if not its.mistakes:
            said = _write(its.file, cachedir)
            if said and said != last:
                log.error("%s", said)
            last = said
        time.sleep(its.every)       # Salt would restart an engine that ends


def _write(path: Path, cachedir: str) -> str:
    """Writes the file once. Returns what is wrong, in one line; empty when it is written."""
    try:
        textfile.write(path, textfile.text(cachedir))
    except OSError as error:
        return (f"gateway_metrics: {path} can not be written ({error.strerror}): is prometheus-node-exporter "
                f"installed, and may this master's user write into {path.parent}? docs/metrics.md")
    return ""
