"""The rules of label protocols: what each means, its unit, levels and source. A literal table without heavy imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Scalar = str | float
Choice = Scalar | Sequence[str] | Mapping[str, Scalar]
Scope = Literal["dataset", "organs", "lesions", "targets", "all"]


@dataclass(frozen=True)
class Rule:
    """One rule of a protocol.

    Attributes:
        name: the key in a scenario's `protocol` table.
        version: raised when the same value gives other references.
        parameter: what the value means.
        unit: of the value ("" for choices).
        default: the value where a protocol says nothing; it changes nothing.
        choices: the values allowed, for a rule without order.
        levels: values of severity 1 to 5, for an ordered rule.
        range: smallest and largest value, for an ordered rule.
        reference: source.
        scope: which structures a plain value holds for: organs (those not made of lesions), lesions, targets (lesions,
            or all structures where there are none) or all. A table `{ structure = value }` names them instead.
            "dataset": the rule is not about single structures.
        substructure: whether it is about fine labels that a dataset must declare (`optional_members` or
            `alternative_members`).
        about: another rule whose fine labels a dataset must declare for this one.
        included: choices that give the sub-structure to its structure.
        requires: "volume" (refuses pictures), "orientation" (needs an affine) or "lesion_map".
        whole: whether values are whole numbers.
        monotone: whether severity 1 to 5 is an order.
        idempotent: whether the rule, applied to what it gave, changes nothing.
        option_of: the rule that this one refines; by itself it changes nothing.
    """

    name: str
    version: int
    parameter: str
    unit: str = ""
    default: Scalar = 0.0
    choices: tuple[str, ...] = ()
    levels: tuple[float, ...] = ()
    range: tuple[float, float] = (0.0, 0.0)
    reference: str = ""
    scope: Scope = "dataset"
    substructure: bool = False
    about: str = ""
    included: tuple[str, ...] = ("included",)
    requires: frozenset[str] = frozenset()
    whole: bool = False
    monotone: bool = True
    idempotent: bool = True
    option_of: str = ""


VOLUME = frozenset({"volume"})
ORIENTATION = frozenset({"volume", "orientation"})
IN_OR_OUT = ("included", "excluded")

RATER_STYLES: dict[str, dict[str, float]] = {
    "neutral": {},
    "generous": {"margin_mm": 3.0, "merge_distance_mm": 3.0},
    "cautious": {"margin_mm": -3.0, "min_lesion_mm3": 64.0},
}

# in the order in which they are applied
_RULES = (
    Rule(
        name="rater_style",
        version=1,
        parameter="bias of a rater as a whole: values of other rules where a protocol does not give them",
        default="neutral",
        choices=tuple(RATER_STYLES),
        reference="centres that count lesions and centres that measure them: Nichyporuk et al., MELBA 2022:029",
    ),
    Rule(
        name="hilum",
        version=1,
        parameter="whether the hilum (vessels and fat at the entry of an organ) belongs to it",
        default="excluded",
        choices=IN_OR_OUT,
        reference="liver hilum: 3D-IRCADb, SLIVER07 and LiTS differ; kidney sinus: Heller et al., KiTS",
        substructure=True,
    ),
    Rule(
        name="vessels",
        version=1,
        parameter="whether the large vessels inside an organ belong to it",
        default="included",
        choices=IN_OR_OUT,
        reference="intrahepatic vessels are 9.7 % of the liver on CT; volumetry leaves them out",
        substructure=True,
    ),
    Rule(
        name="min_vessel_mm",
        version=1,
        parameter="diameter from which a vessel is left out of its organ; thinner ones belong to it",
        unit="mm",
        levels=(8.0, 5.0, 4.0, 3.0, 2.0),
        range=(0.0, 50.0),
        reference="volumetry of the liver leaves out large vessels alone",
        scope="dataset",
        about="vessels",
    ),
    Rule(
        name="gallbladder",
        version=1,
        parameter="whether the gallbladder belongs to the liver",
        default="excluded",
        choices=IN_OR_OUT,
        reference="CHAOS, BTCV and TotalSegmentator differ",
        substructure=True,
    ),
    Rule(
        name="cava",
        version=1,
        parameter="whether the vena cava beside and behind the liver belongs to it",
        default="excluded",
        choices=IN_OR_OUT,
        reference="CHAOS, BTCV and TotalSegmentator differ",
        substructure=True,
    ),
    Rule(
        name="medulla",
        version=1,
        parameter="whether the medulla belongs to the kidney or cortex alone is drawn",
        default="included",
        choices=IN_OR_OUT,
        reference="renal cortex and whole kidney: Heller et al., KiTS",
        substructure=True,
    ),
    Rule(
        name="renal_sinus",
        version=1,
        parameter="whether the sinus (pelvis, vessels and fat) belongs to the kidney",
        default="excluded",
        choices=IN_OR_OUT,
        reference="Heller et al., KiTS: the sinus is left out",
        substructure=True,
    ),
    Rule(
        name="deep_grey",
        version=1,
        parameter="whether deep nuclei belong to the grey matter",
        default="included",
        choices=IN_OR_OUT,
        reference="tissue classes and 35-label protocols differ: Billot et al., Medical Image Analysis 86, 2023",
        substructure=True,
    ),
    Rule(
        name="choroid_plexus",
        version=1,
        parameter="whether the choroid plexus belongs to the ventricles",
        default="included",
        choices=IN_OR_OUT,
        reference="FreeSurfer has a label of its own for it: Fischl et al., Neuron 33:341, 2002",
        substructure=True,
    ),
    Rule(
        name="basal_slice",
        version=1,
        parameter="whether the basal slice, beneath the valve, belongs to the left ventricle",
        default="included",
        choices=IN_OR_OUT,
        reference="basal slice rules of LV protocols: Suinesiaputra et al., Int J Cardiovasc Imaging 31, 2015",
        substructure=True,
    ),
    Rule(
        name="papillary",
        version=1,
        parameter="whether papillary muscles and trabeculae are drawn as blood pool or as myocardial mass",
        default="blood_pool",
        choices=("blood_pool", "mass"),
        reference="8.9 % of the LV mass: Vogel-Claussen et al., J Cardiovasc Magn Reson 8, 2006",
        substructure=True,
        included=("mass",),
    ),
    Rule(
        name="penumbra",
        version=1,
        parameter="whether the faint rim of a lesion belongs to it",
        default="excluded",
        choices=IN_OR_OUT,
        reference="dirty white matter and periventricular caps: Wardlaw et al., STRIVE, Lancet Neurol 12:822, 2013",
        substructure=True,
    ),
    Rule(
        name="other_pathology",
        version=1,
        parameter="whether other pathology is background or drawn with the lesions",
        default="background",
        choices=("background", "merged"),
        reference="label 2 of the WMH challenge: Kuijf et al., IEEE Trans Med Imaging 38:2556, 2019",
        substructure=True,
        included=("merged",),
    ),
    Rule(
        name="lesion_in_organ",
        version=1,
        parameter="which lesions belong to the organ that they lie in; rim_excluded: all, but nobody draws their rim",
        default="both",
        choices=("both", "tumour", "cyst", "none", "rim_excluded"),
        reference="LiTS, KiTS and MSD pancreas differ: Heller et al., Medical Image Analysis 67, 2021",
        idempotent=False,
    ),
    Rule(
        name="lesion_rim_mm",
        version=1,
        parameter="thickness of the rim that lesion_in_organ = rim_excluded leaves out",
        unit="mm",
        levels=(1.0, 2.0, 3.0, 4.0, 6.0),
        range=(0.5, 20.0),
        reference="capsule and halo of liver tumours",
        scope="dataset",
        default=3.0,
        option_of="lesion_in_organ",
    ),
    Rule(
        name="reassign",
        version=1,
        parameter="fine labels given to another structure or to the background: { label = structure }",
        default="",
        reference="merged and split sub-structures: tissue classes, zones of the prostate, classes of BraTS",
    ),
    Rule(
        name="penumbra_z",
        version=1,
        parameter="threshold of the lesion map above normal-appearing tissue; 0: as drawn",
        unit="SD",
        levels=(1.0, 1.5, 2.0, 2.5, 3.0),
        range=(0.0, 10.0),
        reference="periventricular caps, dirty white matter: Wardlaw et al., STRIVE, Lancet Neurol 12:822, 2013",
        scope="lesions",
        requires=frozenset({"lesion_map"}),
    ),
    Rule(
        name="merge_distance_mm",
        version=1,
        parameter="gap up to which neighbouring lesions are drawn as one (confluent)",
        unit="mm",
        levels=(1.0, 2.0, 3.0, 4.0, 5.0),
        range=(0.0, 50.0),
        reference="counting and measuring centres: Nichyporuk et al., MELBA 2022:029",
        scope="lesions",
    ),
    Rule(
        name="min_lesion_mm3",
        version=1,
        parameter="smallest lesion that is drawn",
        unit="mm3",
        levels=(3.0, 9.0, 27.0, 64.0, 125.0),
        range=(0.0, 1000000.0),
        reference="Malinin et al., Shifts 2.0, 2022: lesions below 9 voxels are dropped",
        scope="lesions",
    ),
    Rule(
        name="hilum_closing_mm",
        version=1,
        parameter="radius of the ball that cannot enter a concavity which the contour bridges",
        unit="mm",
        levels=(3.0, 6.0, 10.0, 15.0, 20.0),
        range=(0.0, 50.0),
        reference="hilum filled or carved: 3D-IRCADb, SLIVER07, LiTS; kidney sinus: KiTS",
        scope="organs",
    ),
    Rule(
        name="fill_holes",
        version=1,
        parameter="whether holes are filled, slice by slice or in the volume",
        default="none",
        choices=("none", "2d", "3d"),
        reference="label errors: TotalSegmentator issues 245 and 394",
        scope="all",
    ),
    Rule(
        name="vessel_caliber_mm",
        version=1,
        parameter="thickness from which a vessel is drawn",
        unit="mm",
        levels=(1.5, 2.0, 3.0, 4.0, 6.0),
        range=(0.0, 50.0),
        reference="vessels drawn as far as their second or fourth branch; observers of retinal vessels",
        scope="organs",
    ),
    Rule(
        name="centreline_mm",
        version=1,
        parameter="width of the band drawn about the centreline in place of the lumen",
        unit="mm",
        levels=(1.0, 2.0, 3.0, 4.0, 6.0),
        range=(0.0, 50.0),
        reference="vessels traced along their course: KiTS21 as far as the coeliac trunk, later dropped",
        scope="organs",
        monotone=False,
        idempotent=False,
    ),
    Rule(
        name="landmark_mm",
        version=1,
        parameter="shift of the border between the first structure and those that it touches, positive into these",
        unit="mm",
        levels=(-3.0, -1.0, 1.0, 3.0, 5.0),
        range=(-20.0, 20.0),
        reference="head, body and tail in 12 protocols: Boccardi et al., J Alzheimers Dis 26:61, 2011",
        scope="organs",
        monotone=False,
        idempotent=False,
    ),
    Rule(
        name="alveus_mm",
        version=1,
        parameter="thickness of the layer on the upper face that belongs to the structure (alveus and fimbria)",
        unit="mm",
        levels=(0.5, 1.0, 1.5, 2.0, 3.0),
        range=(0.0, 20.0),
        reference="alveus and fimbria in 12 protocols: Boccardi et al., J Alzheimers Dis 26:61, 2011",
        scope="organs",
        requires=VOLUME,
        idempotent=False,
    ),
    Rule(
        name="tail_cut_mm",
        version=1,
        parameter="length that is cut off the posterior end of the organ that the structures form",
        unit="mm",
        levels=(2.0, 4.0, 6.0, 8.0, 10.0),
        range=(0.0, 50.0),
        reference="tail of the hippocampus in 12 protocols: Boccardi et al., J Alzheimers Dis 26:61, 2011",
        scope="organs",
        requires=ORIENTATION,
        idempotent=False,
    ),
    Rule(
        name="superior_mm",
        version=1,
        parameter="length that the superior end is drawn longer (negative: shorter)",
        unit="mm",
        levels=(-10.0, -5.0, 5.0, 10.0, 15.0),
        range=(-100.0, 100.0),
        reference="base and apex of the left ventricle, seminal vesicles, rectum, spinal cord",
        scope="organs",
        requires=VOLUME,
        monotone=False,
        idempotent=False,
    ),
    Rule(
        name="superior_slices",
        version=1,
        parameter="slices that the superior end is drawn longer (negative: shorter)",
        unit="slices",
        levels=(-2.0, -1.0, 1.0, 2.0, 3.0),
        range=(-20.0, 20.0),
        reference="base and apex of the left ventricle, seminal vesicles, rectum, spinal cord",
        scope="organs",
        requires=VOLUME,
        whole=True,
        monotone=False,
        idempotent=False,
    ),
    Rule(
        name="inferior_mm",
        version=1,
        parameter="length that the inferior end is drawn longer (negative: shorter)",
        unit="mm",
        levels=(-10.0, -5.0, 5.0, 10.0, 15.0),
        range=(-100.0, 100.0),
        reference="base and apex of the left ventricle, seminal vesicles, rectum, spinal cord",
        scope="organs",
        requires=VOLUME,
        monotone=False,
        idempotent=False,
    ),
    Rule(
        name="inferior_slices",
        version=1,
        parameter="slices that the inferior end is drawn longer (negative: shorter)",
        unit="slices",
        levels=(-2.0, -1.0, 1.0, 2.0, 3.0),
        range=(-20.0, 20.0),
        reference="base and apex of the left ventricle, seminal vesicles, rectum, spinal cord",
        scope="organs",
        requires=VOLUME,
        whole=True,
        monotone=False,
        idempotent=False,
    ),
    Rule(
        name="laterality",
        version=1,
        parameter="which of paired organs is drawn; left and right of the middle of the image, as the patient has them",
        default="both",
        choices=("both", "largest", "left", "right"),
        reference="sides left out by mistake: label errors of TotalSegmentator",
        scope="organs",
    ),
    Rule(
        name="wall_mm",
        version=1,
        parameter="thickness of the wall that is drawn with a hollow organ",
        unit="mm",
        levels=(1.0, 2.0, 3.0, 4.0, 6.0),
        range=(0.0, 20.0),
        reference="bladder, bowel and airways with or without their wall",
        scope="organs",
        idempotent=False,
    ),
    Rule(
        name="inflation_percent",
        version=1,
        parameter="volume by which a contour from another modality is larger, half of it along the body",
        unit="%",
        levels=(5.0, 10.0, 15.0, 20.0, 30.0),
        range=(-50.0, 200.0),
        reference="prostate 36.9 cm3 on CT, 32.0 cm3 on MR",
        scope="all",
        idempotent=False,
    ),
    Rule(
        name="margin_mm",
        version=2,
        parameter="distance of the contour from the surface, positive outside",
        unit="mm",
        levels=(-3.0, -1.0, 1.0, 3.0, 5.0),
        range=(-20.0, 20.0),
        reference="inner or outer edge: Kuijf et al., WMH challenge, IEEE Trans Med Imaging 38:2556, 2019",
        scope="all",
        monotone=False,
        idempotent=False,
    ),
    Rule(
        name="margin_plane",
        version=1,
        parameter="whether margin_mm is measured in all directions or within axial slices",
        default="3d",
        choices=("3d", "axial"),
        reference="contours of radiotherapy are drawn in axial slices",
        option_of="margin_mm",
    ),
    Rule(
        name="ctv_mm",
        version=1,
        parameter="margin for microscopic spread (GTV to CTV), not into barriers nor other organs",
        unit="mm",
        levels=(3.0, 5.0, 10.0, 15.0, 20.0),
        range=(0.0, 50.0),
        reference="ICRU Report 83, 2010",
        scope="targets",
        idempotent=False,
    ),
    Rule(
        name="ptv_mm",
        version=1,
        parameter="margin for set-up errors (CTV to PTV), half of it posterior, over whatever lies there",
        unit="mm",
        levels=(3.0, 5.0, 7.0, 10.0, 15.0),
        range=(0.0, 50.0),
        reference="prostate +1 cm, posterior 0.5 cm in one centre, 0.5 to 1 cm in another",
        scope="targets",
        requires=ORIENTATION,
        idempotent=False,
    ),
    Rule(
        name="slice_every",
        version=1,
        parameter="slices from one contour to the next, with interpolation between them; 1: every slice",
        unit="slices",
        levels=(2.0, 3.0, 4.0, 5.0, 8.0),
        range=(1.0, 50.0),
        reference="Raya and Udupa, IEEE Trans Med Imaging 9:32, 1990",
        scope="all",
        default=1.0,
        requires=VOLUME,
        whole=True,
    ),
    Rule(
        name="slice_interpolation",
        version=1,
        parameter="by shape between the contours of slice_every, or copied from the nearest (stairs in sagittal view)",
        default="shape",
        choices=("shape", "nearest"),
        reference="Raya and Udupa, IEEE Trans Med Imaging 9:32, 1990",
        scope="dataset",
        option_of="slice_every",
    ),
    Rule(
        name="polygon_mm",
        version=1,
        parameter="largest distance of a dropped point from the polygon of a slice",
        unit="mm",
        levels=(0.5, 1.0, 2.0, 3.0, 4.0),
        range=(0.0, 50.0),
        reference="Douglas and Peucker, Cartographica 10:112, 1973",
        scope="all",
        idempotent=False,
    ),
    Rule(
        name="fov_cut_mm",
        version=1,
        parameter="width of the band along the edge of the image in which nothing is drawn",
        unit="mm",
        levels=(5.0, 10.0, 15.0, 20.0, 30.0),
        range=(0.0, 500.0),
        reference="organs cut by the field of view: label errors of TotalSegmentator",
        scope="all",
    ),
    Rule(
        name="order",
        version=1,
        parameter="which structure lies on top where two overlap; or a list of structures, the last on top",
        default="listed",
        choices=("listed", "reversed", "large_on_top", "small_on_top"),
        reference="order in which overlapping masks are exported into one label map",
        scope="dataset",
    ),
    Rule(
        name="axial_smoothing_mm",
        version=1,
        parameter="SD of the smoothing of a contour drawn by hand, slice by slice",
        unit="mm",
        levels=(1.0, 2.0, 3.0, 4.0, 6.0),
        range=(0.0, 20.0),
        reference="contours of radiotherapy are drawn in axial slices",
        scope="dataset",
        idempotent=False,
    ),
)

PROTOCOLS: dict[str, Rule] = {rule.name: rule for rule in _RULES}
