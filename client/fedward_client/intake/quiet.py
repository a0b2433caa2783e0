"""pydicom and highdicom, kept quiet: they log and warn with the values that they read, and those are patients'."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config
from pydicom.errors import BytesLengthException, InvalidDicomError

# What pydicom and its codecs raise on files that are not what they say. Their texts hold values: never pass them on.
DICOM_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    StopIteration,
    SystemError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

_SILENT = logging.CRITICAL + 1


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, neither warns nor logs, and no value is checked; then all is as it was. For one thread at a time."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]  # whose children take their level from it
    levels, validation = [logger.level for logger in loggers], config.settings.reading_validation_mode
    if validation == config.IGNORE and {*levels} == {_SILENT}:  # inside of another one: to set it again takes its time
        yield
        return
    for logger in loggers:
        logger.setLevel(_SILENT)
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = validation
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
