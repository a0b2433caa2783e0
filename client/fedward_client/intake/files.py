"""Image files of every format behind two functions: what a header says, and the image in its place.

DICOM says whose an image is. NIfTI files and pictures do not, so site.toml says how their names do (`[data] patient`);
without that, NIfTI files named as BIDS asks for are taken, and pictures are no images of a patient.
"""

import re
from dataclasses import replace
from pathlib import Path

from fedward_client.intake import describe, dicom, nifti, pictures
from fedward_client.intake.dicom import Header, NotAnImage
from fedward_client.site import Site
from fedward_client.volume import Volume
from fedward_common.errors import UnreadableFile

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".tif", ".tiff")
_BIDS = re.compile(r"(?:^|/)sub-([0-9A-Za-z+]+)[_/]")


def read_header(site: Site, path: Path) -> Header | NotAnImage:
    """What a file's header says, or what it is instead of an image. Reads no pixels.

    Raises UnreadableFile, with a reason in words, for an image that cannot be used.
    """
    name = path.name.casefold()
    if name.endswith(NIFTI):
        return _named(site, path, _nifti(path))
    if name.endswith(PICTURES) and site.patient_pattern is not None:
        return _named(site, path, _picture(path))
    return dicom.read_header(path)


def read_volume(path: Path, *, voi: bool | None, stack: bool) -> Volume:
    """An image; `voi` and `stack` as `dicom.read_volume` takes them, for DICOM. Raises UnreadableFile."""
    name = path.name.casefold()
    if name.endswith(NIFTI):
        return nifti.read_pixels(path)
    if name.endswith(PICTURES):
        return pictures.read_pixels(path)
    return dicom.read_volume(path, voi=voi, stack=stack)


def _named(site: Site, path: Path, header: Header) -> Header:
    """A header with what the file's name says: whose the image is, and which kinds of sequence."""
    place = path.relative_to(site.data).as_posix()
    found = re.search(site.patient_pattern, place) if site.patient_pattern is not None else _BIDS.search(place)
    if found is None or not found[1]:
        raise UnreadableFile("its name does not say whose it is: say how it does, with [data] patient in site.toml")
    kinds = describe.sequences_in([path.name.casefold().replace("_", " ").replace(".", " ")])
    return replace(header, patient_id=found[1], modality=site.modality, sequence=kinds)


def _nifti(path: Path) -> Header:
    found = nifti.read_header(path)
    if found.times > 1:
        raise UnreadableFile(f"it holds {found.times} volumes in time; an image is one")
    _, row_mm, column_mm = found.spacing or (None, None, None)
    return Header(
        rows=found.rows,
        columns=found.columns,
        frames=found.frames,
        channels=1,
        transfer_syntax="NIfTI",
        row_mm=row_mm,
        column_mm=column_mm,
    )


def _picture(path: Path) -> Header:
    found = pictures.read_header(path)
    return Header(
        rows=found.rows,
        columns=found.columns,
        frames=found.frames,
        channels=found.channels,
        transfer_syntax=found.format,
    )
