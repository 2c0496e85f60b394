"""The stored predictions under every alignment and confidence policy that a reader may ask about.

What a ranking owes to a choice of its protocol is seen by making the choice otherwise: each trial is scored under each
alignment (as ranked, without ICP, by search alone) and at each share of surest points that the protocol's
`confidence_curve` names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from bench.scoring.score import score_trial
from bench.trials.records import ScoreRecord, TrialRecord
from bench.trials.store import Store
from data.scene import Scene
from metrics.scoring.protocol import Align, Protocol

AS_RANKED, NO_ICP, SEARCH = "as ranked", "without ICP", "by search"


@dataclass(frozen=True)
class Variant:
    """A protocol with one choice made otherwise."""

    alignment: str
    keep: float  # share of the surest points asked for
    protocol: Protocol


def sweep(
    store: Store, record: TrialRecord, scene: Scene, kind: str, protocol: Protocol
) -> Iterator[tuple[Variant, ScoreRecord]]:
    """The scores of a trial under every variant that can change them, stored as all scores are; none of a failure."""
    for variant in variants_of(store, record, protocol):
        brief = variant.protocol is not protocol
        yield variant, score_trial(store, record, scene, kind, variant.protocol, brief=brief)


def variants_of(store: Store, record: TrialRecord, protocol: Protocol) -> Iterator[Variant]:
    """The variants that can change the scores of a trial; none of a failure, whatever the choice."""
    if record.status == "ok" and record.prediction is not None:
        sure = _has_confidence(store.prediction_path(record.prediction))
        yield from variants(protocol, record.card.scope, len(record.views), record.posed, sure)


def variants(protocol: Protocol, scope: str, views: int, posed: bool, sure: bool) -> Iterator[Variant]:
    """The variants that differ for a trial: `sure` predictions have confidence, `posed` ones are not aligned."""
    aligned = {AS_RANKED: protocol.align}
    route = protocol.align.route(scope, views, posed)
    if route != "none":
        if protocol.align.icp:
            aligned[NO_ICP] = msgspec.structs.replace(protocol.align, icp=False)
        if route != "search":
            aligned[SEARCH] = Align("search", "search", "search", protocol.align.icp)
    shares = {protocol.confidence_keep, *protocol.confidence_curve} if sure else {protocol.confidence_keep}
    for name, align in aligned.items():
        for keep in sorted(shares, reverse=True):
            if align == protocol.align and keep == protocol.confidence_keep:
                yield Variant(name, keep, protocol)
                continue
            changed = f"{protocol.name}: {name}, {keep:.0%} kept"
            yield Variant(
                name,
                keep,
                msgspec.structs.replace(protocol, name=changed, align=align, confidence_keep=keep, emd_draws=0),
            )


def _has_confidence(path: Path) -> bool:
    with np.load(path, allow_pickle=False) as file:
        return "confidence" in file.files
