"""pydicom, kept quiet: it logs and warns with the values that it reads, and those are patients'."""

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
    """Inside, pydicom neither warns nor logs nor checks values; then all is as it was. For one thread at a time."""
    logger = logging.getLogger("pydicom")  # its children take their level from it
    level, validation = logger.level, config.settings.reading_validation_mode
    if (level, validation) == (_SILENT, config.IGNORE):  # inside of another one: to set it again takes its time
        yield
        return
    logger.setLevel(_SILENT)
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = validation
        logger.setLevel(level)
