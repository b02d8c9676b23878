"""The literal table of radiomic features; importing it imports neither scipy nor skimage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PREFIX = "radiomics_"  # of the metric of every row about features
REFERENCE, PREDICTED, FORMULA = "reference", "predicted", "formula"  # definitions: in whose outline, or by calculation
TYPE = "type="  # in the detail of a lesion's rows
IBSI_UNIT = "IBSI"  # that of the feature in the reference manual, intensities in bins where they are discretised
IMAGE_UNIT = "image unit"  # HU in CT; of MR and photographs what the scanner gives


@dataclass(frozen=True)
class Feature:
    """A feature of an outline: raise `version` when any of its values changes.

    Attributes:
        unit: in words where it is that of the image; "1" for a ratio.
        ibsi: identifier of the feature in the reference manual of the image biomarker standardisation initiative.
        mirp: abbreviation of the feature there and in MIRP.
        kind: "intensity" of any image, or "shape", which is defined in three dimensions and in mm.
    """

    version: int
    unit: str
    ibsi: str
    mirp: str
    kind: Literal["intensity", "shape"]


_SQUARED = f"{IMAGE_UNIT}^2"

# Intensities inside the outline, not discretised.
INTENSITY: Mapping[str, Feature] = {
    "mean": Feature(1, IMAGE_UNIT, "Q4LE", "stat_mean", "intensity"),
    "variance": Feature(1, _SQUARED, "ECT3", "stat_var", "intensity"),
    "skewness": Feature(1, "1", "KE2A", "stat_skew", "intensity"),
    "excess_kurtosis": Feature(1, "1", "IPH6", "stat_kurt", "intensity"),
    "median": Feature(1, IMAGE_UNIT, "Y12H", "stat_median", "intensity"),
    "minimum": Feature(1, IMAGE_UNIT, "1GSF", "stat_min", "intensity"),
    "percentile_10": Feature(1, IMAGE_UNIT, "QG58", "stat_p10", "intensity"),
    "percentile_90": Feature(1, IMAGE_UNIT, "8DWT", "stat_p90", "intensity"),
    "maximum": Feature(1, IMAGE_UNIT, "84IY", "stat_max", "intensity"),
    "interquartile_range": Feature(1, IMAGE_UNIT, "SALO", "stat_iqr", "intensity"),
    "range": Feature(1, IMAGE_UNIT, "2OJQ", "stat_range", "intensity"),
    "mean_absolute_deviation": Feature(1, IMAGE_UNIT, "4FUA", "stat_mad", "intensity"),
    "robust_mean_absolute_deviation": Feature(1, IMAGE_UNIT, "1128", "stat_rmad", "intensity"),
    "median_absolute_deviation": Feature(1, IMAGE_UNIT, "N72L", "stat_medad", "intensity"),
    "coefficient_of_variation": Feature(1, "1", "7TET", "stat_cov", "intensity"),
    "quartile_coefficient_of_dispersion": Feature(1, "1", "9S40", "stat_qcod", "intensity"),
    "energy": Feature(1, _SQUARED, "N8CA", "stat_energy", "intensity"),
    "root_mean_square": Feature(1, IMAGE_UNIT, "5ZWQ", "stat_rms", "intensity"),
}

# Of the mask alone; the mesh is that of marching cubes at 0.5, the axes are those of the voxels' centres.
SHAPE: Mapping[str, Feature] = {
    "volume_ml": Feature(1, "mL", "YEKZ", "morph_vol_approx", "shape"),
    "mesh_volume_ml": Feature(1, "mL", "RNU0", "morph_volume", "shape"),
    "surface_area_mm2": Feature(1, "mm^2", "C0JK", "morph_area_mesh", "shape"),
    "surface_to_volume_per_mm": Feature(1, "1/mm", "2PR5", "morph_av", "shape"),
    "sphericity": Feature(1, "1", "QCFX", "morph_sphericity", "shape"),
    "maximum_diameter_mm": Feature(1, "mm", "L0JK", "morph_diam", "shape"),
    "major_axis_mm": Feature(1, "mm", "TDIC", "morph_pca_maj_axis", "shape"),
    "minor_axis_mm": Feature(1, "mm", "P9VJ", "morph_pca_min_axis", "shape"),
    "least_axis_mm": Feature(1, "mm", "7J51", "morph_pca_least_axis", "shape"),
    "elongation": Feature(1, "1", "Q3CK", "morph_pca_elongation", "shape"),
    "flatness": Feature(1, "1", "N17B", "morph_pca_flatness", "shape"),
}

FEATURES: Mapping[str, Feature] = {**INTENSITY, **SHAPE}

# Of single lesions, which are small: what a few voxels can tell, and what types of lesions are told apart by.
LESION_FEATURES = (
    *("mean", "variance", "skewness", "median", "percentile_10", "percentile_90", "interquartile_range"),
    *("volume_ml", "sphericity", "maximum_diameter_mm", "elongation", "flatness"),
)

# What the background in a prediction does to the two features that a formula exists for.
CONTAMINATION: Mapping[str, Feature] = {
    "contamination": Feature(1, "1", "", "", "intensity"),
    "missed_share": Feature(1, "1", "", "", "intensity"),
    "mean_bias": Feature(1, IMAGE_UNIT, "", "", "intensity"),
    "variance_mixed": Feature(1, _SQUARED, "", "", "intensity"),
}

# The versions of every row's value, for the address of a score; those of how lesions are matched and typed (`scoring`)
# and of MIRP's settings (`ibsi`) are to be raised by hand too.
VERSIONS: Mapping[str, int] = {
    **{PREFIX + name: feature.version for name, feature in {**FEATURES, **CONTAMINATION}.items()},
    f"{PREFIX}lesions": 1,
    f"{PREFIX}ibsi": 1,
}


def features_of(ndim: int, unit: str) -> Mapping[str, Feature]:
    """The features that are defined for images of so many axes: shapes only in three, and in mm."""
    return FEATURES if ndim == 3 and unit == "mm" else INTENSITY
