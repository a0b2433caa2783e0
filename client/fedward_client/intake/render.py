"""The grayscale and color pipeline of DICOM (PS3.3 C.11, C.7.6.3): stored values to numbers that mean something.

Pure: a data set's attributes and arrays of stored values in, float32 out. Enhanced objects keep their transforms in
functional groups (C.7.6.16), a frame's own before the shared ones before the data set's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from fedward_client.intake import elements
from fedward_common.errors import UnreadableFile

Array = npt.NDArray[Any]

_EXACT = 2**23  # 16-bit numbers and a whole number below this add up to one that float32 has


def frames(dataset: Dataset, stored: Array, out: npt.NDArray[np.float32], *, voi: bool) -> None:
    """Render `stored` [frames, rows, columns] (color: and 3) to `out` [frames, channels, rows, columns].

    Raises UnreadableFile where attributes or pixels are not numbers; damaged palettes raise what pydicom raises.
    """
    if out.shape[1] == 3:
        palette = elements.text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"
        for index, array in enumerate(stored):
            color = apply_color_lut(array, dataset)[..., :3] if palette else array
            out[index] = np.moveaxis(color, -1, 0)
        return
    groups = _FunctionalGroups(dataset)
    for index, array in enumerate(stored):
        values = _modality(groups.transform(index), array, dataset, out[index, 0])
        if voi:
            values = _voi(groups.window(index), values, dataset)
        if values.base is not out:  # where it is not there already
            out[index, 0] = values
    if not (out.size and np.isfinite(out.min()) and np.isfinite(out.max())):  # a NaN is both
        raise UnreadableFile("its pixels are not all finite numbers")
    turned = voi and elements.text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    padding = _padding(dataset, stored)
    if turned or padding is not None:
        _finish(out, padding, turned=turned)


def _finish(out: npt.NDArray[np.float32], padding: Array | None, *, turned: bool) -> None:
    """Turn grey values within their own range, then give padding [frames, rows, columns] the least value."""
    valid: Array = np.array(True) if padding is None else ~padding[:, None]
    if not valid.any():
        return
    low, high = out.min(where=valid, initial=np.inf), out.max(where=valid, initial=-np.inf)
    if turned:
        np.subtract(low + high, out, out=out)
    if padding is not None:
        out[padding[:, None]] = low


class _FunctionalGroups:
    """Where each frame's transforms stand."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._shared = elements.items(dataset, "SharedFunctionalGroupsSequence")[:1]
        self._frames = elements.items(dataset, "PerFrameFunctionalGroupsSequence")

    def transform(self, frame: int) -> Dataset:
        """The data set that holds Rescale Slope and Intercept, or the Modality LUT Sequence."""
        return self._find("PixelValueTransformationSequence", frame)

    def window(self, frame: int) -> Dataset:
        """The data set that holds Window Center and Width, or the VOI LUT Sequence."""
        return self._find("FrameVOILUTSequence", frame)

    def _find(self, macro: str, frame: int) -> Dataset:
        for group in (*self._frames[frame : frame + 1], *self._shared):
            if found := elements.items(group, macro):
                return found[0]
        return self._dataset


def _padding(dataset: Dataset, stored: Array) -> Array | None:
    """Which pixels are padding: Pixel Padding Value, to Pixel Padding Range Limit where that is given (C.7.5.1.1.2).

    None where none can be.
    """
    value = elements.integer(dataset, "PixelPaddingValue")
    if value is None or stored.dtype.kind not in "iu":
        return None
    limit = elements.integer(dataset, "PixelPaddingRangeLimit")
    low, high = sorted(_as_stored(bound, stored.dtype) for bound in (value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _as_stored(value: int, dtype: np.dtype[Any]) -> int:
    """A value as the pixels hold it: files give signed pixels an unsigned padding value, or the other way round."""
    bits = 8 * dtype.itemsize
    value %= 2**bits
    return value - 2**bits if dtype.kind == "i" and value >= 2 ** (bits - 1) else value


def _modality(source: Dataset, stored: Array, dataset: Dataset, out: npt.NDArray[np.float32]) -> Array:
    """Modality LUT or rescale (C.11.1): stored values to modality units; unchanged where there is neither.

    Where float32 has them exactly they are put into `out`, which saves to allocate as much again.
    """
    if lut := elements.items(source, "ModalityLUTSequence"):
        return _looked_up(lut[0], stored, dataset)[0]
    slope, intercept = elements.number(source, "RescaleSlope"), elements.number(source, "RescaleIntercept")
    if slope is None or intercept is None:
        return stored
    exact = intercept.is_integer() and abs(intercept) < _EXACT
    if slope == 1 and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2 and exact:
        return np.add(stored, np.float32(intercept), out=out, dtype=np.float32)
    values = np.multiply(stored, np.float64(slope), dtype=np.float64)
    values += np.float64(intercept)
    return values


def _voi(source: Dataset, values: Array, dataset: Dataset) -> Array:
    """The first VOI LUT, else the first window (C.11.2): modality units to [0, 1]; unchanged where there is neither."""
    if lut := elements.items(source, "VOILUTSequence"):
        looked_up, most = _looked_up(lut[0], values, dataset)
        return looked_up / np.float64(most)
    center, width = elements.number(source, "WindowCenter"), elements.number(source, "WindowWidth")
    if center is None or width is None:
        return values
    function = elements.text(source, "VOILUTFunction") or "LINEAR"
    if function not in _WINDOWS or width < (1 if function == "LINEAR" else np.finfo(float).tiny):
        return values  # not a window by the standard; the values are worth more than a guess
    return _WINDOWS[function](values.astype(np.float64), center, width)


def _linear(values: Array, center: float, width: float) -> Array:
    """C.11.2.1.2.1, onto [0, 1]."""
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _linear_exact(values: Array, center: float, width: float) -> Array:
    """C.11.2.1.3.2, onto [0, 1]."""
    return np.clip((values - center) / width + 0.5, 0, 1)


def _sigmoid(values: Array, center: float, width: float) -> Array:
    """C.11.2.1.3.1, onto [0, 1]; the exponent is bounded where the result is 0 or 1 anyway."""
    return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))


_WINDOWS: dict[str, Callable[[Array, float, float], Array]] = {
    "LINEAR": _linear,
    "LINEAR_EXACT": _linear_exact,
    "SIGMOID": _sigmoid,
}


def _looked_up(item: Dataset, values: Array, dataset: Dataset) -> tuple[Array, int]:
    """Values through a LUT (C.11.1.1.1, C.11.2.1.1; beyond its ends, its end entries), and the most it can give."""
    descriptor, data = elements.value(item, "LUTDescriptor"), elements.value(item, "LUTData")
    try:
        entries, first, bits = (int(part) for part in descriptor)  # type: ignore[attr-defined]  # what is none raises
    except (TypeError, ValueError):
        raise elements.unreadable("LUTDescriptor") from None
    # the descriptor's VR is US or SS with the pixels' sign, and files mix them up
    if values.dtype.kind != "u" and values.size and first >= 2**15 and values.max() < first:
        first -= 2**16
    table = _table(data, entries or 2**16, bits, dataset)
    positions = np.clip(np.floor(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[positions], 2**bits - 1


def _table(data: object, entries: int, bits: int, dataset: Dataset) -> Array:
    """LUT Data (VR US or OW, 8 bits packed or 16) as an array of at most `entries`."""
    if isinstance(data, bytes):
        _, little = dataset.original_encoding
        wide = f"{'<' if little else '>'}u2"
        table = np.frombuffer(data, np.uint8 if bits <= 8 and len(data) < 2 * entries else wide)
    else:
        table = np.asarray(data, np.int64).reshape(-1)
    if not 1 <= bits <= 16 or not table.size:
        raise elements.unreadable("LUTData")
    return table[:entries]
