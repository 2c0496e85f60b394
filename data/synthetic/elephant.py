"""`elephant`: a patchwork elephant that balances a ball. Richly textured."""

from __future__ import annotations

import numpy as np

from adapters.contract import F64
from data.synthetic import sdf
from data.synthetic.noise import fbm, lattice_hash, smoothstep
from data.synthetic.paint import Coat, fabrics, label, linear, mix
from data.synthetic.toy import Look, Toy, variation

PALETTES = (
    ("e4572e", "2e8c8a", "f2b134", "2d4a7a", "f6e7cb", "b23a6f"),
    ("3d5a80", "ee6c4d", "98c1d9", "f4d35e", "faf0e0", "7b2d43"),
    ("588157", "f4a259", "bc4b51", "f4e3c1", "5b8e7d", "2f3e61"),
)
LOOKS = (
    Look("ded6c6", ("b5533c", "2f6f73", "d9a441", "3a3f4a", "8a9a86"), "7f9aa0", "c7b8a2"),
    Look("d7d9d6", ("7b4b3a", "44607c", "c98f5a", "2f3338", "a7a39a"), "b08b78", "cfc0ab"),
)


def elephant(seed: int) -> Toy:
    """The recipe; `seed` 0 is the embedded one, others vary pose, proportions, prints and palette. Decimetres."""
    vary = variation(seed, 1)

    girth, leg, turn, curl = vary(0.80, 0.1), vary(0.33, 0.05), vary(26, 20), vary(0.55, 0.35)
    ear, ball, stride = vary(0.78, 0.12), vary(0.36, 0.06), vary(0.14, 0.1)
    body = np.array([0.0, 0.0, 1.26])
    facing = sdf.rotation([0, 0, 1], turn)
    head = body + np.array([0.74, 0.08, 0.66])
    trunk = (
        head
        + sdf.bezier([[0.30, 0, -0.12], [0.62, -0.05, -1.25], [1.20, 0.0, -1.15], [1.02, curl * 0.5, -0.22]], 14)
        @ facing.T
    )
    thickness = np.linspace(0.27, 0.13, len(trunk))
    ball_centre = trunk[-1] + np.array([0.0, 0.02, ball * 0.92])
    feet = [(0.50 + stride, 0.36), (0.42, -0.38), (-0.52, 0.36), (-0.60 - stride, -0.34)]
    left_ear = sdf.rotation([0, 0, 1], turn + 38) @ sdf.rotation([1, 0, 0], -14)
    right_ear = sdf.rotation([0, 0, 1], turn - 62) @ sdf.rotation([1, 0, 0], 20)

    def at_head(*offset: float) -> F64:
        return np.asarray(head + facing @ np.array(offset))

    def parts(p: F64) -> dict[str, F64]:
        legs = [sdf.capsule(p, (x * 0.85, y * 0.9, 1.05), (x, y, 0.20), leg * 0.98, leg * 1.02) for x, y in feet]
        seat = sdf.ellipsoid(p, body, (1.06, girth + 0.055, girth * 0.98 + 0.055))
        over = np.abs(p[:, 0] + 0.08) - 0.46
        return {
            "body": sdf.ellipsoid(p, body, (1.02, girth, girth * 0.98)),
            "head": sdf.ellipsoid(p, head, (0.56, 0.52, 0.58), facing),
            "legs": sdf.union(*legs),
            "trunk": sdf.tube(p, trunk, thickness),
            "left ear": sdf.ellipsoid(p, at_head(-0.12, 0.82, 0.02), (0.10, ear * 0.72, ear), left_ear),
            "right ear": sdf.ellipsoid(p, at_head(-0.20, -0.78, -0.10), (0.10, ear * 0.66, ear), right_ear),
            "tail": sdf.tube(
                p,
                body + sdf.bezier([[-0.95, 0, 0.2], [-1.3, 0.1, 0.2], [-1.25, 0.3, -0.4], [-1.4, 0.42, -0.6]], 8),
                0.075,
            ),
            "tuft": sdf.ellipsoid(p, body + np.array([-1.41, 0.43, -0.64]), (0.13, 0.12, 0.17)),
            "rug": np.maximum(np.maximum(seat, over), 1.22 - p[:, 2]) - 0.02,
            "tusks": np.minimum(
                sdf.capsule(p, at_head(0.36, 0.26, -0.22), at_head(0.80, 0.36, -0.30), 0.10, 0.045),
                sdf.capsule(p, at_head(0.36, -0.26, -0.22), at_head(0.70, -0.36, -0.44), 0.10, 0.05),
            ),
            "eyes": np.minimum(
                sdf.ellipsoid(p, at_head(0.40, 0.33, 0.17), (0.085, 0.085, 0.085)),
                sdf.ellipsoid(p, at_head(0.40, -0.33, 0.17), (0.085, 0.085, 0.085)),
            ),
            "ball": sdf.ellipsoid(p, ball_centre, (ball, ball, ball)),
        }

    def solid(p: F64) -> F64:
        d = parts(p)
        out = sdf.smooth_union(d["body"], d["legs"], 0.16)
        out = sdf.smooth_union(out, d["head"], 0.12)
        out = sdf.smooth_union(out, d["trunk"], 0.10)
        for name in ("left ear", "right ear", "tail"):
            out = sdf.smooth_union(out, d[name], 0.06)
        for name in ("tuft", "rug", "tusks", "eyes", "ball"):
            out = np.minimum(out, d[name])
        return np.maximum(out, -p[:, 2])

    palette = linear(*PALETTES[seed % len(PALETTES)])
    cream, ink = linear("f4ead6", "1d1a1c")
    anchors, facing_out = _anchors(solid, np.array([-1.7, -1.5, 0.0]), np.array([2.8, 1.6, 3.6]), 130, seed)

    def paint(p: F64, n: F64) -> Coat:
        nearest, number = label(parts(p))
        colour = fabrics(p, n, anchors, facing_out, palette, seed * 31 + 1, 0.155)
        rough = np.full(len(p), 0.85)
        coat = np.zeros(len(p))

        rug = nearest == number["rug"]
        u, v = p[:, 0] + 0.08, np.hypot(p[:, 1], 0) * np.sign(p[:, 1]) * 1.15
        rim = np.maximum(np.abs(u) / 0.44, 0)
        band = np.floor(rim * 5).astype(int)
        diamond = (np.floor((u + v) * 5.5) + np.floor((u - v) * 5.5)).astype(int) % 3
        woven = palette[(np.array([0, 3, 1])[diamond] + (band == 4)) % len(palette)]
        woven = np.where(
            (band == 4)[:, None], np.where((np.floor(v * 9) % 2 == 0)[:, None], palette[2], palette[5]), woven
        )
        woven *= (0.6 + 0.8 * fbm(p, 16, seed + 71, 4, 0.7))[:, None]
        colour = np.where(rug[:, None], woven, colour)

        on_ball = nearest == number["ball"]
        q = (p - ball_centre) @ sdf.rotation([1, 1, 0], 35)
        panel = np.floor((np.arctan2(q[:, 1], q[:, 0]) / (2 * np.pi) + 0.5) * 8).astype(int) % 8
        star = smoothstep(0.80, 0.86, np.abs(q[:, 2]) / ball)
        shell = mix(
            np.array([palette[0], cream, palette[3], palette[2]] * 2)[panel], palette[1] * np.ones((len(p), 3)), star
        )
        shell *= (0.75 + 0.5 * fbm(p, 14, seed + 5, 4, 0.7))[:, None]
        colour = np.where(on_ball[:, None], shell, colour)

        ivory = nearest == number["tusks"]
        colour = np.where(ivory[:, None], cream * (0.7 + 0.4 * fbm(p, 12, seed + 9))[:, None], colour)
        tuft = nearest == number["tuft"]
        strand = lattice_hash(np.floor(p * [26, 26, 4]).astype(np.int64), seed + 13)
        colour = np.where(tuft[:, None], mix(palette[3] * np.ones((len(p), 3)), palette[2], strand), colour)
        eye = nearest == number["eyes"]
        colour = np.where(eye[:, None], ink, colour)
        rough = np.where(eye, 0.12, np.where(on_ball | ivory, 0.5, rough))
        return Coat(colour, rough, np.zeros(len(p)), np.where(eye, 1.0, coat))

    low, high = np.array([-2.0, -1.6, -0.1]), np.array([3.1, 1.9, 4.0])
    look = LOOKS[seed % len(LOOKS)]
    return Toy("elephant", "Patchwork elephant", "textured", solid, low, high, cell=0.022, paint=paint, look=look)


def _anchors(solid: sdf.Solid, low: F64, high: F64, count: int, seed: int) -> tuple[F64, F64]:
    """`count` well-spread points of the surface and their unit normals, (K, 3) each: farthest-point sampling."""
    rng = np.random.default_rng([seed, 2])
    p = rng.uniform(low, high, (60_000, 3))
    d = solid(p)
    p = p[np.abs(d) < 0.15]
    for _ in range(4):
        g = sdf.gradient(solid, p, 0.005)
        p = p - solid(p)[:, None] * g / np.maximum((g**2).sum(axis=1, keepdims=True), 0.25)
    chosen = [0]
    gap = np.linalg.norm(p - p[0], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(gap * rng.uniform(0.55, 1.0, len(gap)))))
        gap = np.minimum(gap, np.linalg.norm(p - p[chosen[-1]], axis=1))
    normal = sdf.gradient(solid, p[chosen], 0.005)
    return p[chosen], normal / np.linalg.norm(normal, axis=1, keepdims=True)
