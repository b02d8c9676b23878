"""A scenario small enough for tests: ten phantom patients on a coarse grid."""

from pathlib import Path

TINY = """
name = "tiny"
version = 1
question = "Does the whole path run?"
reason = "A test."
citation = "none"
dataset = "phantom/abdomen"
dimension = "2d"
budget = "smoke"

[phantom]
patients = 10
shape = [4, 48, 48]
spacing_mm = [12.0, 8.0, 8.0]
supersampling = [1, 1, 1]

[structures.liver]
tolerance_mm = 8.0
[structures.tumour]
tolerance_mm = 8.0
may_be_absent = true

[[source]]
name = "site-a"
protocol = { hilum = "excluded" }

[[target]]
name = "identity"
family = "control"

[[target]]
name = "noise"
family = "acquisition"
acquisition = [{ operator = "rician_noise", levels = [3, 5] }]

[[target]]
name = "hilum-in"
family = "annotation"
protocol = { hilum = "included" }

[[target]]
name = "load"
family = "population"
population = [{ operator = "lesion_load", levels = [4] }]
"""


def write(folder: Path, text: str = TINY, name: str = "tiny.toml") -> Path:
    """The scenario as a file."""
    path = folder / name
    path.write_text(text)
    return path
