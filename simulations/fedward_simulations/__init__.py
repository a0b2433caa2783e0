"""Hospitals and hub on one machine: phantom hospitals, the embedded engine, baselines, reports."""
