"""
Figures in the text format that Prometheus reads
================================================

The one place that renders figures: on a gateway for ``gateway_metrics``, on the master for the package ``figures``,
which loads this file by its path. The format is made by the library ``prometheus_client``, which Salt 3008 brings with
it: one of its own requirements (``opentelemetry-exporter-prometheus``) needs it.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, 0.0.4), README.textfile of Debian's
prometheus-node-exporter.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry
except ImportError:
    Collector = None  # type: ignore[assignment,misc]

__virtualname__ = "gateway_exposition"


def __virtual__() -> str | tuple[bool, str]:
    if Collector is None:
        return False, ("gateway_exposition: Salt's Python has no prometheus_client, which Salt 3008 brings with it; "
                       "`salt-pip install prometheus-client` puts it back")
    return __virtualname__


def text(families: Mapping[str, tuple], samples: Iterable[tuple], common: Mapping[str, str] | None = None) -> str:
    """
    The content of a textfile for node_exporter.

    Args:
        families: by metric name: kind (``gauge``, ``counter``), names of its labels, and what it is.
        samples: name, the labels' values in the family's order, value. The order of the table is kept, and a family
            without samples is left out.
        common: labels that every sample gets, name to value.

    Raises:
        ValueError: a sample is of no family, has too few or too many labels, or is given twice. Prometheus would refuse
            the whole file.

    CLI Example:

    .. code-block:: bash

        salt-call --local gateway_exposition.text '{up: [gauge, [], It is up.]}' '[[up, [], 1]]'
    """
    own = dict(common or {})
    made: dict[str, Metric] = {}
    seen: set[tuple] = set()
    for name, (kind, labels, about) in families.items():
        family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        made[name] = family(name, about, labels=[*own, *labels])
    for name, values, value in samples:
        if name not in made:
            raise ValueError(f"{name} is no metric of the table")
        if len(values) != len(families[name][1]):
            raise ValueError(f"{name} has the labels {', '.join(families[name][1]) or 'none'}; given: {len(values)}")
        if (name, *values) in seen:
            raise ValueError(f"{name}{tuple(values)} is given twice")
        seen.add((name, *values))
        # Line ends and quotes are escaped by the library; what is no Unicode would make the file unreadable.
        texts = [str(each).encode(errors="replace").decode() for each in (*own.values(), *values)]
        made[name].add_metric(texts, float(value))  # type: ignore[attr-defined]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given([metric for metric in made.values() if metric.samples]))
    return generate_latest(registry).decode()


if Collector is not None:
    class _Given(Collector):
        """Hands out metrics that are there already."""

        def __init__(self, metrics: list[Metric]) -> None:
            self.metrics = metrics

        def collect(self) -> Iterator[Metric]:
            yield from self.metrics
