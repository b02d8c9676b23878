"""The scans on which operators are certified: phantoms on several grids, and scans without tissue maps made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from shiftbench.data.catalogue import LOADERS
from shiftbench.materialise import maps_of
from shiftbench.shifts.acquisition import acquire
from shiftbench.shifts.operator import Operator
from shiftbench.shifts.settings import Step, check_acquisition
from shiftbench.types import Anatomy, Dataset, Geometry

SEED = 7  # of the cohorts and of all draws


@dataclass(frozen=True)
class ReferenceSet:
    """Patients of a phantom on one grid, and the acquisition that operators are applied to.

    Attributes:
        name: as the certificate names it.
        phantom: a key of LOADERS.
        shape, spacing_mm, supersampling: the grid.
        acquisition: acquisition table; defaults where it says nothing.
        real: "" for phantoms; otherwise what scans without maps are made of them: "mr" (one contrast), "brain" (that
            without skull), "channels" (three contrasts), "grey" and "rgb" (the middle slice, 0 to 255).
        serves: what an operator needs for which this set comes first: "volume", "kernel", "transfer" or nothing.
    """

    name: str
    phantom: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    acquisition: tuple[tuple[str, Any], ...] = ()
    supersampling: tuple[int, int, int] = (1, 2, 2)
    real: str = ""
    serves: str = ""

    @cached_property
    def dataset(self) -> Dataset:
        """The cohort."""
        module, kind = LOADERS[self.phantom].split(":")
        size = {"shape": self.shape, "spacing_mm": self.spacing_mm, "supersampling": self.supersampling}
        return getattr(import_module(module), kind)(patients=64, seed=SEED, **size)

    @property
    def table(self) -> dict[str, Any]:
        """The complete acquisition table."""
        return check_acquisition(dict(self.acquisition), self.name)

    @property
    def modality(self) -> str:
        """Modality of the scans."""
        return self.real if self.real in ("grey", "rgb") else str(self.table["modality"])

    def case(self, index: int) -> Anatomy:
        """The `index`-th patient, as a phantom or as a scan without maps."""
        return _case(self, index)

    def acquired(self, index: int, steps: list[Step]) -> tuple[np.ndarray, dict[str, float]]:
        """Raw image (c, *s) of a patient after some steps, and what they achieved."""
        return _acquired(self, index, self.table, steps)


@lru_cache(maxsize=16)
def _phantom(chosen: ReferenceSet, index: int) -> Anatomy:
    return chosen.dataset.anatomy(f"p{index:04d}", {})


@lru_cache(maxsize=16)
def _case(chosen: ReferenceSet, index: int) -> Anatomy:
    anatomy = _phantom(chosen, index)
    if not chosen.real:
        return anatomy
    tables = [chosen.table]
    if chosen.real in ("channels", "rgb"):
        tables = [{**chosen.table, "flip_deg": flip} for flip in (15.0, 40.0, 80.0)]
    image = np.concatenate([_rendered(chosen, anatomy, table) for table in tables])
    if chosen.real == "brain":
        labels = [chosen.dataset.fine_labels.index(name) for name in INSIDE_THE_SKULL]
        image = image * np.isin(anatomy.fine, labels)
    if chosen.real not in ("grey", "rgb"):
        return replace(_without_maps(anatomy), image=image)
    middle = image[:, image.shape[1] // 2]
    top = np.percentile(middle, 99.5, axis=(1, 2), keepdims=True)
    fine = anatomy.fine[anatomy.fine.shape[0] // 2]
    grid = Geometry(anatomy.geometry.spacing_or_pixels(3)[1:])
    picture = np.clip(middle / top * 200 + 20, 0, 255).astype(np.float32)
    plain = _without_maps(anatomy)
    return replace(plain, image=picture, fine=fine, instances=None, geometry=grid, modality=chosen.real)


def _without_maps(anatomy: Anatomy) -> Anatomy:
    return replace(anatomy, tissue=None, values=None, texture=None, reference_label=None)


def _rendered(chosen: ReferenceSet, anatomy: Anatomy, table: Mapping[str, Any]) -> np.ndarray:
    return acquire(anatomy, maps_of, table, [], key=(SEED, chosen.name, anatomy.case_id))[0]


def _acquired(
    chosen: ReferenceSet, index: int, table: Mapping[str, Any], steps: list[Step]
) -> tuple[np.ndarray, dict[str, float]]:
    anatomy = chosen.case(index)
    maps = None if chosen.real else maps_of
    return acquire(anatomy, maps, table, steps, key=(SEED, chosen.name, anatomy.case_id))


INSIDE_THE_SKULL = (
    *("csf", "cortex", "white_matter", "deep_grey", "brainstem", "cerebellum"),
    *("ventricle", "choroid_plexus", "lesion_rim", "lesion"),
)
ABDOMEN, BRAIN = "phantom/abdomen", "phantom/brain"
CT = (("modality", "ct"),)
FLAIR = (("modality", "mr"), ("sequence", "flair"), ("tr_ms", 9000.0), ("te_ms", 120.0), ("ti_ms", 2500.0))
T1 = (("modality", "mr"), ("preset", "brain_t1_spgr"))
T2 = (("modality", "mr"), ("sequence", "se"), ("tr_ms", 4000.0), ("te_ms", 90.0))
QUIET = (("snr", 60.0), ("bias_percent", 0.0))
MR = (("modality", "mr"), *QUIET)

# An operator is certified on the first of these that can carry at least three of its levels.
REFERENCE_SETS: tuple[ReferenceSet, ...] = (
    ReferenceSet("abdomen T1w", ABDOMEN, (8, 128, 128), (5.0, 3.125, 3.125), MR),
    ReferenceSet("abdomen T1w, thin slices", ABDOMEN, (96, 64, 64), (1.0, 5.0, 5.0), MR, (1, 1, 1), serves="volume"),
    ReferenceSet("abdomen T1w, fine pixels", ABDOMEN, (2, 320, 320), (5.0, 1.0, 1.0), MR, (1, 1, 1)),
    ReferenceSet("brain FLAIR", BRAIN, (8, 128, 128), (5.0, 1.8, 1.8), (*FLAIR, *QUIET)),
    ReferenceSet("brain T2w", BRAIN, (8, 128, 128), (5.0, 1.8, 1.8), (*T2, *QUIET)),
    ReferenceSet("brain T1w without maps", BRAIN, (8, 128, 128), (5.0, 1.8, 1.8), MR, real="mr"),
    ReferenceSet(
        *("brain T1w without skull", BRAIN, (12, 80, 80), (10.0, 2.9, 2.9), (*T1, ("bias_percent", 0.0))),
        real="brain",
        serves="transfer",
    ),
    ReferenceSet("brain, three contrasts", BRAIN, (8, 128, 128), (5.0, 1.8, 1.8), MR, real="channels"),
    ReferenceSet("abdomen CT", ABDOMEN, (4, 256, 256), (5.0, 1.6, 1.6), CT, (1, 1, 1)),
    ReferenceSet("abdomen CT, thin slices", ABDOMEN, (96, 64, 64), (1.0, 5.0, 5.0), CT, (1, 1, 1), serves="volume"),
    ReferenceSet("abdomen CT, fine pixels", ABDOMEN, (2, 512, 512), (5.0, 0.5, 0.5), CT, (1, 1, 1), serves="kernel"),
    ReferenceSet("grey picture", BRAIN, (3, 256, 256), (5.0, 0.9, 0.9), MR, real="grey"),
    ReferenceSet("colour picture", BRAIN, (3, 256, 256), (5.0, 0.9, 0.9), MR, real="rgb"),
)


def candidates(operator: Operator, sets: Sequence[ReferenceSet] = REFERENCE_SETS) -> list[ReferenceSet]:
    """Those of `sets` of a modality that the operator is defined for, those that serve its needs first."""
    needs = {_need(operator)}
    fitting = [s for s in sets if s.modality in operator.modalities]
    fitting = [s for s in fitting if not (s.real and (operator.kind == "parameter" or "maps" in operator.requires))]
    fitting = [s for s in fitting if _many_channels(s) or "channels" not in operator.requires]
    fitting = [s for s in fitting if s.real != "channels" or "channels" in operator.requires]
    return sorted(fitting, key=lambda s: s.serves not in needs)


def _need(operator: Operator) -> str:
    """Which kind of set an operator is certified on first."""
    if "volume" in operator.requires:
        return "volume"
    if operator.name.startswith("ct_kernel"):
        return "kernel"
    return "transfer" if operator.function.startswith("transfer:") else ""


def _many_channels(chosen: ReferenceSet) -> bool:
    return chosen.real in ("channels", "rgb")
