"""Codings against values worked by hand and their own bounds; updates over rounds; what a hostile peer may send."""

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fedward_common import codecs, npy
from fedward_common.codecs import BLOCK, Bf16, Codec, Int8, TopK
from fedward_common.compression import (
    decode_model,
    decode_update,
    encode_model,
    encode_update,
    rounding,
)
from fedward_common.errors import RecordError
from fedward_common.study import Update
from fedward_common.testing import tiny_study

Array = npt.NDArray[Any]
Flat = npt.NDArray[np.float32]

UPDATES = [Update(compression="bf16"), Update(compression="int8"), Update(compression="top-k", share=0.05)]
FINITE = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
FLATS = arrays_of.arrays(np.float32, st.integers(1, 3 * BLOCK), elements=FINITE)
ALIKE = arrays_of.arrays(np.float32, st.integers(1, 200), elements=st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0]))


def said(codec: Codec, values: Flat) -> Flat:
    """What a codec makes of values; checks what it says of itself on the way."""
    left = values.copy()
    parts, squared = codec.encode(left)
    into = np.zeros_like(values)
    codec.decode(parts, into)
    assert all(str(part.dtype) in npy.DTYPES for part in parts.values())
    np.testing.assert_allclose(values - into, left, rtol=0, atol=1e-6 * np.abs(values).max())
    assert squared == pytest.approx(float((into.astype(np.float64) ** 2).sum()), rel=1e-6)
    return into


# Codecs --------------------------------------------------------------------------------------------------------------


def test_bf16_rounds_to_nearest_and_ties_to_even() -> None:
    one = 1 + 2.0**-7  # the bf16 after 1
    values = np.array([1 + 2.0**-8, one + 2.0**-8, 1 + 2.0**-8 + 2.0**-20, -1 - 2.0**-9, 0, 3], np.float32)
    np.testing.assert_array_equal(said(Bf16(), values), np.array([1, one + 2.0**-7, one, -1, 0, 3], np.float32))


def test_bf16_is_the_upper_half_of_a_float32() -> None:
    parts, _ = Bf16().encode(np.array([1.0, -2.5], np.float32))
    assert parts["bf16"].tobytes() == bytes.fromhex("803f20c0")


@given(FLATS)
def test_bf16_is_off_by_a_256th_at_most(values: Flat) -> None:
    assert (np.abs(said(Bf16(), values) - values) <= np.abs(values) / 256 + 1e-40).all()


def test_int8_has_a_scale_for_every_block() -> None:
    values = np.zeros(BLOCK + 3, np.float32)
    values[[0, 1, 2]] = [126.999, -63.2, 0.4]
    values[BLOCK:] = [0.0126999, -0.001, 0.00004]
    parts, _ = Int8().encode(values.copy())
    np.testing.assert_allclose(parts["scale"], [1, 1e-4], rtol=1e-6)
    codes = parts["int8"].view(np.int8)
    assert codes[:3].tolist() == [127, -63, 0]
    assert codes[BLOCK:].tolist() == [127, -10, 0]
    assert not codes[3:BLOCK].any()


@given(FLATS, st.none() | st.integers(0, 2**32))
def test_int8_is_off_by_half_a_scale_or_rounded_at_random_by_one(values: Flat, seed: int | None) -> None:
    codec = Int8() if seed is None else Int8(np.random.default_rng(seed))
    scales = Int8().encode(values.copy())[0]["scale"]
    bound = np.repeat(scales, BLOCK)[: values.size] * (1 if seed is not None else 0.5)
    assert (np.abs(said(codec, values) - values) <= bound * (1 + 1e-4) + 2e-36).all()


def test_rounding_at_random_is_right_on_average() -> None:
    values = np.random.default_rng(3).standard_normal(BLOCK).astype(np.float32)
    random = np.random.default_rng(4)
    times = 4000
    mean = sum(said(Int8(random), values).astype(np.float64) for _ in range(times)) / times
    scale = float(Int8().encode(values.copy())[0]["scale"][0])
    five_deviations = 5 * 0.5 * scale / times**0.5  # a coin between two neighbours deviates by half a scale at most
    assert np.abs(mean - values).max() < five_deviations
    assert np.abs(mean - values).max() > 0.01 * five_deviations  # it is at random
    nearest = said(Int8(), values)
    assert np.abs(nearest - values).max() > five_deviations  # what would be found of a rounding that is not


def test_the_largest_are_kept_and_of_equals_the_first() -> None:
    values = np.array([1, -3, 0, 3, -1, 1, 2, 3], np.float32)
    left = values.copy()
    parts, squared = TopK(0.5).encode(left)
    assert parts["position"].tolist() == [1, 3, 6, 7]
    assert parts["value"].tolist() == [-3, 3, 2, 3]
    assert squared == 31
    assert left.tolist() == [1, 0, 0, 0, -1, 1, 0, 0]
    assert TopK(0.6).encode(values.copy())[0]["position"].tolist() == [0, 1, 3, 6, 7]


@given(FLATS | ALIKE, st.sampled_from([0.01, 0.1, 0.5, 1.0]))
def test_the_largest_are_those_of_a_stable_sort(values: Flat, share: float) -> None:
    count = int(np.ceil(share * values.size))
    first = np.sort(np.argsort(-np.abs(values), kind="stable")[:count])
    assert TopK(share).encode(values.copy())[0]["position"].tolist() == first.tolist()


def test_the_largest_are_found_where_the_sample_looks_past_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_SAMPLED", 200)
    values = np.random.default_rng(5).standard_normal(20_000).astype(np.float32)
    values[::100] = 9  # all that the sample sees
    values[1:5] = 20
    assert TopK(0.001).encode(values.copy())[0]["position"].tolist() == [0, 1, 2, 3, 4, *range(100, 1600, 100)]
    values[::100] = 0
    count = 1000
    found = TopK(count / values.size).encode(values.copy())[0]["position"]
    assert found.tolist() == np.sort(np.argsort(-np.abs(values), kind="stable")[:count]).tolist()


# Models and updates --------------------------------------------------------------------------------------------------


def model(seed: int, size: float = 1.0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        "features.weight": (size * random.standard_normal((40, 3, 5, 5))).astype(np.float32),
        "bias": (size * random.standard_normal(40)).astype(np.float32),
        "classifier.weight": (size * random.standard_normal((50, 41))).astype(np.float32),
        "counted": np.asarray(seed, np.int64),
        "double": size * random.standard_normal(2000),
    }


CODED = ("features.weight", "classifier.weight")
SIZE = 40 * 75 + 50 * 41  # of their values


def plus(one: dict[str, Array], other: dict[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(array + other[name], array.dtype) for name, array in one.items()}


def shapes(arrays: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items() if array.dtype == np.float32}


@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.compression)
def test_what_is_left_out_comes_later(update: Update) -> None:
    """The sum of what was said is the sum of what was learned, less what is left."""
    reference, residual = model(1), dict[str, Array]()
    learned = dict.fromkeys(CODED, np.zeros(()))
    decoded = dict.fromkeys(CODED, np.zeros(()))
    for number in range(1, 9):
        step = model(10 + number, 0.01)
        coded = encode_update(
            plus(reference, step), reference, update, residual=residual, random=np.random.default_rng(number)
        )
        residual = coded.residual
        back = decode_update(coded.arrays, reference, update)
        for name in CODED:
            learned[name] = learned[name] + step[name]
            decoded[name] = decoded[name] + (back[name].astype(np.float64) - reference[name])
        assert coded.norm == pytest.approx(length(back, reference), rel=1e-4)
    waiting = dict(zip(sorted(CODED), np.split(recalled(residual), [50 * 41]), strict=True))
    for name in CODED:
        np.testing.assert_allclose(
            decoded[name], learned[name] - waiting[name].reshape(learned[name].shape), rtol=0, atol=1e-5
        )


def recalled(residual: dict[str, Array]) -> Flat:
    """What waits, as the next update would add it."""
    waiting = np.zeros(SIZE, np.float32)
    match sorted(residual):
        case ["residual"]:
            waiting += residual["residual"]
        case ["bf16"]:
            Bf16().decode(residual, waiting)
        case _:
            Int8().decode(residual, waiting)
    return waiting


@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.compression)
def test_next_to_nothing_is_lost_of_what_waits_and_it_takes_no_more_than_what_was_sent(update: Update) -> None:
    base = {"w": np.zeros(SIZE, np.float32)}
    step = {"w": np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)}
    coded = encode_update(step, base, update, residual={}, random=np.random.default_rng(2))
    left = step["w"] - decode_update(coded.arrays, base, update)["w"]
    lost = np.abs(recalled(coded.residual) - left)
    if update.compression == "top-k":
        assert not lost.any()
    else:
        assert (lost <= (np.abs(left) / 256 if update.compression == "bf16" else np.abs(left).max() / 253)).all()
        assert lost.any()
        sent = [array.nbytes for array in coded.arrays.values()]
        assert [array.nbytes for array in coded.residual.values()] == sent


@pytest.mark.parametrize("compression", ["bf16", "int8"])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_what_waits_of_an_earlier_version_is_added(compression: Any, weight: float) -> None:
    """It was kept whole."""
    update, base = Update(compression=compression), {"w": np.zeros(SIZE, np.float32)}
    waiting = {"residual": np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)}
    coded = encode_update(base, base, update, residual=waiting, weight=weight, random=None)
    said = decode_update(coded.arrays, base, update)["w"]
    np.testing.assert_allclose(said, weight * waiting["residual"], rtol=0, atol=0.02)


def length(arrays: dict[str, Array], reference: dict[str, Array]) -> float:
    floats = [name for name, array in arrays.items() if array.dtype.kind == "f"]
    return float(np.sqrt(sum(((arrays[name].astype(np.float64) - reference[name]) ** 2).sum() for name in floats)))


@pytest.mark.parametrize("update", [Update(), *UPDATES], ids=lambda update: update.compression)
def test_an_update_comes_back_in_the_models_names_shapes_and_types(update: Update) -> None:
    base, trained = model(1), plus(model(1), model(2, 0.01))
    own = {"control/bias": np.ones(3, np.float32), "control/large": np.ones(5000, np.float32)}
    before = {name: array.copy() for name, array in trained.items()}
    random = np.random.default_rng(1)
    coded = encode_update(trained | own, base | own, update, residual={}, random=random)
    assert all(str(array.dtype) in npy.DTYPES for array in coded.arrays.values())
    back = decode_update(coded.arrays, base, update)
    assert {name: (array.shape, array.dtype) for name, array in back.items()} == {
        name: (array.shape, array.dtype) for name, array in (trained | own).items()
    }
    exact = set(back) if update.compression == "none" else set(back) - set(CODED)
    for name in exact:
        np.testing.assert_array_equal(back[name], (trained | own)[name])
    for name, array in before.items():
        np.testing.assert_array_equal(trained[name], array)


@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.compression)
def test_the_hubs_model_keeps_its_precision(update: Update) -> None:
    """Sites train from the decoded model; an update of nothing changes nothing in the hub's."""
    full = model(1)
    sent = decode_model(encode_model(full, update), shapes(full), update)
    coded = encode_update(sent, sent, update, residual={}, random=np.random.default_rng(1))
    for name, array in decode_update(coded.arrays, full, update).items():
        np.testing.assert_array_equal(array, full[name])


@pytest.mark.parametrize(
    ("compression", "bound", "ratio"), [("none", 0, 1), ("bf16", 2**-8, 1 / 2), ("int8", 0.02, 0.26), ("top-k", 0, 1)]
)
def test_a_model_on_its_way_down(compression: Any, bound: float, ratio: float) -> None:
    update, full = Update(compression=compression), model(1)
    coded = encode_model(full, update)
    sent = decode_model(coded, shapes(full), update)
    assert sent.keys() == full.keys()
    for name, array in sent.items():
        assert (array.shape, array.dtype) == (full[name].shape, full[name].dtype)
        np.testing.assert_allclose(array, full[name], rtol=0, atol=bound * np.abs(full[name]).max())
    large = sum(full[name].nbytes for name in CODED)
    plain = sum(array.nbytes for array in full.values()) - large
    assert sum(array.nbytes for array in coded.values()) - plain == pytest.approx(ratio * large, rel=0.01)


def test_the_same_round_of_a_study_is_rounded_alike() -> None:
    study, base, update = tiny_study(), model(1), Update(compression="int8")

    def sent(site: str, number: int) -> bytes:
        random = rounding(study, site, number)
        coded = encode_update(plus(base, model(2, 0.01)), base, update, residual={}, random=random)
        return coded.arrays["coded/int8"].tobytes()

    assert sent("north", 1) == sent("north", 1)
    assert len({sent("north", 1), sent("north", 2), sent("south", 1)}) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e38])
@pytest.mark.parametrize("update", UPDATES, ids=lambda update: update.compression)
def test_training_that_went_astray_is_not_coded(update: Update, value: float) -> None:
    base, trained = model(1), model(1)
    trained["classifier.weight"][3, 7] = value
    with pytest.raises(RecordError, match="update holds NaN, Inf or values too large"):
        encode_update(trained, base, update, residual={}, random=np.random.default_rng(1))
    if update.compression != "top-k":
        with pytest.raises(RecordError, match="model holds NaN"):
            encode_model(trained, update)


# What a hostile peer may send ----------------------------------------------------------------------------------------


def good(update: Update) -> dict[str, Array]:
    base = model(1)
    random = np.random.default_rng(1)
    return encode_update(plus(base, model(2, 0.01)), base, update, residual={}, random=random).arrays


TOP = UPDATES[2]
FAULTS: list[tuple[Update, str, Array | None, str]] = [
    (UPDATES[0], "coded/bf16", None, "'bf16' is missing"),
    (UPDATES[0], "coded/bf16", np.zeros(2 * SIZE + 2, np.uint8), r"'bf16' is uint8 \(10102,\), not uint8 \(10100,\)"),
    (UPDATES[0], "coded/bf16", np.zeros(SIZE, np.float16), "'bf16' is float16"),
    (UPDATES[1], "coded/int8", np.zeros((SIZE, 1), np.uint8), r"'int8' is uint8 \(5050, 1\), not"),
    (UPDATES[1], "coded/scale", None, "'scale' is missing"),
    (UPDATES[1], "coded/scale", np.full(40, np.nan, np.float32), "'scale' holds one that is negative, too large or no"),
    (UPDATES[1], "coded/scale", np.full(40, -1, np.float32), "'scale' holds"),
    (UPDATES[1], "coded/scale", np.full(40, 1e38, np.float32), "'scale' holds"),
    (TOP, "coded/position", np.arange(253, dtype=np.int32) - 1, "'position' holds one twice, out of order or outside"),
    (TOP, "coded/position", np.arange(253, dtype=np.int32) + SIZE - 252, "'position' holds"),
    (TOP, "coded/position", np.zeros(253, np.int32), "'position' holds"),
    (TOP, "coded/position", np.arange(253, dtype=np.int32)[::-1].copy(), "'position' holds"),
    (TOP, "coded/position", np.arange(254, dtype=np.int32), r"'position' is int32 \(254,\), not int32 \(253,\)"),
    (TOP, "coded/value", np.full(253, np.inf, np.float32), "'value' holds NaN or Inf"),
    *((update, "features.weight", model(1)["features.weight"], "came as it is, where it") for update in UPDATES),
]


@pytest.mark.parametrize(("update", "name", "array", "says"), FAULTS, ids=[f"{f[1]} {f[3][:20]}" for f in FAULTS])
def test_parts_that_do_not_fit_are_refused_in_words(update: Update, name: str, array: Array | None, says: str) -> None:
    assert len(good(TOP)["coded/position"]) == 253
    sent = {key: value for key, value in good(update).items() if key != name}
    with pytest.raises(RecordError, match=says):
        decode_update(sent if array is None else sent | {name: array}, model(1), update)


def test_a_hub_that_sends_parts_of_another_network_is_refused() -> None:
    update, full = UPDATES[1], model(1)
    coded = encode_model(full, update)
    with pytest.raises(RecordError, match=r"'int8' is uint8 \(5050,\), not uint8 \(5150,\)"):
        decode_model(coded, shapes(full) | {"classifier.weight": (50, 43)}, update)
    with pytest.raises(RecordError, match="is missing"):
        decode_model(full, shapes(full), update)


PARTS = st.sampled_from(["coded/bf16", "coded/int8", "coded/scale", "coded/position", "coded/value", "bias", "x", ""])
SHAPES = st.sampled_from([(0,), (40,), (253,), (SIZE,), (2 * SIZE,), (), (1, 40)])
JUNK = st.tuples(st.sampled_from(sorted(npy.DTYPES)), SHAPES, st.integers(0, 2**32))


def junk(dtype: str, shape: tuple[int, ...], seed: int) -> Array:
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)


@given(st.sampled_from(UPDATES), st.dictionaries(PARTS, JUNK, max_size=4), st.sets(PARTS))
def test_junk_is_refused_in_words_or_becomes_a_model(
    update: Update, made: dict[str, tuple[str, tuple[int, ...], int]], dropped: set[str]
) -> None:
    base = model(1)
    sent = {name: array for name, array in good(update).items() if name not in dropped}
    sent |= {name: junk(*one) for name, one in made.items()}
    size = sum(array.nbytes for array in base.values())
    tracemalloc.start()
    try:
        back = decode_update(sent, base, update)
    except RecordError as error:
        refused = str(error)
    else:
        refused = ""
        for name in CODED:
            assert (back[name].shape, back[name].dtype) == (base[name].shape, base[name].dtype)
    finally:
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert refused.isprintable()
    assert taken < 3 * size  # the model's own arrays, and a chunk
