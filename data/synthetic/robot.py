"""`robot`: a tin robot in enamel and chrome. Glossy: the table and the lamps are mirrored in it."""

from __future__ import annotations

import numpy as np

from adapters.contract import F64
from data.synthetic import sdf
from data.synthetic.noise import fbm, smoothstep
from data.synthetic.paint import Coat, label, linear, mix
from data.synthetic.toy import Look, Toy, variation

PALETTES = (  # chest, limbs, head, trim
    ("c02d2a", "2c6e9b", "e9dfc7", "e8b23a"),
    ("2f7f79", "d9772f", "e7e2d3", "c43d3d"),
    ("5a4b8a", "c9a227", "dfe3e0", "d0553f"),
)
LOOKS = (
    Look("d8cdbb", ("36566b", "b5583f", "8f9c86", "d8b04f", "45413f"), "8f9f86", "d6cbb2"),
    Look("cfd3d2", ("8a5a44", "3f6e73", "c79a5b", "3a3d42", "a3aaa0"), "c09a6b", "d9cdb8"),
)


def robot(seed: int) -> Toy:
    """The recipe; `seed` 0 is the embedded one, others vary pose, proportions and colours. Decimetres."""
    vary = variation(seed, 4)

    wide, tall, skull = vary(0.82, 0.08), vary(0.54, 0.06), vary(0.46, 0.05)
    turn, wave, swing = vary(-24, 25), vary(12, 15), vary(-18, 20)
    chest = np.array([0.0, 0.0, 0.72 + tall])
    head = chest + np.array([0.02, 0.02, tall + 0.14 + skull])
    facing = sdf.rotation([0, 0, 1], turn)
    lean = sdf.rotation([0, 1, 0], 3)
    left, right = chest + [0, wide + 0.12, tall * 0.62], chest + [0, -wide - 0.12, tall * 0.62]
    wave_, swing_ = np.deg2rad(wave), np.deg2rad(swing)
    left_elbow = left + np.array([0.16, 0.46 * np.cos(wave_), 0.50 * np.sin(wave_)])
    left_hand = left_elbow + np.array([0.34, 0.06, 0.50])
    right_elbow = right + np.array([-0.3 * np.sin(swing_), -0.14, -0.52])
    right_hand = right_elbow + np.array([0.42, -0.04, -0.30])
    feet = [np.array([0.24, 0.36, 0.16]), np.array([-0.14, -0.36, 0.16])]

    def at_head(*offset: float) -> F64:
        return np.asarray(head + facing @ np.array(offset))

    def claw(p: F64, wrist: F64, along: F64) -> F64:
        n = along / np.linalg.norm(along)
        ring = sdf.torus(p, wrist + n * 0.20, np.cross(n, [0.2, 0.9, 0.4]), 0.18, 0.075)
        gap = sdf.capsule(p, wrist + n * 0.34, wrist + n * 0.6, 0.13)
        return np.asarray(np.maximum(ring, -gap))

    def arm(p: F64, shoulder: F64, elbow: F64, hand: F64) -> F64:
        coils = [sdf.capsule(p, shoulder, elbow, 0.155, 0.14), sdf.capsule(p, elbow, hand, 0.14, 0.125)]
        for a, b in ((shoulder, elbow), (elbow, hand)):
            for t in np.linspace(0.12, 0.9, 5):
                coils.append(sdf.torus(p, a + t * (b - a), b - a, 0.135, 0.055))
        return sdf.union(*coils)

    def parts(p: F64) -> dict[str, F64]:
        front = chest + lean @ np.array([0.60, 0.0, 0.0])
        return {
            "chest": sdf.box(p, chest, (0.62, wide, tall), 0.10, lean),
            "head": sdf.box(p, head, (skull * 1.05, skull * 1.25, skull), 0.13, facing),
            "neck": sdf.cylinder(p, chest + [0, 0, tall + 0.08], (0, 0, 1), 0.26, 0.14, 0.04),
            "arms": np.minimum(arm(p, left, left_elbow, left_hand), arm(p, right, right_elbow, right_hand)),
            "claws": np.minimum(
                claw(p, left_hand, left_hand - left_elbow), claw(p, right_hand, right_hand - right_elbow)
            ),
            "shoulders": np.minimum(*(sdf.ellipsoid(p, at, [0.23] * 3) for at in (left, right))),
            "legs": sdf.union(
                *[
                    sdf.cylinder(p, [f[0] * 0.6, f[1] * 0.92, 0.56], (0.12 * np.sign(f[0]), 0, 1), 0.26, 0.34, 0.04)
                    for f in feet
                ]
            ),
            "boots": sdf.union(*[sdf.box(p, f + [0.06, 0, 0.02], (0.52, 0.36, 0.19), 0.09) for f in feet]),
            "eyes": sdf.union(
                *[
                    sdf.cylinder(p, at_head(skull * 1.05, y, 0.10), facing[:, 0], r, 0.09, 0.03)
                    for y, r in ((0.21, 0.155), (-0.21, 0.125))
                ]
            ),
            "mouth": sdf.box(p, at_head(skull * 1.05, 0, -0.22), (0.05, 0.28, 0.07), 0.03, facing),
            "ears": np.minimum(
                sdf.cylinder(p, at_head(0, skull * 1.29, 0), facing[:, 1], 0.19, 0.09, 0.03),
                sdf.cylinder(p, at_head(0, -skull * 1.29, 0), facing[:, 1], 0.19, 0.09, 0.03),
            ),
            "aerial": np.minimum(
                sdf.capsule(p, at_head(-0.08, 0.2, skull * 0.9), at_head(-0.14, 0.26, skull + 0.08), 0.05),
                sdf.ellipsoid(p, at_head(-0.15, 0.27, skull + 0.10), [0.12] * 3),
            ),
            "dials": sdf.union(
                *[
                    sdf.cylinder(p, front + [0, 0.26, 0.24], lean[:, 0], 0.22, 0.08, 0.03),
                    sdf.cylinder(p, front + [0, -0.30, 0.32], lean[:, 0], 0.12, 0.10, 0.03),
                    sdf.cylinder(p, front + [0, -0.30, 0.02], lean[:, 0], 0.12, 0.10, 0.03),
                ]
            ),
            "grille": sdf.union(
                *[
                    sdf.capsule(p, front + [0.02, -0.40, z], front + [0.02, 0.42, z], 0.045)
                    for z in (-0.22, -0.34, -0.46)
                ]
            ),
            "pack": sdf.box(
                p, chest + lean @ np.array([-0.74, 0.06, 0.05]), (0.20, wide * 0.66, tall * 0.62), 0.09, lean
            ),
            "key": np.minimum(
                sdf.capsule(p, chest + [-0.85, 0.06, 0.05], chest + [-1.18, 0.06, 0.05], 0.07),
                np.minimum(
                    sdf.torus(p, chest + [-1.22, 0.22, 0.14], (1, 0, 0), 0.15, 0.06),
                    sdf.torus(p, chest + [-1.22, -0.10, -0.04], (1, 0, 0), 0.15, 0.06),
                ),
            ),
        }

    def solid(p: F64) -> F64:
        d = parts(p)
        out = sdf.smooth_union(d["chest"], d["shoulders"], 0.04)
        for name in d:
            out = np.minimum(out, d[name])
        return np.maximum(out, -p[:, 2])

    red, blue, cream, brass = linear(*PALETTES[seed % len(PALETTES)])
    chrome, dark = linear("d9dbdd", "141416")
    lacquer = {"chest": red, "legs": cream, "boots": blue, "head": cream, "pack": blue, "shoulders": blue, "mouth": red}
    metal = dict.fromkeys(("neck", "arms", "grille"), chrome) | dict.fromkeys(("claws", "ears", "key"), brass)
    metal |= {"aerial": red}

    def paint(p: F64, n: F64) -> Coat:
        nearest, number = label(parts(p))
        colour = np.array([{**lacquer, **metal}.get(name, cream) for name in number])[nearest]
        shiny = np.isin(nearest, [number[name] for name in metal if name != "aerial"])
        rough = np.where(shiny, 0.16, 0.22) + 0.05 * fbm(p, 6, seed + 3, 3)

        q = (p - head) @ facing
        eye = nearest == number["eyes"]
        r = np.where(q[:, 1] > 0, np.hypot(q[:, 1] - 0.21, q[:, 2] - 0.10), np.hypot(q[:, 1] + 0.21, q[:, 2] - 0.10))
        iris = mix(np.broadcast_to(dark, p.shape), np.broadcast_to(brass, p.shape), smoothstep(0.05, 0.065, r))
        colour = np.where(eye[:, None], mix(iris, np.broadcast_to(dark, p.shape), smoothstep(0.095, 0.105, r)), colour)

        c = (p - chest) @ lean
        dial = nearest == number["dials"]
        from_hub = np.hypot(c[:, 1] - 0.26, c[:, 2] - 0.24)
        angle = np.arctan2(c[:, 2] - 0.24, c[:, 1] - 0.26)
        tick = (np.abs((angle / (2 * np.pi) * 12) % 1 - 0.5) > 0.38) & (from_hub > 0.12) & (from_hub < 0.18)
        needle = (np.abs(np.sin(angle - 0.9)) * from_hub < 0.018) & (np.cos(angle - 0.9) > 0) & (from_hub < 0.15)
        face = np.where((tick | needle)[:, None], dark, cream)
        knob = np.where((c[:, 2] > 0.17)[:, None], brass, blue)
        colour = np.where(dial[:, None], np.where((from_hub < 0.23)[:, None], face, knob), colour)

        stripe = (nearest == number["chest"]) & (np.abs(np.abs(c[:, 2] + 0.02) - 0.575) < 0.03)
        colour = np.where(stripe[:, None], brass, colour)
        lacquered = np.where(shiny, 0.0, 1.0)
        return Coat(colour, rough, shiny.astype(np.float64), lacquered)

    low, high = np.array([-1.6, -2.1, -0.1]), np.array([1.7, 2.3, 4.6])
    look = LOOKS[seed % len(LOOKS)]
    return Toy("robot", "Tin robot", "glossy", solid, low, high, cell=0.022, paint=paint, look=look)
