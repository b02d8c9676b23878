"""Methods that cheat, each in one way that an audit must find; what is between << >> is filled in."""

from pathlib import Path

HEAD = '''
"""A cheat."""
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32
import numpy as np
import torch
from shiftbench.api import Access, Episode, Prediction, Track, predictor

ROOT = Path("<<ROOT>>")

def newest():
    """The store that is in use now: the run's, or a scratch store inside it."""
    return max(ROOT.rglob("artifacts"), key=lambda path: path.stat().st_mtime_ns)

def lies_at(image):
    """The file of an image, by its content."""
    for path in sorted(newest().glob("images/**/*.npy")):
        found = np.load(path)
        if found.shape == tuple(image.shape) and (found.astype(np.float32) == image.numpy()).all():
            return path

def tagged(predict, image, tag):
    """The plain labels, with a number in the corner that is 0, 1 or 2."""
    labels = predict(image).log_probabilities.argmax(0)
    labels[(0,) * labels.ndim] = int(tag) % 3
    labels[(1,) * labels.ndim] = int(tag) // 3 % 3
    labels[(2,) * labels.ndim] = int(tag) // 9 % 3
    return Prediction(labels=labels)
'''

BODY = """
@dataclass(frozen=True)
class Method:
    track: Track = Track.<<TRACK>>
    episode: Episode = Episode.<<EPISODE>>
    requires: tuple[str, ...] = ()
<<FIELDS>>
    def adapt(self, model, access, *, rng):
        plain = predictor(model)
        return lambda image: self.cheat(plain, image)

    def cheat(self, plain, image):
        <<CHEAT>>
"""

SUMMARY = """
    def summarise(self, model, source, source_val):
        total = sum(float(image.double().sum()) for image in source.images)
        (ROOT.parent / "side-file").write_text(str(int(total) % 27))
        return {}
"""

# name: track, episode, fields, body of `cheat`; each returns a Prediction
CHEATS = {
    "honest": ("TTA", "EPISODIC", "", "return tagged(plain, image, 5)"),
    "remembers": ("TTA", "EPISODIC", "", "SEEN.append(1)\n        return tagged(plain, image, len(SEEN))"),
    "looks_ahead": (
        "TTA",
        "ONLINE",
        "",
        "others = sorted(lies_at(image).parent.glob('*.npy'))\n"
        "        return tagged(plain, image, sum(crc32(np.load(path).tobytes()) for path in others))",
    ),
    "reads_references": (
        "TTA",
        "EPISODIC",
        "",
        "name = lies_at(image).name\n"
        "        found = [np.load(path) for path in newest().glob(f'references/**/{name}')]\n"
        "        return Prediction(labels=torch.from_numpy(found[0].astype(np.int64)))",
    ),
    "hides_the_source": (
        "SFDA",
        "OFFLINE",
        SUMMARY,
        "return tagged(plain, image, (ROOT.parent / 'side-file').read_text())",
    ),
    "does_nothing": ("TTA", "EPISODIC", "", "return plain(image)"),
    "knows_the_protocol": (
        "TTA",
        "EPISODIC",
        '    protocol: str = "excluded"\n',
        "return tagged(plain, image, len(self.protocol))",
    ),
    "draws_anew": ("TTA", "EPISODIC", "", "return tagged(plain, image, torch.randint(27, (1,)))"),
}


def write_cheat(folder: Path, name: str, root: Path) -> Path:
    """The cheat as a method's file; `root` is the result folder that it looks into."""
    track, episode, fields, body = CHEATS[name]
    text = HEAD + "\nSEEN = []\n" + BODY
    filled = {"ROOT": str(root), "TRACK": track, "EPISODE": episode, "FIELDS": fields, "CHEAT": body}
    for place, value in filled.items():
        text = text.replace(f"<<{place}>>", value)
    path = folder / f"{name}.py"
    path.write_text(text)
    return path
