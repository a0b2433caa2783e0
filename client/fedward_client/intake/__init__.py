"""Readers of what a hospital has: DICOM folders, label tables."""
