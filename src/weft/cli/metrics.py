"""The table of a run's metrics, one row a metric and one column a part of the data."""

from __future__ import annotations

from collections.abc import Mapping

from weft.cli.output import Table, metric


def metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    """`metrics`: by part, then by name. Parts without metrics are left out."""
    parts = [part for part, values in metrics.items() if values]
    names = sorted(
        {name for part in parts for name in metrics[part]},
        key=lambda name: (not name.startswith("loss"), name),
    )
    rows = [[name, *(metric(metrics[part].get(name)) for part in parts)] for name in names]
    return Table(("metric", *parts), rows, frozenset(range(1, len(parts) + 1)))
