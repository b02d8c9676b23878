"""A session: what a method is told and what it can make its worker believe, whatever it does."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import pytest
import torch
from desks import LAYOUT, NETWORK, PATH, ThreadLauncher, image, session, terms, written

from shiftbench.contract import decode_prediction
from shiftbench.errors import MethodError, NotApplicable
from shiftbench.guest import frames
from shiftbench.guest.model import untrained
from shiftbench.isolation.launcher import Launcher
from shiftbench.isolation.look import look
from shiftbench.isolation.session import GivenCase, Session
from shiftbench.isolation.talk import GuestError
from shiftbench.loading import MethodSource
from shiftbench.types import Prediction, Status

PLAIN = "def adapt(self, model, access, *, rng):\n    return predictor(model)"
COUNTS = """
def adapt(self, model, access, *, rng):
    predict, seen = predictor(model), []
    def counted(image):
        seen.append(1)
        return Prediction(labels=torch.full(image.shape[1:], min(len(seen), 2)))
    return counted
"""


@functools.cache
def weights():
    return untrained(NETWORK, 1).state_dict()


def opened(tmp_path, body: str, track: str = "TTA", episode: str = "ONLINE", **options) -> Session:
    """A session that is ready to predict."""
    made = session(ThreadLauncher(tmp_path), written(body, track, episode), track, episode, **options)
    made.send_weights(weights())
    made.grant({}, counted=False)
    return made


def labels(made: Session, n: int = 0) -> int:
    return int(made.predict(image(n))[0].labels.max())


# What comes back.


def test_a_prediction_is_that_of_the_same_code_in_this_process(tmp_path):
    from shiftbench.blocks import predictor

    model = untrained(NETWORK, 1).eval()
    with opened(tmp_path, PLAIN) as made:
        found, seconds = made.predict(image())
        assert seconds > 0 and made.predict(image(1))[1] == 0.0, "adapted once"
    assert torch.equal(found.log_probabilities, predictor(model)(image()).log_probabilities)
    assert found.labels is None and found.log_probabilities.device.type == "cpu"
    assert decode_prediction(found, image(), LAYOUT)[0].shape == (2, 32, 32)


def test_an_online_method_keeps_its_state_and_again_begins_anew(tmp_path):
    with opened(tmp_path, COUNTS) as made:
        assert [labels(made), labels(made), labels(made)] == [1, 2, 2]
        made.again()
        assert labels(made) == 1


def test_an_episodic_method_adapts_to_every_case_by_its_content(tmp_path):
    draws = """
def adapt(self, model, access, *, rng):
    drawn = int(rng.integers(2**30))
    return lambda image: Prediction(labels=torch.zeros(image.shape[1:]).long(),
                                    uncertainty=torch.full(image.shape[1:], float(drawn)))
"""
    with opened(tmp_path, draws, episode="EPISODIC") as made:
        one, two, again = (made.predict(image(n))[0].uncertainty[0, 0, 0].item() for n in (0, 1, 0))
        assert one == again != two
        assert made.predict(image(5))[1] > 0
    with opened(tmp_path / "..", COUNTS, episode="EPISODIC") as made:
        assert [labels(made), labels(made)] == [1, 1]


def test_what_a_method_raises_is_its_result_with_the_line_of_its_own_file(tmp_path):
    body = PLAIN.replace("return predictor(model)", "raise ValueError('no such luck')")
    with opened(tmp_path, body) as made:
        for _ in range(2):  # a failed adaptation is one of every case
            with pytest.raises(GuestError, match=r"^ValueError: no such luck$") as caught:
                made.predict(image())
    error = caught.value
    assert error.status is Status.FAILED and error.record["isolation"] == "thread"
    line = written(body).splitlines().index("        raise ValueError('no such luck')") + 1
    assert error.record["line"] == line and f'File "mine.py", line {line}' in error.record["trace"]
    assert str(tmp_path) not in error.record["trace"].split("desk.py")[-1]


def test_an_adaptation_for_all_cases_that_failed_is_not_tried_again(tmp_path):
    body = PLAIN.replace("return predictor(model)", "TRIES.append(1)\n    raise ValueError(f'try {len(TRIES)}')")
    for episode, second in (("ONLINE", "try 1"), ("EPISODIC", "try 2")):
        folder = tmp_path / episode
        folder.mkdir()
        text = written(body, episode=episode) + "\nTRIES = []\n"
        with session(ThreadLauncher(folder), text, episode=episode) as made:
            made.send_weights(weights())
            made.grant({}, counted=False)
            for words in ("try 1", second):
                with pytest.raises(GuestError, match=words):
                    made.predict(image())


def test_an_error_in_one_case_leaves_the_others(tmp_path):
    body = COUNTS.replace(
        "seen.append(1)", "seen.append(1)\n        if len(seen) == 2: raise RuntimeError('the second')"
    )
    with opened(tmp_path, body) as made:
        assert labels(made) == 1
        with pytest.raises(GuestError, match="RuntimeError: the second"):
            made.predict(image())
        assert labels(made) == 2


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("predict(image).log_probabilities", "mine.py: returned a Tensor; return a shiftbench.api.Prediction"),
        ("Prediction()", "mine.py: returned an empty Prediction"),
        ("Prediction(labels=image[0])", "mine.py: labels has the dtype torch.float32; give integers"),
        ("Prediction(labels=image[0, 1:].long())", "mine.py: labels has the shape"),
        ("Prediction(labels='none')", "mine.py: labels is a str; give a torch tensor"),
    ],
)
def test_a_prediction_of_another_form_is_told_in_one_sentence(tmp_path, returned, words):
    body = (
        f"def adapt(self, model, access, *, rng):\n    predict = predictor(model)\n    return lambda image: {returned}"
    )
    with opened(tmp_path, body) as made, pytest.raises(GuestError) as caught:
        made.predict(image())
    assert str(PATH.parent) in str(caught.value) and words in str(caught.value)
    assert caught.value.status is Status.INVALID_OUTPUT


def test_out_of_memory_and_not_applicable_are_told_apart(tmp_path):
    for raised, kind in (
        ("MemoryError('full')", GuestError),
        ("NotApplicable('nothing to do', remedy='go')", NotApplicable),
    ):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        with (
            opened(folder, PLAIN.replace("return predictor(model)", f"raise {raised}")) as made,
            pytest.raises(kind) as caught,
        ):
            made.predict(image())
        if kind is GuestError:
            assert (caught.value.status, caught.value.reason) == (Status.OUT_OF_MEMORY, "out_of_memory")
        else:
            assert str(caught.value) == "nothing to do; go."


def test_a_file_that_cannot_be_loaded_names_its_place_here(tmp_path):
    for text, words in (("x = 1\ny = 1 / 0\n", "ZeroDivisionError on import in line 2"), ("def f(:\n", "SyntaxError")):
        folder = tmp_path / words.split()[0]
        folder.mkdir()
        with pytest.raises(GuestError, match=words) as caught:
            session(ThreadLauncher(folder), text)
        assert str(caught.value).startswith(f"{PATH}: ") and isinstance(caught.value.error, MethodError)


def test_a_method_that_is_not_what_was_planned_is_refused(tmp_path):
    with pytest.raises(GuestError, match="something else of itself"):
        session(ThreadLauncher(tmp_path), written(PLAIN, "TTA"), "SFDA")


# What a method is told.

TELLS = """
def adapt(self, model, access, *, rng):
    sets = {n: getattr(access, n) for n in ("source", "source_val", "target", "fewshot")}
    told = {n: None if s is None else len(s) for n, s in sets.items()}
    patients = [p for s in sets.values() if isinstance(s, LabelledSet) for p in s.patients]
    raise RuntimeError(repr((told, patients, sorted(access.sidecar))))
"""


def cases(n: int, patients="abc"):
    for i in range(n):
        yield GivenCase(
            image(i), torch.zeros(2, 32, 32, dtype=torch.uint8), None, f"patient-{patients[i % len(patients)]}"
        )


def test_a_method_is_handed_what_is_granted_under_numbers_for_names(tmp_path):
    made = session(ThreadLauncher(tmp_path), written(TELLS, "UDA"), "UDA")
    with made:
        made.send_weights(weights())
        sets = {"source": cases(4, "abca"), "source_val": cases(2, "cd"), "target": iter([GivenCase(image(9))])}
        made.grant(sets, {"mean": torch.ones(2)}, counted=False)
        with pytest.raises(GuestError) as caught:
            made.predict(image())
    told, patients, sidecar = eval(str(caught.value).removeprefix("RuntimeError: "))
    assert told == {"source": 4, "source_val": 2, "target": 1, "fewshot": None} and sidecar == ["mean"]
    assert patients == ["000000", "000001", "000002", "000000", "000002", "000003"]


def test_nothing_that_is_sent_names_a_path_a_patient_or_the_number_of_images(tmp_path, monkeypatch):
    sent, plain = [], frames.write
    monkeypatch.setattr(
        frames, "write", lambda stream, header, tensors=None: (sent.append(header), plain(stream, header, tensors))[1]
    )
    with session(ThreadLauncher(tmp_path), written(PLAIN, "UDA"), "UDA") as made:
        made.send_weights(weights())
        made.grant({"source": cases(3)}, counted=False)
        for n in range(3):
            made.predict(image(n))
    told = [str(header) for header in sent if "do" in header]
    assert not any(word in text for text in told for word in ("/somewhere", "patient-", str(tmp_path)))
    assert [h for h in sent if h.get("do") == "predict"] == [{"do": "predict"}] * 3
    assert {h["do"] for h in sent if "do" in h} == {"hello", "weights", "grant", "case", "adapt", "predict"}


# Estimators and preparations.


def estimated(tmp_path, body: str, n: int = 3):
    made = session(ThreadLauncher(tmp_path), written(body, "ESTIMATE", "OFFLINE"), "ESTIMATE", "OFFLINE")
    with made:
        made.send_weights(weights())
        made.grant({"source_val": cases(1)}, counted=False)
        return made.estimate([image(i) for i in range(n)], 2)


def test_an_estimator_asks_for_the_images_that_it_looks_at(tmp_path):
    body = (
        "def estimate(self, model, access, images):\n    return torch.stack([x.mean().repeat(2) / 100 for x in images])"
    )
    found = estimated(tmp_path, body)
    assert torch.equal(found, torch.stack([image(i).mean().repeat(2) / 100 for i in range(3)]))


def test_estimates_of_another_form_are_told_in_one_sentence(tmp_path):
    for i, (body, words) in enumerate(
        (("torch.zeros(1)", "the estimates have the shape"), ("0.5", "returned a float"))
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        with pytest.raises(GuestError, match=words):
            estimated(folder, f"def estimate(self, model, access, images):\n    return {body}")


def prepared(tmp_path, body: str):
    text = written(PLAIN + "\n" + body, "SFDA", "OFFLINE")
    told = terms(text)
    made = Session(ThreadLauncher(tmp_path), type(told)(**{**vars(told), "identity": None}), seconds=60.0)
    with made:
        made.send_weights(weights())
        made.grant({"source": cases(2), "source_val": cases(1)}, counted=False)
        return made.prepares, made.prepare(untrained(NETWORK, 1), 0)


def test_a_method_trains_its_own_model_and_declares_a_sidecar(tmp_path):
    returned = "Prepared(build(), {'n': torch.tensor([len(source)])})"
    body = f"def prepare(self, source, source_val, build, *, recipe, rng):\n    return {returned}"
    verbs, (state, sidecar) = prepared(tmp_path, body)
    assert verbs == ["prepare"] and sidecar["n"].tolist() == [2]
    assert state.keys() == weights().keys() and all(torch.equal(state[n], weights()[n]) for n in state)


def test_a_summary_is_of_the_shared_model(tmp_path):
    body = "def summarise(self, model, source, source_val):\n    return {'first': next(model.parameters()).detach()}"
    verbs, (state, sidecar) = prepared(tmp_path, body)
    assert verbs == ["summarise"] and state is None
    assert torch.equal(sidecar["first"], next(iter(untrained(NETWORK, 1).parameters())))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (
            "Prepared(build(), {'x': torch.zeros(2**18 + 1)})",
            "the sidecar holds 1048580 bytes; declare at most 1048576",
        ),
        ("Prepared(build(), {'x': torch.tensor([float('nan')])})", "sidecar.x holds NaN or infinity"),
        ("Prepared(build(), {'x': 1.0})", "the sidecar's 'x' is a float; give a torch tensor"),
        ("Prepared(torch.nn.Linear(2, 2))", "the prepared model differs from the backbone in 'bias'"),
        ("Prepared(build().half())", "the prepared model differs from the backbone in 'network"),
    ],
)
def test_a_preparation_that_cannot_be_used_is_refused(tmp_path, returned, words):
    body = f"def prepare(self, source, source_val, build, *, recipe, rng):\n    return {returned}"
    with pytest.raises(GuestError) as caught:
        prepared(tmp_path, body)
    assert words in str(caught.value) and caught.value.status is Status.INVALID_OUTPUT


# A guest that lies: what its process could send, were the desk not ours.


def liar(*answers):
    """Serves a whole session truthfully up to its predictions, and sends `answers` for those."""

    def serve(inlet, outlet):
        frames.write(outlet, {"say": "ready"})
        left = list(answers)
        while (frame := frames.read(inlet, header_bytes=2**27, admit=lambda *_: None)) is not None:
            if frame.header["do"] == "predict":
                left.pop(0)(outlet)
            else:
                facts = {"track": "tta", "episode": "online", "parameters": {"requires": []}}
                frames.write(outlet, {"say": "ok", **facts})

    return serve


def vanish(outlet):
    raise OSError("gone")


def says(header, **tensors):
    return lambda outlet: frames.write(outlet, header, tensors)


def raw(data: bytes):
    def send(outlet):
        outlet.write(data)
        outlet.flush()

    return send


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says({"say": "ok"}, log_probabilities=torch.zeros(3, 2000, 2000)), "log_probabilities has the shape"),
        (says({"say": "ok"}, labels=torch.zeros(2, 32, 32)), "labels has the shape"),
        (says({"say": "ok"}, notes=torch.zeros(2, 32, 32)), "notes has the shape"),
        (says({"say": "failed"}, labels=torch.zeros(2, 32, 32).long()), "tensors, where none were asked for"),
        (says({"say": "want", "image": 0}), "an answer of no kind"),
        (says({"say": ["ok"]}), "an answer of no kind"),
        (raw(b"\xff" * 64), "a header of 4294967295 bytes"),
        (raw(b"hello, this is printed\n"), "a header of"),
    ],
)
def test_a_lie_ends_the_guest_and_is_invalid_output_from_then_on(tmp_path, answer, words):
    with session(ThreadLauncher(tmp_path, liar(answer)), "") as made:
        for _ in range(2):
            with pytest.raises(GuestError, match=words) as caught:
                made.predict(image())
            assert caught.value.status is Status.INVALID_OUTPUT and str(PATH) in str(caught.value)
        assert made.talk.guest.dead


def test_a_lie_about_values_is_found_when_they_are_decoded(tmp_path):
    nan = torch.full((3, 2, 32, 32), float("nan"))
    with session(ThreadLauncher(tmp_path, liar(says({"say": "ok"}, log_probabilities=nan))), "") as made:
        found, _ = made.predict(image())
    assert isinstance(found, Prediction)
    with pytest.raises(MethodError, match="NaN or infinity; return"):
        decode_prediction(found, image(), LAYOUT)


def test_a_status_that_a_guest_may_not_claim_is_failed(tmp_path):
    answer = says({"say": "failed", "status": "ok", "message": 3, "line": "x", "trace": None})
    with session(ThreadLauncher(tmp_path, liar(answer)), "") as made, pytest.raises(GuestError, match="3") as caught:
        made.predict(image())
    assert caught.value.status is Status.FAILED and "line" not in caught.value.record


def test_a_guest_that_says_nothing_runs_out_of_time(tmp_path):
    with session(ThreadLauncher(tmp_path, liar(lambda outlet: time.sleep(1.0))), "", seconds=0.6) as made:
        for _ in range(2):
            with pytest.raises(GuestError, match="the task took more than 1 s") as caught:
                made.predict(image())
            assert (caught.value.status, caught.value.reason) == (Status.TIMEOUT, "timeout")


def test_a_guest_that_is_gone_gives_its_cause_to_every_later_case(tmp_path):
    with session(ThreadLauncher(tmp_path, liar(vanish)), "") as made:
        for _ in range(2):
            with pytest.raises(GuestError, match="the thread ended") as caught:
                made.predict(image())
            assert caught.value.reason == "signal"


# Real processes.


@pytest.fixture(scope="module")
def launcher():
    made = Launcher(isolate="off", device="cpu", threads=1, memory_mb=None)
    yield made
    made.close()


def test_what_a_method_prints_and_reads_does_not_touch_the_wire(launcher):
    body = PLAIN.replace(
        "return predictor(model)",
        "import os, sys\n    print('printed', flush=True); os.write(1, b'raw'); os.system('echo shouted')\n"
        "    assert sys.stdin.read() == '' and '' not in sys.path and os.getcwd() not in sys.path\n"
        "    return predictor(model)",
    )
    with session(launcher, written(body)) as made:
        made.send_weights(weights())
        made.grant({}, counted=False)
        found, _ = made.predict(image())
        assert found.log_probabilities.shape == (3, 2, 32, 32)
        log = made.talk.guest.log()
    assert "printed" in log and "raw" in log and "shouted" in log and made.level == "process"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_guest_is_a_cause_and_the_worker_lives_on(launcher):
    body = PLAIN.replace("return predictor(model)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with session(launcher, written(body)) as made:
        made.send_weights(weights())
        made.grant({}, counted=False)
        for _ in range(2):
            with pytest.raises(GuestError, match="SIGKILL.*lower --jobs") as caught:
                made.predict(image())
            assert (caught.value.status, caught.value.reason) == (Status.OUT_OF_MEMORY, "signal")


def test_cards_of_several_files_come_from_one_guest(launcher):
    root = Path(__file__).parents[1] / "baselines"
    sources = [(MethodSource(n, (root / f"{n}.py").read_text()), root / f"{n}.py") for n in ("erm", "tent")]
    erm, tent = look(launcher, sources)
    assert [card["name"] for card in erm] == ["erm"] and erm[0]["track"] == "dg" and erm[0]["declared"] == 1
    assert {card["name"] for card in tent} == {"tent_bn", "tent_in", "tent_bn_episodic"}
    with pytest.raises(GuestError, match="VERSION|no variant") as caught:
        look(launcher, [(MethodSource("tent", sources[1][0].text, variant="tnt"), sources[1][1])])
    assert str(sources[1][1]) in str(caught.value) and "did you mean" in str(caught.value)
