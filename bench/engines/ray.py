"""The trials of a plan as tasks of a Ray cluster that exists: `--engine ray`.

Every node runs Reconbench of its own, the same as here, and sees the store: a folder that all share, or a URL. Between
our processes travel function names and bytes that msgspec wrote, nothing that is pickled; what a system returns stays
behind the walls of its worker, on the node that ran it, as on one machine.

A node that is lost takes no trial with it: they are run on another. A trial that fails, or whose process is killed, is
not run again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from adapters.contract import InputError, Unavailable
from bench.engines.engine import Finished, Job, Settings, run_and_keep, score_kept
from bench.engines.local import overhead_seconds
from bench.systems import environments, weights
from bench.systems.cards import Adapter, get_adapter
from bench.systems.measure import Hardware, Policy, hardware, version
from bench.systems.walls import HOUSE, thread_settings
from bench.trials.plan import Trial
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.scenes import EMBEDDED, get_scene, scene_of_images
from bench.trials.shared import opened
from bench.trials.site import ABSENT, Elsewhere
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene
from data.subsets import Order
from metrics.scoring.compile import compile_kernels

ADDRESS = "RAY_ADDRESS"
START = "`ray start --head` on one machine, `ray start --address=HOST:6379` on the others, RAY_ADDRESS=HOST:6379 here"
LOOPBACK = ("127.", "localhost", "[::1]")
ROOMS = ("adapters", "bench", "data", "metrics", "reports")
MOST_LOSSES = 3  # nodes that one trial may be lost with
MOST_TO_SCORE = 256  # trials that wait for their scores: each keeps its lock's file open
PATIENCE = 10.0  # seconds between looks at whether the cluster is still there
GRACE = 3.0  # seconds in which a node that ends says so: its processes end first


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
            _scene_name(trial.scene),
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


@dataclass(frozen=True)
class _Needs:
    """What a task takes of a node."""

    cpus: int
    gpus: int = 0
    memory: int = 0  # bytes; 0: whatever there is

    def fit(self, node: dict[str, Any]) -> int:
        """How many of them a node holds at once."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return min(int(node["Resources"].get(name, 0) // n) for name, n in wanted.items() if n)

    @property
    def options(self) -> dict[str, object]:
        """Ray's words for it; Ray itself runs nothing twice, since it does not tell why a process ended."""
        memory = {"memory": self.memory} if self.memory else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": 0, **memory}


@dataclass
class _Sent:
    """A task that the cluster holds."""

    job: Job
    task: Task
    needs: _Needs
    losses: int = 0


@contextlib.contextmanager
def connected(cpus: int, install: bool, report: Callable[[str], None]) -> Iterator[Cluster]:
    """The cluster that RAY_ADDRESS names, for trials of `cpus` processors.

    `install`: nodes install what they lack of the systems' environments. `report` gets a sentence for what takes long.
    InputError where there is no Ray, no address, nobody at it, or this machine is no part of that cluster."""
    if cpus < 1:
        raise InputError(f"--cpus: {cpus} seen, 1 or more wanted")
    address = os.environ.get(ADDRESS, "")
    host, _, port = address.rpartition(":")
    if not address or address == "local":
        raise InputError(f"--engine ray: {ADDRESS} is not set, a cluster's address wanted: {START}")
    if "://" in address or not (host and port.isdigit()):
        raise InputError(f"--engine ray: {ADDRESS}={address} seen, HOST:PORT wanted, on a machine of the cluster")
    if host.startswith(LOOPBACK):  # Ray would take it for the address by which others reach this machine
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray: Ray is not installed: `pip install 'reconbench[ray]'` brings it") from error
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()  # Ray itself waits for minutes
    except OSError as error:
        raise InputError(f"--engine ray: nobody answers at {ADDRESS}={address} ({error}): {START}") from error
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(cpus)) | thread_settings()
    with tempfile.TemporaryDirectory(prefix="reconbench-") as empty:
        try:
            # Its workers import from the folder where it starts before all others: ours might hold a package `data`.
            with contextlib.chdir(empty):
                ray.init(
                    address,
                    runtime_env={"env_vars": threads},
                    log_to_driver=False,
                    configure_logging=False,
                    logging_level=logging.ERROR,
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"--engine ray: {ADDRESS}={address}: {first}") from error
        try:
            yield Cluster(ray, cpus, install, report)
        finally:
            ray.shutdown()


class Cluster:
    """A Ray cluster that this process is connected to; an `Engine`."""

    def __init__(self, ray: Any, cpus: int, install: bool, report: Callable[[str], None]) -> None:
        self._ray, self._install, self._report = ray, install, report
        self._work = ray.remote(_work)  # once: each such function is sent to the cluster anew
        errors = ray.exceptions
        self._lost = (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError)
        self._run_needs, self._score_needs = _Needs(cpus), _Needs(cpus)
        self._running: dict[Any, _Sent] = {}  # by the reference that Ray gave
        self._to_score: deque[_Sent] = deque()
        self._tell: Callable[[str], None] = lambda sentence: None

    def site(self, suites: Sequence[Suite], scenes: Sequence[Scene]) -> Elsewhere:
        """What the nodes that can run `suites` on `scenes` bring to their trials.

        InputError where there is none, and where they differ from one another in more than their hardware."""
        device, memory = suites[0].device, max(suite.policy.memory_gib for suite in suites)
        if device not in ("cpu", "cuda", "cuda:0"):
            raise InputError(f"device {device} seen, cpu or cuda wanted: which GPU a trial gets, the cluster decides")
        cpus = self._run_needs.cpus
        self._run_needs = _Needs(cpus, int(device != "cpu"), int(memory * 2**30))
        systems = list(dict.fromkeys((get_adapter(c.name).argument, c.weights) for s in suites for c in s.adapters))
        question = Question(systems, [_scene_name(scene) for scene in scenes], self._install)
        nodes = self._nodes()
        able = [node for node in nodes if self._run_needs.fit(node)]
        if not able:
            observed = "; ".join(f"{_name(node)}: {_resources(node)}" for node in nodes) or "none"
            wanted = f"{cpus} CPU" + f", {self._run_needs.gpus} GPU" * bool(self._run_needs.gpus)
            wanted += f", {memory:g} GiB" * bool(memory)
            raise InputError(f"--engine ray: no node holds a trial ({wanted}); seen: {observed}")
        scoring = [node for node in nodes if node not in able and self._score_needs.fit(node)]
        if self._install:
            self._report("installing environments on the nodes: build steps of requirements run arbitrary code there")
        facts: dict[str, Facts] = self._ask(able, _survey, question, Facts)
        others = msgspec.structs.replace(question, systems=[])
        everywhere: dict[str, Facts] = facts | self._ask(scoring, _survey, others, Facts)
        if not facts:
            raise InputError("--engine ray: no node answers")
        for name, fact in everywhere.items():
            if fact.problem:
                raise InputError(f"node {name}: {fact.problem}")
        _agree({"this machine": _code()} | {name: f.code for name, f in everywhere.items()}, "Reconbench")
        for i, scene in enumerate(question.scenes):
            own = {"this machine": _scene_digest(scene)}
            _agree(own | {name: f.scenes[i] for name, f in everywhere.items()}, f"scene {scene}")
        for i, (system, _) in enumerate(systems):
            lacking = {name: f.lacks[i] for name, f in facts.items() if f.lacks[i]}
            if lacking and len(lacking) < len(facts):  # what no node has is a row that says so, as on one machine
                name, why = next(iter(lacking.items()))
                more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
                raise InputError(f"node {name}{more}: {system}: {why}; --install-on-nodes makes environments there")
            _agree({name: f.environments[i] for name, f in facts.items()}, f"the environment of {system}")
            _agree({name: f.weights[i] for name, f in facts.items()}, f"the weights of {system}")
        _agree({name: str(sorted(f.threads.items())) for name, f in facts.items()}, "the settings of threads")
        if device != "cpu":
            for name, fact in facts.items():
                if len({model.rpartition(",")[0] for model in fact.hardware.devices}) > 1:
                    raise InputError(f"node {name}: GPUs of several models seen, nodes of one model each wanted")
        if nice := [name for name, fact in facts.items() if fact.niceness > 0]:
            self._report(
                f"Ray gives way to all other work on {', '.join(nice)}: seconds may read too high. "
                "RAY_worker_niceness=0, set where `ray start` is called, mends it."
            )
        first = next(iter(facts.values()))
        return Elsewhere(
            tuple({fact.hardware.fingerprint: fact.hardware for fact in facts.values()}.values()),
            first.threads,
            {system: first.environments[i] for i, (system, _) in enumerate(systems)},
            {asked: first.weights[i] for i, asked in enumerate(systems)},
        )

    def describe(self) -> str:
        """How many trials run at once, and where."""
        nodes = self._able()
        return f"{len(nodes)} nodes, {sum(map(self._run_needs.fit, nodes))} trials at a time"

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep standard output clear of what Ray prints there: the end of the log of every node that it loses."""
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield

    @property
    def slots(self) -> int:
        """As `Engine.slots`: what runs, one more a node, so that none waits for us, and what waits for its scores."""
        return self._capacity + min(sum(sent.needs is not self._run_needs for sent in self._held), MOST_TO_SCORE)

    def open(self, store: Store, settings: Settings, run: str, scored: bool, tell: Callable[[str], None]) -> None:
        """As `Engine.open`."""
        self._settings, self._tell = settings, tell
        self._place = store.place if "://" in store.place else str(Path(store.place).absolute())
        nodes = [node for node in self._nodes() if self._run_needs.fit(node) or self._score_needs.fit(node)]
        answers: dict[str, Answer] = self._ask(nodes, _make_ready, Ready(self._place, run, settings, scored), Answer)
        for name, answer in answers.items():
            if answer.reason:
                raise InputError(f"node {name}: {answer.reason}")
        able = self._able()
        self._alive = {node["NodeID"] for node in nodes}
        at_once = sum(map(self._run_needs.fit, able))
        self._capacity = at_once + len(able)
        processors = sum(int(node["Resources"].get("CPU", 0)) for node in nodes)
        self._scoring_at_once = max(processors // self._score_needs.cpus - at_once, 1)
        self._tell(f"run by Ray on {len(able)} nodes, {at_once} trials at a time")

    def start(self, job: Job) -> None:
        """As `Engine.start`. A trial on a GPU frees it before it is scored."""
        task = Task(
            TrialMessage.of(job.trial),
            self._place,
            self._settings,
            job.record,
            job.record is not None or not self._run_needs.gpus,
            job.most_seconds,
        )
        if job.record is None:
            self._send(_Sent(job, task, self._run_needs))
        else:
            self._to_score.append(_Sent(job, task, self._score_needs))

    def finished(self) -> Finished:
        """As `Engine.finished`. InputError where the whole cluster is lost."""
        while True:
            while self._to_score and self._scoring < self._scoring_at_once:
                self._send(self._to_score.popleft())
            ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=PATIENCE)
            if not ready:
                if not self._able():
                    raise InputError(
                        "--engine ray: no node is left; what was finished is kept, the same command goes on"
                    )
                continue
            sent = self._running.pop(ready[0])
            answer = self._answer(ready[0], sent)
            if answer is None:
                continue
            if answer.record is None:
                return Finished(sent.job, None, reason=answer.reason)
            if sent.task.score:
                return Finished(sent.job, answer.record, answer.scores)
            task = msgspec.structs.replace(sent.task, record=answer.record, score=True)
            self._to_score.append(_Sent(sent.job, task, self._score_needs))

    def overhead_seconds(self) -> float | None:
        """As `Engine.overhead_seconds`, on one of the nodes; None where none is left."""
        able = self._able()
        try:
            return next(iter(self._ask(able[:1], _overhead, None, float | None).values()), None)
        except InputError:
            return None

    @property
    def _held(self) -> list[_Sent]:
        return [*self._running.values(), *self._to_score]

    @property
    def _scoring(self) -> int:
        return sum(sent.needs is not self._run_needs for sent in self._running.values())

    def _send(self, sent: _Sent) -> None:
        task = self._work.options(**sent.needs.options)
        self._running[task.remote(msgspec.msgpack.encode(sent.task))] = sent

    def _answer(self, reference: Any, sent: _Sent) -> Answer | None:
        """What came of a task; None where it is run again, since its node was lost."""
        try:
            return msgspec.msgpack.decode(self._ray.get(reference), type=Answer)
        except self._lost:
            pass
        except self._ray.exceptions.RayError as error:
            if not self._node_ended():
                reason = str(error).strip().partition("\n")[0]
                return Answer(reason=f"the process that ran it ended: {reason}")
        sent.losses += 1
        if sent.losses >= MOST_LOSSES:
            return Answer(reason=f"{sent.losses} nodes were lost while they ran it")
        self._tell(f"a node was lost while it ran {sent.job.trial.label}, seed {sent.job.trial.seed}: it is run again")
        self._send(sent)
        return None

    def _node_ended(self) -> bool:
        """Whether a node has ended since we last looked, or does within a moment."""
        end = time.monotonic() + GRACE
        while True:
            alive = {node["NodeID"] for node in self._nodes()}
            gone, self._alive = self._alive - alive, alive
            if gone or time.monotonic() > end:
                return bool(gone)
            time.sleep(0.2)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _able(self) -> list[dict[str, Any]]:
        return [node for node in self._nodes() if self._run_needs.fit(node)]

    def _ask(
        self, nodes: Sequence[dict[str, Any]], function: Callable[[bytes], bytes], message: object, of: Any
    ) -> Any:
        """What each of `nodes` answers, by its name; one that is lost meanwhile is none. InputError naming the first
        that cannot answer."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        packed, answers, references = msgspec.msgpack.encode(message), {}, []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = self._ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            references.append(task.remote(packed))
        errors = self._ray.exceptions
        for node, reference in zip(nodes, references, strict=True):
            try:
                answers[_name(node)] = msgspec.msgpack.decode(self._ray.get(reference), type=of)
            except (errors.TaskUnschedulableError, *self._lost):
                self._report(f"node {_name(node)} is lost: it does not take part")
            except (errors.RayError, msgspec.DecodeError) as error:
                last = str(error).strip().rpartition("\n")[2]
                raise InputError(
                    f"node {_name(node)}: Reconbench {version()} does not answer there: {last}; "
                    "the Python that runs Ray must have the one that is here"
                ) from error
        return answers


# What runs on the nodes. Each takes and gives bytes, and raises nothing: Ray would pickle it.


def _work(message: bytes) -> bytes:
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


def _survey(message: bytes) -> bytes:
    question = msgspec.msgpack.decode(message, type=Question)
    try:
        scenes = [_scene_digest(scene) for scene in question.scenes]
        systems = [_looked_up(_adapter(name), asked, question.install) for name, asked in question.systems]
        facts = Facts(
            hardware(),
            thread_settings(),
            _code(),
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
    except Unavailable as error:
        lacks = str(error)
    try:
        id = weights.resolve(adapter, asked).id
    except Unavailable as error:
        lacks = lacks or str(error)
    return environment, id, lacks


def _make_ready(message: bytes) -> bytes:
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


def _overhead(message: bytes) -> bytes:
    return msgspec.msgpack.encode(overhead_seconds())


@functools.cache
def _adapter(argument: str) -> Adapter:
    return get_adapter(argument)


@functools.cache
def _scene(name: str) -> Scene:
    path = Path(name)
    return scene_of_images(path) if path.is_absolute() and not (path / "scene.json").is_file() else get_scene(name)


def _scene_name(scene: Scene) -> str:
    """What every node knows it by: a name where it ships with Reconbench, else its path."""
    path = scene.path.resolve()
    return path.relative_to(EMBEDDED).as_posix() if path.is_relative_to(EMBEDDED) else str(path)


def _scene_digest(name: str) -> str:
    """Of what names its files; the files themselves are known by their hashes when they are used."""
    return hashlib.sha256(msgspec.json.encode(_scene(name).file)).hexdigest()[:16]


@functools.cache
def _code() -> str:
    """12 hex digits over Reconbench's own code."""
    total = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((HOUSE / room).rglob("*.py")):
            total.update(f"{path.relative_to(HOUSE)}\0".encode() + path.read_bytes())
    return f"{version()} {total.hexdigest()[:12]}"


def _agree(values: dict[str, str], what: str) -> None:
    """InputError naming two that differ."""
    first = next(iter(values))
    for name, value in values.items():
        if value != values[first]:
            raise InputError(f"{what}: {values[first]} on {first}, {value} on {name}; the same everywhere wanted")


def _address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def _resources(node: dict[str, Any]) -> str:
    held = node["Resources"]
    return f"{held.get('CPU', 0):g} CPU, {held.get('GPU', 0):g} GPU, {held.get('memory', 0) / 2**30:.0f} GiB"
