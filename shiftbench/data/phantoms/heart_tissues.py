"""Tissue properties of the heart and the chest; what they share with the other phantoms is taken from their table."""

from __future__ import annotations

from shiftbench.data.phantoms.tissues import TISSUES, Tissue

SHARED = ("air", "fat", "muscle", "marrow", "cortical_bone", "csf", "blood_arterial", "liver", "spleen", "bowel_wall")

# Pairs are (1.5 T, 3 T). Sources by name, beside those of `TISSUES`:
#   Messroghli 2017: consensus on T1, T2 and extracellular volume, J Cardiovasc Magn Reson 19:75; myocardium has half of
#   the agent of blood, a scar nearly as much.   Hatabu 1999: relaxation of the lung, Magn Reson Med 42:602.
HEART_TISSUES: dict[str, Tissue] = {name: TISSUES[name] for name in SHARED} | {
    "myocardium": Tissue(
        (1030, 1200),
        (47, 45),
        (35.9, 20.5),
        0.78,
        (45, 105, 115, 95),
        "Stanisz 2005; Messroghli 2017",
        adc=1.5,
        gd=0.45,
    ),
    "scar": Tissue(
        (1240, 1400), (62, 58), (38, 24), 0.82, (40, 68, 95, 118), "typical, chronic infarct", adc=1.9, gd=0.95
    ),
    "blood_mixed_venous": Tissue(
        (1480, 1649),
        (230, 110),
        (95, 38),
        0.80,
        (40, 270, 150, 102),
        "Zhang 2013; T2 typical at 70 % saturation",
        adc=10.0,
        gd=1.0,
    ),
    "lung": Tissue((1200, 1280), (40, 35), (1.8, 0.9), 0.16, (-780, -750, -755, -765), "Hatabu 1999", adc=2.0, gd=0.1),
    "pericardium": Tissue((900, 1000), (20, 20), (8, 6), 0.35, (40, 45, 50, 50), "typical", adc=0.8, gd=0.3),
}
