"""`python -m data.synthetic SCENE --out DIR`: make a scene with exact ground truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.synthetic import RECIPES, render_scene
from data.synthetic.sdf import MissingTool


def _report(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    """Parse the command line and render; exit code 2 where the `render` extra is absent."""
    parser = argparse.ArgumentParser(prog="python -m data.synthetic", description=__doc__)
    parser.add_argument("scene", choices=sorted(RECIPES), help="which toy")
    parser.add_argument("--out", type=Path, required=True, help="the Scene directory to write")
    parser.add_argument("--views", type=int, default=24, help="views all round (group a; default 24)")
    parser.add_argument("--wide-views", type=int, default=8, help="views with the wider lens (group b; default 8)")
    parser.add_argument("--elevation", type=float, help="degrees: group a as a level ring; default: varied heights")
    parser.add_argument("--spp", type=int, default=32, help="light paths a pixel (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="0 is the embedded scene, others vary it")
    options = parser.parse_args()
    try:
        render_scene(
            RECIPES[options.scene],
            options.out,
            options.views,
            options.spp,
            options.seed,
            options.wide_views,
            options.elevation,
            progress=_report,
        )
    except MissingTool as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
