"""The training loop: stages of steps, checkpoints that a killed training resumes from to the same curve.

Every step draws its batch from a generator of its own, seeded by (seed, stage, step): nothing of the random state has
to be saved, and the curve does not depend on where a training was interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
import torch

from adapters.contract import InputError
from adapters.shared.latent import Shapes, read_weights
from bench.training.networks import Batch, Needs, Network, Stage, Tensors, draw
from data.synthetic.family import Family

WARM_UP = 100  # steps
DECAY = 0.998  # of the moving average of the weights, which is what is kept; less early on
CHECKPOINT = "checkpoint.pt"
Draw = Callable[[int, Needs, np.random.Generator], Batch]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What, with the code and the data, decides a training's result."""

    network: str
    steps: tuple[int, ...]  # of each stage
    batch: int = 32
    objects: int = 2048  # of the training split
    seed: int = 0
    every: int = 250  # steps between validations and checkpoints
    until: int = 0  # the step of the last stage at which training ends; 0: the last
    cool: int = 0  # steps before it over which the rate falls to zero
    begun_from: str = ""  # sha256 of the weights file that this training begins with


class Row(msgspec.Struct, frozen=True):
    """One point of the curve."""

    stage: str
    step: int
    train: float  # mean loss since the last row
    validation: float  # of the averaged weights
    seconds: float  # of the stage so far, over all sittings


@dataclass
class _State:
    """Where a training stands. `seconds` is of the stage."""

    stage: int
    step: int
    seconds: float
    weights: Tensors
    average: Tensors
    optimiser: torch.optim.Optimizer
    losses: list[float]
    curve: list[Row]


def initial(shapes: dict[str, Shapes] | Network, seed: int) -> dict[str, np.ndarray]:
    """Weights drawn as torch's layers draw theirs: uniform within 1 / sqrt(inputs); norms at one and zero."""
    parts = shapes.shapes if isinstance(shapes, Network) else shapes
    rng = np.random.default_rng([11, seed])
    weights: dict[str, np.ndarray] = {}
    for part, entries in parts.items():
        for name, shape in entries.items():
            kernel = entries.get(name.removesuffix("bias") + "weight", shape)
            limit = 1 / math.sqrt(math.prod(kernel[1:])) if len(kernel) > 1 else 0.0
            values = rng.uniform(-limit, limit, shape)
            if name.endswith("norm.weight"):
                values = np.ones(shape)
            weights[f"{part}.{name}"] = values.astype(np.float32)
    return weights


def train(
    network: Network,
    settings: Settings,
    data: Path,
    run: Path,
    device: str = "cpu",
    begin: Path | None = None,
    stop_at: float = math.inf,
    stop_after: int = -1,
    progress: Callable[[str], None] = lambda line: None,
) -> bool:
    """Train, or go on training, in the folder `run`; True where the last step was done, or step `stop_after` of the
    last stage, whose schedule stays as it is.

    Stops with a checkpoint when the clock (time.time) passes `stop_at`. Raises InputError where `run` holds a training
    with other settings. The rate falls along a cosine over a stage's steps, and linearly over the last
    `settings.cool` before `settings.until`; the averaged weights are fit to be used at any moment. `begin` is the file
    that `settings.begun_from` names: the parts `network.taken` begin as they are there."""
    if len(settings.steps) != len(network.stages):
        raise InputError(
            f"steps: {len(settings.steps)} numbers seen, one for each of {len(network.stages)} stages wanted"
        )
    run.mkdir(parents=True, exist_ok=True)
    wanted = msgspec.json.format(msgspec.json.encode(settings), indent=1)
    file = run / "settings.json"
    if file.is_file() and file.read_bytes() != wanted:
        raise InputError(f"{file}: a training with other settings; name another folder or delete this one")
    file.write_bytes(wanted)
    state = _load(network, settings, run, begin, device)
    if state.stage == len(network.stages):
        return True
    family = Family.open(data, "train", settings.objects)
    validation = Family.open(data, "val", 128)
    writer = _Writer(run, settings, network, len(state.curve))
    while state.stage < len(network.stages):
        if time.time() >= stop_at:
            return False
        stage = network.stages[state.stage]
        steps = settings.steps[state.stage]
        begun = time.perf_counter() - state.seconds
        trained = [value for name, value in state.weights.items() if stage.trains(name)]
        draws: Draw = partial(draw, family)
        if stage.encode is not None:
            encoded = stage.encode(state.average, family)
            draws = encoded.draw
            for name, value in stage.statistics(encoded).items():
                state.average[name].copy_(value)
                state.weights[name].data.copy_(value)
        fixed = _batches(validation, stage, device)
        final = stage is network.stages[-1]
        last = min(steps, settings.until) if settings.until and final else steps
        if final and state.step == stop_after:
            return True
        while state.step < last:
            cooling = min(1.0, (last - state.step) / settings.cool) if settings.cool and final else 1.0
            _step(stage, steps, cooling, settings, draws, state, trained, device)
            stopping = time.time() >= stop_at or (final and state.step == stop_after)
            if state.step % settings.every and state.step < last and not stopping:
                continue
            state.seconds = time.perf_counter() - begun
            if state.step % settings.every == 0 or state.step == last:
                with torch.no_grad():
                    score = float(np.mean([stage.score(state.average, batch) for batch in fixed]))
                row = Row(stage.name, state.step, float(np.mean(state.losses)), score, round(state.seconds, 1))
                state.curve.append(row)
                state.losses = []
                progress(f"{settings.network} {stage.name} {row.step}/{steps}: {row.train:.4f}, val {score:.4f}")
                writer.add(row)
            _save(state, run)
            if stopping and state.step < last:
                return final and state.step == stop_after
        # The next stage goes on from the averaged weights.
        state.weights = {name: value.clone().requires_grad_() for name, value in state.average.items()}
        state.stage, state.step, state.seconds = state.stage + 1, 0, 0.0
        if state.stage < len(network.stages):
            state.optimiser = _optimiser(network.stages[state.stage], state.weights)
        _save(state, run)
    return True


def _step(
    stage: Stage,
    steps: int,
    cooling: float,
    settings: Settings,
    draws: Draw,
    state: _State,
    trained: list[torch.Tensor],
    device: str,
) -> None:
    number = state.step + 1
    rng = np.random.default_rng([settings.seed, state.stage, number])
    batch = _to(draws(settings.batch, stage.needs, rng), device)
    for group in state.optimiser.param_groups:
        group["lr"] = stage.rate * cooling * min(number / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * number / steps))
    with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
        loss = stage.loss(state.weights, batch)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    state.optimiser.step()
    decay = min(DECAY, (1 + number) / (10 + number))
    with torch.no_grad():
        for name, value in state.weights.items():
            if stage.trains(name):
                state.average[name].lerp_(value, 1 - decay)
    state.losses.append(loss.item())
    state.step = number


def _optimiser(stage: Stage, weights: Tensors) -> torch.optim.Optimizer:
    trained = [value for name, value in weights.items() if stage.trains(name)]
    return torch.optim.AdamW(trained, stage.rate, weight_decay=0.01)


def _batches(validation: Family, stage: Stage, device: str) -> list[Batch]:
    """The same four batches of 64 at every validation."""
    needs = replace(stage.needs, queries=2048 if stage.needs.queries else 0, slopes=0)
    return [_to(draw(validation, 64, needs, np.random.default_rng([1, i])), device) for i in range(4)]


def _to(batch: Batch, device: str) -> Batch:
    return (
        batch if device == "cpu" else Batch(*(getattr(batch, name).to(device) for name in Batch.__dataclass_fields__))
    )


def _save(state: _State, run: Path) -> None:
    """Write the checkpoint so that a kill at any moment leaves the last one or this one."""
    record = {
        "stage": state.stage,
        "step": state.step,
        "seconds": state.seconds,
        "weights": {name: value.detach().cpu() for name, value in state.weights.items()},
        "average": {name: value.cpu() for name, value in state.average.items()},
        "optimiser": state.optimiser.state_dict(),
        "losses": state.losses,
        "curve": msgspec.json.encode(state.curve).decode(),
    }
    partial = run / f"{CHECKPOINT}.partial"
    torch.save(record, partial)
    partial.replace(run / CHECKPOINT)
    curve = run / "curve.json.partial"
    curve.write_bytes(msgspec.json.format(msgspec.json.encode(state.curve), indent=1))
    curve.replace(run / "curve.json")


def _load(network: Network, settings: Settings, run: Path, begin: Path | None, device: str) -> _State:
    """The run's last checkpoint, else its beginning."""
    path = run / CHECKPOINT
    if not path.is_file():
        begun = initial(network, settings.seed)
        begun |= _taken(network, begun, begin)
        drawn = {name: torch.from_numpy(value).to(device) for name, value in begun.items()}
        weights = {name: value.clone().requires_grad_() for name, value in drawn.items()}
        return _State(0, 0, 0.0, weights, drawn, _optimiser(network.stages[0], weights), [], [])
    record = torch.load(path, map_location=device, weights_only=True)
    weights = {name: value.requires_grad_() for name, value in record["weights"].items()}
    stage = min(record["stage"], len(network.stages) - 1)
    optimiser = _optimiser(network.stages[stage], weights)
    optimiser.load_state_dict(record["optimiser"])
    curve = msgspec.json.decode(record["curve"], type=list[Row])
    return _State(
        record["stage"],
        record["step"],
        record["seconds"],
        weights,
        record["average"],
        optimiser,
        record["losses"],
        curve,
    )


def _taken(network: Network, begun: Mapping[str, np.ndarray], begin: Path | None) -> dict[str, np.ndarray]:
    """The weights that a training takes from the file `begin`; InputError where it needs some that are not there."""
    trained = {part for stage in network.stages for part in stage.parts}
    needed = [part for part in network.taken if part not in trained]
    if begin is None:
        if needed:
            raise InputError(f"no weights file to begin with named; one with the parts {', '.join(needed)} wanted")
        return {}
    given = read_weights(begin)
    taken = {name: given[name] for name in begun if name in given and name.split(".")[0] in network.taken}
    for name, value in begun.items():
        if name.split(".")[0] in needed and name not in taken:
            raise InputError(f"{begin}: {name} not there; the parts {', '.join(needed)} wanted")
        if name in taken and taken[name].shape != value.shape:
            raise InputError(f"{begin}: {name}: shape {taken[name].shape} seen, {value.shape} wanted")
    return taken


def averaged(run: Path) -> tuple[dict[str, np.ndarray], Settings, list[Row]]:
    """The averaged weights of a training, finished or not, its settings and curve."""
    if not (run / CHECKPOINT).is_file():
        raise InputError(f"{run / CHECKPOINT}: no checkpoint seen, a folder that was trained in wanted")
    record = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    settings = msgspec.json.decode((run / "settings.json").read_bytes(), type=Settings)
    weights = {name: value.numpy() for name, value in record["average"].items()}
    return weights, settings, msgspec.json.decode(record["curve"], type=list[Row])


class _Writer:
    """TensorBoard's log, where it is installed; `first` rows are there already."""

    def __init__(self, run: Path, settings: Settings, network: Network, first: int) -> None:
        names = [stage.name for stage in network.stages]
        self._start = dict(zip(names, accumulate(settings.steps, initial=0), strict=False))
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._inner = SummaryWriter(str(run / "tensorboard"), purge_step=first)
        except ImportError:
            self._inner = None

    def add(self, row: Row) -> None:
        if self._inner is not None:
            step = self._start[row.stage] + row.step
            self._inner.add_scalar(f"{row.stage}/train", row.train, step)
            self._inner.add_scalar(f"{row.stage}/validation", row.validation, step)
            self._inner.flush()
