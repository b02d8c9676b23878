"""Shift cards: what moved is told and what did not is not."""

import json

import numpy as np
import pytest

from shiftbench.cards import MIN_PATIENTS, contrast, shift_card, two_sample
from shiftbench.domains import Part
from shiftbench.graph import Plan
from shiftbench.plan import CARD_TABLE, CARDS, write_cards
from shiftbench.store import Store


class World:
    """A store in which domains of six patients are published by name."""

    def __init__(self, folder):
        self.store = Store(folder / "store")

    def domain(self, name, *, brighter=0.0, size=6, age=50.0):
        rng = np.random.default_rng(3)
        cases = {f"c{i}": f"p{i}" for i in range(2 * MIN_PATIENTS)}
        self.store.publish(
            "anatomy",
            name,
            {"cases": {c: {"patient": p, "spacing": [2.0, 2.0], "attributes": {"age": age + i, "sex": "fm"[i % 2]}}
                       for i, (c, p) in enumerate(cases.items())}},
        )  # fmt: skip
        with self.store.workspace() as images, self.store.workspace() as references:
            for case in cases:
                mask = np.zeros((16, 16), np.uint8)
                mask[4 : 4 + size, 4:10] = 1
                image = rng.normal(20, 1, (1, 16, 16)) + 3 * mask + brighter
                np.save(images / f"{case}.npy", image.astype(np.float32))
                np.save(references / f"{case}.npy", mask)
            self.store.publish("images", name, {"not_applicable": {}}, images)
            self.store.publish("references", name, {}, references)
        return Part(((name, name, name, tuple(cases)),))

    def card(self, source, target, redrawn=None):
        return shift_card(self.store, source=source, target=target, redrawn=redrawn or target, structures=["liver"])


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_domain_does_not_differ_from_itself(world):
    source = world.domain("a")
    card = world.card(source, source)
    assert card["images"]["two_sample"]["auc"] < 0.7 and card["images"]["two_sample"]["p"] > 0.05
    assert card["protocol"]["liver"] == {"dsc": 1.0, "volume_ratio": 1.0}
    assert card["labels"]["liver"]["volume"]["wasserstein"] == 0.0 and card["attributes"]["age"]["ks"] == 0.0


def test_brighter_images_are_told_apart_and_nothing_else_moves(world):
    card = world.card(world.domain("a"), world.domain("b", brighter=8.0))
    assert card["images"]["two_sample"]["auc"] > 0.95 and card["images"]["two_sample"]["p"] <= 0.02
    contrasts = card["images"]["contrast"]["liver"]
    assert contrasts["source"] == pytest.approx(3.0, abs=0.3) and contrasts["target"] == pytest.approx(
        contrasts["source"], abs=0.01
    )
    assert card["labels"]["liver"]["volume"]["ks"] == 0.0


def test_another_rule_moves_the_protocol_and_not_the_patients(world):
    source, drawn = world.domain("a"), world.domain("b", size=9)
    target = Part((("a", "a", "b", source.chunks[0][3]),))
    card = world.card(source, target, redrawn=source)
    assert card["protocol"]["liver"] == {"dsc": pytest.approx(2 * 6 / 15), "volume_ratio": pytest.approx(1.5)}
    assert card["labels"]["liver"]["volume"]["wasserstein"] == pytest.approx(18 * 4 / 1000)
    assert card["labels"]["liver"]["volume_by_the_source_rule"]["wasserstein"] == 0.0
    assert drawn.references_keys() == ["b"]


def test_other_patients_move_labels_and_attributes(world):
    card = world.card(world.domain("a"), world.domain("b", size=3, age=80.0))
    assert card["labels"]["liver"]["volume"]["ks"] == 1.0 and card["labels"]["liver"]["volume"]["ks_p"] < 0.01
    assert card["attributes"]["age"]["wasserstein"] == pytest.approx(30.0)
    assert card["attributes"]["sex"] == {s: {"source": 0.5, "target": 0.5} for s in "fm"}


def test_too_few_patients_and_empty_structures_have_no_number():
    few = [{"patient": "p", "features": np.zeros(3)}] * 9
    assert two_sample(few, few) == {"auc": None, "p": None}
    nothing, everything = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert contrast(np.ones((4, 4)), nothing, nothing) is None
    assert contrast(np.ones((4, 4)), everything, everything) is None


def test_cards_are_collected_as_json_and_as_a_table(world):
    graph = Plan(cards={("s", "good"): "card/1", ("s", "bad"): "card/2"})
    world.store.publish("card", "1", {"card": {"images": {"auc": 0.5, "p": None}}})
    world.store.publish_failure("card", "2", {"cause": "out of reach"})
    write_cards(graph, world.store)
    assert json.loads((world.store.root / CARDS).read_text())["s"]["bad"] == {"failed": "out of reach"}
    lines = (world.store.root / CARD_TABLE).read_text().splitlines()
    assert lines[1:] == ["s,bad,failed,out of reach", "s,good,images.auc,0.5", "s,good,images.p,"]
