"""Recordings as the catalog has them: which files are any, and all that windows are placed by, without their values."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from fedward_client.intake.recording import OUTSIDE, Recording
from fedward_client.intake.series import read_series
from fedward_client.intake.series_map import Channel
from fedward_client.intake.wearable import reader_of
from fedward_client.site import Site
from fedward_common.errors import DataError, UnreadableFile


def is_recording(site: Site, path: Path) -> bool:
    """Whether a file is a recording: of a published collection, by its name, or of those that site.toml names."""
    return reader_of(path.name) is not None or (site.series is not None and site.series.reads(path))


def read(site: Site, path: Path) -> Recording:
    """A recording. Raises UnreadableFile with a reason in words."""
    known = reader_of(path.name)
    if known is not None:
        return known(path)
    assert site.series is not None
    subject = site.patient_in(path.relative_to(site.data).as_posix())
    if not subject:
        raise UnreadableFile("its path does not say whose it is: say how it does, with [data] patient in site.toml")
    try:
        return read_series(path, site.series.columns, subject=subject)
    except DataError as error:  # the map does not fit this file; it may fit the others
        raise UnreadableFile(str(error)) from None


def facts(recording: Recording) -> str:
    """What the catalog keeps of a recording, as JSON: no value, and nothing of who it is."""
    return json.dumps(
        {
            "rate_hz": recording.rate_hz,
            "samples": len(recording.values),
            "signals": [[each.name, each.unit] for each in recording.channels],
            "gaps": list(recording.gaps),
            "notes": None if recording.annotation is None else _runs(recording),
            "words": {str(value): word for value, word in recording.words.items()},
            "left_out": recording.left_out,
            "group": recording.group,
        }
    )


def _runs(recording: Recording) -> list[tuple[int, int, int]]:
    """The stretches of one annotation each: first sample, sample after the last, annotation. `OUTSIDE` has none."""
    annotation = recording.annotation
    assert annotation is not None
    bounds = [0, *(np.flatnonzero(np.diff(annotation)) + 1).tolist(), len(annotation)]
    runs = pairwise(bounds)
    return [(first, end, int(annotation[first])) for first, end in runs if end > first and annotation[first] != OUTSIDE]


def of_facts(text: str) -> Recording:
    """The recording of which these are the facts, without its values: they are [samples, 0]."""
    held = json.loads(text)
    annotation = None
    if held["notes"] is not None:
        annotation = np.full(held["samples"], OUTSIDE, np.int8)
        for first, end, value in held["notes"]:
            annotation[first:end] = value
    return Recording(
        values=np.empty((held["samples"], 0), np.float32),
        rate_hz=held["rate_hz"],
        channels=tuple(Channel(name=name, unit=unit) for name, unit in held["signals"]),
        annotation=annotation,
        words={int(value): word for value, word in held["words"].items()},
        gaps=tuple(held["gaps"]),
        left_out=held["left_out"],
        group=held["group"],
        subject="",
    )
