"""Literal tables: the parameters of each MR sequence, whole protocols, and vendors. Importing it needs no torch."""

from __future__ import annotations

from typing import NamedTuple

# sequence -> its own keys with their defaults; None: a key that may be given
SEQUENCES: dict[str, dict[str, float | None]] = {
    "spgr": {"tr_ms": 150.0, "te_ms": 4.6, "flip_deg": 80.0},
    "dixon": {"tr_ms": 150.0, "te_ms": 2.3, "flip_deg": 70.0},  # opposed phase at 1.5 T
    "mprage": {
        "tr_ms": 2300.0,
        "te_ms": 3.0,
        "ti_ms": 900.0,
        "flip_deg": 9.0,
        "n_readouts": 176,
        "spacing_ms": 7.1,
        "inversion_efficiency": 0.96,
    },
    "bssfp": {"tr_ms": 3.2, "flip_deg": 60.0, "df_hz": 0.0},
    "se": {"tr_ms": 500.0, "te_ms": 12.0},
    "fse": {"tr_ms": 4000.0, "te_ms": 90.0, "etl": 16, "esp_ms": 10.0},
    "ir": {"tr_ms": 3000.0, "te_ms": 12.0, "ti_ms": 400.0, "inversion_efficiency": 1.0, "etl": None, "esp_ms": None},
    "flair": {
        "tr_ms": 9000.0,
        "te_ms": 120.0,
        "ti_ms": 2500.0,
        "inversion_efficiency": 1.0,
        "etl": None,
        "esp_ms": None,
    },
    "stir": {"tr_ms": 5000.0, "te_ms": 40.0, "ti_ms": 238.0, "inversion_efficiency": 1.0, "etl": None, "esp_ms": None},
    "dwi": {"tr_ms": 6000.0, "te_ms": 80.0, "b_s_mm2": 1000.0, "kurtosis": 0.0},
}

# name -> acquisition table; typical protocols at 1.5 T, times as scanners state them
PRESETS: dict[str, dict[str, float | str]] = {
    "brain_t1_spgr": {"sequence": "spgr", "tr_ms": 20.0, "te_ms": 4.0, "flip_deg": 20.0},
    "brain_t1_se": {"sequence": "se", "tr_ms": 500.0, "te_ms": 12.0},
    "brain_t1_mprage": {
        "sequence": "mprage",
        "tr_ms": 2300.0,
        "te_ms": 3.0,
        "ti_ms": 900.0,
        "flip_deg": 9.0,
        "n_readouts": 176,
        "spacing_ms": 7.1,
        "inversion_efficiency": 0.96,
    },
    "brain_pd": {"sequence": "fse", "tr_ms": 3000.0, "te_ms": 15.0, "etl": 6, "esp_ms": 15.0},
    "brain_t2": {"sequence": "fse", "tr_ms": 4000.0, "te_ms": 90.0, "etl": 16, "esp_ms": 10.0},
    "brain_flair": {"sequence": "flair", "tr_ms": 9000.0, "te_ms": 120.0, "ti_ms": 2500.0},
    "brain_dwi": {"sequence": "dwi", "tr_ms": 6000.0, "te_ms": 80.0, "b_s_mm2": 1000.0},
    "brain_stir": {"sequence": "stir", "tr_ms": 5000.0, "te_ms": 40.0, "ti_ms": 238.0},
    "cardiac_cine": {"sequence": "bssfp", "tr_ms": 3.2, "flip_deg": 60.0},
    "abdomen_t1": {"sequence": "spgr", "tr_ms": 150.0, "te_ms": 4.6, "flip_deg": 80.0},
    "abdomen_t1_fat_suppressed": {
        "sequence": "spgr",
        "tr_ms": 150.0,
        "te_ms": 2.3,
        "flip_deg": 70.0,
        "fat_sat_percent": 90.0,
    },
    "abdomen_t1_enhanced": {
        "sequence": "spgr",
        "tr_ms": 4.2,
        "te_ms": 1.9,
        "flip_deg": 12.0,
        "fat_sat_percent": 90.0,
        "gd_mmol": 0.5,
    },
    "abdomen_in_phase": {"sequence": "dixon", "tr_ms": 150.0, "te_ms": 4.6, "flip_deg": 70.0},
    "abdomen_opposed_phase": {"sequence": "dixon", "tr_ms": 150.0, "te_ms": 2.3, "flip_deg": 70.0},
    "abdomen_t2": {"sequence": "fse", "tr_ms": 3500.0, "te_ms": 90.0, "etl": 16, "esp_ms": 6.0},
    "abdomen_dwi": {"sequence": "dwi", "tr_ms": 4000.0, "te_ms": 65.0, "b_s_mm2": 600.0},
}
# value of the operator `sequence_swap`, from 1 -> the protocol it changes to
SWAPS = ("brain_t1_mprage", "brain_pd", "brain_t2", "brain_flair", "brain_dwi")


class Vendor(NamedTuple):
    """How a vendor's scanners differ from those of vendor A, all else being equal.

    Attributes:
        snr: factor on SNR (coils, receiver).
        bias_percent: added non-uniformity of the receive coil, after the vendor's own correction.
        filter_gain: of the filter that sharpens the reconstructed image.
        gain: of the scaling to stored integers.
        pixel: factor on the acquired pixel (matrix of the default protocol).
    """

    snr: float
    bias_percent: float
    filter_gain: float
    gain: float
    pixel: float


# Not any company's: profiles within the spread that scanners of one hospital group show.
VENDORS: dict[str, Vendor] = {
    "A": Vendor(snr=1.0, bias_percent=0.0, filter_gain=0.0, gain=1.0, pixel=1.0),
    "B": Vendor(snr=0.85, bias_percent=10.0, filter_gain=0.4, gain=2.5, pixel=1.0),
    "C": Vendor(snr=1.2, bias_percent=20.0, filter_gain=0.0, gain=0.4, pixel=1.25),
    "D": Vendor(snr=0.7, bias_percent=5.0, filter_gain=0.8, gain=8.0, pixel=1.1),
    "E": Vendor(snr=0.6, bias_percent=40.0, filter_gain=0.2, gain=1.6, pixel=1.4),
    "F": Vendor(snr=1.0, bias_percent=30.0, filter_gain=1.0, gain=20.0, pixel=1.6),
}
