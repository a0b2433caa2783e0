"""What a hospital, a hub and a simulation agree on: the study, the records that travel, the metrics, the models."""

from importlib.metadata import version

__version__ = version("fedward")
