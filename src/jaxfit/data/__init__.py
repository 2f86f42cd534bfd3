"""Data that are larger than memory: batches for `fit`, read from files as they are needed."""

from typing import TYPE_CHECKING

from jaxfit._lazy import attach

if TYPE_CHECKING:
    from jaxfit.data._files import from_files

__all__ = ["from_files"]

__getattr__, __dir__ = attach(__name__, {"from_files": "_files"})
