"""Toys modelled as solids and path-traced: scenes whose every depth, mask and camera is exact.

`render_scene(RECIPES["elephant"], out, views, spp, seed)` makes one; `python -m data.synthetic` does it from a shell.
Rendering needs the `render` extra; nothing else in the project does.
"""

from data.synthetic.duck import duck
from data.synthetic.elephant import elephant
from data.synthetic.render import render_scene
from data.synthetic.robot import robot
from data.synthetic.tricycle import tricycle

RECIPES = {"duck": duck, "elephant": elephant, "robot": robot, "tricycle": tricycle}

__all__ = ["RECIPES", "render_scene"]
