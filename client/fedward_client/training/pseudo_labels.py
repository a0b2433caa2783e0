"""Pseudo-labels: in a round, training images without a label have the one that the round's model is sure of.

Lee 2013 (ICML workshop on challenges in representation learning), with a threshold as in FixMatch (Sohn et al. 2020,
arXiv:2001.07685). They are a function of the model that the round begins with, so a round that was cut off finds the
same again. They are kept nowhere, and nothing is validated or tested on them. Classes weigh by all labels of a round,
so that one of which a site knows no true label weighs too.
"""

from dataclasses import replace

import numpy as np

from fedward_client.evaluation import predict
from fedward_client.scored import Scored
from fedward_client.site_data import SiteData
from fedward_common.errors import DataError
from fedward_common.study import StudySpec


def pseudo_labelled(scored: Scored, study: StudySpec, *, min_cell: int) -> SiteData:
    """The site's data, with a label for each training image without one where its probability is high enough.

    That is the label of the largest probability, if this is the study's `confidence` or more. The update's weight stays
    the number of all training patients, with and without a label: of how many the model is sure does not leave. Raises
    DataError where fewer than `min_cell` patients have a label of either kind: the update would be of few.
    """
    data, asked = scored.data, study.training.pseudo_labels
    assert asked is not None  # there is no such round otherwise
    unknown = np.setdiff1d(data.indices("train", unlabelled=True), data.indices("train"))
    probabilities = predict(scored, unknown, study)
    sure = probabilities.max(axis=1) >= asked.confidence
    labels = data.labels.copy()
    labels[unknown[sure]] = probabilities[sure].argmax(axis=1)
    given = replace(data, labels=labels)
    if len(np.unique(data.patients[given.indices("train")])) < min_cell:
        raise DataError(
            f"{scored.site} has fewer than {min_cell} training patients of whose label the model is sure: "
            "it may learn in a later round; lower [training] pseudo_labels.confidence if it never does"
        )
    return given
