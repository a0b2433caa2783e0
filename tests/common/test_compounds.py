"""Fingerprints of compounds: against RDKit's own, for any way of writing a compound, and what is refused."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from fedward_common.compounds import MAX_SMILES, fingerprint, names

GEFITINIB = "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1"


@pytest.mark.parametrize(("radius", "bits"), [(1, 64), (2, 1024), (3, 2048)])
def test_bits_are_rdkits(radius: int, bits: int) -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    expected = generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(GEFITINIB))
    found = fingerprint(GEFITINIB, radius, bits)
    assert len(found) == len(names("smiles", radius, bits)) == bits
    assert list(found) == expected.tolist()
    assert set(found) == {0.0, 1.0}


@settings(max_examples=50)
@given(st.integers(0, 2**31 - 1))
def test_a_compound_is_the_same_however_it_is_written(seed: int) -> None:
    molecule = Chem.MolFromSmiles(GEFITINIB)
    [other] = Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=seed)
    assert fingerprint(other, 2, 256) == fingerprint(GEFITINIB, 2, 256)


@settings(max_examples=300)
@given(st.text(alphabet="CNOcnos123()=#[]@+-/\\.%H ", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_compound_or_is_refused(text: str) -> None:
    with suppress(ValueError):
        assert len(fingerprint(text, 2, 64)) == 64


def test_what_is_refused_is_not_repeated(capfd: pytest.CaptureFixture[str]) -> None:
    for text in (
        "",
        "not a compound",
        "C vitamin",
        "CCO |$x;y;z$|",
        " CCO",
        "I 131",
        "C1CC",
        "C" * (MAX_SMILES + 1),
        "[Xx]",
    ):
        with pytest.raises(ValueError, match="a compound"):
            fingerprint(text, 2, 64)
    assert capfd.readouterr() == ("", ""), "RDKit tells of faults on its own"


def test_bits_of_other_fingerprints_have_other_names() -> None:
    every = [set(names("smiles", radius, bits)) for radius, bits in ((2, 1024), (3, 1024), (2, 512))]
    assert not every[0] & every[1]
    assert not every[0] & every[2]
    assert names("smiles", 2, 1024)[17] == "smiles ECFP4 17/1024"
