"""The plan: adapter x scene x views x seed = trials, each with a key, an estimate and the arrays it will be given."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import trimesh
from numpy.typing import NDArray

from adapters.contract import F64, I32, Cameras, InputError, Surface, TruthKind, Views
from bench.files import digest
from bench.systems import weights
from bench.systems.cards import Adapter, find_adapters, get_adapter, list_text, option_text
from bench.systems.datasets import OWN_FAMILY
from bench.systems.measure import Hardware, Policy, device_kind
from bench.trials.records import LeftOut, TrialRecord, system_label
from bench.trials.scenes import EMBEDDED, get_scenes
from bench.trials.site import ABSENT, HERE, Site
from bench.trials.suite import ALL_VIEWS, Contestant, Suite
from data.images import decoder
from data.scene import Scene
from data.subsets import (
    Order,
    even_order,
    nested_order,
    overlap_order,
    sequence_overlap,
    shared_surface,
    view_directions,
)
from metrics.scoring.truth import Truth

TARGETS = 4  # views held back for an adapter that renders
VIEW_SEEDS = 1000  # a seed's last three digits choose the views; what is before them tells samples of one choice apart


@dataclass(frozen=True)
class Trial:
    """One thing to run; everything that its result depends on, but the machine."""

    adapter: Adapter
    contestant: Contestant
    scene: Scene
    views: tuple[str, ...]
    seed: int
    device: str
    policy: Policy
    truth: str  # the kind whose cameras and surface are given to adapters that take them
    order: Order = "spread"  # of the views held back, as of those given
    site: Site = HERE  # where it is to run

    @property
    def system(self) -> str:
        """What tables call it: see `system_label`."""
        return system_label(self.adapter.name, self.contestant.options, self.weights)

    @property
    def given(self) -> tuple[str, ...]:
        """What the adapter gets beside images, in a fixed order."""
        wanted = {*self.adapter.card.requires, *self.contestant.give}
        return tuple(given for given in ("masks", "cameras", "targets", "truth") if given in wanted)

    @property
    def inputs(self) -> str:
        """The first half of the trial's table: "images+masks+cameras". Targets help nobody to reconstruct."""
        return "+".join(("images", *(given for given in self.given if given != "targets")))

    @property
    def cameras_of(self) -> TruthKind | None:
        """The truth whose cameras the adapter gets; None where it gets none."""
        if "cameras" not in self.given:
            return None
        return next((kind for kind in self.scene.truth_kinds if kind == self.truth), None)

    @property
    def targets(self) -> tuple[str, ...]:
        """The views held back to be rendered: the next ones of the nested order."""
        if "targets" not in self.given or self.lacks:
            return ()
        order = _placed_order(self.scene, self.truth, self.seed, self.order)
        return tuple([view for view in order if view not in self.views][:TARGETS])

    @functools.cached_property
    def environment(self) -> str:
        """Id of what it runs in: see `Site.environment`."""
        return self.site.environment(self.adapter)

    @functools.cached_property
    def weights(self) -> str:
        """Id of its weights: see `Site.weights`."""
        return self.site.weights(self.adapter, self.contestant.weights)

    @property
    def available(self) -> bool:
        """Whether environment and weights are where it is to run."""
        return self.environment != ABSENT and self.weights != weights.PRETRAINED

    @functools.cached_property
    def lacks(self) -> str:
        """What the scene cannot give of what the trial asks for, in one sentence; "" where it can be run."""
        if "masks" in self.given:
            named = {view.name: view.mask for view in self.scene.file.views}
            bare = [v for v in self.views if (mask := named[v]) is None or not (self.scene.path / mask).is_file()]
            if bare:
                return f"it needs masks, and there is none for {shortened(bare)}"
        needs = [given for given in ("cameras", "truth") if given in self.given]
        if needs and self.truth not in self.scene.truth_kinds:
            others = " or ".join(f"--truth {kind}" for kind in self.scene.truth_kinds)
            hint = f"; it can run with {others}" if others else ""
            return f"it needs {' and '.join(needs)}, and the scene has no {self.truth} ground truth{hint}"
        return ""

    @property
    def label(self) -> str:
        """For people: what tells it from the other trials of a suite, but for its seed."""
        given = f", given {'+'.join(self.contestant.give)}" if self.contestant.give else ""
        return f"{self.system} on {self.scene.name}, {len(self.views)} views{given}"

    def make_views(self) -> Views:
        """The arrays to give: images and what the trial gives, nothing else. InputError where the scene lacks it."""
        if self.lacks:
            raise InputError(f"{self.scene.path}: {self.system}: {self.lacks}")
        cameras, truth, targets, sizes = self._geometry
        return Views(
            images=self.scene.images(self.views),
            names=tuple(f"{i:03d}" for i in range(len(self.views))),
            masks=self.scene.masks(self.views) if "masks" in self.given else None,
            cameras=cameras,
            truth=truth,
            targets=targets,
            target_sizes=sizes,
        )

    def left_out(self, reason: str, views: int | None = None) -> LeftOut:
        """What is kept of a trial that is not run; `views`: how many were asked for, where they are not there."""
        count = len(self.views) if views is None else views
        options, weights = self.contestant.options, self.weights
        return LeftOut(self.adapter.name, self.inputs, self.scene.name, count, self.seed, reason, options, weights)

    @property
    def command(self) -> str:
        """The command line that runs this trial again, from whichever folder, into a store of its own.

        Parsed back, it is a trial of the same key."""
        scene, wanted = self.scene.path, self.contestant.weights
        named = wanted in (weights.PRETRAINED, weights.RANDOM)
        photos, embedded = not (scene / "scene.json").is_file(), scene.parent == EMBEDDED
        parts = ["reconbench", "run", "--adapters", list_text([self.adapter.argument])]
        place = self.scene.name if embedded else str(scene.resolve())
        parts += ["--images", place] if photos else ["--scenes", list_text([place])]
        parts += ["--views", str(len(self.views)), "--seeds", str(self.seed), "--order", self.order]
        parts += ["--draws", "1"] if self.adapter.card.stochastic else []
        parts += ["--device", self.device, "--truth", self.truth]
        parts += ["--weights", wanted if named else str(Path(wanted).expanduser().absolute())]
        parts += ["--give", ",".join(self.contestant.give)] if self.contestant.give else []
        for name, value in self.contestant.options.items():
            parts += ["--option", f"{name}={option_text(value)}"]
        for field, limit in msgspec.to_builtins(self.policy).items():
            flag = "--" + field.removesuffix("_gib").replace("_", "-")
            parts += [flag, str(limit)] if not isinstance(limit, bool) else [flag] if limit else []
        return shlex.join([*parts, "--store", "runs/again"])

    @functools.cached_property
    def _geometry(self) -> tuple[Cameras | None, Surface | None, Cameras | None, I32 | None]:
        """What is given beside images and masks: cameras, truth, targets and their sizes."""
        if self.lacks or not {"cameras", "truth"} & set(self.given):
            return None, None, None, None
        known = read_truth(self.scene, self.truth)
        cameras = _cameras_of(known, self.views, self.scene) if "cameras" in self.given else None
        truth = _surface_of(self.scene, self.truth) if "truth" in self.given else None
        if not self.targets:
            return cameras, truth, None, None
        sizes = known.sizes[[known.view_names.index(view) for view in self.targets]]
        return cameras, truth, _cameras_of(known, self.targets, self.scene), sizes

    @functools.cached_property
    def inputs_hash(self) -> str:
        """24 hex digits over all that the worker is given: bytes of images and masks and what decodes them, cameras,
        surface."""
        parts = [decoder(), *(digest(self.scene.image_path(view)) for view in self.views)]
        if self.lacks:
            return hashlib.sha256("\n".join([*parts, self.lacks]).encode()).hexdigest()[:24]
        if "masks" in self.given:
            parts += [digest(self.scene.mask_path(view)) for view in self.views]
        cameras, truth, targets, sizes = self._geometry
        for known in filter(None, (cameras, targets)):
            parts += [_sha256(known.intrinsics), _sha256(known.camera_from_world)]
        if sizes is not None:
            parts.append(_sha256(sizes))
        if truth is not None:
            parts += [_sha256(truth.points), _sha256(truth.normals), repr(truth.diameter)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    @functools.cached_property
    def identity(self) -> str:
        """24 hex digits over all that the prediction depends on, wherever and however long it is computed."""
        return self._identity(self.site.machines[0])

    def _identity(self, machine: Hardware) -> str:
        parts = [
            self.adapter.hash,
            self.environment,
            self.weights,
            self.contestant.options,
            self.inputs_hash,
            self.scene.name,
            self.views,
            self.seed,
            device_kind(self.device, machine),
            self.site.threads,
        ]
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:24]

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """One key for each kind of machine that may run it. 24 hex digits: the identity there, how it is timed and
        stopped, and the machine. Another machine times anew."""
        parts = ([self._identity(machine), self.policy, machine.fingerprint] for machine in self.site.machines)
        return tuple(hashlib.sha256(msgspec.json.encode(part)).hexdigest()[:24] for part in parts)

    @property
    def key(self) -> str:
        """The key on this machine, or on the first kind of those that may run it."""
        return self.keys[0]


def plan(
    suite: Suite,
    scenes: list[Scene] | None = None,
    left_out: Callable[[LeftOut], None] = lambda left: None,
    remark: Callable[[str], None] = lambda sentence: None,
    site: Site = HERE,
) -> list[Trial]:
    """Every trial of `suite` at `site`, in the order to run them: every contestant's first view count scene by scene,
    then the second ones, so that a budget that ends early has measured all contestants on the same scenes. A stochastic
    system is planned `suite.draws` times on the same views, each time with another seed.

    Views are drawn from the photos that have a camera under the suite's truth: `remark` gets a sentence that names the
    others, and one where a scene's truth was refused. A count above theirs is not run: `left_out` is told of it. A
    trial whose scene lacks what it asks for is planned: its row says why it was not run (see `Trial.lacks`). InputError
    where that holds of every trial."""
    contestants = [(contestant, get_adapter(contestant.name)) for contestant in suite.adapters]
    for contestant, adapter in contestants:
        if extra := [given for given in contestant.give if given not in adapter.card.accepts]:
            raise InputError(f"adapter {adapter.name} does not accept {', '.join(extra)}")
    ordered: list[tuple[int, int, Trial]] = []
    for scene in scenes if scenes is not None else get_scenes(suite.scenes):
        if reasons := scene.refused:
            remark(f"{scene.name}: its ground truth was refused, so nothing is scored against it: {reasons}")
        for repeat, seed in enumerate(suite.seeds):
            order = _placed_order(scene, suite.truth, seed, suite.order)
            if len(order) < len(scene.view_names):
                missing = shortened(sorted({*scene.view_names} - {*order}))
                remark(
                    f"{scene.name}: not given to any system: {missing}, without a camera under the {suite.truth} truth"
                )
            for contestant, adapter in contestants:
                asked = (len(order) if count == ALL_VIEWS else count for count in contestant.views or suite.views)
                for turn, count in enumerate(dict.fromkeys(asked)):
                    views = tuple(sorted(order[:count]))
                    device, policy, truth = suite.device, suite.policy, suite.truth
                    trial = Trial(adapter, contestant, scene, views, seed, device, policy, truth, suite.order, site)
                    if count > len(order):
                        left_out(trial.left_out(f"{count} views asked for, {len(order)} seen", count))
                        continue
                    _ = trial.weights  # InputError where those asked for lead nowhere
                    runs = trial.available and not trial.lacks  # else one row says why not
                    samples = suite.draws if adapter.card.stochastic and runs and not _timed_only(trial) else 1
                    drawn = (dataclasses.replace(trial, seed=seed + VIEW_SEEDS * draw) for draw in range(samples))
                    ordered.extend((turn, repeat, sample) for sample in drawn)
    trials = [trial for _, _, trial in sorted(ordered, key=lambda entry: entry[:2])]
    if trials and all(trial.lacks for trial in trials):
        first = trials[0]
        raise InputError(f"{first.scene.path}: {first.system}: {first.lacks}")
    return trials


def shortened(names: Sequence[str], most: int = 12) -> str:
    """`names` joined by commas; of more than `most` the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def runnable(scene: Scene) -> list[str]:
    """The systems that can be run here on a folder of photos; InputError where there is none."""
    given = {"masks"} if scene.has_masks else set[str]()
    names = [
        adapter.name
        for adapter in _for_photos()
        if _fits(adapter, len(scene.view_names)) and given.issuperset(adapter.card.requires) and _here(adapter, scene)
    ]
    if not names:
        raise InputError(
            f"{scene.path}: no system here runs on {len(scene.view_names)} images; `reconbench adapters list`"
        )
    return names


def contestants_for(
    scene: Scene, truth: str, counts: Sequence[int], names: Sequence[str] | None = None
) -> list[Contestant]:
    """The systems to choose among on a scene with `truth`, each at those of `counts` that its card and the number of
    placed photos allow: all that photos can be given to, or those of `names`. What is not installed, and what lacks an
    input, is there once, so that its row says what is missing. InputError where no count is left."""
    placed = len(_placed_order(scene, truth, 0, "spread"))
    fitting = [count for count in dict.fromkeys(counts) if count <= placed]
    if not fitting:
        raise InputError(f"{scene.path}: {placed} photos have a camera, at least {min(counts)} wanted")
    chosen = [get_adapter(name) for name in names] if names is not None else list(_for_photos())
    out = []
    for adapter in chosen:
        own = [count for count in fitting if _fits(adapter, count)]
        masked = "masks" not in adapter.card.requires or scene.has_masks
        if own:
            views = tuple(own if masked and _here(adapter, scene) else own[:1])
            out.append(Contestant(name=adapter.argument, views=views))
    if not out:
        raise InputError(f"{scene.path}: no system runs on {', '.join(map(str, fitting))} photos")
    return out


def _for_photos() -> Iterator[Adapter]:
    """Every system but references and those that know our procedural objects alone: these have nothing to say."""
    for adapter in find_adapters().values():
        if not adapter.card.reference and adapter.card.training != [OWN_FAMILY]:
            yield adapter


def _fits(adapter: Adapter, count: int) -> bool:
    return adapter.card.min_views <= count <= (adapter.card.max_views or count)


def _here(adapter: Adapter, scene: Scene) -> bool:
    """Whether its environment and weights are on this machine."""
    trial = Trial(adapter, Contestant(name=adapter.argument), scene, scene.view_names, 0, "cpu", Policy(), "colmap")
    return trial.available


def _placed_order(scene: Scene, truth: str, seed: int, order: Order) -> list[str]:
    """`view_order` of the views that have a camera under `truth`; of all where the scene has no such truth."""
    if truth not in scene.truth_kinds:
        return view_order(scene, seed, order)
    known = {*read_truth(scene, truth).view_names}
    return view_order(scene, seed, order, [name for name in scene.view_names if name in known])


def _timed_only(trial: Trial) -> bool:
    """Whether nothing of it is scored, so that one sample tells as much as several."""
    return trial.policy.timing_only or trial.contestant.weights == weights.RANDOM


def view_order(scene: Scene, seed: int, order: Order = "spread", among: Sequence[str] | None = None) -> list[str]:
    """Every view of the scene, or those `among` them, nested and seeded; by the exact cameras where there are some.

    `spread`: as far apart as they go. `overlap`: each shares surface with an earlier one, see `data.subsets`.
    `sequence`: as the scene has them, so that a count takes the first frames of a video, whatever the seed. Where
    most views share size and focal length, as many systems take for granted, these come first, and the others after
    them; where no such group holds half of the views, all count alike. Seeds that differ by `VIEW_SEEDS` order views
    alike."""
    seed %= VIEW_SEEDS
    own = [view for view in scene.file.views if among is None or view.name in among]
    if order == "sequence":
        return [view.name for view in own]
    main, size = Counter(view.group for view in own).most_common(1)[0]
    views = [(view.name, view.group == main or 2 * size < len(own)) for view in own]
    parts = (tuple(name for name, first in views if first == part) for part in (True, False))
    path, kinds = scene.path.resolve(), scene.truth_kinds
    return [name for part in parts if part for name in _view_order(path, part, kinds, seed, order)]


@functools.lru_cache(maxsize=64)
def _view_order(path: Path, names: tuple[str, ...], kinds: tuple[str, ...], seed: int, order: Order) -> tuple[str, ...]:
    for kind in kinds:
        truth = _read_truth(path, kind)
        if set(names) <= set(truth.view_names):
            own = [truth.view_names.index(name) for name in names]
            if order == "overlap":
                return tuple(names[i] for i in overlap_order(_shared_surface(path, kind, tuple(own)), seed))
            directions = view_directions(truth.cameras.take(own), np.median(truth.points, axis=0))
            return tuple(names[i] for i in nested_order(directions, seed))
    count = len(names)
    chosen = overlap_order(sequence_overlap(count), seed) if order == "overlap" else even_order(count, seed)
    return tuple(names[i] for i in chosen)


@functools.lru_cache(maxsize=16)
def _shared_surface(path: Path, kind: str, views: tuple[int, ...]) -> F64:
    return shared_surface(read_truth(Scene.open(path), kind), list(views))


def estimate_seconds(trial: Trial, known: list[TrialRecord]) -> float:
    """Seconds that the trial will take: from records of the same adapter on this machine, else from its card.

    From a record at another view count the time grows as the card says, and as the ratio of the counts where the
    card says nothing of it."""
    calls = 1 + trial.policy.warmups + trial.policy.repeats
    base, per_view = trial.adapter.card.estimate_seconds
    of_card = base + per_view * len(trial.views)
    same = [r for r in known if r.adapter_hash == trial.adapter.hash and r.weights == trial.weights and r.cold]
    per_call = of_card
    if same:
        near = min(same, key=lambda r: abs(np.log(len(r.views) / len(trial.views))))
        growth = of_card / (base + per_view * len(near.views)) if of_card > 0 else len(trial.views) / len(near.views)
        per_call = near.cold.total * growth if near.cold else of_card
    warm = min(per_call * (calls - 1), trial.policy.max_seconds) if per_call <= trial.policy.max_seconds else 0.0
    return min(per_call + warm + 1.0, trial.policy.deadline)  # a second to start the worker and score


@functools.lru_cache(maxsize=8)
def _read_truth(path: Path, kind: str) -> Truth:
    return Scene.open(path).truth(kind)


def read_truth(scene: Scene, kind: str) -> Truth:
    """A scene's truth, read once a process."""
    return _read_truth(scene.path.resolve(), kind)


def _sha256(array: NDArray[np.generic]) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()


def _cameras_of(truth: Truth, views: tuple[str, ...], scene: Scene) -> Cameras:
    if missing := [view for view in views if view not in truth.view_names]:
        raise InputError(f"{scene.path}: the {truth.kind} truth has no camera for view {', '.join(missing[:5])}")
    return truth.cameras.take([truth.view_names.index(view) for view in views])


def _surface_of(scene: Scene, kind: str) -> Surface:
    """What reference adapters are given: the exact surface where the scene has one, drawn afresh, so that an oracle
    reads the floor under the exact truth, and the judge's own error under COLMAP's; else the truth's points."""
    known = read_truth(scene, "exact" if "exact" in scene.truth_kinds else kind)
    if known.vertices is None or known.faces is None:
        return Surface(known.points, known.normals, known.diameter)
    mesh = trimesh.Trimesh(known.vertices, known.faces, process=False)
    points, index = trimesh.sample.sample_surface(mesh, len(known.points), seed=2)
    normals = np.asarray(mesh.face_normals[index], np.float32)
    return Surface(np.asarray(points, np.float32), normals, known.diameter)
