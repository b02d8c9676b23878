"""Questions to one guest and its answers, every one of them checked; what goes wrong is told as the method's result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shiftbench.errors import MethodError, NotApplicable
from shiftbench.guest.frames import Frame, FrameError, Shaped
from shiftbench.isolation.process import GuestProcess
from shiftbench.isolation.wire import Gone, Wire
from shiftbench.types import Status

if TYPE_CHECKING:  # cards are asked for by processes without torch
    from torch import Tensor

REASONS = {Status.OUT_OF_MEMORY: "out_of_memory", Status.TIMEOUT: "timeout"}
SAID = (Status.FAILED, Status.INVALID_OUTPUT, Status.OUT_OF_MEMORY)  # that a guest may say of itself


class Starter(Protocol):
    """What starts guests: a `Launcher`."""

    @property
    def level(self) -> str: ...

    def start(self) -> GuestProcess: ...


class GuestError(Exception):
    """What a method's code did, or how its process ended: the method's result, and no fault of the worker.

    Attributes:
        status: of the rows.
        reason: as of `graph.Outcome`; None where the text tells.
        error: the MethodError where it is one.
        record: what a failure keeps: "trace" and "line" of the method's own code, and "isolation".
    """

    def __init__(
        self,
        text: str,
        status: Status,
        *,
        reason: str | None = None,
        error: MethodError | None = None,
        record: Mapping[str, Any] | None = None,
    ):
        super().__init__(text)
        self.status, self.reason, self.error = status, reason, error
        self.record = dict(record or {})


class Talk:
    """A guest that answers until it is closed, dies, breaks the protocol or runs out of time.

    Args:
        launcher: gives the guest.
        seconds: limit of all that is asked of it.
    """

    def __init__(self, launcher: Starter, *, seconds: float):
        self.level = str(launcher.level)
        self.guest = launcher.start()
        self.wire = Wire(self.guest, seconds)
        self.over: GuestError | None = None  # why nothing more can be asked
        self.ready = False
        self.gpu_peak_mb: float | None = None  # the largest since somebody set it to None

    def ask(
        self,
        header: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
        *,
        path: Path,
        admit: Callable[[Mapping[str, Shaped]], None] | None = None,
        give: Callable[[Any], Mapping[str, Tensor]] | None = None,
    ) -> Frame:
        """The answer to one command.

        Args:
            header, tensors: the command.
            path: of the method's file here, for errors.
            admit: raises MethodError where the tensors of an answer are not wanted; None: there may be none.
            give: the tensors that the guest asks for in between; raises FrameError where it may not.

        Raises:
            NotApplicable: the method says that it has no meaning here.
            GuestError: anything else.
        """
        if self.over is not None:
            raise self.over
        try:
            if not self.ready:
                self._expect_ready()
            self.wire.send(header, tensors)
            while True:
                frame = self.wire.receive(_admission(admit))
                if frame.header.get("say") != "want" or give is None:
                    break
                self.wire.send({"do": "image"}, give(frame.header.get("image")))
            return self._checked(frame, path)
        except Gone as gone:
            raise self._end(gone.death.cause, gone.death.status, gone.death.reason) from None
        except FrameError as error:
            raise self._end(f"{path}: the method's process sent {error}", Status.INVALID_OUTPUT) from None
        except MethodError as error:  # of `admit`: the rest of the frame was not read
            named = MethodError(error.problem, where=error.where or path, remedy=error.remedy)
            raise self._end(str(named), Status.INVALID_OUTPUT, error=named) from None

    def close(self) -> None:
        """Ends the guest."""
        self.wire.close()
        self.guest.close()

    def _expect_ready(self) -> None:
        if self.wire.receive(_admission(None)).header.get("say") != "ready":
            raise FrameError("something before it was ready")
        self.ready = True

    def _end(
        self, text: str, status: Status, reason: str | None = None, *, error: MethodError | None = None
    ) -> GuestError:
        """No more questions: why, for this one and all that would follow."""
        self.guest.kill()
        trace = self.guest.log()
        self.over = GuestError(
            text,
            status,
            reason=reason,
            error=error,
            record={"isolation": self.level, **({"trace": trace} if trace else {})},
        )
        return self.over

    def _checked(self, frame: Frame, path: Path) -> Frame:
        """The frame where the command went well."""
        said, peak = frame.header, frame.header.get("peak_mb")
        if isinstance(peak, float):
            self.gpu_peak_mb = max(peak, self.gpu_peak_mb or 0.0)
        if said.get("say") == "ok":
            return frame
        if said.get("say") == "not_applicable":
            raise NotApplicable(str(said.get("reason")).rstrip("."))
        if said.get("say") == "failed":
            raise self._failure(said, path)
        raise FrameError("an answer of no kind that is known")

    def _failure(self, said: Mapping[str, Any], path: Path) -> GuestError:
        """What the method's code raised."""
        status = Status(said["status"]) if said.get("status") in list(SAID) else Status.FAILED
        text, error = str(said.get("message")), None
        if isinstance(said.get("problem"), str):
            where = said.get("where")
            place = str(path) if not isinstance(where, str) else where
            if place.startswith(path.name):
                place = f"{path}{place.removeprefix(path.name)}"  # a guest knows the file by its bare name
            error = MethodError(said["problem"], where=place, remedy=str(said.get("remedy") or ""))
            text = str(error)
        line = said.get("line")
        record: dict[str, Any] = {"isolation": self.level, "trace": str(said.get("trace") or "")}
        if type(line) is int:
            record["line"] = line
        return GuestError(text, status, reason=REASONS.get(status), error=error, record=record)


def _admission(admit: Callable[[Mapping[str, Shaped]], None] | None) -> Callable[..., None]:
    """Whether the tensors of an answer are wanted: none but where the command went well and somebody looks at them."""

    def check(header: Mapping[str, Any], shaped: Mapping[str, Shaped]) -> None:
        if header.get("say") == "ok" and admit is not None:
            admit(shaped)
        elif shaped:
            raise FrameError("tensors, where none were asked for")

    return check
