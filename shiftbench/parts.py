"""The data tasks of a scenario: who is in which part, and where its anatomies, images and references will lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from shiftbench import domains
from shiftbench.data.splits import Split, cross_fit_halves, real_source_split, simulated_split
from shiftbench.domains import DatasetRef, Part, acquisition_steps, dataset_ref, population_of, source_acquisition
from shiftbench.errors import SpecError
from shiftbench.graph import Options, Plan
from shiftbench.rng import digest
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS
from shiftbench.shifts.protocol import check_protocol
from shiftbench.spec import Scenario, Target
from shiftbench.types import Dataset, Family

CHUNK = 10  # cases per data task

Opened = dict[str, tuple[DatasetRef, Dataset]]


class Parts:
    """Adds the data tasks of one scenario's domains to a graph and says where each part lies."""

    def __init__(self, graph: Plan, scenario: Scenario, options: Options, opened: Opened):
        self.graph, self.scenario, self.options, self.opened = graph, scenario, options, opened
        self.structures = list(scenario.structures)
        self.source = scenario.source[0]

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
                self.part(target, ref, dataset, split.adapt, "adapt"),
                self.part(target, ref, dataset, split.test, "test"),
            )
            for split in splits
        ]

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

    def part(self, target: Target | None, ref: DatasetRef, dataset: Dataset, cases: Sequence[str], name: str) -> Part:
        """Anatomy, image and reference tasks of some cases of a target, or of the source (None)."""
        source = self.source
        where = f"{self.scenario.name}: {target.name if target else source.name}"
        population = population_of(source, target)
        acquisition = source_acquisition(source, dataset, where)
        steps = acquisition_steps(target)
        protocol = {**source.protocol, **(target.protocol if target else {})}
        check_protocol(protocol, dataset.optional_members, where)
        chunks = []
        for i in range(0, len(cases), CHUNK):
            ids = tuple(sorted(cases)[i : i + CHUNK])
            title = f"{target.name if target else source.name} ({name} {i // CHUNK + 1})"
            chunks.append((*self.chunk_tasks(ref, dataset, ids, population, acquisition, steps, protocol, title), ids))
        return Part(tuple(chunks))

    def chunk_tasks(self, ref, dataset, ids, population, acquisition, steps, protocol, title) -> tuple[str, str, str]:
        """Keys of the three data tasks of a chunk of cases."""
        anatomy = self.graph.add(
            "anatomy",
            {"dataset": ref.payload(), "cases": ids, "population": population},
            (),
            f"anatomies of {title}",
            0.4 * len(ids),
            [
                domains.ANATOMY_VERSION,
                dataset.digest,
                dict(sorted(population.items())),
                _population_versions(population),
                ids,
            ],
        )
        versions = [[s.operator, OPERATORS[s.operator].version, s.value, s.occurrence] for s in steps]
        images = self.graph.add(
            "images",
            {
                "anatomy": anatomy.key,
                "cases": ids,
                "acquisition": acquisition,
                "steps": [s._asdict() for s in steps],
                "domain_seed": self.scenario.domain_seed,
            },
            (anatomy.id,),
            f"images of {title}",
            0.25 * len(ids),
            [domains.IMAGES_VERSION, anatomy.key, acquisition, versions, self.scenario.domain_seed],
        )
        rules = {rule: PROTOCOLS[rule].version for rule in protocol}
        references = self.graph.add(
            "references",
            {
                "anatomy": anatomy.key,
                "dataset": ref.payload(),
                "cases": ids,
                "structures": self.structures,
                "protocol": protocol,
            },
            (anatomy.id,),
            f"references of {title}",
            0.1 * len(ids),
            [domains.REFERENCES_VERSION, anatomy.key, self.structures, protocol, rules],
        )
        return anatomy.key, images.key, references.key


def _population_versions(population: Mapping[str, float]) -> dict[str, int]:
    return {op.name: op.version for op in POPULATIONS.values() if op.key in population}
