"""Domains made real: dataset + population -> anatomies, + acquisition -> images, + protocol -> references.

The three are stored apart. Images do not know the protocol and references do not know the scanner, so two domains that
differ only in the label protocol share their images, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from shiftbench.data.phantoms.tissues import tissue_maps
from shiftbench.domains import DatasetRef, load_anatomy
from shiftbench.errors import NotApplicable
from shiftbench.instances import settled
from shiftbench.rng import generator
from shiftbench.shifts import ct, mr
from shiftbench.shifts.acquisition import acquire, moved_labels
from shiftbench.shifts.annotators import annotator_noise
from shiftbench.shifts.protocol import reference as draw_reference
from shiftbench.shifts.settings import NOMINAL_FIELD_T, Step
from shiftbench.store import Store
from shiftbench.types import Anatomy, Dataset


def make_anatomies(
    store: Store, key: str, dataset: DatasetRef, cases: Sequence[str], population: Mapping[str, float]
) -> None:
    """Generates or reads the cases' anatomies and publishes them."""
    opened = dataset.open()
    infos = {info.case_id: info for info in opened.cases()}
    record: dict[str, Any] = {"dataset": opened.name, "digest": opened.digest, "cases": {}}
    with store.workspace() as folder:
        for case_id in cases:
            anatomy = opened.anatomy(case_id, population)
            np.savez(folder / f"{case_id}.npz", **_arrays(anatomy))  # type: ignore[arg-type]
            record["cases"][case_id] = {
                "patient": anatomy.patient_id,
                "spacing": None if anatomy.geometry.spacing is None else list(anatomy.geometry.spacing),
                "affine": None if anatomy.geometry.affine is None else np.asarray(anatomy.geometry.affine).tolist(),
                "modality": anatomy.modality,
                "supersampling": list(anatomy.supersampling),
                "reference_label": anatomy.reference_label,
                "attributes": {**infos[case_id].attributes, **anatomy.attributes},
            }
        store.publish("anatomy", key, record, folder)


def _arrays(anatomy: Anatomy) -> dict[str, np.ndarray]:
    arrays = {
        n: getattr(anatomy, n) for n in ("fine", "instances", "tissue", "image") if getattr(anatomy, n) is not None
    }
    if anatomy.texture is not None:
        arrays["texture"] = anatomy.texture
    for name, values in (anatomy.values or {}).items():
        arrays[f"values/{name}"] = values
    return arrays


def maps_of(anatomy: Anatomy, acquisition: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tissue maps (*f) of a phantom that an acquisition reads, at its field and in its contrast phases."""
    field_t = float(acquisition.get("relaxation_t") or acquisition.get("field_t", NOMINAL_FIELD_T))
    if acquisition["modality"] == "ct":
        phases = [name.removeprefix("HU_") for name in ct.needed_maps(acquisition)]
        return {f"HU_{phase}": tissue_maps(anatomy, phase=phase, properties=("HU",))["HU"] for phase in phases}
    names = {*mr.needed_maps(acquisition)} | ({"FAT"} if acquisition.get("fat_shift_mm") else set())
    return tissue_maps(anatomy, field_t, properties=sorted(names))


def acquired(
    anatomy: Anatomy, dataset_digest: str, acquisition: Mapping[str, Any], steps: Sequence[Step], domain_seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Raw image (c, *s) of one anatomy, and what the shift achieved; a phantom's is rounded as a scanner exports it."""
    key = (domain_seed, dataset_digest, anatomy.case_id)
    if anatomy.tissue is None:
        return acquire(anatomy, None, acquisition, steps, key=key)
    image, measured = acquire(anatomy, maps_of, acquisition, steps, key=key)
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(image), limits.min, limits.max).astype(np.int16), measured


def make_images(
    store: Store,
    key: str,
    anatomy_key: str,
    cases: Sequence[str],
    acquisition: Mapping[str, Any],
    steps: Sequence[Step],
    domain_seed: int,
) -> None:
    """Acquires the cases and publishes raw images; a case that cannot be acquired so is noted with the reason."""
    digest = store.record("anatomy", anatomy_key)["digest"]
    record: dict[str, Any] = {"measured": {}, "not_applicable": {}}
    with store.workspace() as folder:
        for case_id in cases:
            anatomy = load_anatomy(store, anatomy_key, case_id)
            try:
                image, measured = acquired(anatomy, digest, acquisition, steps, domain_seed)
            except NotApplicable as reason:
                record["not_applicable"][case_id] = str(reason)
                continue
            np.save(folder / f"{case_id}.npy", image)
            record["measured"][case_id] = {k: float(v) for k, v in measured.items() if np.isfinite(v)}
        store.publish("images", key, record, folder)


def drawn(
    anatomy: Anatomy,
    dataset: Dataset,
    structures: Sequence[str],
    protocol: Mapping[str, Any],
    *,
    steps: Sequence[Step] = (),
    domain_seed: int = 0,
) -> np.ndarray:
    """The reference (*s) of one anatomy under a protocol: 0, then one label per structure in order.

    Where some of the acquisition's `steps` move the anatomy, its labels are moved by the same field and then drawn.
    """
    anatomy = _moved(anatomy, dataset, steps, domain_seed)
    return draw_reference(
        anatomy.fine,
        anatomy.instances,
        fine_labels=dataset.fine_labels,
        members=dataset.members,
        optional_members=dataset.optional_members,
        structures=structures,
        protocol=protocol,
        spacing=anatomy.geometry.spacing,
        things=dataset.things,
        alternative_members=dataset.alternative_members,
        affine=anatomy.geometry.affine,
        barriers=dataset.barriers,
        stuff=dataset.stuff,
    )


def _moved(anatomy: Anatomy, dataset: Dataset, steps: Sequence[Step], domain_seed: int) -> Anatomy:
    """The anatomy with its labels and instances where the acquisition's steps have moved the image."""
    return moved_labels(anatomy, steps, key=(domain_seed, dataset.digest, anatomy.case_id)) if steps else anatomy


def drawn_instances(anatomy: Anatomy, reference: np.ndarray, dataset: Dataset, structures: Sequence[str]) -> np.ndarray:
    """Instance ids (*s) of the things in a drawn reference, 1 to n, in the smallest unsigned integer that holds them.

    The anatomy's ids hold where the reference shows a thing. What a protocol adds to one, as a margin, belongs to the
    nearest; what is drawn where the anatomy has none is counted by connected components.
    """
    things = [label for label, name in enumerate(structures, start=1) if name in dataset.things]
    ids = settled(reference, anatomy.instances, things)
    return ids.astype(np.min_scalar_type(int(ids.max(initial=0))))


def make_references(
    store: Store,
    key: str,
    anatomy_key: str,
    dataset: DatasetRef,
    cases: Sequence[str],
    structures: Sequence[str],
    protocol: Mapping[str, Any],
    steps: Sequence[Step] = (),
    domain_seed: int = 0,
    annotator_noise_mm: float | None = None,
    instances: bool = False,
) -> None:
    """Draws the cases' references under the protocol and publishes them, apart from the images.

    Args:
        store, key, anatomy_key, dataset, cases, structures, protocol: what is drawn, and where it goes.
        steps: those that move the anatomy: labels are moved by the field that moves the image, and then drawn.
        domain_seed: of the draws of steps and annotators.
        annotator_noise_mm: random displacement of the contours, a control; None for none.
        instances: whether the ids of things are published beside them.
    """
    opened = dataset.open()
    with store.workspace() as folder:
        for case_id in cases:
            anatomy = _moved(load_anatomy(store, anatomy_key, case_id), opened, steps, domain_seed)
            reference = drawn(anatomy, opened, structures, protocol)
            if annotator_noise_mm is not None:
                rng = generator(domain_seed, opened.digest, case_id, "annotator", "boundary_mm")
                spacing = anatomy.geometry.spacing
                reference = annotator_noise(reference, structures, spacing, "boundary_mm", annotator_noise_mm, rng)
            np.save(folder / f"{case_id}.npy", reference)
            if instances:
                ids = drawn_instances(anatomy, reference, opened, structures)
                np.save(folder / f"{case_id}.instances.npy", ids)
        store.publish("references", key, {"cases": list(cases)}, folder)
