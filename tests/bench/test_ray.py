"""The Ray engine on a real cluster of this machine's loopback: equal to the local engine, whatever is lost."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from adapters.contract import InputError, Unavailable
from bench.engines.local import Progress, RunResult, run_plan
from bench.systems import environments
from bench.systems.cards import get_adapter
from bench.systems.measure import Policy
from bench.trials.plan import plan
from bench.trials.shared import opened
from bench.trials.store import Store
from bench.trials.suite import Contestant, Suite
from data.scene import Scene
from tests.bench.spies import wait_for
from tests.bench.test_cli import call
from tests.bench.test_environments import SITE, adapter_in, wheel
from tests.bench.test_run import FAULTY, suite

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # nodes on the loopback; read when Ray is imported
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from ray.cluster_utils import Cluster as Nodes  # noqa: E402

from bench.engines.ray import Cluster, connected  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # what scores may have to be compiled first
SMALL = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}


class Unshared(Store):
    """A store in a folder that other machines do not see."""

    @property
    def place(self) -> str:
        return f"{self.path}-elsewhere"


class Machines:
    """A head that runs nothing, and nodes of one processor each."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.cluster = Nodes(True, head_node_args={**SMALL, "num_cpus": 0, "include_dashboard": False})
        self.nodes: list[Any] = []

    def add(self, cache: Path | None = None, **variables: str) -> Any:
        """One more node, by default with the cache of the others; `variables` are of its environment."""
        variables["RECONBENCH_CACHE"] = str(cache or self._cache)
        self.nodes.append(self.cluster.add_node(num_cpus=1, env_vars=variables, **SMALL))
        return self.nodes[-1]

    def end(self, node: Any) -> None:
        """As if its machine lost power."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp().parent / "reconbench-cache"


@pytest.fixture(scope="module")
def machines(cache: Path) -> Iterator[Machines]:
    made = Machines(cache)
    yield made
    made.cluster.shutdown()


@pytest.fixture
def two(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> Machines:
    while len(machines.nodes) < 2:
        machines.add()
    monkeypatch.setenv("RAY_ADDRESS", machines.cluster.address)
    return machines


def on_cluster(
    chosen: Suite, scene: Scene, place: str, progress: Progress | None = None, install: bool = False
) -> RunResult:
    with connected(1, install, print) as cluster, opened(place) as store, cluster.quiet():
        site = cluster.site([chosen], [scene])
        trials = plan(chosen, [scene], site=site)
        return run_plan(
            trials, store, protocol="object-v1", truth="exact", engine=cluster, progress=progress or Progress()
        )


def content(store: Store) -> dict[tuple[str, int, int], object]:
    """What a store holds of each trial: its prediction and its scores to the last digit."""
    trials = {record.scored_as: record for record in store.trials()}
    scores = {s.of: [(v.metric, v.value, v.low, v.high, v.status) for v in s.values] for s in store.scores()}
    return {
        (record.adapter, len(record.views), record.seed): (record.status, record.prediction, scores[of])
        for of, record in trials.items()
    }


def test_scores_and_predictions_are_those_of_the_local_engine_and_nothing_runs_twice(
    two: Machines, scene: Scene, tmp_path: Path
) -> None:
    chosen = suite(seeds=(0, 1))
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    run_plan(plan(chosen, [scene]), here, protocol="object-v1", truth="exact")
    result = on_cluster(chosen, scene, str(there.path))
    assert len(result.records) == 8 and not result.left_out
    assert content(there) == content(here) and len(content(here)) == 8
    before = {path: path.stat().st_mtime_ns for path in there.path.rglob("*.json") if "runs" not in path.parts}
    reused: list[bool] = []
    progress = Progress(finished=lambda trial, record, scores, again: reused.append(again))
    on_cluster(chosen, scene, str(there.path), progress)
    assert reused == [True] * 8
    assert before == {p: p.stat().st_mtime_ns for p in there.path.rglob("*.json") if "runs" not in p.parts}


def spread_out(
    chosen: Suite, scene: Scene, store: Store, meanwhile: Callable[[], object]
) -> tuple[RunResult, list[str]]:
    """A run on the cluster, what it said of it, and `meanwhile` called once as many trials run as there are slots."""
    said: list[str] = []
    begun: list[str] = []
    threading.Thread(target=lambda: wait_for(lambda: len(begun) >= 2 and meanwhile()), daemon=True).start()
    progress = Progress(started=lambda trial, seconds: begun.append(trial.label), remark=said.append)
    return on_cluster(chosen, scene, str(store.path), progress), said


def faulty(*modes: str, seconds: float = 0.0, seeds: tuple[int, ...] = (0,)) -> Suite:
    contestants = [Contestant(name=FAULTY, options={"mode": mode, "seconds": seconds}) for mode in modes]
    quick = Policy(warmups=0, repeats=0, min_seconds=0.0, deadline=120.0, timing_only=True)
    return Suite(name="t", adapters=contestants, views=(2,), seeds=seeds, truth="exact", policy=quick)


def working() -> list[psutil.Process]:
    """Ray's processes that run a trial, each with its worker below it."""
    named = [p for p in psutil.process_iter(["cmdline"]) if "ray::work" in " ".join(p.info["cmdline"] or [])]
    return [process for process in named if process.children()]


def test_a_node_that_is_lost_takes_no_trial_with_it(two: Machines, scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def lose() -> bool:
        if len(working()) < 2:
            return False
        two.end(two.nodes[0])
        return True

    result, said = spread_out(faulty("ok", seconds=4.0, seeds=(0, 1, 2, 3, 4)), scene, store, lose)
    assert [record.status for record in result.records] == ["ok"] * 5 and not result.left_out
    (lost,) = [sentence for sentence in said if "lost" in sentence]
    assert lost.startswith("a node was lost while it ran faulty (mode=ok, seconds=4.0) on bumpy, 2 views, seed ")
    (run,) = store.runs()
    assert lost in run.remarks and sorted(run.trials) == sorted(record.key for record in store.trials())


def test_a_trial_that_fails_is_a_result_and_not_run_again(
    two: Machines, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = Cluster._send
    monkeypatch.setattr(Cluster, "_send", lambda self, task: (sent.append(task.job.trial.label), send(self, task)))
    result = on_cluster(faulty("ok", "raise", "segfault", "killed"), scene, str(tmp_path / "store"))
    statuses = {record.options["mode"]: record.status for record in result.records}
    assert statuses == {"ok": "ok", "raise": "crash", "segfault": "crash", "killed": "crash"}
    assert len(sent) == len(set(sent)) == 4


def test_a_trial_whose_process_is_killed_is_left_out_and_named(two: Machines, scene: Scene, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def kill() -> bool:
        processes = working()
        if len(processes) < 2:
            return False
        processes[0].kill()
        return True

    chosen = faulty("ok", seconds=4.0, seeds=(0, 1, 2))
    result, said = spread_out(chosen, scene, store, kill)
    assert [record.status for record in result.records] == ["ok"] * 2 and not any("lost" in text for text in said)
    (left,) = result.left_out
    assert left.reason.startswith("the process that ran it ended: ")
    assert len(on_cluster(chosen, scene, str(store.path)).records) == 3, "the same command goes on"


def test_nodes_that_differ_are_refused_by_name(
    two: Machines, scene: Scene, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "adapter.py").write_text((Path(FAULTY) / "adapter.py").read_text())
    card = 'name = "own"\ntitle = "Own"\nlicence_code = "MIT"\nscope = "scene"\n'
    (folder / "adapter.toml").write_text(card + '[environment]\nrequirements = ["numpy"]\n')
    chosen = msgspec.structs.replace(faulty("ok"), adapters=[Contestant(name=str(folder))])
    (record,) = on_cluster(chosen, scene, str(tmp_path / "store")).records
    assert record.status == "unavailable" and f"reconbench adapters install {folder}" in record.message
    other = two.add(tmp_path / "other-cache")
    monkeypatch.setenv("RECONBENCH_CACHE", str(cache))
    environments.use(get_adapter(str(folder)), Path(sys.executable))
    try:
        with pytest.raises(InputError, match=r"node 127.0.0.1:\d+: .*own: it needs an environment of its own: `recon"):
            on_cluster(chosen, scene, str(tmp_path / "store"))
    finally:
        environments.remove(get_adapter(str(folder)))
        two.end(other)


def test_each_node_installs_the_environment_that_it_lacks_before_its_trials_run(
    two: Machines, scene: Scene, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "numpy", "9.9", {"numpy_of_the_host.pth": f"{SITE}\n"})
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    body = "import sys, time\nprint('prefix', sys.prefix)\ntime.sleep(3)"  # long enough that both nodes run some
    own = adapter_in(tmp_path / "own", body, "[environment]\nbuild = ['test -z \"$REFUSES\"']\n")
    chosen = msgspec.structs.replace(faulty("ok", seeds=(0, 1, 2, 3)), adapters=[Contestant(name=str(own.folder))])
    while two.nodes:
        two.end(two.nodes[0])
    caches = [tmp_path / "first-cache", tmp_path / "second-cache"]
    for cache in caches:
        two.add(cache, **pip)
    try:
        result = on_cluster(chosen, scene, str(tmp_path / "without"))
        assert [record.status for record in result.records] == ["unavailable"] * 4
        assert not list(tmp_path.glob("*-cache/environments/*"))
        store = Store(tmp_path / "store")
        result = on_cluster(chosen, scene, str(store.path), install=True)
        assert [record.status for record in result.records] == ["ok"] * 4 and not result.left_out
        assert len({record.environment for record in result.records}) == 1
        logs = [store.log_path(record.key).read_text() for record in result.records]
        made = [folder for cache in caches for folder in cache.glob("environments/*/venv")]
        assert len(made) == 2 and all(any(f"prefix {venv}\n" in log for log in logs) for venv in made)
        with pytest.raises(Unavailable):  # nothing was made where the command was given
            environments.find(own)
        other = two.add(tmp_path / "third-cache", REFUSES="1", **pip)
        address = f"{other.node_ip_address}:{other.node_manager_port}"
        with pytest.raises(InputError, match=rf"node {address}: .*own: step 3 of 3, build step 1: .* code 1") as no:
            on_cluster(chosen, scene, str(store.path), install=True)
        assert "--install-on-nodes" not in str(no.value), "which was given"
    finally:
        while two.nodes:  # their caches go with this test
            two.end(two.nodes[0])


def test_a_scene_or_store_that_a_node_does_not_see_is_refused(two: Machines, scene: Scene, tmp_path: Path) -> None:
    with connected(1, False, print) as cluster:
        site = cluster.site([suite()], [scene])
        with pytest.raises(InputError, match="not the store that is here"):
            trials = plan(suite(), [scene], site=site)
            run_plan(trials, Unshared(tmp_path / "store"), protocol="object-v1", truth="exact", engine=cluster)
        with pytest.raises(InputError, match="no node holds a trial"):
            cluster.site([msgspec.structs.replace(suite(), device="cuda")], [scene])
        with pytest.raises(InputError, match="which GPU a trial gets, the cluster decides"):
            cluster.site([msgspec.structs.replace(suite(), device="cuda:1")], [scene])


def test_the_command_shows_its_plan_and_runs_it(
    two: Machines, scene_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("run", "--adapters", "null", "--scenes", scene_path, "--views", "2,3", "--truth", "exact", "--timing-only")
    asked = (*asked, "--engine", "ray", "--store", tmp_path / "store")
    assert call(*asked, "--dry-run") == 0
    output, errors = capsys.readouterr()
    assert "2 nodes, 2 trials at a time" in output and "to run" in output and "2 nodes" in errors
    assert not (tmp_path / "store").exists()
    for state in ("timed", "stored already"):
        assert call(*asked) == 0
        errors = capsys.readouterr().err.replace("\n", " ")
        assert "run by Ray on 2 nodes, 2 trials at a time" in errors and "2 trials finished" in errors
        assert "null on bumpy, 3 views: timed" in errors and state in errors


@pytest.mark.filterwarnings("ignore:write permissions assigned to anonymous user")
def test_a_store_at_a_url_is_written_by_every_node_and_merged(two: Machines, scene: Scene, tmp_path: Path) -> None:
    with ftp_server(tmp_path / "served") as url:
        chosen = suite(views=(2,))
        result = on_cluster(chosen, scene, url)
        assert [record.status for record in result.records] == ["ok"] * 2 and not result.left_out
        again: list[bool] = []
        on_cluster(chosen, scene, url, Progress(finished=lambda trial, record, scores, reused: again.append(reused)))
        assert again == [True] * 2
        here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
        with opened(url) as store:
            assert there.merge(store) == 2
    run_plan(plan(chosen, [scene]), here, protocol="object-v1", truth="exact")
    assert content(there) == content(here) and not there.problems()
    assert not list((tmp_path / "served").rglob(".*")), "nothing half sent"


@contextlib.contextmanager
def ftp_server(folder: Path) -> Iterator[str]:
    """The URL of `folder`, served on the loopback to anybody."""
    authorizers = pytest.importorskip("pyftpdlib.authorizers", reason="`make test-ray` installs pyftpdlib")
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import ThreadedFTPServer

    folder.mkdir()
    FTPHandler.authorizer = authorizers.DummyAuthorizer()
    FTPHandler.authorizer.add_anonymous(str(folder), perm="elradfmw")
    server = ThreadedFTPServer(("127.0.0.1", 0), FTPHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"ftp://127.0.0.1:{server.address[1]}/store"
    finally:
        server.close_all()
        thread.join(timeout=20)
