"""`tricycle`: spoked wheels, bent tubes and a wire basket. Thin: most of what a ray meets is a hole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapters.contract import F64
from data.synthetic import sdf
from data.synthetic.noise import fbm, smoothstep
from data.synthetic.paint import Coat, label, linear, mix
from data.synthetic.toy import Look, Toy, variation

PALETTES = (  # frame, stripe, rims, leather, flag, ball
    ("1f8a84", "f3e3c0", "d8402f", "a8603a", "f2a93b", "e9c53a"),
    ("b8352c", "f0e6d2", "2f6f8f", "5b4636", "f4d35e", "3f8f6b"),
    ("3d5a98", "f4d58d", "c8553d", "8a5a44", "7fb069", "e26d5c"),
)
LOOKS = (
    Look("dbd2c2", ("a4503c", "4d7a70", "d9a441", "37424f", "b7a58c"), "8a6f8c", "d9c8c4"),
    Look("cdd3d4", ("d98a5b", "3f6f7d", "f0e9da", "5c6b73", "9db8a6"), "6c7f93", "cdd0cc"),
)
UP, LEFT = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])


def tricycle(seed: int) -> Toy:
    """The recipe; `seed` 0 is the embedded one, others vary pose, proportions and colours. Decimetres."""
    vary = variation(seed, 6)

    big, small, track = vary(0.80, 0.05), vary(0.54, 0.05), vary(0.66, 0.06)
    steer, pedal, wire = sdf.rotation(UP, vary(32, 20)), vary(40, 40), 0.034
    front, rear = np.array([1.0, 0, big]), np.array([-0.95, 0, small])
    top = big + 1.10  # of the head tube
    basket, deep, wide = np.array([-1.14, 0.0, small + 0.42]), 0.46, 0.50
    turn = np.deg2rad(pedal)
    crank = 0.34 * np.array([np.cos(turn), 0, np.sin(turn)])
    grips = [[(-0.44, s * 0.80, top + 0.30), (-0.20, s * 0.76, top + 0.40)] for s in (1, -1)]
    bar = np.concatenate(
        [
            sdf.bezier([grips[0][1], (0.02, 0.70, top + 0.5), (0.06, 0.25, top + 0.3), (0, 0, top + 0.26)], 9),
            sdf.bezier([(0, 0, top + 0.26), (0.06, -0.25, top + 0.3), (0.02, -0.70, top + 0.5), grips[1][1]], 9)[1:],
        ]
    )
    spine = sdf.bezier([(front[0], 0, top), (0.45, 0, top), (-0.15, 0, 0.95), (rear[0], 0, small + 0.02)], 16)
    saddle = spine[11] + [-0.02, 0, 0.56]
    mast = [basket + [-0.42, 0.34, 0.1], basket + [-0.52, 0.40, 1.62]]
    ball = basket + [0.06, -0.02, wire + 0.30]
    angles = np.arange(14) * 2 * np.pi / 14
    around = np.stack([np.cos(angles), np.sin(angles), np.zeros(14)], axis=1)

    def spokes(p: F64, centre: F64, radius: float, count: int) -> F64:
        """Laced in turn from either flange of the hub; the wheel turns about y."""
        out = []
        for i in range(count):
            a = 2 * np.pi * (i + 0.3) / count
            away = np.array([np.cos(a), 0, np.sin(a)])
            flange = 0.08 * (1 if i % 2 else -1) * LEFT
            out.append(sdf.capsule(p, centre + 0.08 * away + flange, centre + radius * away, 0.030))
        return sdf.union(*out)

    def parts(p: F64) -> dict[str, F64]:
        q = (p - front) @ steer + [0, 0, big]  # the steered part, about the front wheel's upright
        hub = np.array([0, 0, big])
        wheels = ((q, hub, big), (p, rear + track * LEFT, small), (p, rear - track * LEFT, small))
        return {
            "tyres": sdf.union(*(sdf.torus(x, c, LEFT, r - 0.095, 0.095) for x, c, r in wheels)),
            "rims": sdf.union(*(sdf.torus(x, c, LEFT, r - 0.20, 0.05) for x, c, r in wheels)),
            "spokes": sdf.union(*(spokes(x, c, r - 0.19, 10 if r == big else 8) for x, c, r in wheels)),
            "hubs": sdf.union(*(sdf.cylinder(x, c, LEFT, 0.13, 0.13, 0.05) for x, c, r in wheels)),
            "frame": sdf.union(
                sdf.tube(p, spine, 0.088),
                sdf.cylinder(p, spine[0], UP, 0.125, 0.16, 0.05),
                sdf.capsule(p, spine[11], saddle, 0.062),
            ),
            "fork": sdf.union(
                *(sdf.capsule(q, hub + s * 0.21 * LEFT, (0, s * 0.17, top - 0.24), 0.055, 0.065) for s in (1, -1)),
                sdf.capsule(q, (0, 0.17, top - 0.24), (0, -0.17, top - 0.24), 0.07),
                sdf.capsule(q, (0, 0, top - 0.24), bar[8], 0.062),
                sdf.tube(q, bar, 0.055),
                sdf.capsule(p, rear + track * LEFT, rear - track * LEFT, 0.058),
                *(sdf.capsule(p, rear + s * 0.3 * LEFT, basket + [0.08, s * 0.22, 0], 0.04) for s in (1, -1)),
            ),
            "cranks": sdf.union(
                *(sdf.capsule(q, hub + s * 0.25 * LEFT, hub + s * (0.27 * LEFT + crank), 0.045) for s in (1, -1)),
                sdf.capsule(q, hub - 0.27 * LEFT, hub + 0.27 * LEFT, 0.05),
            ),
            "grips": sdf.union(
                *(sdf.capsule(q, end, start, 0.085) for end, start in grips),
                *(sdf.box(q, hub + s * (0.42 * LEFT + crank), (0.15, 0.14, 0.05), 0.03) for s in (1, -1)),
            ),
            "saddle": sdf.smooth_union(
                sdf.ellipsoid(p, saddle + [-0.12, 0, 0.02], (0.27, 0.31, 0.11)),
                sdf.capsule(p, saddle, saddle + [0.36, 0, 0.03], 0.11, 0.075),
                0.10,
            ),
            "basket": sdf.union(
                *(
                    sdf.torus(p, basket + [0, 0, share * deep], UP, wide * (0.78 + 0.22 * share), wire * thick)
                    for share, thick in ((0.0, 1.0), (0.36, 0.9), (0.70, 0.9), (1.0, 1.4))
                ),
                *(sdf.capsule(p, basket + 0.78 * wide * a, basket + [0, 0, deep] + wide * a, wire) for a in around),
                *(sdf.capsule(p, basket + 0.78 * wide * a, basket - 0.78 * wide * a, wire) for a in around[:7:2]),
            ),
            "ball": sdf.ellipsoid(p, ball, [0.31] * 3),
            "bell": sdf.smooth_union(
                sdf.ellipsoid(q, bar[5] + [0.04, 0, 0.11], (0.13, 0.13, 0.10)),
                sdf.capsule(q, bar[5], bar[5] + [0.04, 0, 0.1], 0.04),
                0.03,
            ),
            "mast": sdf.capsule(p, mast[0], mast[1], 0.036, 0.030),
            "flag": flag(p),
        }

    def flag(p: F64) -> F64:
        """A waving pennant that points backwards."""
        x, y, z = (p - mast[1] + [0, 0, 0.30]).T
        along = np.clip(-x / 0.78, 0, 1)
        wave = 0.07 * along * np.sin(7 * x)
        flat = np.stack([np.abs(y - wave) - 0.032, (np.abs(z) - 0.27 * (1 - 0.86 * along)) * 0.95, x, -x - 0.78])
        return np.asarray(0.8 * flat.max(axis=0))

    def solid(p: F64) -> F64:
        d = parts(p)
        out = sdf.smooth_union(d["frame"], d["fork"], 0.04)
        for name in d.keys() - {"frame", "fork"}:
            out = np.minimum(out, d[name])
        return np.maximum(out, -p[:, 2])

    body, stripe, rim, leather, cloth, rubber = linear(*PALETTES[seed % len(PALETTES)])
    chrome, black, cream, brass = linear("d4d6d8", "26262b", "efe4cc", "d2a04a")
    colour_of = {
        "tyres": black,
        "rims": rim,
        "spokes": cream,
        "hubs": rim,
        "frame": body,
        "fork": body,
        "cranks": chrome,
        "grips": leather,
        "saddle": leather,
        "basket": brass,
        "ball": rubber,
        "bell": rim,
        "mast": cream,
        "flag": cloth,
    }

    def paint(p: F64, n: F64) -> Coat:
        nearest, number = label(parts(p))

        def on(*names: str) -> NDArray[np.bool_]:
            return np.isin(nearest, [number[name] for name in names])

        colour = np.array([colour_of[name] for name in number])[nearest]
        q = (p - front) @ steer
        # A candy stripe winds round the tubes; it follows height and the way round the steering's upright.
        wound = (3.2 * (p[:, 0] - p[:, 2]) + np.where(on("fork"), 1.5 * q[:, 2], 0)) % 1
        ribbon = smoothstep(0.28, 0.25, np.abs(wound - 0.5)) * on("frame", "fork")
        colour = mix(colour, np.broadcast_to(stripe, p.shape), ribbon)

        hubs = np.stack([q, p - rear - track * LEFT, p - rear + track * LEFT])
        radial, side = np.hypot(hubs[..., 0], hubs[..., 2]), np.abs(hubs[..., 1])
        wheel = np.argmin(np.maximum(radial - np.array([big, small, small])[:, None], 0) + side, axis=0)
        radial, side = np.take_along_axis(np.stack([radial, side]), wheel[None, None], axis=1)[:, 0]
        reach = np.array([big, small, small])[wheel]
        wall = smoothstep(0.13, 0.12, reach - radial) * smoothstep(0.06, 0.07, reach - radial) * on("tyres")
        colour = mix(colour, np.broadcast_to(cream, p.shape), wall)

        way = p - ball
        gore = np.floor((np.arctan2(way[:, 1], way[:, 0]) / (2 * np.pi) + 0.5) * 6) % 3
        gores = np.array([rubber, cream, rim])[gore.astype(int)]
        colour = np.where(on("ball")[:, None], gores, colour)
        x, _, z = (p - mast[1]).T
        dots = np.hypot((x * 4.5) % 1 - 0.5, (z * 4.5) % 1 - 0.5)
        colour = np.where(
            on("flag")[:, None], mix(colour, np.broadcast_to(cream, p.shape), smoothstep(0.26, 0.22, dots)), colour
        )
        worn = np.where(on("saddle", "grips", "basket", "flag"), 0.65 + 0.7 * fbm(p, 13, seed + 3, 4, 0.7), 1.0)
        colour = colour * (worn * (0.92 + 0.16 * fbm(p, 6, seed + 7, 3)))[:, None]

        metal = on("cranks", "bell").astype(np.float64)
        enamel = on("frame", "fork", "rims", "hubs", "bell", "spokes")
        rough = np.where(metal > 0, 0.28, np.where(enamel, 0.35, np.where(on("ball"), 0.4, 0.75)))
        return Coat(colour, rough, metal, np.where(enamel, 0.35, 0.0))

    low, high = np.array([-2.7, -1.3, -0.1]), np.array([2.1, 1.4, 3.1])
    look = LOOKS[seed % len(LOOKS)]
    return Toy("tricycle", "Tricycle with a basket", "thin", solid, low, high, cell=0.015, paint=paint, look=look)
