"""Audits: a question to predict tasks of a run, answered by running them again under a change that must not matter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shiftbench import questions
from shiftbench.questions import Broken, Skipped, refuse_difference
from shiftbench.worker.perform import Context
from shiftbench.worker.rerun import NotRun, Rerun, fingerprints, of_labels, of_log_probabilities

AUDIT_VERSION = 1
PASSED, FAILED, NOT_CONCERNED, SKIPPED = "passed", "failed", "not concerned", "skipped"
Asked = Mapping[str, Any]


def label_canary(context: Context, asked: Asked) -> str:
    """Other references of the target change no prediction: of its test part, and of `adapt` what is not shown.

    METHODS.md E-T4, D-T2, 10.2: they are replaced by noise and, in a thorough audit, exchanged between cases and
    relabelled too.
    """
    return _asked(questions.hidden_references, context, asked)


def causality(context: Context, asked: Asked) -> str:
    """Later cases of a stream change no earlier prediction, whether they are replaced or left out (METHODS.md E-T2)."""
    return _asked(questions.causality, context, asked)


def order(context: Context, asked: Asked) -> str:
    """Cases in another order are predicted alike, where no state is carried (METHODS.md E-T1)."""
    return _asked(questions.order_invariance, context, asked)


def reset(context: Context, asked: Asked) -> str:
    """The same cases once more are predicted alike, in a new process and, without state, in the same one too.

    METHODS.md E-T3 and 10.7. An estimator is handed all images at once, so it is asked in a new process alone.
    """

    def twice(of: Rerun) -> None:
        questions.same_bits(of)
        if not asked.get("estimates"):
            questions.forgets(of)

    return _asked(twice, context, asked)


def poisoned_source(context: Context, asked: Asked) -> str:
    """A source-free method predicts the same where source images and references are noise once it is trained.

    METHODS.md D-T0. Where a method has a source training of its own ("trains"), this sees the noise first, in a store
    that is thrown away: a copy of the source that it has hidden elsewhere would then be of the noise.
    """

    def without_source(of: Rerun) -> None:
        cases = range(len(of.first))
        if asked.get("trains"):
            of.train_on_noise(*asked["trains"])
        found = of.run(cases, poisoned=True)
        refuse_difference(of, found, cases, "the predictions depend on the source's data after training")

    return _asked(without_source, context, asked)


def no_op(context: Context, asked: Asked) -> str:
    """A method that says it adapts predicts some shifted case unlike source-only (METHODS.md E-T5, 0.5-7).

    First the labels of all cases of all targets that both have predicted are compared. Where they are the same, log-
    probabilities decide: those that were kept, else those of the first cases, run again.
    """
    pairs = [pair for pair in asked["pairs"] if not _not_applicable(context, pair["own"]["key"])]
    if not pairs:
        raise Skipped("it is not applicable here")
    for pair in pairs:
        own, base = (pair[who]["key"] for who in ("own", "source_only"))
        for read in (of_labels, of_log_probabilities):
            if _differ(read(context.store, own, pair["names"]), read(context.store, base, pair["names"])):
                return f"differs from source-only on {pair['target']}"
    for pair in pairs:
        found = []
        for who in ("own", "source_only"):
            again = Rerun(context, pair[who])
            found.append(again.run(range(len(again.places)), read=of_log_probabilities))
        if _differ(*found):
            return f"log-probabilities differ from those of source-only on {pair['target']}, and no label does"
    names = ", ".join(pair["target"] for pair in pairs)
    raise Broken(f"it says that it adapts, and predicts what source-only predicts on all cases of {names}")


def protocol_swap(context: Context, asked: Asked) -> str:
    """Two targets that differ in the hidden protocol alone have the same predictions (METHODS.md F2-T0)."""
    own, twin = asked["key"], asked["twin"]
    if _not_applicable(context, own):
        raise Skipped("it is not applicable here")
    if own == twin:
        return f"shares its prediction with {asked['other']}"
    for key in (own, twin):
        if not context.store.present("predict", key):
            raise NotRun(f"the predictions of predict/{key} were not kept")
    here, there = (fingerprints(context.store, key, asked["names"]) for key in (own, twin))
    for name, one, other in zip(asked["names"], here, there, strict=True):
        if one != other:
            raise Broken(
                f"the predictions depend on the label protocol of {asked['other']} (first seen in case {name})"
            )
    return f"as on {asked['other']}"


@dataclass(frozen=True)
class Audit:
    """A question to a method: who answers it, and what it is called on a page."""

    ask: Callable[[Context, Asked], str]
    words: str


AUDITS: Mapping[str, Audit] = {
    "label_canary": Audit(label_canary, "other references of the target"),
    "causality": Audit(causality, "later cases of the stream"),
    "order": Audit(order, "order of the cases"),
    "reset": Audit(reset, "same cases again"),
    "poisoned_source": Audit(poisoned_source, "source replaced by noise"),
    "no_op": Audit(no_op, "unlike source-only"),
    "protocol_swap": Audit(protocol_swap, "another hidden protocol"),
}


def audit(context: Context, key: str, asked: Asked) -> None:
    """Answers one question and publishes what was found; a task that could not be run again is no answer."""
    try:
        outcome, detail = PASSED, AUDITS[asked["audit"]].ask(context, asked)
    except Skipped as reason:
        outcome, detail = NOT_CONCERNED, str(reason)
    except Broken as broken:
        outcome, detail = FAILED, str(broken)
    context.store.publish("audit", key, {"audit": asked["audit"], "outcome": outcome, "detail": detail})


def _asked(question: Callable[[Rerun], None], context: Context, asked: Asked) -> str:
    """What a question that is kept leaves to say."""
    reason = _not_applicable(context, asked["key"])
    if reason:
        raise Skipped(f"not applicable: {reason}")
    of = Rerun(context, asked)
    if not of.places:
        raise Skipped("no case could be acquired")
    question(of)
    return "; ".join(words for words in (f"{len(of.places)} cases", of.note) if words)


def _not_applicable(context: Context, key: str) -> str:
    """Why a prediction has no meaning, as its method said; empty where it has."""
    return context.store.record("predict", key).get("not_applicable", "")


def _differ(one: list[str], other: list[str]) -> bool:
    """Whether some case has two fingerprints that differ; what one of the two has not cannot differ."""
    return any(a != b for a, b in zip(one, other, strict=True) if a and b)


HANDLERS = {"audit": audit}
