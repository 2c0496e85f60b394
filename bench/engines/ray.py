"""The trials of a plan as tasks of a Ray cluster that exists: `--engine ray`.

Every node runs Reconbench of its own, the same as here, and sees the store: a folder that all share, or a URL. Between
our processes travel function names and bytes that msgspec wrote, nothing that is pickled; what a system returns stays
behind the walls of its worker, on the node that ran it, as on one machine.

A node that is lost takes no trial with it: they are run on another. A trial that fails, or whose process is killed, is
not run again. What a node does with a task is `bench.engines.node`."""

from __future__ import annotations

import contextlib
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

from adapters.contract import InputError
from bench.engines.engine import Finished, Job, Settings
from bench.engines.node import (
    Answer,
    Facts,
    Question,
    Ready,
    Task,
    TrialMessage,
    code_hash,
    make_ready,
    overhead,
    scene_digest,
    scene_name,
    survey,
    work,
)
from bench.systems.cards import get_adapter
from bench.systems.measure import version
from bench.systems.walls import thread_settings
from bench.trials.site import Elsewhere
from bench.trials.store import Store
from bench.trials.suite import Suite
from data.scene import Scene

ADDRESS = "RAY_ADDRESS"
START = "`ray start --head` on one machine, `ray start --address=HOST:6379` on the others, RAY_ADDRESS=HOST:6379 here"
LOOPBACK = ("127.", "localhost", "[::1]")
MOST_LOSSES = 3  # nodes that one trial may be lost with
MOST_TO_SCORE = 256  # trials that wait for their scores: each keeps its lock's file open
PATIENCE = 10.0  # seconds between looks at whether the cluster is still there
GRACE = 3.0  # seconds in which a node that ends says so: its processes end first


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
        self._work = ray.remote(work)  # once: each such function is sent to the cluster anew
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
        question = Question(systems, [scene_name(scene) for scene in scenes], self._install)
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
        facts: dict[str, Facts] = self._ask(able, survey, question, Facts)
        others = msgspec.structs.replace(question, systems=[])
        everywhere: dict[str, Facts] = facts | self._ask(scoring, survey, others, Facts)
        if not facts:
            raise InputError("--engine ray: no node answers")
        for name, fact in everywhere.items():
            if fact.problem:
                raise InputError(f"node {name}: {fact.problem}")
        _agree({"this machine": code_hash()} | {name: f.code for name, f in everywhere.items()}, "Reconbench")
        for i, scene in enumerate(question.scenes):
            own = {"this machine": scene_digest(scene)}
            _agree(own | {name: f.scenes[i] for name, f in everywhere.items()}, f"scene {scene}")
        for i, (system, _) in enumerate(systems):
            lacking = {name: f.lacks[i] for name, f in facts.items() if f.lacks[i]}
            if lacking and len(lacking) < len(facts):  # what no node has is a row that says so, as on one machine
                name, why = next(iter(lacking.items()))
                more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
                mend = "" if self._install else "; --install-on-nodes makes environments there"
                raise InputError(f"node {name}{more}: {system}: {why}{mend}")
            if lacking and self._install:
                name, why = next(iter(lacking.items()))
                self._report(f"node {name} and all others: {system}: {why}")
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
        answers: dict[str, Answer] = self._ask(nodes, make_ready, Ready(self._place, run, settings, scored), Answer)
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
            return next(iter(self._ask(able[:1], overhead, None, float | None).values()), None)
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


def _agree(values: dict[str, str], what: str) -> None:
    """InputError naming two that differ."""
    first = next(iter(values))
    for name, value in values.items():
        if value != values[first]:
            raise InputError(f"{what}: {values[first]} on {first}, {value} on {name}; the same everywhere wanted")


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"


def _resources(node: dict[str, Any]) -> str:
    held = node["Resources"]
    return f"{held.get('CPU', 0):g} CPU, {held.get('GPU', 0):g} GPU, {held.get('memory', 0) / 2**30:.0f} GiB"
