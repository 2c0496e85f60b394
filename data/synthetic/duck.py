"""`duck`: a vinyl bath duck in a sailor's cap. Weakly textured: large even colours, smooth curves."""

from __future__ import annotations

import numpy as np

from adapters.contract import F64
from data.synthetic import sdf
from data.synthetic.noise import fbm
from data.synthetic.paint import Coat, label, linear
from data.synthetic.toy import Look, Toy, variation

PALETTES = (  # body, beak, cap, band, scarf
    ("f5c02c", "e8692b", "f4f1e8", "2a4d7c", "c8403a"),
    ("8fc1b5", "f0a04b", "f7e6c4", "c8553d", "2f5d62"),
    ("e8a0a8", "f2b84b", "efe9dc", "4f6d7a", "7a9e7e"),
)
# The toy says little about where a camera stands; small chips of strong contrast say it instead.
CHIPS = ((0.034, 0.34), (0.060, 0.22), (0.018, 0.36), (0.009, 0.42))
LOOKS = (
    Look("d3dad6", ("2a5866", "cf6f3c", "fbf6ea", "39454c", "7fa392"), "cf9478", "dcc7ae", CHIPS),
    Look("d9cfc0", ("8a4a36", "4f7f76", "2b3943", "d3a55e", "f4efe2"), "5f7f8c", "c4c8c2", CHIPS),
)


def duck(seed: int) -> Toy:
    """The recipe; `seed` 0 is the embedded one, others vary pose, proportions and colours. Decimetres."""
    vary = variation(seed, 3)

    long, wide, tall = vary(1.12, 0.12), vary(0.86, 0.08), vary(0.78, 0.08)
    skull, turn, nod, lift = vary(0.66, 0.06), vary(33, 30), vary(-6, 8), vary(24, 14)
    body = np.array([0.0, 0.0, 0.70])
    head = body + np.array([0.52, 0.06, vary(1.12, 0.08)])
    facing = sdf.rotation([0, 0, 1], turn) @ sdf.rotation([0, 1, 0], -nod)
    tilt = facing @ sdf.rotation([1, 0, 0], 13) @ sdf.rotation([0, 1, 0], -10)
    left_wing = sdf.rotation([0, 0, 1], -10) @ sdf.rotation([0, 1, 0], 12)
    right_wing = sdf.rotation([0, 0, 1], 14) @ sdf.rotation([0, 1, 0], lift) @ sdf.rotation([1, 0, 0], -16)

    def at_head(*offset: float) -> F64:
        return np.asarray(head + facing @ np.array(offset) * skull)

    def parts(p: F64) -> dict[str, F64]:
        tail = body + np.array([-long * 0.85, -0.04, 0.22])
        body_ = sdf.ellipsoid(p, body, (long, wide, tall))
        body_ = sdf.smooth_union(body_, sdf.capsule(p, tail, tail + [-0.42, 0.10, 0.36], 0.34, 0.10), 0.3)
        body_ = sdf.smooth_union(body_, sdf.capsule(p, body + [0.40, 0.03, 0.4], head, 0.42, 0.40), 0.25)
        crown = head + tilt @ np.array([-0.06, 0.0, 0.76]) * skull
        return {
            "body": sdf.smooth_union(body_, sdf.ellipsoid(p, head, (skull, skull * 0.97, skull * 0.95)), 0.10),
            "left wing": sdf.ellipsoid(p, body + [-0.14, wide * 0.90, 0.12], (0.62, 0.17, 0.36), left_wing),
            "right wing": sdf.ellipsoid(p, body + [-0.20, -wide * 0.98, 0.24], (0.66, 0.17, 0.34), right_wing),
            "beak": np.minimum(
                sdf.ellipsoid(p, at_head(1.05, 0, -0.12), (0.36, 0.35, 0.15), facing @ sdf.rotation([0, 1, 0], -12)),
                sdf.ellipsoid(p, at_head(0.98, 0, -0.30), (0.29, 0.29, 0.13), facing @ sdf.rotation([0, 1, 0], 8)),
            ),
            "eyes": np.minimum(*(sdf.ellipsoid(p, at_head(0.74, y, 0.26), [0.095] * 3) for y in (0.50, -0.50))),
            "cap": sdf.smooth_union(
                sdf.cylinder(p, crown, tilt[:, 2], 0.46, 0.14, 0.05),
                sdf.ellipsoid(p, crown + tilt[:, 2] * 0.20, (0.60, 0.60, 0.20), tilt),
                0.06,
            ),
            "band": sdf.cylinder(p, crown - tilt[:, 2] * 0.05, tilt[:, 2], 0.485, 0.085, 0.03),
            "pompom": sdf.ellipsoid(p, crown + tilt @ np.array([0.05, 0.1, 0.40]), [0.15] * 3),
            "scarf": sdf.torus(p, body + [0.40, 0.04, 0.60], (0.22, 0.05, 1.0), 0.53, 0.15),
            "knot": np.minimum(
                sdf.capsule(p, body + [0.80, 0.40, 0.52], body + [0.98, 0.62, 0.18], 0.13, 0.17),
                sdf.capsule(p, body + [0.80, 0.40, 0.52], body + [0.74, 0.74, 0.24], 0.12, 0.15),
            ),
        }

    def solid(p: F64) -> F64:
        d = parts(p)
        out = d["body"]
        for name, blend in (("left wing", 0.10), ("right wing", 0.10), ("beak", 0.04), ("knot", 0.03)):
            out = sdf.smooth_union(out, d[name], blend)
        for name in ("eyes", "cap", "band", "pompom", "scarf"):
            out = np.minimum(out, d[name])
        return np.maximum(out, -p[:, 2])

    skin, beak, cap, band, scarf = linear(*PALETTES[seed % len(PALETTES)])
    dark = linear("16130f")[0]
    bird = {"body": skin, "left wing": skin * 0.96, "right wing": skin * 0.96, "beak": beak, "eyes": dark}
    clothes = {"cap": cap, "band": band, "pompom": band, "scarf": scarf, "knot": scarf}
    colour_of = bird | clothes

    def paint(p: F64, n: F64) -> Coat:
        nearest, number = label(parts(p))
        colour = np.array([colour_of[name] for name in number])[nearest]
        colour = colour * (0.96 + 0.08 * fbm(p, 2.5, seed + 7, 2))[:, None]
        cloth = np.isin(nearest, [number[name] for name in clothes])
        eye = nearest == number["eyes"]
        rough = np.where(eye, 0.1, np.where(cloth, 0.85, 0.42))
        return Coat(colour, rough, np.zeros(len(p)), np.where(eye, 1.0, 0.0))

    low, high = np.array([-2.0, -1.6, -0.1]), np.array([2.2, 1.7, 3.4])
    look = LOOKS[seed % len(LOOKS)]
    return Toy("duck", "Sailor duck", "weak", solid, low, high, cell=0.022, paint=paint, look=look)
