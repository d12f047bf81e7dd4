"""The rows of a summary, with what the calls of each module cost."""

from __future__ import annotations

import dataclasses
from collections import Counter as Tally
from collections.abc import Mapping

from perdure.records.summary.summary import Memory, Summary, SummaryRow
from perdure.summaries.costs import Costs


def with_costs(summary: Summary, costs: Costs, convention: str, optimizer: str) -> Summary:
    """Return a summary with the costs of its calls: each row has those of its module and of all below it."""
    forward = costs.counter
    backward = costs.backward if forward.counts_backward else None
    operations = _totals(forward.counts)
    gradients = _totals(backward.counts) if backward else {}
    rows = []
    for row in summary.rows:
        count, found = operations.get(row.name, 0), costs.modules.get(row.name)
        counted = row.same_as is None
        rows.append(
            dataclasses.replace(
                row,
                n_calls=found.n_calls if found else 0,
                calls=tuple(found.calls) if found else (),
                flops=forward.flops_of(count) if counted else None,
                macs=forward.macs_of(count) if counted else None,
                backward_flops=backward.flops_of(gradients.get(row.name, 0)) if backward and counted else None,
                activation_bytes=found.activation_bytes if found else None,
            )
        )
    total: SummaryRow = rows[0]
    return dataclasses.replace(
        summary,
        rows=tuple(rows),
        flops=total.flops,
        macs=total.macs,
        backward_flops=total.backward_flops,
        activation_bytes=costs.activation_bytes,
        memory=_memory(costs, optimizer),
        convention=convention,
        uncounted=dict(sorted(forward.uncounted.items(), key=lambda item: -item[1])),
        ran=costs.ran,
    )


def _totals(counts: Mapping[str, int]) -> Tally[str]:
    """Add up the counts of modules into those above them."""
    totals: Tally[str] = Tally()
    for path, count in counts.items():
        totals[path] += count
        while path:
            path = path.rpartition(".")[0]
            totals[path] += count
    return totals


def _memory(costs: Costs, optimizer: str) -> Memory:
    start = costs.held_bytes + costs.input_bytes
    step = costs.step
    return Memory(
        weights_bytes=costs.held_bytes,
        input_bytes=costs.input_bytes,
        inference_peak_bytes=start + costs.activation_bytes,
        gradients_bytes=step.gradients_bytes if step else None,
        optimizer=optimizer if step else "",
        optimizer_bytes=step.optimizer_bytes if step else None,
        training_peak_bytes=start + step.peak_bytes if step else None,
    )
