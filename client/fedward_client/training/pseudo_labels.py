"""Pseudo-labels: in a round, a training image without a label has the one that the round's model finds most likely.

Lee 2013 (ICML workshop on challenges in representation learning). They are a function of the model that the round
begins with, so a round that was cut off finds the same again. They are kept nowhere, and nothing is validated or tested
on them. There is no least probability: who takes part would then tell of single patients (docs/adr/0023).
"""

from dataclasses import replace

import numpy as np

from fedward_client.evaluation import predict
from fedward_client.scored import Scored
from fedward_client.site_data import SiteData
from fedward_common.study import StudySpec


def pseudo_labelled(scored: Scored, study: StudySpec) -> SiteData:
    """The site's data with its `pseudo_labels`: the known ones, and the model's for training images without one."""
    data = scored.data
    unknown = np.setdiff1d(data.indices("train", unlabelled=True), data.indices("train"))
    labels = data.labels.copy()
    labels[unknown] = predict(scored, unknown, study).argmax(axis=1)
    return replace(data, pseudo_labels=labels)
