"""What an adapter must keep to be benchmarked: run it as the benchmark would, and check what comes back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adapters.contract import InputError, Reconstruction
from bench.systems.cards import Adapter
from bench.systems.measure import Outcome, Policy
from bench.systems.process import run_adapter
from bench.systems.weights import PRETRAINED, RANDOM
from bench.trials.plan import Trial, read_truth, view_order
from bench.trials.plausible import plausibility
from bench.trials.suite import Contestant
from data.scene import Scene

REPROJECTION_PIXELS = 2.0  # allowed median distance between a point's pixel and its projection by its own camera
VIEWS = 8
DEADLINE = Policy().deadline  # seconds; of a struct's class it is no number


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    name: str
    verdict: Literal["pass", "fail", "skip"]
    detail: str = ""


def check_adapter(
    adapter: Adapter, scene: Scene, device: str = "cpu", weights: str = PRETRAINED, deadline: float = DEADLINE
) -> Iterator[Check]:
    """Check `adapter` on `scene`, a result at a time, `deadline` seconds for each run; nothing is stored. Random
    weights give no result to check."""
    try:
        card = adapter.card
    except InputError as error:
        yield Check("card", "fail", str(error))
        return
    yield Check("card", "pass", f"{card.title}; {card.scope}; takes {', '.join(['images', *card.accepts])}")
    order = view_order(scene, 0)
    # Neighbours rather than spread views: every reconstructor can be asked to do its job on them.
    count = min(max(card.min_views, VIEWS), card.max_views or VIEWS, len(order))
    views = tuple(sorted(order)[:count])
    policy = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=deadline)
    truth = "exact" if "exact" in scene.truth_kinds else "colmap"
    # One object of a photo is what suites cut out for a system of objects.
    cut = card.scope == "object" and "masks" in card.accepts and scene.has_masks
    contestant = Contestant(name=card.name, weights=weights, give=["masks"] if cut else [])
    trial = Trial(adapter, contestant, scene, views, 0, device, policy, truth)
    given = trial.make_views()
    run = functools.partial(run_adapter, adapter, given, policy=policy, device=device, weights=weights)
    outcome, _ = run(options={"no_such_option_": 1})
    refused = outcome.status == "crash" and "no_such_option_" in outcome.message
    if outcome.status == "unavailable":
        yield Check("runs", "fail", f"unavailable: {outcome.message}")
        return
    yield Check("unknown option refused", "pass" if refused else "fail", outcome.message[:200])
    outcome, result = run()
    if outcome.status == "ok" and outcome.cold is not None and result is None:
        yield Check(f"runs on {count} views", "pass", f"{outcome.cold.infer:.2f} s; {outcome.message}")
        return
    if result is None or outcome.cold is None:
        yield Check(f"runs on {count} views", "fail", f"{outcome.status}: {outcome.message}")
        return
    yield Check(
        f"runs on {count} views", "pass", f"{len(result.points)} points, {outcome.cold.total:.2f} s, contract kept"
    )
    yield _reprojection(result)
    yield _frame(result, trial)
    if card.weights is not None:
        random = functools.partial(run, weights=RANDOM, finish_random=True) if weights != RANDOM else None
        yield _sense(result, trial, adapter, random)
    if not card.deterministic:
        yield Check("deterministic", "skip", "the card says it is not")
        return
    _, again = run()
    same = again is not None and _equal(result, again)
    yield Check(
        "deterministic",
        "pass" if same else "fail",
        "two fresh processes, equal to the last bit"
        if same
        else "two fresh processes differ; say deterministic = false, or mend it",
    )


def _reprojection(result: Reconstruction) -> Check:
    """Catches a pose in the wrong direction, a crop not undone, intrinsics of the resized image."""
    name = "points project onto their pixels"
    if result.cameras is None or result.registered is None or result.view_index is None or result.pixel is None:
        return Check(name, "skip", "needs cameras and pixels")
    errors = []
    for view in np.flatnonzero(result.registered):
        own = result.view_index == view
        if own.any():
            where, _ = result.cameras.project(int(view), result.points[own])
            errors.append(np.linalg.norm(where - result.pixel[own], axis=1))
    if not errors:
        return Check(name, "fail", "no point belongs to a registered view")
    median = float(np.median(np.concatenate(errors)))
    return Check(name, "pass" if median <= REPROJECTION_PIXELS else "fail", f"median {median:.3f} px")


def _frame(result: Reconstruction, trial: Trial) -> Check:
    """The frame named is the frame used."""
    name = f"frame is {result.frame}"
    if result.frame == "first_camera" and result.cameras is not None and result.registered is not None:
        first = np.flatnonzero(result.registered)[:1]
        off = np.abs(result.cameras.camera_from_world[first] - np.eye(4)).max(initial=0.0)
        return Check(name, "pass" if off < 1e-6 else "fail", f"first registered camera is {off:.2g} off the identity")
    if result.frame == "world" and "cameras" not in trial.given:
        return Check(name, "fail", "no cameras were given, so there is no world to be in")
    return Check(name, "pass")


def _sense(
    result: Reconstruction,
    trial: Trial,
    adapter: Adapter,
    run_random: Callable[[], tuple[Outcome, Reconstruction | None]] | None,
) -> Check:
    """Of a network with weights: catches wrong ones, and inputs that are not what it was trained on.

    It must keep fixed bounds, and beat itself with random weights (`run_random`)."""
    name = "answers make sense"
    truth = read_truth(trial.scene, trial.truth)
    if any(view not in truth.view_names for view in trial.views):
        return Check(name, "skip", f"a view has no true camera in the {trial.truth} truth")
    judged = plausibility(result, truth, trial.views)
    if not str(judged):
        return Check(name, "skip", "needs cameras, or pixels and true depth")
    faults = judged.faults
    beaten = ""
    if not faults and run_random is not None:
        outcome, untrained = run_random()
        if untrained is None:
            beaten = f"; with random weights it gives no answer to compare with ({outcome.status})"
        else:
            chance = plausibility(untrained, truth, trial.views)
            beaten = f"; with random weights {chance}"
            if not judged.beats(chance):
                faults = [f"{judged}, which random weights reach as well: {chance}"]
    if not faults:
        return Check(name, "pass", f"{judged}{beaten}")
    causes = (
        "--device cpu (precision)",
        f"`reconbench adapters fetch {adapter.argument}` (weights of another version)",
        f"`reconbench adapters remove {adapter.argument}` and install (packages of another version)",
    )
    why = "; ".join(faults)
    return Check(name, "fail", f"installed, but its answers are no better than chance: {why}. Try {', '.join(causes)}")


def _equal(a: Reconstruction, b: Reconstruction) -> bool:
    first, second = a.arrays(), b.arrays()
    return first.keys() == second.keys() and all(
        np.array_equal(first[k], second[k], equal_nan=first[k].dtype.kind == "f") for k in first
    )
