"""A hospital: its data in, its updates out."""
