"""The full set of IBSI features by MIRP, an optional extra: its names, whether it is there, and its values.

MIRP (Zwanenburg and Loeck, Journal of Open Source Software 9:6413, 2024; licence EUPL-1.2) is imported when the first
value is asked for. Settings: three-dimensional matrices merged over directions, intensities discretised to 32 bins of
equal width between the smallest and the largest inside the outline, no resampling, no resegmentation.

Left out: Moran's I and Geary's C, which MIRP estimates from random voxels without a seed, the local intensity peaks,
which look outside the outline, and all that `shiftbench.metrics.radiomics` measures itself.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from shiftbench.errors import SpecError

BINS = 32
MOST_VOXELS = 20_000  # of a reference outline; one takes about three seconds then
CACHED = 256  # outlines; the reference's come again with every method that the process scores
_FAMILIES = {"dzm": "gldzm", "ivh": "ivh", "morph": "morph", "ih": "ih", "cm": "cm", "rlm": "rlm", "szm": "szm"}
_FAMILIES |= {"ngt": "ngtdm", "ngl": "ngldm"}

# Abbreviations of IBSI by family.
_NAMES: Mapping[str, str] = {
    "morph": (
        "comp_1 comp_2 sph_dispr asphericity com integ_int vol_dens_conv_hull area_dens_conv_hull vol_dens_aabb "
        "area_dens_aabb vol_dens_aee area_dens_aee"
    ),
    "ivh": ("v10 v25 v50 v75 v90 i10 i25 i50 i75 i90 diff_v10_v90 diff_v25_v75 diff_i10_i90 diff_i25_i75"),
    "ih": (
        "mean var skew kurt median min p10 p90 max mode iqr range mad rmad medad cov qcod entropy uniformity "
        "max_grad max_grad_g min_grad min_grad_g"
    ),
    "cm": (
        "joint_max joint_avg joint_var joint_entr diff_avg diff_var diff_entr sum_avg sum_var sum_entr energy "
        "contrast dissimilarity inv_diff inv_diff_norm inv_diff_mom inv_diff_mom_norm inv_var corr auto_corr "
        "clust_tend clust_shade clust_prom info_corr1 info_corr2"
    ),
    "rlm": ("sre lre lgre hgre srlge srhge lrlge lrhge glnu glnu_norm rlnu rlnu_norm r_perc gl_var rl_var rl_entr"),
    "szm": ("sze lze lgze hgze szlge szhge lzlge lzhge glnu glnu_norm zsnu zsnu_norm z_perc gl_var zs_var zs_entr"),
    "dzm": ("sde lde lgze hgze sdlge sdhge ldlge ldhge glnu glnu_norm zdnu zdnu_norm z_perc gl_var zd_var zd_entr"),
    "ngt": ("coarseness contrast busyness complexity strength"),
    "ngl": (
        "lde hde lgce hgce ldlge ldhge hdlge hdhge glnu glnu_norm dcnu dcnu_norm dc_perc gl_var dc_var dc_entr "
        "dc_energy"
    ),
}
# How MIRP goes on after the abbreviation: the way of counting neighbours, and the discretisation.
_COUNTED = {"cm": "_d1_3d_v_mrg", "rlm": "_3d_v_mrg", "szm": "_3d", "dzm": "_3d", "ngt": "_3d", "ngl": "_d1_a0.0_3d"}
_DISCRETISED = {family: f"_fbn_n{BINS}" for family in (*_COUNTED, "ih")}

# Name here, family and abbreviation ("cm_energy"), to the name of MIRP's column.
IBSI: Mapping[str, str] = {
    f"{family}_{name}": f"{family}_{name}{_COUNTED.get(family, '')}{_DISCRETISED.get(family, '')}"
    for family, names in _NAMES.items()
    for name in names.split()
}


def check_installed(where: object) -> None:
    """Raises SpecError where the extra is missing; nothing is imported."""
    if find_spec("mirp") is None:
        raise SpecError(
            'features = "ibsi" needs MIRP, which is not installed',
            where=where,
            remedy="pip install 'shiftbench[radiomics]', or take features = \"basic\"",
        )


def ibsi_features(image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float | None]:
    """Every feature of `IBSI` by its name, of one outline in one image; None where MIRP finds none.

    Args:
        image: one channel (d, h, w), raw; in single precision, which is what MIRP computes in.
        mask: bool (d, h, w), with at least one voxel.
        spacing_mm: voxel size per axis.

    Raises:
        SpecError: MIRP is not installed.
        ValueError: the mask is empty, or is not three-dimensional.
    """
    if mask.ndim != 3 or not mask.any():
        raise ValueError("IBSI features are those of an outline in three dimensions with at least one voxel")
    check_installed("radiomics")
    where = np.argwhere(mask)
    box = tuple(slice(a, b) for a, b in zip(where.min(0), where.max(0) + 1, strict=True))
    picture, inside = np.asarray(image[box], np.float32), np.asarray(mask[box], np.uint8)
    found = _by_mirp(picture.tobytes(), inside.tobytes(), inside.shape, tuple(float(mm) for mm in spacing_mm))
    return dict(zip(IBSI, found, strict=True))


@lru_cache(maxsize=CACHED)
def _by_mirp(
    image: bytes, mask: bytes, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> tuple[float | None, ...]:
    """Values in the order of `IBSI`; MIRP drops the spacing of arrays in silence, so it is given files."""
    import SimpleITK as sitk  # needed here alone, and the table of names is read when a run is planned
    from mirp import extract_features  # the optional extra

    with tempfile.TemporaryDirectory() as folder, _unsaid():
        paths = {}
        for name, content, kind in (("image", image, np.float32), ("mask", mask, np.uint8)):
            paths[name] = str(Path(folder) / f"{name}.nii")
            volume = sitk.GetImageFromArray(np.pad(np.frombuffer(content, kind).reshape(shape), 1))
            volume.SetSpacing(spacing_mm[::-1])
            sitk.WriteImage(volume, paths[name])
        table = extract_features(
            **paths,
            image_modality="mr",  # "generic" is refused; no step that depends on it is switched on
            by_slice=False,
            base_feature_families=list(_FAMILIES.values()),
            base_discretisation_method="fixed_bin_number",
            base_discretisation_n_bins=BINS,
        )[0]
    values = (float(table[column].iloc[0]) for column in IBSI.values())
    return tuple(value if np.isfinite(value) else None for value in values)


@contextmanager
def _unsaid() -> Iterator[None]:
    """Keeps MIRP from setting up the root logger and printing through it, and from warning of what is undefined."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
