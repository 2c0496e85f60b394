"""`python -m bench.training`: make the training data, train a network, ship its weights, score it."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path

from adapters.contract import InputError
from data.synthetic.family import write_family
from data.synthetic.shapes import Split


def _report(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> int:
    """Parse the command line and run; exit code 2 for what the user can mend, 3 where a training stopped in time."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    data = commands.add_parser("data", help="write the procedural family's shards; those that are there stay")
    data.add_argument("folder", type=Path)
    data.add_argument("--objects", type=int, default=2048, help="of the training split (default 2048)")
    data.add_argument("--views", type=int, default=12, help="of each object (default 12)")
    data.add_argument("--workers", type=int, default=2)

    train = commands.add_parser("train", help="train a network, or go on where its training stopped")
    train.add_argument("network", help="lmnet3d or lam3d")
    train.add_argument("--data", type=Path, required=True, help="the folder that `data` wrote")
    train.add_argument("--run", type=Path, required=True, help="where checkpoints, curve and TensorBoard logs lie")
    train.add_argument(
        "--steps", type=int, nargs="+", help="of each stage (default: the full schedule, hours on a CPU)"
    )
    train.add_argument("--objects", type=int, default=2048)
    train.add_argument("--batch", type=int, default=32)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--every", type=int, default=250, help="steps between checkpoints (default 250)")
    train.add_argument(
        "--from", dest="begin", type=Path, help="a weights file to begin with: its image encoder, or what is kept"
    )
    train.add_argument("--device", default="cpu", help="cpu, or cuda: then in bfloat16")
    train.add_argument("--threads", type=int, default=1)
    train.add_argument("--until", type=int, default=0, help="end at this step of the last stage")
    train.add_argument("--cool", type=int, default=0, help="let the rate fall to zero over so many steps before that")
    train.add_argument("--stop-after", type=int, default=-1, help="stop at this step of it, the schedule as it is")
    train.add_argument("--minutes", type=float, default=float("inf"), help="stop, with a checkpoint, after so many")

    ablate = commands.add_parser("ablate", help="train the variants at reduced size, resumable, and score them")
    ablate.add_argument("--data", type=Path, required=True)
    ablate.add_argument("--run", type=Path, required=True, help="where the trainings lie")
    ablate.add_argument("--seeds", type=int, default=3)
    ablate.add_argument("--steps", type=int, nargs=3, default=(600, 800, 1000), help="of fields, points and aligners")
    ablate.add_argument("--train-objects", type=int, default=1024)
    ablate.add_argument("--batch", type=int, default=16)
    ablate.add_argument("--objects", type=int, default=32, help="of the test split, scored")
    ablate.add_argument("--minutes", type=float, default=float("inf"), help="stop, with a checkpoint, after so many")
    ablate.add_argument("--out", type=Path, default=Path("runs/ablations"), help="for the CSV")

    ship = commands.add_parser("ship", help="write a run's averaged weights into its adapter's folder")
    ship.add_argument("run", type=Path)
    ship.add_argument("--out", type=Path, help="another file")

    gallery = commands.add_parser("gallery", help="write what the adapters retrieval and medoid look up")
    gallery.add_argument("--data", type=Path, required=True)

    score = commands.add_parser("score", help="score what ships on the test split, beside its baselines")
    score.add_argument("--data", type=Path, required=True)
    score.add_argument("--objects", type=int, default=128)
    score.add_argument("--out", type=Path, default=Path("runs/own-networks"), help="for the CSV and the picture sheet")

    levels = commands.add_parser("levels", help="score lam3d on the validation split at several levels of its field")
    levels.add_argument("--data", type=Path, required=True)
    levels.add_argument("--objects", type=int, default=64)

    options = parser.parse_args()
    try:
        return _run(options)
    except InputError as error:
        _report(str(error))
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.command == "data":
        begun = time.monotonic()
        splits: list[tuple[Split, int]] = [("val", 128), ("test", 128), ("train", options.objects)]
        for split, count in splits:
            write_family(
                options.folder,
                split,
                count,
                options.views,
                options.workers,
                lambda done, total, split=split: _report(  # type: ignore[misc]
                    f"{split}: {done} of {total} objects, {time.monotonic() - begun:.0f} s"
                ),
            )
        return 0
    if options.command == "gallery":
        from bench.training.gallery import write_galleries

        _report(write_galleries(options.data))
        return 0
    if options.command == "score":
        from bench.training.score import score

        sys.stdout.write(score(options.data, options.objects, options.out, _report) + "\n")
        return 0
    if options.command == "levels":
        from bench.training.score import levels

        sys.stdout.write(levels(options.data, options.objects) + "\n")
        return 0
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, str(getattr(options, "threads", 1)))
    try:
        import torch
    except ImportError as error:
        raise InputError("torch is not installed: `pip install 'reconbench[models]'` brings it") from error
    from bench.training.loop import Settings, train
    from bench.training.networks import NETWORKS
    from bench.training.ship import note_origin, ship

    if options.command == "ablate":
        return _ablate(options)
    if options.command == "ship":
        _report(ship(options.run, options.out))
        return 0
    if options.network not in NETWORKS:
        raise InputError(f"network {options.network!r} seen, one of {', '.join(NETWORKS)} wanted")
    torch.set_num_threads(options.threads)
    settings = Settings(
        network=options.network,
        steps=tuple(options.steps or (stage.steps for stage in NETWORKS[options.network].stages)),
        batch=options.batch,
        objects=options.objects,
        seed=options.seed,
        every=options.every,
        until=options.until,
        cool=options.cool,
        begun_from=hashlib.sha256(options.begin.read_bytes()).hexdigest() if options.begin else "",
    )
    note_origin(options.run, options.begin)
    stop_at = time.time() + 60 * options.minutes
    network, begin = NETWORKS[options.network], options.begin
    stops = stop_at, options.stop_after
    done = train(network, settings, options.data, options.run, options.device, begin, *stops, _report)
    return 0 if done else 3


def _ablate(options: argparse.Namespace) -> int:
    import torch

    from bench.training.ablate import Steps, score_all, train_all

    torch.set_num_threads(1)
    stop_at = time.time() + 60 * options.minutes
    steps = Steps(*options.steps)
    done = train_all(
        options.data, options.run, steps, options.seeds, options.train_objects, options.batch, stop_at, _report
    )
    if not done:
        return 3
    sys.stdout.write(score_all(options.data, options.run, options.seeds, options.objects, options.out, _report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
