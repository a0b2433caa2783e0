"""DICOM without identifiers: PS3.15 Annex E in code, burned-in text, and a proof over everything that was written."""

from fedward_client.deidentify.folder import Report, deidentify
from fedward_client.deidentify.proof import Leak, Proof, prove
from fedward_client.deidentify.rules import Profile

__all__ = ["Leak", "Profile", "Proof", "Report", "deidentify", "prove"]
