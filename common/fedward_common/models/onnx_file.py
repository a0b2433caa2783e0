"""A trained model as an ONNX file, for programs that know nothing of Fedward; checked by running it.

The file takes examples as a network sees them, [batch, channels, *size] float32, any number at a time, for registration
pairs, [batch, 2 * channels, *size], and gives what its task is: see `ending`. How an image becomes such an example is
not in it: the study's [input] says that, which is in the file's metadata.
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
from fedward_common.models import example_shape, trained
from fedward_common.models.trained import Trained
from fedward_common.streams import stream
from fedward_common.study_task import Task

if TYPE_CHECKING:
    import torch
    from onnxruntime import InferenceSession  # type: ignore[import-untyped]  # it has no types
    from torch import nn
    from torch.onnx import ONNXProgram

MOST_DIFFERENCE = 1e-4
_SIZES = (1, 5)  # of the batches that it is tried on
_INPUT = "input"


def export(model: Path, out: Path) -> float:
    """Write `out`; the largest difference between what it gives and what torch gives on random examples.

    It is absolute, or of values that go beyond 1, as displacements and log-risks do, a share of the largest of them.
    Raises ModelError as `trained.read`, `ending` and `write` do, and UsageError where `out` cannot be written.
    """
    from torch import nn

    if out.resolve() == model.resolve():
        raise UsageError(f"{out} is the model itself: choose another --out")
    about, network = trained.read(model)
    study = about.study
    anchors = getattr(network, "anchors", None)
    last, output = ending(study.study.task, multi_label=study.cohort.multi_label, anchors=anchors)
    return write(
        nn.Sequential(network, last),
        out,
        shape=example_shape(study.study.task, study.input.channels, study.input.size),
        output=output,
        metadata=_metadata(about),
        seed=study.training.seed,
    )


def ending(task: Task, *, multi_label: bool, anchors: "torch.Tensor | None" = None) -> tuple["nn.Module", str]:
    """What follows a network in the file, and the name of what this gives.

    probabilities [batch, labels], of structures [batch, structures, *size]; displacements [batch, dims, *size] in
    voxels; log_risks [batch, 1]; findings [batch, anchors, labels + 2 * dims], the probability of each label and then
    the lower and upper corner of a box in voxels, of which those that overlap are still to be dropped. Raises
    ModelError for detection without the network's `anchors`.
    """
    from torch import nn

    match task:
        case "classification":
            return nn.Sigmoid() if multi_label else nn.Softmax(dim=1), "probabilities"
        case "segmentation":
            return nn.Sigmoid(), "probabilities"
        case "registration":
            return nn.Identity(), "displacements"
        case "survival":
            return nn.Identity(), "log_risks"
        case "detection":
            if anchors is None:
                raise ModelError("this network has no anchors to tell boxes by: use it with `fedward model predict`")
            from fedward_common.models.retinanet import Findings

            return Findings(anchors), "findings"


def write(
    model: "nn.Module", out: Path, *, shape: tuple[int, ...], output: str, metadata: dict[str, str], seed: int
) -> float:
    """Write a network that takes [batch, *shape] and gives `output`; the largest difference, as `export` gives it.

    Raises ModelError where it is more than `MOST_DIFFERENCE`: then nothing is written. UsageError where `out` cannot
    be written.
    """
    from onnxruntime import InferenceSession

    model.eval()
    try:
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=out.parent) as folder:
            written = Path(folder) / out.name
            program = _program(model, shape, output)
            program.model.metadata_props.update(metadata)
            program.save(written)
            session = InferenceSession(os.fspath(written), providers=["CPUExecutionProvider"])
            difference = _difference(model, session, output, shape, seed)
            if not difference <= MOST_DIFFERENCE:
                raise ModelError(
                    f"onnxruntime's {output.replace('_', '-')} differ from torch's by {difference:.2g}, and "
                    f"{MOST_DIFFERENCE:g} is the most that is accepted: use the model with `fedward model predict`"
                )
            if len(list(Path(folder).iterdir())) > 1:
                raise ModelError("the network is too large for one ONNX file: use it with `fedward model predict`")
            written.chmod(0o600)  # as the hub keeps the model that it is made of
            written.replace(out)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): choose another --out") from None
    return difference


def _program(model: "nn.Module", shape: tuple[int, ...], output: str) -> "ONNXProgram":
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter uses what torch deprecates
        program = torch.onnx.export(
            model,
            (torch.zeros(2, *shape),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[_INPUT],
            output_names=[output],
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths of this machine
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


def _difference(
    model: "nn.Module", session: "InferenceSession", output: str, shape: tuple[int, ...], seed: int
) -> float:
    import torch

    rng, worst = stream(seed, "export"), 0.0
    for size in _SIZES:
        examples = rng.standard_normal((size, *shape), np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(examples)).numpy()
        [found] = session.run([output], {_INPUT: examples})
        difference = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
        worst = float(np.maximum(worst, difference))  # NaN stays
    return worst
