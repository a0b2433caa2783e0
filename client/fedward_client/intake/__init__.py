"""Readers of what a hospital has: DICOM, NIfTI and BIDS folders, pictures, wearable series, tables of patients and labels."""
