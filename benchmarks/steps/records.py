"""A run as a file, so that pages can be written where it was not made, or from several runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from conditions import Conditions
from measuring import Measured
from rates import Profiles
from reports import Results


@dataclass(frozen=True)
class Record:
    """What a run of workloads found, and how; profiles are there on a GPU."""

    conditions: Conditions
    results: Results
    profiles: Profiles = field(default_factory=dict)

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(file: Path) -> Record:
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            sys.exit(f"{file} can't be read: {error.strerror}")
        except ValueError:
            sys.exit(f"{file} is no JSON: expected a run that --json wrote")
        try:
            results = {
                workload: {name: Measured(**found) for name, found in row.items()}
                for workload, row in raw["results"].items()
            }
            return Record(Conditions(**raw["conditions"]), results, raw["profiles"])
        except (AttributeError, KeyError, TypeError):
            sys.exit(
                f"{file} is no run that --json wrote, or one that another version of Weft wrote: "
                "measure again with --json"
            )

    @staticmethod
    def joined(records: Sequence[Record]) -> Record:
        """Runs of different workloads as one, with the workloads in the order of their suite."""
        first, *others = records
        for other in others:
            if asdict(other.conditions) | {"load": 0} != asdict(first.conditions) | {"load": 0}:
                sys.exit(
                    "a page is of one machine and one set of versions: these runs are of\n"
                    f"  {first.conditions.words()}\n  {other.conditions.words()}"
                )
        results = {name: row for record in records for name, row in record.results.items()}
        profiles = {name: row for record in records for name, row in record.profiles.items()}
        order = first.conditions.suite.workloads
        return Record(
            first.conditions,
            {name: results[name] for name in order if name in results},
            {name: profiles[name] for name in order if name in profiles},
        )
