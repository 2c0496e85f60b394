"""Why two protocols disagree, what a sweep scores, and what an audit measures: on real scores of a small scene."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from adapters.contract import InputError
from bench.cli import main
from bench.scoring.audit import audit, error_bars, orders
from bench.scoring.collect import keys_of_run
from bench.scoring.explain import Difference, explain, families, mean_parts
from bench.scoring.score import score_trial
from bench.scoring.sweep import variants
from bench.systems.cards import get_adapter
from bench.trials.store import Store
from bench.trials.suite import Contestant
from data.scene import Scene
from metrics.scoring import score as scoring
from metrics.scoring.protocol import Align, Protocol, differing, load_protocol

ONE = msgspec.structs.replace(load_protocol("object-v1"), name="one", samples=2000, emd_draws=0)
OTHER = msgspec.structs.replace(
    ONE, name="other", voxel=0.0, samples=500, against="sample", side=1.0, chamfer=("l1-mean",), thresholds=(0.03,),
    rank_metric="fscore@0.03",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(scene_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("explain") / "store"
    with pytest.raises(SystemExit) as caught:
        main(
            ["run", "--adapters", "oracle,noisy-oracle", "--scenes", str(scene_path), "--views", "4"]
            + ["--truth", "exact", "--store", str(path), "--repeats", "0"]
        )
    assert caught.value.code == 0
    return Store(path)


@pytest.fixture(scope="module")
def differences(store: Store) -> list[Difference]:
    return list(explain(store, store.trials(), "exact", ONE, OTHER))


def test_the_parts_make_up_the_whole_exactly(differences: list[Difference]) -> None:
    assert {d.family for d in differences} == set(families(ONE)) == set(families(OTHER))
    for difference in differences:
        assert difference.a.value is not None and difference.b.value is not None
        if not difference.parts:
            assert difference.note
            continue
        assert [part.stage for part in difference.parts] == ["equalisation", "sampling", "formula"]
        for which in ("forward", "backward", "mean"):
            parts = [getattr(part, which) for part in difference.parts]
            if difference.by_factor:
                assert math.prod(parts) == pytest.approx(difference.b.value / difference.a.value, rel=1e-9)
            else:
                assert sum(parts) == pytest.approx(difference.b.value - difference.a.value, abs=1e-12)


def test_what_the_walks_share_is_computed_once_and_reads_the_same(
    store: Store, scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Six stages apart in all but two: each alignment, each crop and each set of distances once a trial."""
    second = msgspec.structs.replace(OTHER, name="all else", align=Align(icp=False), crop=False, emd_draws=2)
    first = msgspec.structs.replace(ONE, name="all", emd_draws=2)
    fresh = Store(shutil.copytree(store.path, tmp_path / "store"))
    record = next(record for record in fresh.trials() if record.adapter == "noisy-oracle")
    calls: Counter[str] = Counter()
    for name in ("align", "emd"):
        real = getattr(scoring, name)

        def counted(*args: object, name: str = name, real: Callable[..., object] = real, **more: object) -> object:
            calls[name] += 1
            return real(*args, **more)

        monkeypatch.setattr(scoring, name, counted)
    shared = list(explain(fresh, [record], "exact", first, second))
    # Protocols of the two walks that differ before the sampling, 6 of 10: of equally many points EMD draws the same.
    assert calls == {"align": 6, "emd": 2 * 6}  # neither floors nor values before ICP
    alone = Store(shutil.copytree(store.path, tmp_path / "alone"))
    for order in (differing(first, second), differing(first, second)[::-1]):
        for i in range(len(order) + 1):
            step = first.swapped(second, order[:i])
            scored = fresh.score(record, step.hash, scene.truth("exact").id, brief=True)
            assert scored is not None
            wanted = score_trial(alone, record, scene, "exact", step, brief=True)
            assert msgspec.structs.asdict(scored)["values"] == msgspec.structs.asdict(wanted)["values"]
    assert {d.family for d in shared} == set(families(first))


def test_what_a_comparison_stored_is_no_whole_score(store: Store, scene: Scene, tmp_path: Path) -> None:
    fresh = Store(shutil.copytree(store.path, tmp_path / "store", ignore=shutil.ignore_patterns("scores")))
    record = next(record for record in fresh.trials() if record.adapter == "noisy-oracle")
    list(explain(fresh, [record], "exact", ONE, OTHER))
    brief = {score.protocol_hash: score for score in fresh.scores()}
    assert len(brief) == 6 and all(score.brief for score in brief.values())
    truth = scene.truth("exact").id
    assert ONE.hash in brief and fresh.score(record, ONE.hash, truth) is None
    whole = score_trial(fresh, record, scene, "exact", ONE)
    assert not whole.brief and all(value.floor is not None for value in whole.values if value.metric == "accuracy")
    values = [{value.metric: value.value for value in score.values} for score in (whole, brief[ONE.hash])]
    assert values[0] == values[1]
    list(explain(fresh, [record], "exact", ONE, OTHER))  # takes the whole one, and leaves it
    assert fresh.score(record, ONE.hash, truth) == whole


def test_a_change_of_formula_alone_is_that_formulas_factor(store: Store, scene: Scene) -> None:
    halved = msgspec.structs.replace(ONE, name="halved", chamfer=("l1-mean", "l2sq-mean"))
    for difference in explain(store, store.trials(), "exact", ONE, halved):
        if difference.parts:
            wanted = 0.5 if difference.family == "chamfer" else 1.0 if difference.by_factor else 0.0
            assert [part.mean for part in difference.parts] == [pytest.approx(wanted)]


def test_mean_parts_make_up_the_mean(differences: list[Difference]) -> None:
    lengths = [d for d in differences if d.family == "completeness" and d.parts]
    whole = math.prod(d.b.value / d.a.value for d in lengths if d.a.value and d.b.value)
    assert math.prod(mean_parts(lengths).values()) == pytest.approx(whole ** (1 / len(lengths)))


def test_what_is_alike_or_absent_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="nothing to explain"):
        list(explain(store, store.trials(), "exact", ONE, msgspec.structs.replace(ONE, name="twin")))
    with pytest.raises(InputError, match="no trial with a prediction and scan truth"):
        list(explain(store, store.trials(), "scan", ONE, OTHER))


def test_the_command_prints_a_table_and_writes_the_parts(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = 'version = 1\ndescription = ""\nsamples = 2000\nemd_draws = 0\n'
    (tmp_path / "one.toml").write_text(f'name = "one"\n{common}')
    other = 'voxel = 0.0\nagainst = "sample"\nside = 1.0\nthresholds = [0.03]\nrank_metric = "fscore@0.03"\n'
    (tmp_path / "other.toml").write_text(f'name = "other"\n{common}{other}')
    files = [str(tmp_path / name) for name in ("one.toml", "other.toml")]
    arguments = ["--store", str(store.path), "--truth", "exact", "--adapters", "noisy-oracle", "--out"]
    with pytest.raises(SystemExit) as caught:
        main(["protocol", "diff", *files, *arguments, str(tmp_path / "parts.csv")])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert "they differ in: equalisation, sampling, formula" in output and "×" in output
    parts = pd.read_csv(tmp_path / "parts.csv")
    chamfer = parts[parts["measures"] == "chamfer"]
    assert chamfer["part"].prod() == pytest.approx((chamfer["value_b"] / chamfer["value_a"]).iloc[0])
    for name in ("object-v1", "syncdreamer"):
        with pytest.raises(SystemExit) as caught:
            main(["protocol", "show", name])
        assert caught.value.code == 0
    assert "set by hand" in capsys.readouterr().out


def labels(protocol: Protocol, scope: str, posed: bool, sure: bool) -> list[tuple[str, float]]:
    return [(v.alignment, v.keep) for v in variants(protocol, scope, 8, posed, sure)]


def test_a_sweep_varies_only_what_concerns_the_trial() -> None:
    small = msgspec.structs.replace(ONE, confidence_curve=(1.0, 0.5))
    assert labels(small, "scene", True, False) == [("as ranked", 1.0)]
    assert labels(small, "scene", True, True) == [("as ranked", 1.0), ("as ranked", 0.5)]
    assert [name for name, _ in labels(small, "object", False, False)] == ["as ranked", "without ICP"]
    whole = list(variants(small, "scene", 8, False, True))
    assert [v.alignment for v in whole] == ["as ranked"] * 2 + ["without ICP"] * 2 + ["by search"] * 2
    assert whole[0].protocol is small and len({v.protocol.hash for v in whole}) == 6


def test_a_run_can_be_chosen(store: Store) -> None:
    (run,) = store.runs()
    assert keys_of_run(store, run.started[:10]) == set(run.trials)
    with pytest.raises(InputError, match="0 runs start with '1999'"):
        keys_of_run(store, "1999")


def test_an_audit_measures_no_difference_of_what_does_not_look_at_the_order(scene: Scene) -> None:
    runs = list(audit(get_adapter("oracle"), Contestant(name="oracle"), scene, 3, "exact", ONE))
    assert [run.name for run in runs] == list(orders(("a", "b", "c")))
    assert all(run.status == "ok" for run in runs) and runs[1].same_bits
    bars = error_bars(runs, ONE)
    assert bars["accuracy"][1] == 0.0 and len(bars["accuracy"][0]) == 4
