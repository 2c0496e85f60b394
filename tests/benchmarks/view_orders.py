"""How many views COLMAP registers of the first 2, 4 and 8 of each order: the table of docs/scenes.md.

python tests/benchmarks/view_orders.py [SEEDS]
"""

from __future__ import annotations

import sys

from adapters.contract import Unsupported
from adapters.shared.sfm import sparse_model
from bench.trials.plan import view_order
from bench.trials.scenes import get_scenes
from data.scene import Scene
from data.subsets import Order

COUNTS = (2, 4, 8)


def registered(scene: Scene, names: list[str], seed: int) -> int:
    """Views of the largest model; 0 where there is none."""
    try:
        model = sparse_model([scene.image(name) for name in names], seed=seed, threads=1)
    except Unsupported:  # no model
        return 0
    return int(model.registered.sum())


def main() -> None:
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    print("| scene | order | " + " | ".join(f"of {count}" for count in COUNTS) + " |\n|---|---|---|---|---|")
    orders: tuple[Order, ...] = ("spread", "overlap")
    for scene in get_scenes(("*",)):
        for order in orders:
            cells = []
            for count in COUNTS:
                result = [registered(scene, view_order(scene, seed, order)[:count], seed) for seed in seeds]
                cells.append(", ".join(map(str, result)))
            print(f"| {scene.name} | `{order}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
