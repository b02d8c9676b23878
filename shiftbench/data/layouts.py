"""Which files belong to which case: the MSD, nnU-Net v2 and manifest layouts."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shiftbench.data.describe import Description, is_pattern
from shiftbench.data.images import VOLUMES
from shiftbench.data.splits import published_parts
from shiftbench.errors import DataError, nearest
from shiftbench.types import CaseInfo


@dataclass(frozen=True)
class CaseFiles:
    """One case of a folder: who it is, and its files as posix paths relative to the folder."""

    info: CaseInfo
    images: tuple[str, ...]  # one file per channel, or one file with all
    label: str


def list_cases(description: Description, root: Path) -> tuple[CaseFiles, ...]:
    """All cases of the folder `root`, in the order of their ids; no pixel is read.

    Raises:
        DataError: the folder, its list of cases, a column or a file is missing, a case is listed twice, a pattern does
            not match, or a patient is in two parts of the publisher's split.
    """
    if not root.is_dir():
        raise DataError("there is no such folder", where=root, remedy=f"give --data {description.name}=PATH")
    listing = {"msd": _list_msd, "nnunet": _list_nnunet, "manifest": _list_manifest}[description.layout]
    source = root / (description.manifest if description.layout == "manifest" else "dataset.json")
    if not source.is_file():
        state = "is empty" if not any(root.iterdir()) else f"has no {source.name}"
        remedy = f"give the folder that holds {source.name} with --data {description.name}=PATH"
        raise DataError(f"the folder {state}", where=root, remedy=remedy)
    found: dict[str, CaseFiles] = {}
    for case_id, images, label, row in listing(description, root, source):
        if case_id in found:
            raise DataError(f"the case '{case_id}' is listed twice", where=source, remedy="give each case its own id")
        for path in (*images, label):
            if not (root / path).is_file():
                remedy = "restore the file or leave the case out"
                raise DataError(f"'{path}' of the case '{case_id}' is missing", where=source, remedy=remedy)
        found[case_id] = CaseFiles(_case_info(description, case_id, row, source), images, label)
    if not found:
        raise DataError("no case is listed", where=source, remedy="check the folder and the layout of the description")
    cases = tuple(found[case_id] for case_id in sorted(found))
    if description.split is not None:
        published_parts((case.info for case in cases), where=source)
    return cases


def case_id_of(path: str) -> str:
    """File name without its ending (.nii.gz counts as one)."""
    name = path.rsplit("/", 1)[-1]
    ending = next((ending for ending in VOLUMES if name.lower().endswith(ending)), None)
    return name[: -len(ending)] if ending else name.rsplit(".", 1)[0]


Listed = tuple[str, tuple[str, ...], str, Mapping[str, str]]  # case id, image files, mask file, manifest row


def _list_msd(description: Description, root: Path, source: Path) -> Iterator[Listed]:
    pairs = _json_entry(_read_json(source), "training", list, source)
    for i, pair in enumerate(pairs):
        if not isinstance(pair, dict) or not all(isinstance(pair.get(key), str) for key in ("image", "label")):
            remedy = 'each entry is {"image": PATH, "label": PATH}'
            raise DataError(f"entry {i} of 'training' is not a pair of files", where=source, remedy=remedy)
        image, label = (Path(pair[key]).as_posix() for key in ("image", "label"))
        yield case_id_of(image), (image,), label, {}


def _list_nnunet(description: Description, root: Path, source: Path) -> Iterator[Listed]:
    table = _read_json(source)
    ending = _json_entry(table, "file_ending", str, source)
    channels = range(len(_json_entry(table, "channel_names", dict, source)))
    names = {part: _names(root / part, ending) for part in ("imagesTr", "labelsTr")}
    expected = {f"{case}_{channel:04d}" for case in names["labelsTr"] for channel in channels}
    for name in sorted(names["imagesTr"] ^ expected):
        state = "is missing" if name in expected else "belongs to no mask in labelsTr or to no channel of dataset.json"
        problem = f"'imagesTr/{name}{ending}' {state}"
        raise DataError(problem, where=root, remedy="complete the pair or take its other file out of the folder")
    for case in names["labelsTr"]:
        images = tuple(f"imagesTr/{case}_{channel:04d}{ending}" for channel in channels)
        yield case, images, f"labelsTr/{case}{ending}", {}


def _list_manifest(description: Description, root: Path, source: Path) -> Iterator[Listed]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the manifest cannot be read ({error})", where=source, remedy="save it as UTF-8 CSV") from None
    for key, column in _columns(description):
        if column not in columns:
            remedy = f"name a column for '{key}' in the description; {nearest(column, columns)}"
            raise DataError(f"there is no column '{column}'", where=source, remedy=remedy)
    for line, row in enumerate(rows, start=2):
        if any(row[column].strip() not in values for column, values in description.select.items()):
            continue
        for column in (description.case, description.image, description.label):
            if not row[column].strip():
                raise DataError(f"line {line} has no '{column}'", where=source, remedy="fill it in or delete the line")
        image, label = (Path(row[column].strip()).as_posix() for column in (description.image, description.label))
        yield row[description.case].strip(), (image,), label, row


def _columns(description: Description) -> list[tuple[str, str]]:
    """(key, column) of every manifest column that the description names."""
    pairs = [(key, getattr(description, key)) for key in ("case", "image", "label", "patient", "site", "split")]
    named = [(key, column) for key, column in pairs if column is not None and not is_pattern(column)]
    more = {"attributes": description.attributes, "select": description.select}
    return named + [(key, column) for key, columns in more.items() for column in columns]


def _names(folder: Path, ending: str) -> set[str]:
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, remedy="the nnU-Net layout has imagesTr and labelsTr")
    files = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    return {name[: -len(ending)] for name in files if name.endswith(ending)}


def _read_json(source: Path) -> Any:
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"is not valid JSON ({error})", where=source, remedy="correct that place") from None


def _json_entry(table: Any, key: str, kind: type, source: Path) -> Any:
    value = table.get(key) if isinstance(table, dict) else None
    if not isinstance(value, kind):
        problem = f"the key '{key}' is missing or not a {kind.__name__}"
        raise DataError(problem, where=source, remedy="check the layout of the dataset's description")
    return value


def _case_info(description: Description, case_id: str, row: Mapping[str, str], source: Path) -> CaseInfo:
    values = {key: _value(description, key, case_id, row, source) for key in ("patient", "site", "split")}
    patient = case_id if description.patient is None else values["patient"]
    if not patient:
        problem = f"the case '{case_id}' has no '{description.patient}'"
        raise DataError(problem, where=source, remedy="fill in the patient of every case")
    attributes = {name: _number_or_text(row[name]) for name in description.attributes if row[name].strip()}
    return CaseInfo(case_id, patient, values["site"], values["split"], attributes)


def _value(description: Description, key: str, case_id: str, row: Mapping[str, str], source: Path) -> str:
    text = getattr(description, key)
    if text is None:
        return ""
    if not is_pattern(text):
        return row[text].strip()
    match = re.search(text, case_id)
    if match is None or not match[1]:
        problem = f"the pattern '{text}' for '{key}' does not match the case '{case_id}'"
        raise DataError(problem, where=source, remedy=f"correct '{key}' in the description '{description.name}'")
    return match[1]


def _number_or_text(text: str) -> str | float:
    try:
        value = float(text)
    except ValueError:
        return text.strip()
    return value if math.isfinite(value) else text.strip()
