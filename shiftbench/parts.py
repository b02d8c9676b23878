"""The data tasks of a scenario: who is in which part, and where its anatomies, images and references will lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shiftbench import domains
from shiftbench.data.splits import Split, cross_fit_halves, real_source_split, simulated_split
from shiftbench.domains import DatasetRef, Part, acquisition_steps, dataset_ref, population_of, source_acquisition
from shiftbench.errors import SpecError, nearest
from shiftbench.graph import Options, Plan, Task, frozen
from shiftbench.rng import digest, generator
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS, LabelPolicy
from shiftbench.shifts.protocol import check_protocol
from shiftbench.shifts.reselect import LEVELS, MIN_ESS, Reselection, reselect
from shiftbench.shifts.settings import Step
from shiftbench.spec import PERMUTED, RESELECT, Scenario, Target
from shiftbench.spec import Step as PopulationStep
from shiftbench.types import CaseInfo, Dataset, Family

CHUNK = 10  # cases per data task
KEPT = 0.5  # share of the cases that a re-selected population has, where the scenario does not say

Opened = dict[str, tuple[DatasetRef, Dataset]]


class Parts:
    """Adds the data tasks of one scenario's domains to a graph and says where each part lies."""

    def __init__(self, graph: Plan, scenario: Scenario, options: Options, opened: Opened):
        if any(target.sealed for target in scenario.target):
            raise SpecError("the levels are still sealed", where=scenario.name, remedy="plan its `unsealed` form")
        self.graph, self.scenario, self.options, self.opened = graph, scenario, options, opened
        self.structures = list(scenario.structures)
        self.source = scenario.source[0]
        _, dataset = self.dataset(self.source.dataset or scenario.dataset)
        self.layout = scenario.layout(dataset.things)

    def of_source(self) -> dict[str, Part]:
        """Train, val, adapt and test of the source domain."""
        ref, dataset = self.dataset(self.source.dataset or self.scenario.dataset)
        split = self.source_split(dataset)
        parts = {"train": split.train, "val": split.val, "adapt": split.adapt, "test": split.test}
        return {name: self.part(None, ref, dataset, ids, name) for name, ids in parts.items()}

    def of_target(self, target: Target) -> list[tuple[Part, Part]]:
        """(adapt, test) of a target: one fold of simulated targets, two cross-fitted halves of real ones."""
        mine = self.source.dataset or self.scenario.dataset
        ref, dataset = self.dataset(target.dataset or mine)
        seed = self.scenario.domain_seed
        if target.control == PERMUTED and ref.phantom is None:
            raise SpecError(
                f"the control '{PERMUTED}' of target '{target.name}' needs patients on one grid",
                where=self.scenario.name,
                remedy="use a phantom",
            )
        if target.family is Family.REAL:
            if (target.dataset or mine) == mine:
                raise SpecError(
                    f"the real target '{target.name}' is the source's own data set",
                    where=self.scenario.name,
                    remedy="name another data set with 'dataset = ...'",
                )
            splits = list(cross_fit_halves(dataset.cases(), dataset_digest=dataset.digest, seed=seed))
        elif (target.dataset or mine) == mine:
            splits = [self.source_split(dataset)]  # the source's own test patients: every comparison is paired
        else:
            splits = [simulated_split(dataset.cases(), dataset_digest=dataset.digest, seed=seed)]
        return [
            (
                self.part(target, ref, dataset, self.selected(target, dataset, split.adapt, "adapt"), "adapt"),
                self.part(target, ref, dataset, self.selected(target, dataset, split.test, "test"), "test"),
            )
            for split in splits
        ]

    def drawn_by_source(self, target: Target, test: Part) -> Part:
        """The test cases of a target as the source's annotators would have drawn them; the images are the target's."""
        ref, dataset = self.dataset(target.dataset or self.source.dataset or self.scenario.dataset)
        same = target.model_copy(update={"protocol": {}, "annotator_noise_mm": None, "population": _keys_only(target)})
        return self.part(same, ref, dataset, list(test.where()), "test")

    def selected(self, target: Target, dataset: Dataset, cases: Sequence[str], name: str) -> Sequence[str]:
        """The cases that a re-selected population keeps; all of them where nothing is selected.

        A case is kept once or not at all: there are no weights, so that every table counts patients as it always does.
        """
        step = target.selection
        if step is None:
            return cases
        wanted = set(cases)
        infos = [info for info in dataset.cases() if info.case_id in wanted]
        rng = generator(self.scenario.domain_seed, RESELECT, dataset.digest, step.attribute, name)
        return reselect(infos, selection_rule(step, infos), rng).cases

    def source_split(self, dataset: Dataset) -> Split:
        """The source's split; a real source has no adapt part, there methods see its validation images."""
        real = any(t.family is Family.REAL for t in self.scenario.target)
        splitter = real_source_split if real else simulated_split
        split = splitter(dataset.cases(), dataset_digest=dataset.digest, seed=self.scenario.domain_seed)
        return dataclasses.replace(split, adapt=split.adapt or split.val)

    def dataset(self, name: str) -> tuple[DatasetRef, Dataset]:
        """The dataset of a domain, opened once per run."""
        ref = dataset_ref(self.scenario, name, self.options.folders, self.options.roots)
        address = digest(ref.payload())
        if address not in self.opened:
            self.opened[address] = (ref, ref.open())
        return self.opened[address]

    def patients(self, part: Part) -> dict[str, str]:
        """Case to patient of a part of the source's own dataset."""
        _, dataset = self.dataset(self.source.dataset or self.scenario.dataset)
        known = {info.case_id: info.patient_id for info in dataset.cases()}
        return {case: known[case] for case in part.where()}

    def part(self, target: Target | None, ref: DatasetRef, dataset: Dataset, cases: Sequence[str], name: str) -> Part:
        """Anatomy, image and reference tasks of some cases of a target, or of the source (None)."""
        source = self.source
        where = f"{self.scenario.name}: {target.name if target else source.name}"
        by_keys = target.model_copy(update={"population": _keys_only(target)}) if target else None
        population = population_of(source, by_keys)
        acquisition = source_acquisition(source, dataset, where)
        steps = acquisition_steps(target)
        protocol = {**source.protocol, **(target.protocol if target else {})}
        check_protocol(
            protocol,
            dataset.optional_members,
            where,
            alternative_members=dataset.alternative_members,
            structures=self.structures,
            things=dataset.things,
        )
        moved = self.drawing(steps, target)
        chunks = []
        for i in range(0, len(cases), CHUNK):
            ids = tuple(sorted(cases)[i : i + CHUNK])
            title = f"{target.name if target else source.name} ({name} {i // CHUNK + 1})"
            keys = self.chunk_tasks(ref, dataset, ids, population, acquisition, steps, protocol, moved, title)
            chunks.append((*keys, ids))
        return Part(tuple(chunks))

    def drawing(self, steps: Sequence[Step], target: Target | None) -> dict[str, Any]:
        """What reaches the references beside the protocol: moving steps, annotators' noise, whether ids are kept."""
        moved = tuple(step._asdict() for step in moving(steps))
        drawing: dict[str, Any] = {"steps": moved} if moved else {}
        if target is not None and target.annotator_noise_mm:
            drawing["annotator_noise_mm"] = target.annotator_noise_mm
        drawing |= {"domain_seed": self.scenario.domain_seed} if drawing else {}
        return drawing | ({"instances": True} if self.layout.counts_instances else {})

    def chunk_tasks(
        self, ref, dataset, ids, population, acquisition, steps, protocol, drawing, title
    ) -> tuple[str, str, str]:
        """Keys of the three data tasks of a chunk of cases."""
        common = self.graph.common
        opened_by = common(frozen(ref.payload()))
        anatomy = self.graph.add(
            "anatomy",
            {"dataset": opened_by, "cases": ids, "population": common(population)},
            (),
            f"anatomies of {title}",
            0.4 * len(ids),
            {
                "version": domains.ANATOMY_VERSION,
                "dataset": dataset.digest,
                "population": common(_numbers(population)),
                "population_versions": common(_population_versions(population)),
                "cases": ids,
            },
        )
        images = self.images_task(anatomy, ids, acquisition, steps, title)
        structures = common(tuple(self.structures))
        references = self.graph.add(
            "references",
            {
                "anatomy": anatomy.key,
                "dataset": opened_by,
                "cases": ids,
                "structures": structures,
                "protocol": common(frozen(protocol)),
                **drawing,
            },
            (anatomy.id,),
            f"references of {title}",
            0.1 * len(ids),
            {
                "version": domains.REFERENCES_VERSION,
                "anatomy": anatomy.id,
                "structures": structures,
                "protocol": common(_numbers(protocol)),
                "rules": common({rule: PROTOCOLS[rule].version for rule in protocol}),
                **drawing,
                **({"steps": common(_step_versions(moving(steps)))} if "steps" in drawing else {}),
            },
        )
        return anatomy.key, images.key, references.key

    def images_task(
        self,
        anatomy: Task,
        ids: tuple[str, ...],
        acquisition: Mapping[str, Any],
        steps: Sequence[Step],
        title: str,
    ) -> Task:
        """The images of a chunk of anatomies under an acquisition and the steps of a target."""
        common, seed = self.graph.common, self.scenario.domain_seed
        return self.graph.add(
            "images",
            {
                "anatomy": anatomy.key,
                "cases": ids,
                "acquisition": common(frozen(acquisition)),
                "steps": common(tuple(step._asdict() for step in steps)),
                "domain_seed": seed,
            },
            (anatomy.id,),
            f"images of {title}",
            0.25 * len(ids),
            {
                "version": domains.IMAGES_VERSION,
                "anatomy": anatomy.id,
                "acquisition": common(_numbers(acquisition)),
                "steps": common(_step_versions(steps)),
                "domain_seed": seed,
            },
        )


def moving(steps: Sequence[Step]) -> list[Step]:
    """Those of the steps that move the anatomy, and so the labels with it."""
    return [step for step in steps if OPERATORS[step.operator].policy is LabelPolicy.CO_WARP]


def selection_rule(step: PopulationStep, infos: Sequence[CaseInfo]) -> Reselection:
    """The rule that a population step states for these cases; levels between the whole ones are interpolated."""
    assert step.attribute is not None  # the specification asks for it
    n = max(1, round((KEPT if step.keep is None else step.keep) * len(infos)))
    tilt, shares = None, step.shares
    if step.favour is not None:
        shares = _favouring(step, infos)
    elif step.levels:
        tilt = float(np.interp(step.levels[0], range(len(LEVELS) + 1), (0.0, *LEVELS)))
    elif step.strength:
        tilt = step.strength[0]
    if shares is not None:
        n = min(n, sum(shares.get(value, 0) > 0 for value in _values(step, infos))) or 1
    patients = len({info.patient_id for info in infos if shares is None or shares.get(_value(step, info), 0) > 0})
    # A small part is the scenario's choice, not the rule's; patients with unlike numbers of cases count for less.
    ess = max(1.5, min(MIN_ESS, 0.75 * min(n, patients)))
    return Reselection(step.attribute, tilt, step.share, step.above, shares, cases=n, min_ess=ess)


def _favouring(step: PopulationStep, infos: Sequence[CaseInfo]) -> dict[str, float]:
    """Shares of the categories where the favoured one has gone a part of the way to being alone."""
    values = _values(step, infos)
    if step.favour not in values:
        remedy = nearest(str(step.favour), set(values))
        raise SpecError(f"no case has {step.attribute} = '{step.favour}'", where=RESELECT, remedy=remedy)
    strength = step.levels[0] / len(LEVELS) if step.levels else step.strength[0]
    shares = {name: (1 - strength) * values.count(name) / len(values) for name in sorted(set(values))}
    return shares | {str(step.favour): shares[str(step.favour)] + strength}


def _value(step: PopulationStep, info: CaseInfo) -> str:
    """The attribute of a case, the site included, as text; empty where it has none."""
    known = {**info.attributes, **({"site": info.site} if info.site else {})}
    return str(known.get(str(step.attribute), ""))


def _values(step: PopulationStep, infos: Sequence[CaseInfo]) -> list[str]:
    """The attribute of the cases that have it, the site included, as text."""
    return [value for info in infos if (value := _value(step, info))]


def _keys_only(target: Target) -> tuple[PopulationStep, ...]:
    """The population steps that set keys of a phantom, without a selection of cases."""
    return tuple(step for step in target.population if step.operator != RESELECT)


def _step_versions(steps: Sequence[Step]) -> tuple[dict[str, Any], ...]:
    """The steps of an acquisition with the versions of their operators."""
    return tuple(step._asdict() | {"version": OPERATORS[step.operator].version} for step in steps)


def _population_versions(population: Mapping[str, float]) -> dict[str, int]:
    return {op.name: op.version for op in POPULATIONS.values() if op.key in population}


def _numbers(value: Any) -> Any:
    """A table as its numbers are, however they were written: 9.0 is 9."""
    if isinstance(value, Mapping):
        return {name: _numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_numbers(part) for part in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
