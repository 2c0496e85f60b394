"""Ten reasons why two papers disagree, each measured alone: the table of docs/protocols.md.

    reconbench run --adapters noisy-oracle,visual-hull --scenes elephant,duck --views 8 --truth exact --store STORE
    python tests/benchmarks/ten_reasons.py STORE

Each row is `reconbench protocol diff` between object-v1 (without EMD) and the same with one thing changed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from msgspec.structs import replace

from bench.scoring.explain import explain
from bench.trials.store import Store
from metrics.scoring.protocol import Align, Protocol, load_protocol

BASE = replace(load_protocol("object-v1"), name="base", emd_draws=0)
REASONS: dict[str, Protocol] = {
    "the mean of both distances, not their sum": replace(BASE, chamfer=("l1-mean",)),
    "squared distances": replace(BASE, chamfer=("l2sq-sum",)),
    "the unit: longest sides, not percent of the diameter": replace(
        BASE, side=1.0, thresholds=(0.01,), rank_metric="fscore@0.01"
    ),
    "the threshold: 5%, not 1%": replace(BASE, thresholds=(0.05,), rank_metric="fscore@5%"),
    "1,024 points against 1,024, not against the whole surface": replace(BASE, samples=1_024, against="sample"),
    "no ICP": replace(BASE, align=Align(icp=False)),
    "bounding boxes instead of cameras, then ICP": replace(BASE, align=Align("boxes", "boxes", "boxes")),
    "nothing cropped, what no camera sees counts": replace(BASE, crop=False, observed_only=False),
    "only what the given views see is asked for": replace(BASE, given_only=True),
    "density as it comes: no voxels": replace(BASE, voxel=0.0),
}


def main() -> None:
    store = Store(Path(sys.argv[1]))
    records = [r for r in store.trials() if r.adapter in ("noisy-oracle", "visual-hull") and len(r.views) == 8]
    cases = sorted({(r.adapter, r.scene) for r in records})
    print(f"| changed | {' | '.join(f'{adapter}, {scene}' for adapter, scene in cases)} |")
    print("|---" * (len(cases) + 1) + "|")
    for reason, other in REASONS.items():
        result: dict[tuple[str, str], list[str]] = defaultdict(list)
        for difference in explain(store, records, "exact", BASE, replace(other, name=reason)):
            if difference.family not in ("chamfer", "fscore"):
                continue
            place = difference.record.adapter, difference.record.scene
            a, b = difference.a.value, difference.b.value
            if a is None or b is None:
                result[place].append(difference.b.note)
            elif difference.family == "chamfer":
                result[place].append(f"×{b / a:.3g}")
            else:
                result[place].append(f"{b - a:+.2f}")
        print(f"| {reason} | {' | '.join(', '.join(result[place]) for place in cases)} |", flush=True)


if __name__ == "__main__":
    main()
