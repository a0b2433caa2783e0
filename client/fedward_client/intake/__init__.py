"""Readers of what a hospital has: DICOM, NIfTI and BIDS, pictures, wearable series, tables of patients and labels."""
