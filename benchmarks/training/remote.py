"""A pipeline in a process of its own.

Two trainings in one process slow each other down even while one is paused: each brings a team of OpenMP threads, and
with more threads than cores the runtime lets them sleep at every barrier instead of spinning (a step of 24 ms took 40).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from training.catalogue import families
from training.pipelines import Own
from training.study import Training

SPAWN = multiprocessing.get_context("spawn")  # a forked child would inherit OpenMP's state without its threads
WEIGHTS = "weights"


class Remote:
    """A pipeline that another process runs.

    Args:
        family: of the catalogue.
        loader: of the family.
        training: what is trained.
    """

    def __init__(self, family: str, loader: str, training: Training):
        self.training = training
        self._connection, theirs = SPAWN.Pipe()
        place = (theirs, family, loader, training, torch.get_num_threads())
        self._process = SPAWN.Process(target=_serve, args=place)
        self._process.start()
        theirs.close()
        self._ahead: int | None = None  # not known until the process, which starts beside others, is ready

    @property
    def model(self) -> nn.Module:
        """A copy of the network in training."""
        self.wait()
        self._connection.send(WEIGHTS)
        model = self.training.network()
        model.load_state_dict({name: torch.from_numpy(array) for name, array in self._answer().items()})
        return model

    @property
    def ahead(self) -> int:
        """See Pipeline; waits until the process is ready."""
        self.wait()
        return self._ahead or 0

    def wait(self) -> None:
        """Until the process is ready."""
        if self._ahead is None:
            self._ahead = self._answer()

    def run(self, steps: int) -> None:
        self.wait()
        self._connection.send(steps)
        self._answer()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it may have ended with its error
            self._connection.send(None)
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()
        self._connection.close()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"a pipeline ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer


class _Orders:
    """Orders as they come; asks for weights are answered on the way."""

    def __init__(self, connection: Connection):
        self.connection, self.model = connection, nn.Module()

    def get(self) -> int | None:
        while (order := self.connection.recv()) == WEIGHTS:
            self.connection.send({n: t.detach().cpu().numpy() for n, t in self.model.state_dict().items()})
        return order


class _Answers:
    """Answers that wait for the device."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def put(self, answer: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.connection.send(answer)


def _serve(connection: Connection, family: str, loader: str, training: Training, threads: int) -> None:
    """Runs one pipeline, in the main thread of this process."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    orders, answers = _Orders(connection), _Answers(connection)
    if family == "shiftbench":
        own = Own(training, orders=orders, answers=answers)
        orders.model = own.model
        answers.put(own.ahead)
        own.train()
        return
    pipeline = families(training.device.type)[family][loader](training)
    orders.model = pipeline.model
    answers.put(pipeline.ahead)
    try:
        while (steps := orders.get()) is not None:
            pipeline.run(steps)
            answers.put(None)
    except Exception as error:  # handed to whoever waits
        answers.put(error)
    finally:
        pipeline.close()
