"""Whether a row's own command makes the row again: `python -m tests.benchmarks.rows_again --folder /tmp/rows`.

Twenty trials that differ in adapter, scene, views, order, seed, options, policy and truth are run into one store; then
the command that each record holds runs from another folder into a store of its own. Compared are the trial's key
(adapter, options, inputs, views, seed, policy, machine), its prediction byte for byte, and every score to the last
digit. What `--folder` holds is not run again."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec

from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.scene import Scene, truth_id

RUN = [sys.executable, "-P", "-c", "import sys; from bench.cli import main; main(sys.argv[1:])"]
OBJECTS = "--protocol objects-v1"  # names objects; the rest is scored as scenes are
EXACT = "--truth exact"
QUICK = "--repeats 0 --warmups 0 --min-seconds 0"
ROWS = (
    f"--adapters retrieval --scenes objects/animal-1 --views 1 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters retrieval --scenes objects/car-1 --views 1 --seeds 1 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters medoid --scenes objects/animal-1 --views 1 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters medoid --scenes objects/car-2 --views 1 --seeds 2 --repeats 1 --min-seconds 0 {EXACT} {OBJECTS}",
    f"--adapters silhouette-hull --scenes objects/animal-1 --views 4 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters silhouette-hull --scenes objects/animal-2 --views 2 --option resolution=32 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters lmnet3d --scenes objects/animal-1 --views 1 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters lmnet3d --scenes objects/car-1 --views 4 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters lmnet3d --scenes objects/car-1 --views 1 --seeds 3 --order overlap {QUICK} {EXACT} {OBJECTS}",
    f"--adapters oracle --scenes objects/car-2 --views 2 --deadline 77.5 {QUICK} {EXACT} {OBJECTS}",
    f"--adapters oracle --scenes elephant --views 2 --truth exact {QUICK}",
    f"--adapters oracle --scenes elephant --views 4 --truth colmap {QUICK}",
    f"--adapters noisy-oracle --scenes elephant --views 2 --option noise=0.01 {QUICK}",
    f"--adapters noisy-oracle --scenes elephant --views 2 --seeds 1 --option floaters=0.2 --option missing=0.3 {QUICK}",
    f"--adapters noisy-oracle --scenes duck --views 3 --truth colmap --option rotation=10.0 --option scale=2.0 {QUICK}",
    f"--adapters visual-hull --scenes elephant --views 4 {QUICK}",
    f"--adapters visual-hull --scenes duck --views 8 --option resolution=64 {QUICK}",
    f"--adapters visual-hull --scenes elephant --views 4 --truth colmap --order overlap {QUICK}",
    f"--adapters colmap --scenes elephant --views 8 --order overlap {QUICK}",
    "--adapters oracle --scenes robot --views 2 --repeats 2 --warmups 1 --min-seconds 0.1 --memory 2",
)


def command_line(words: list[str], folder: Path) -> None:
    """Run `reconbench WORDS` in `folder`."""
    done = subprocess.run([*RUN, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")


def scores_of(store: Store, record: TrialRecord) -> dict[tuple[str, str], ScoreRecord]:
    """By protocol and truth, of the record's own scene: what answers alike everywhere has one prediction for many."""
    scene = Scene.open(Path(record.scene_path))
    own = {truth_id(scene.path / "truth" / kind) for kind in scene.truth_kinds}
    own = (score for score in store.scores() if score.of == record.scored_as and score.truth_id in own)
    return {(score.protocol_hash, score.truth_id): score for score in own}


def main() -> None:
    """Run the rows, run their commands, print the table; exit code 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    first, second, elsewhere = Store(folder / "first"), Store(folder / "again"), folder / "elsewhere"
    elsewhere.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, TrialRecord]] = []
    for row in ROWS:
        kept = folder / "rows" / f"{ROWS.index(row)}.txt"
        if not kept.is_file():
            before = {record.key for record in first.trials()}
            command_line(["run", *shlex.split(row), "--store", str(first.path)], folder)
            (new,) = {record.key for record in first.trials()} - before
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(new)
        record = first.trial(kept.read_text())
        assert record is not None and record.status == "ok", (row, record)
        rows.append((row, record))
    print("| adapter | scene | views | seed | truth | key | prediction | scores |\n|---|---|---|---|---|---|---|---|")
    unequal = 0
    for row, record in rows:
        words = shlex.split(record.command)[1:]
        words[words.index("--store") + 1] = str(second.path)
        # What a trial is does not say how it is scored: that is asked for beside it.
        words += shlex.split(OBJECTS) if OBJECTS in row else []
        if second.trial(record.key) is None:
            command_line(words, elsewhere)
        again = second.trial(record.key)
        same = [again is not None, again is not None and again.prediction == record.prediction]
        own, theirs = scores_of(first, record), scores_of(second, record)
        plain = [{k: msgspec.structs.replace(s, trial="") for k, s in scores.items()} for scores in (own, theirs)]
        same.append(bool(own) and plain[0] == plain[1])
        unequal += not all(same)
        truth = shlex.split(record.command)[shlex.split(record.command).index("--truth") + 1]
        told = [
            record.system,
            record.scene,
            len(record.views),
            record.seed,
            truth,
            *("equal" if s else "DIFFERS" for s in same),
        ]
        told[-1] = f"{told[-1]}, {sum(len(s.values) for s in own.values())} values"
        print(f"| {' | '.join(map(str, told))} |", flush=True)
    print(f"{len(rows)} rows, {unequal} differ")
    sys.exit(1 if unequal else 0)


if __name__ == "__main__":
    main()
