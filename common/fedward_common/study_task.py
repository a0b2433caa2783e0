"""[study] task: what a model is to say of a patient."""

from typing import Literal

Task = Literal["classification", "segmentation", "registration", "detection", "survival"]
