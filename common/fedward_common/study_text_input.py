"""How a study's data become a network's input, in words for a clinician."""

from fedward_common.sentences import listed, sentences
from fedward_common.study_compound import CompoundInput
from fedward_common.study_input import Input
from fedward_common.study_inputs import AnyInput
from fedward_common.study_sequence import SequenceInput
from fedward_common.study_series import SeriesInput
from fedward_common.study_table import TableInput

HEADINGS = {
    "image": "Images",
    "series": "Recordings",
    "sequence": "Sequences",
    "compound": "Compounds",
    "table": "Tables",
}


def input_words(section: AnyInput) -> str:
    """How an image, a window of a recording or of DNA, a row of a table becomes a network's input, in sentences."""
    match section:
        case Input():
            return _images(section)
        case SeriesInput():
            return _recordings(section)
        case SequenceInput():
            return _sequences(section)
        case CompoundInput():
            return _compounds(section)
        case TableInput():
            return _tables(section)


def _recordings(series: SeriesInput) -> str:
    step = series.window_s if series.step_s is None else series.step_s
    scaled = (
        "Each signal of a window is brought to mean 0 and standard deviation 1"
        if series.intensity == "zscore"
        else f"{series.scale:g} {series.unit} become 1"
    )
    return sentences(
        [
            f"Windows of {series.window_s:g} s, one every {step:g} s, at {series.rate_hz:g} Hz",
            f"Signals: {listed(series.signals, 'and')}",
            scaled,
        ]
    )


def _sequences(sequence: SequenceInput) -> str:
    return sentences(
        [
            f"Windows of DNA, {sequence.length} bases around the middle of the sequences in column {sequence.column}",
            "One channel each for A, C, G and T; an unknown base is a quarter of each",
        ]
    )


def _compounds(compound: CompoundInput) -> str:
    around = f"which substructures of up to {compound.radius} bonds around an atom it has (ECFP{2 * compound.radius})"
    return sentences(
        [
            f"Compounds written as SMILES in column {compound.column}",
            f"Each is a fingerprint of {compound.bits} bits: {around}",
        ]
    )


def _tables(table: TableInput) -> str:
    kept = f"; the effect of {listed(table.covariates, 'and')} stays" if table.covariates else ""
    measured = ", which they measure together before round 1" * table.measures_scale
    return sentences(
        [
            f"Features: {listed(table.features, 'and')}",
            missing_words(table),
            f"{combat_words(table)}{kept}",
            f"Features are brought to mean 0 and standard deviation 1 over all hospitals{measured}",
        ]
    )


def missing_words(table: TableInput) -> str:
    """What becomes of a row that lacks a value, as a sentence without a full stop."""
    return f"A missing value {'is set to the mean' if table.missing == 'mean' else 'leaves its row out'}"


def combat_words(table: TableInput) -> str:
    """What of a hospital's own is taken out of a table, as a sentence without a full stop; "" where nothing is."""
    return f"What each hospital adds to {listed(table.combat, 'and')} is taken out (ComBat)" if table.combat else ""


def _images(images: Input) -> str:
    axes = ("height", "width") if len(images.size) == 2 else ("depth", "height", "width")
    size = " x ".join(str(length) for length in images.size)
    window = images.window or (0.0, 0.0)
    colour, values = ("grey", "grey values") if images.channels == 1 else ("colour", "colour values")
    words = {
        "percentile": values + " from percentile {:g} to percentile {:g} become 0 to 1".format(*images.percentiles),
        "zscore": f"{values} are brought to mean 0 and standard deviation 1",
        "window": values + " in the window with centre {:g} and width {:g} become 0 to 1".format(*window),
        "landmarks": f"{values} are matched to the hospitals' common scale, from 0 to 1"
        + ", which they measure together before round 1" * images.measures_scale,
    }
    measured = ", measured on the foreground" * (images.statistics == "foreground")
    scaled = f"{size} ({' x '.join(axes)}), {colour}; {words[images.intensity]}{measured}"
    return sentences(
        [*before_scaling(images), f"Resized to {scaled}" if images.spacing is None else f"Cut or padded to {scaled}"]
    )


def before_scaling(images: Input) -> list[str]:
    """What happens to an image besides size and grey values, in sentences without a full stop."""
    turned = f"Axes are turned to {images.orientation}" if images.orientation else ""
    corrected = "Slow changes of brightness over an image, which the scanner adds, are taken out (N4)" * (
        images.bias_field is not None
    )
    cut = "Images are cropped to their foreground" * (images.crop is not None)
    respaced = (
        ""
        if images.spacing is None
        else (
            f"One pixel is {' x '.join(f'{mm:g}' for mm in images.spacing)} mm; images more than "
            f"{images.max_upsampling:g} times as coarse are left out"
        )
    )
    return [sentence for sentence in (turned, corrected, cut, respaced) if sentence]
