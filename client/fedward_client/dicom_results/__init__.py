"""What a model finds, as DICOM objects that a hospital's archive takes: reports and segmentations.

They stay at the hospital: each carries the patient and the study of the images that it was made from.
"""
