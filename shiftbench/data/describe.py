"""Dataset descriptions: a small TOML file that says how to read a folder of scans and masks."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

from shiftbench.errors import SpecError, nearest

OUTSIDE = "outside"
_VALUE_SYNTAX = 'write one mask value or a list of them, such as "vessel = 255" or "vessel = [1, 255]"'


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


Values = Annotated[tuple[StrictInt, ...], BeforeValidator(_as_tuple)]
Text = Annotated[str, Field(min_length=1)]


class Description(BaseModel):
    """How a folder of scans is read, who is in it, and under which licence.

    A `column or pattern` is the name of a manifest column, or a regular expression with one group that is searched in
    the case id; a text with a parenthesis is a pattern.

    Attributes:
        name: what scenarios and `--data NAME=PATH` call the dataset.
        version: raised when the same files are to be read differently.
        layout: `msd` (dataset.json lists the pairs), `nnunet` (v2 raw: imagesTr/CASE_0000.ext, labelsTr/CASE.ext) or
            `manifest` (a CSV file with one row per case).
        folder: names of sub-folders that a data root is searched for.
        modality: of the files: mr, ct, rgb (colour pictures) or grey.
        labels: structure -> values that stand for it in the masks; 1-bit masks hold 0 and 255.
        background: values in the masks that belong to no structure.
        manifest: file name of the CSV file (layout `manifest`); `case`, `image` and `label` are its columns.
        patient: column or pattern; without one, every case is a patient.
        site: column or pattern; without one, the site is not known.
        split: column or pattern with the publisher's train, val and test; without one, splits are drawn.
        attributes: manifest columns that are kept with each case (age, sex, group, ...).
        select: manifest column -> values; only rows that hold one of them are in the dataset.
        instances: structure whose masks hold one number per object; every value but the background is that structure.
        channels: of colour pictures, all three (`rgb`), or one that makes them grey images: the `green` channel or the
            `luminance` (ITU-R 601).
        resize: factor that pictures are scaled by. Images are averaged over the area of each new pixel; of a mask, the
            value with the largest share of that area is kept, a structure where it covers one half.
        max_side: the longer side of a picture is brought down to this many pixels, in the same way.
        spacing: `header` (NIfTI), `none` (distances are in pixels), or mm per axis (pictures: rows, columns, before
            `resize`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    version: Annotated[StrictInt, Field(ge=1)]
    layout: Literal["msd", "nnunet", "manifest"]
    folder: Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)] = ()
    modality: Literal["mr", "ct", "rgb", "grey"]
    labels: Mapping[Text, Values]
    background: Values = (0,)
    manifest: Text = "manifest.csv"
    case: Text = "case"
    image: Text = "image"
    label: Text = "label"
    patient: Text | None = None
    site: Text | None = None
    split: Text | None = None
    attributes: tuple[Text, ...] = ()
    select: Mapping[Text, Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]] = {}
    instances: Text | None = None
    channels: Literal["rgb", "green", "luminance"] | None = None
    resize: Annotated[float, Field(gt=0, le=1)] | None = None
    max_side: Annotated[StrictInt, Field(ge=8)] | None = None
    spacing: Literal["header", "none"] | tuple[Annotated[float, Field(gt=0)], ...] = "header"
    licence: Text
    citation: Text
    notes: str = ""

    @field_validator("patient", "site", "split")
    @classmethod
    def _pattern_has_one_group(cls, text: str | None) -> str | None:
        if text is not None and is_pattern(text):
            try:
                groups = re.compile(text).groups
            except re.error as error:
                raise ValueError(f"is not a regular expression ({error})") from None
            if groups != 1:
                raise ValueError(f"has {groups} groups where a pattern needs exactly one")
        return text

    @field_validator("labels")
    @classmethod
    def _structures(cls, labels: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
        if not labels or not all(labels.values()):
            raise ValueError(f"names a structure without a value; {_VALUE_SYNTAX}")
        if OUTSIDE in labels:
            raise ValueError(f"'{OUTSIDE}' is the name of the background; list its values under 'background'")
        return labels

    @model_validator(mode="after")
    def _each_value_once(self) -> Description:
        values = [*self.background, *(v for some in self.labels.values() for v in some)]
        twice = sorted({v for v in values if values.count(v) > 1})
        if twice:
            raise ValueError(f"the mask value {twice[0]} stands for two things in 'labels' and 'background'")
        return self

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Description:
        columns = [key for key in ("patient", "site", "split") if (text := getattr(self, key)) and not is_pattern(text)]
        columns += ["attributes"] if self.attributes else []
        columns += ["select"] if self.select else []
        if self.layout != "manifest" and columns:
            raise ValueError(f"'{columns[0]}' names a column, but only the layout 'manifest' has columns")
        if self.channels and self.modality != "rgb":
            raise ValueError(f"'channels' is for the modality 'rgb', not '{self.modality}'")
        if self.instances is not None and tuple(self.labels) != (self.instances,):
            raise ValueError(f"'instances' needs '{self.instances}' as the only structure in 'labels'")
        if self.instances and (self.resize or self.max_side):
            raise ValueError("'instances' and 'resize' or 'max_side' exclude each other")
        if self.resize and self.max_side:
            raise ValueError("'resize' and 'max_side' exclude each other")
        return self

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures in the order of the file."""
        return tuple(self.labels)

    @property
    def delivered_modality(self) -> str:
        """Modality of the images that are handed on: one channel of a colour picture is a grey image."""
        return "grey" if self.channels in ("green", "luminance") else self.modality

    def content(self) -> list[object]:
        """What fixes the images and masks, as JSON values: all but names of folders, licence, citation and notes."""
        rest = self.model_dump(mode="json", exclude={"folder", "licence", "citation", "notes", "labels"})
        for later in ("select", "instances"):  # keys that came later leave the digests of older descriptions alone
            if not rest[later]:
                del rest[later]
        return [rest, [[name, list(values)] for name, values in self.labels.items()]]  # order of labels counts


def is_pattern(text: str) -> bool:
    """Whether a `column or pattern` is a pattern."""
    return "(" in text


def load_description(path_or_name: str | Path, directory: Path) -> Description:
    """The description in a TOML file, or the built-in one of that name in `directory`.

    Raises:
        SpecError: the file is missing, is not TOML, or holds an unknown, missing or wrong key.
    """
    path = Path(path_or_name)
    if path.suffix != ".toml":
        path = directory / f"{path_or_name}.toml"
        if not path.is_file():
            known = description_names(directory)
            raise SpecError(
                f"unknown dataset '{path_or_name}'",
                remedy=f"{nearest(str(path_or_name), known)}; or give the path of a .toml file",
            )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("there is no such file", where=path, remedy="check the path of the description") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"is not valid TOML ({error})", where=path, remedy="correct that place") from None
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror})", where=path, remedy="check the path") from None
    return parse_description(table, where=path)


def description_names(directory: Path) -> tuple[str, ...]:
    """Names of the descriptions in a folder, in alphabetical order."""
    return tuple(sorted(path.stem for path in directory.glob("*.toml")))


def parse_description(table: Mapping[str, Any], *, where: object) -> Description:
    """A checked description.

    Raises:
        SpecError: names `where`, the first wrong key and what may stand there.
    """
    try:
        return Description.model_validate(table)
    except ValidationError as error:
        raise _spec_error(error.errors()[0], where) from None


def _spec_error(error: Any, where: object) -> SpecError:
    """One sentence for a pydantic error: file, key, remedy."""
    path = [str(part) for part in error["loc"]]
    key, kind = path[0] if path else "", error["type"]
    known = list(Description.model_fields)
    if kind == "extra_forbidden":
        return SpecError(f"unknown key '{key}'", where=where, remedy=nearest(key, known))
    if kind == "missing":
        return SpecError(f"the key '{key}' is missing", where=where, remedy=f"add a line '{key} = ...'")
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        return SpecError(f"'{key}' {message}" if key else message, where=where, remedy="correct the description")
    if key in ("labels", "background"):
        shown = " ".join(path[:2])
        return SpecError(f"'{shown}' holds {error['input']!r}, not an integer", where=where, remedy=_VALUE_SYNTAX)
    if kind == "literal_error" and key != "spacing":
        allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        problem = f"'{key}' is {error['input']!r}, which is not one of its values"
        return SpecError(problem, where=where, remedy=nearest(str(error["input"]), allowed))
    if key == "spacing":
        remedy = 'write "header", "none", or mm per axis such as [0.5, 0.5]'
        return SpecError(f"'spacing' is {error['input']!r}", where=where, remedy=remedy)
    wish = error["msg"][:1].lower() + error["msg"][1:]
    return SpecError(f"'{key}' is {error['input']!r}", where=where, remedy=wish)
