"""What a node of a cluster does: the messages it is sent and answers with, and the functions that Ray calls there.

Each function takes and gives bytes that msgspec wrote, and raises nothing: Ray would pickle it."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import msgspec

from adapters.contract import InputError, Unavailable
from bench.engines.engine import Settings, run_and_keep, score_kept
from bench.engines.local import overhead_seconds
from bench.systems import environments, weights
from bench.systems.cards import Adapter, get_adapter
from bench.systems.measure import Hardware, Policy, hardware, version
from bench.systems.walls import HOUSE, thread_settings
from bench.trials.plan import Trial
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.scenes import EMBEDDED, get_scene, scene_of_images
from bench.trials.shared import opened
from bench.trials.site import ABSENT
from bench.trials.suite import Contestant
from data.scene import Scene
from data.subsets import Order
from metrics.scoring.compile import compile_kernels

ROOMS = ("adapters", "bench", "data", "metrics", "reports")


class TrialMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trial as a node is told of it, with what it must find there."""

    adapter: str
    contestant: Contestant
    scene: str
    views: tuple[str, ...]
    seed: int
    device: str
    policy: Policy
    truth: str
    order: Order
    expected: dict[str, str]  # see `_expected`

    @staticmethod
    def of(trial: Trial) -> TrialMessage:
        return TrialMessage(
            trial.adapter.argument,
            trial.contestant,
            scene_name(trial.scene),
            trial.views,
            trial.seed,
            trial.device,
            trial.policy,
            trial.truth,
            trial.order,
            _expected(trial),
        )

    def trial(self) -> Trial:
        """The trial, to be run on this machine; InputError where something here is not as it was planned."""
        trial = Trial(
            _adapter(self.adapter),
            self.contestant,
            _scene(self.scene),
            self.views,
            self.seed,
            self.device,
            self.policy,
            self.truth,
            self.order,
        )
        for what, observed in _expected(trial).items():
            if observed != self.expected[what]:
                raise InputError(f"{trial.label}: {what} {observed} seen, {self.expected[what]} wanted as planned")
        return trial


def _expected(trial: Trial) -> dict[str, str]:
    """Hashes that are the same wherever the trial runs."""
    return {
        "the adapter's files": trial.adapter.hash,
        "environment": trial.environment,
        "weights": trial.weights,
        "images and cameras": trial.inputs_hash,
    }


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node is to do: run the trial unless `record` is there, and score it unless that comes later."""

    trial: TrialMessage
    store: str
    settings: Settings
    record: TrialRecord | None
    score: bool
    most_seconds: float


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of it; `reason` where it was not done."""

    record: TrialRecord | None = None
    scores: list[ScoreRecord] = []
    reason: str = ""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node is asked before anything is planned."""

    systems: list[tuple[str, str]]  # adapter and weights
    scenes: list[str]
    install: bool


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node says of itself."""

    hardware: Hardware
    threads: dict[str, str]
    code: str  # of Reconbench
    scenes: list[str]  # digests
    environments: list[str]
    weights: list[str]
    lacks: list[str]  # why an environment or weights are absent, a sentence each
    niceness: int = 0  # of what Ray runs there
    problem: str = ""


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node is to make ready for."""

    store: str
    run: str
    settings: Settings
    scored: bool


def work(message: bytes) -> bytes:
    """`Task` -> `Answer`: runs the trial here, scores it, or both; what cannot be done here is the answer's reason."""
    try:
        answer = _worked(msgspec.msgpack.decode(message, type=Task))
    except Exception as error:  # noqa: BLE001 - one trial that cannot be run here is left out, with the reason
        known = isinstance(error, (InputError, OSError))
        answer = Answer(reason=f"node {_address()}: {error if known else f'{type(error).__name__}: {error}'}")
    return msgspec.msgpack.encode(answer)


def _worked(task: Task) -> Answer:
    trial = task.trial.trial()
    with opened(task.store) as store:
        record = task.record
        if record is None:
            record = run_and_keep(trial, store, task.settings.keep_points, task.most_seconds)
        scored = record is not None and task.score
        return Answer(record, score_kept(trial, record, store, task.settings) if record is not None and scored else [])


def survey(message: bytes) -> bytes:
    """`Question` -> `Facts`: what this machine is, and what it has of the systems and scenes asked for."""
    question = msgspec.msgpack.decode(message, type=Question)
    try:
        scenes = [scene_digest(scene) for scene in question.scenes]
        systems = [_looked_up(_adapter(name), asked, question.install) for name, asked in question.systems]
        facts = Facts(
            hardware(),
            thread_settings(),
            code_hash(),
            scenes,
            [environment for environment, _, _ in systems],
            [id for _, id, _ in systems],
            [lack for _, _, lack in systems],
            os.nice(0),
        )
    except (InputError, OSError) as error:
        facts = Facts(hardware(), {}, "", [], [], [], [], problem=str(error))
    return msgspec.msgpack.encode(facts)


def _looked_up(adapter: Adapter, asked: str, install: bool) -> tuple[str, str, str]:
    """Environment and weights of `adapter` here, and why one of them is absent."""
    lacks, environment, id = "", ABSENT, asked
    try:
        if install and adapter.card.environment.own:
            environments.install(adapter)
        environment = environments.find(adapter).id
    except (Unavailable, InputError) as error:  # InputError: the step of its install that failed
        lacks = str(error)
    try:
        id = weights.resolve(adapter, asked).id
    except Unavailable as error:
        lacks = lacks or str(error)
    return environment, id, lacks


def make_ready(message: bytes) -> bytes:
    """`Ready` -> `Answer`: sees that the store is the one meant, compiles what scores; a reason where it is not."""
    ready = msgspec.msgpack.decode(message, type=Ready)
    answer = Answer()
    try:
        with opened(ready.store) as store:
            if not store.has_run(ready.run):
                raise InputError(
                    f"{ready.store}: not the store that is here; a folder that all share, or a URL, wanted"
                )
        if ready.scored:
            compile_kernels(ready.settings.protocols[0])
    except (InputError, OSError) as error:
        answer = Answer(reason=str(error))
    return msgspec.msgpack.encode(answer)


def overhead(message: bytes) -> bytes:
    """-> float: seconds, see `overhead_seconds`."""
    return msgspec.msgpack.encode(overhead_seconds())


@functools.cache
def _adapter(argument: str) -> Adapter:
    return get_adapter(argument)


@functools.cache
def _scene(name: str) -> Scene:
    path = Path(name)
    return scene_of_images(path) if path.is_absolute() and not (path / "scene.json").is_file() else get_scene(name)


def scene_name(scene: Scene) -> str:
    """What every node knows it by: a name where it ships with Reconbench, else its path."""
    path = scene.path.resolve()
    return path.relative_to(EMBEDDED).as_posix() if path.is_relative_to(EMBEDDED) else str(path)


def scene_digest(name: str) -> str:
    """Of what names its files; the files themselves are known by their hashes when they are used."""
    return hashlib.sha256(msgspec.json.encode(_scene(name).file)).hexdigest()[:16]


@functools.cache
def code_hash() -> str:
    """12 hex digits over Reconbench's own code."""
    total = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((HOUSE / room).rglob("*.py")):
            total.update(f"{path.relative_to(HOUSE)}\0".encode() + path.read_bytes())
    return f"{version()} {total.hexdigest()[:12]}"


def _address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())
