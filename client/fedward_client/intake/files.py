"""Image files of every format behind two functions: what a header says, and the image in its place.

DICOM says whose an image is. NIfTI files and pictures do not; their paths do, as BIDS asks for or as site.toml says
(`[data] patient`). A picture whose path does not say it is no patient's.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from fedward_client.intake import describe, dicom, index, nifti, pictures, worker
from fedward_client.intake.bounds import opened
from fedward_client.intake.dicom import Header, NotAnImage
from fedward_client.intake.quiet import quiet
from fedward_client.site import Site
from fedward_client.volume import Volume
from fedward_common.errors import UnreadableFile

_PIECE = 2**18  # bytes

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".tif", ".tiff")


def read_header(site: Site, path: Path) -> tuple[Header | NotAnImage, str]:
    """What a file's header says, and a digest of its bytes; or what it is instead of an image, and "". Reads no pixels.

    Raises UnreadableFile, with a reason in words, for an image that cannot be used.
    """
    name = path.name.casefold()
    if name.endswith(NIFTI):
        if not (patient := _patient(site, path)):
            raise UnreadableFile("its path does not say whose it is: say how it does, with [data] patient in site.toml")
        return _named(site, path, patient, _nifti(path)), digest(path)
    if name.endswith(PICTURES) and (patient := _patient(site, path)):
        return _named(site, path, patient, _picture(path)), digest(path)
    with quiet(), opened(path) as file:  # once: of small files to open one takes as long as to read it
        header = dicom.header_of(file)
        return header, content_of(file) if isinstance(header, Header) else ""


def mask_of(site: Site, path: Path) -> Path | None:
    """The image that a file masks, as site.toml says by its path, whether or not it is there; None where it is none."""
    if site.masks is None:
        return None
    image = site.masks.image_of(path.relative_to(site.data).as_posix())
    return None if image is None else site.data / image


def digest(path: Path) -> str:
    """BLAKE2b-256 of a file's bytes (hex), read in pieces. Raises UnreadableFile where the file system refuses it."""
    with opened(path) as file:
        return content_of(file)


def content_of(file: BinaryIO) -> str:
    """`digest` of an open file."""
    file.seek(0)
    found = hashlib.blake2b(digest_size=32)
    while piece := file.read(_PIECE):
        found.update(piece)
    return found.hexdigest()


def read_volume(path: Path, *, voi: bool | None, stack: bool) -> Volume:
    """An image; `voi` and `stack` as `dicom.read_volume` takes them, for DICOM. Raises UnreadableFile."""
    name = path.name.casefold()
    if name.endswith(NIFTI):
        return nifti.read_pixels(path)
    if name.endswith(PICTURES):
        return worker.read_volume(path, picture=True)
    return dicom.read_volume(path, voi=voi, stack=stack)


def _patient(site: Site, path: Path) -> str:
    """Whose a file is, as its path says; "" where it does not."""
    return site.patient_in(path.relative_to(site.data).as_posix())


def _named(site: Site, path: Path, patient: str, header: Header) -> Header:
    """A header with whose the image is, and the kinds of sequence that the file's name says."""
    kinds = describe.sequences_in((path.name.casefold().replace("_", " ").replace(".", " "),))
    return replace(header, patient_id=patient, modality=site.modality, sequence=kinds)


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
        transfer_syntax=index.NIFTI_FORMAT,
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
