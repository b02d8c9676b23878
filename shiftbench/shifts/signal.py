"""The complex signal of an MR scan before detection, as an image or as k-space, whichever is asked for."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Signal:
    """Complex signal (c, *s), held as an image or as its Fourier transform over the last two axes.

    The face that was not given is computed once, when it is asked for, so a chain of k-space operators costs one
    transform forth and one back.

    Args:
        image: (c, *s), real or complex.
        spectrum: (c, *s), complex64, as `torch.fft.fft2(image, norm="ortho")` lays it out: rows (axis -2) are lines of
            the phase-encoding direction, the centre of k-space is at [0, 0].
    """

    def __init__(self, *, image: Tensor | None = None, spectrum: Tensor | None = None):
        if (image is None) == (spectrum is None):
            raise ValueError("give the image or the spectrum of a signal, and not both")
        if image is not None:
            self.image = image if image.is_complex() else image.to(torch.complex64)
        if spectrum is not None:
            self.spectrum = spectrum

    @cached_property
    def image(self) -> Tensor:
        """Complex64 (c, *s)."""
        return torch.fft.ifft2(self.spectrum, norm="ortho")

    @cached_property
    def spectrum(self) -> Tensor:
        """Complex64 (c, *s), the centre of k-space at [0, 0] of the last two axes."""
        return torch.fft.fft2(self.image, norm="ortho")

    def any_face(self) -> Tensor:
        """The face that is there, for its shape and device."""
        return self.__dict__["image" if "image" in self.__dict__ else "spectrum"]
