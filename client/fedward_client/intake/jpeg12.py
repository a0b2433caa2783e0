"""A pydicom decoder plug-in for JPEG Extended with 12-bit samples (PS3.5 A.4.1), which old CT and angiography export.

pydicom's own GDCM plug-in refuses it; GDCM decodes it when it is told that the samples are 12 bits wide in 16.
"""

import gdcm  # type: ignore[import-untyped]  # python-gdcm has no types
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGExtended12Bit

LABEL = "gdcm-12-bit"
DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("python-gdcm>=3.2",)}


def is_available(uid: str) -> bool:
    """Whether this plug-in decodes a transfer syntax."""
    return uid == JPEGExtended12Bit


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """One frame's compressed bytes to samples of 16 bits; raises ValueError for what is not 12-bit grayscale."""
    if runner.bits_allocated != 16 or runner.samples_per_pixel != 1:
        raise ValueError("not 12-bit grayscale")
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(_pixel_data(source))
    kind = gdcm.PhotometricInterpretation.GetPIType(str(runner.photometric_interpretation))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    syntax = gdcm.TransferSyntax.GetTSType(str.__str__(runner.transfer_syntax))  # a UID's own str is its name
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, runner.pixel_representation))
    buffer = image.GetBuffer()
    if buffer is None:
        raise ValueError("not a JPEG image")
    return bytes(buffer.encode("utf-8", "surrogateescape"))


def _pixel_data(source: bytes) -> "gdcm.DataElement":
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(source)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    return element
