"""A trained model as an ONNX file, for programs that know nothing of Fedward; checked by running it.

The file takes examples as a network sees them, [batch, channels, *size] float32, any number at a time, and gives
probabilities [batch, labels]. How an image becomes such an example is not in it: the study's [input] says that, which
is in the file's metadata.
"""

import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedward_common.errors import ModelError, UsageError
from fedward_common.models import trained
from fedward_common.models.trained import Trained
from fedward_common.streams import stream

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # type: ignore[import-untyped]  # it has no types
    from torch import nn
    from torch.onnx import ONNXProgram

MOST_DIFFERENCE = 1e-4
_SIZES = (1, 5)  # of the batches that it is tried on
_INPUT, _OUTPUT = "input", "probabilities"


def export(model: Path, out: Path) -> float:
    """Write `out`; the largest absolute difference between its probabilities and torch's on random examples.

    Raises ModelError as `trained.read` does, and where they differ by more than `MOST_DIFFERENCE`: then nothing is
    written. UsageError where `out` cannot be written.
    """
    from onnxruntime import InferenceSession
    from torch import nn

    if out.resolve() == model.resolve():
        raise UsageError(f"{out} is the model itself: choose another --out")
    about, network = trained.read(model)
    last = nn.Sigmoid() if about.study.cohort.multi_label else nn.Softmax(dim=1)
    whole = nn.Sequential(network, last).eval()
    try:
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=out.parent) as folder:
            written = Path(folder) / out.name
            _program(whole, about).save(written)
            session = InferenceSession(os.fspath(written), providers=["CPUExecutionProvider"])
            difference = _difference(whole, session, about)
            if not difference <= MOST_DIFFERENCE:
                raise ModelError(
                    f"onnxruntime's probabilities differ from torch's by {difference:.2g}, and {MOST_DIFFERENCE:g} is "
                    "the most that is accepted: use the model with `fedward model predict`"
                )
            if len(list(Path(folder).iterdir())) > 1:
                raise ModelError("the network is too large for one ONNX file: use it with `fedward model predict`")
            written.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): choose another --out") from None
    return difference


def _program(model: "nn.Module", about: Trained) -> "ONNXProgram":
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter uses what torch deprecates
        program = torch.onnx.export(
            model,
            (torch.zeros(2, *_shape(about)),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths of this machine
    program.model.metadata_props.update(_metadata(about))
    return program


def _metadata(about: Trained) -> dict[str, str]:
    return {
        "use": trained.RESEARCH_USE,
        "study": about.study.study.id,
        "study_sha256": about.study.digest,
        "model_sha256": about.model_sha256,
        "labels": json.dumps(about.study.cohort.labels),
        "thresholds": json.dumps(about.thresholds),
        "input": about.input.model_dump_json(),
        "limits": json.dumps(about.limits),
    }


def _shape(about: Trained) -> tuple[int, ...]:
    return (about.study.input.channels, *about.study.input.size)


def _difference(model: "nn.Module", session: "InferenceSession", about: Trained) -> float:
    import torch

    rng, worst = stream(about.study.training.seed, "export"), 0.0
    for size in _SIZES:
        examples = rng.standard_normal((size, *_shape(about)), np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(examples)).numpy()
        [found] = session.run([_OUTPUT], {_INPUT: examples})
        worst = float(np.maximum(worst, np.abs(found - expected).max()))  # NaN stays
    return worst
