"""Names of the datasets that systems were trained on and scenes come from: one vocabulary, so that the two can meet."""

from __future__ import annotations

import re
from collections.abc import Iterable

OWN_FAMILY = "Reconbench shapes"  # the procedural objects of data/synthetic/shapes.py
UNPUBLISHED = "not published"  # what a system saw beyond the sets that its authors name
_ONE_NAME = re.split(
    r";\s+|\n",
    """\
3D Ken Burns; 3D-FUTURE; 7-Scenes; ABO; ARKitScenes; Aria; Aria Digital Twin; Aria Synthetic Environments; BEDLAM
BEHAVIOR-1K; COP3D; DL3DV; DTU; Dynamic Replica; EDEN; EFM3D; ETH3D; GTA-SfM; Google Scanned Objects; HOI4D; HOT3D
HSSD; Habitat; Hypersim; IRS; KITTI; Kubric; MVImgNet; MVS-Synth; Map-free; Mapillary; Mapillary Metropolis
Mapillary Planet-Scale Depth; MatrixCity; Matterport3D; MegaDepth; MegaSynth; Mid-Air; NRGBD; OmniObject3D; OmniWorld
Parallel Domain 4D; PointOdyssey; RealEstate10K; Reconbench shapes; Replica; SAIL-VOS; ScanNet; ScanNet++
SceneNet RGB-D; Sintel; SmartPortraits; Spring; Stanford 3D Scanning Repository; StaticThings3D; Synscapes
Tanks and Temples; TartanAir; TartanGround; Taskonomy; Trellis; UASOL; UnrealStereo4K; UrbanSyn; Waymo; WildRGB-D
uCO3D""",
)
# Each set by the name that its authors use, with the other names under which its images are found.
DATASETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys([*_ONE_NAME, UNPUBLISHED], ()),
    "BlendedMVS": ("BlendedMVG",),
    "CO3D": ("CO3Dv2",),
    "Objaverse": ("Objaverse-XL",),
    "Virtual KITTI": ("Virtual KITTI 2",),
}
_SET = {name: dataset for dataset, others in DATASETS.items() for name in (dataset, *others)}


def is_known(name: str) -> bool:
    """Whether a card's `training` may call a set so."""
    return name in _SET


def contamination(training: Iterable[str], source: str) -> tuple[str, ...]:
    """The sets of `training` that the `source` of a scene (prose) names, under whichever of their names, sorted.

    A name counts as a whole word, as it is written: ScanNet is not ScanNet++, nor KITTI a part of Virtual KITTI."""
    named = {_SET[name] for name in _mentioned(source)}
    return tuple(sorted(named & {_SET.get(name, name) for name in training}))


def _mentioned(source: str) -> Iterable[str]:
    """Names in `source`, the longest first, each word counted once."""
    rest = source
    for name in sorted(_SET, key=len, reverse=True):
        pattern = re.compile(rf"(?<![\w+]){re.escape(name)}(?![\w+])")
        if pattern.search(rest):
            rest = pattern.sub(" ", rest)
            yield name
