"""The cards of the methods of a run: each file is looked at in a guest once, and the answer is kept by its content."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from shiftbench.errors import MethodError
from shiftbench.graph import MethodCard, Settings
from shiftbench.isolation.launcher import Launcher
from shiftbench.methods import BASE, MethodFile, find_method
from shiftbench.rng import digest
from shiftbench.store import Store
from shiftbench.version import __version__
from shiftbench.worker.cards import Facts, card, facts_of

KIND = "look"  # of the records
DEFAULT = Settings()


def method_cards(specs: Sequence[str], store: Store, settings: Settings = DEFAULT) -> list[MethodCard]:
    """What the named methods are; source-only is always among them.

    All shipped files are looked at in one guest, and any other in a guest of its own.

    Args:
        specs: as for `shiftbench.methods.load_methods`.
        store: keeps what was seen.
        settings: say how guests are isolated.

    Raises:
        MethodError: a name or a file cannot be used, or two methods have one name.
        IsolationError: a sandbox was asked for that this machine cannot give.
    """
    files = [find_method(spec) for spec in dict.fromkeys([BASE, *specs])]
    unseen = [file for file in files if not store.done(KIND, _key(file))]
    shipped = [file for file in unseen if file.shipped]
    groups = [group for group in (shipped, *([file] for file in unseen if not file.shipped)) if group]
    if groups:
        _look(groups, store, settings)
    by_name: dict[str, MethodCard] = {}
    for file in files:
        for facts in store.record(KIND, _key(file))["methods"]:
            made = card(file, facts)
            if by_name.setdefault(made.name, made).identity != made.identity:
                raise MethodError(f"two methods are called '{made.name}'", remedy="rename one of the files or variants")
    return list(by_name.values())


def _look(groups: Sequence[Sequence[MethodFile]], store: Store, settings: Settings) -> None:
    """Keeps what each file says of itself; what is kept names no path, so it holds on any machine."""
    launcher = Launcher(
        isolate=settings.isolate, device="cpu", threads=1, memory_mb=settings.memory_mb, spares=len(groups) > 1
    )
    try:
        for group in groups:
            found: Sequence[Sequence[Facts]] = facts_of(launcher, group)
            for file, facts in zip(group, found, strict=True):
                store.publish(KIND, _key(file), {"methods": [dict(each) for each in facts]})
    finally:
        launcher.close()


def _key(file: MethodFile) -> str:
    content = sha256(file.path.read_bytes()).hexdigest()
    asked = [file.path.stem, file.module, file.variant, dict(file.overrides), file.shipped]
    return digest(KIND, __version__, asked, content)
