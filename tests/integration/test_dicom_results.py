"""What a model finds goes to a real archive, Orthanc, beside the images that it was made from."""

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import dcmread

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.report import report
from fedward_client.intake import source
from fedward_common.models.trained import Trained
from fedward_common.testing import tiny_study
from fedward_simulations.synthetic import abdomen


def dcmtk(*command: str) -> str:
    program = shutil.which(command[0])
    assert program is not None, "the tests need Debian's dcmtk: `make test` says how to install it"
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_archive_takes_reports_and_segmentations(orthanc: Callable[..., Any], tmp_path: Path) -> None:
    abdomen.write(tmp_path, abdomen.SCANNERS["north"], 0, shape=(6, 16, 16))
    files = sorted((tmp_path / "P0000").glob("*.dcm"))
    about = Trained(study=tiny_study(), thresholds={"malignant": 0.5}, model_sha256="a1" * 32)
    images = [source.read(path) for path in files if path.name != "segmentation.dcm"]
    made = report({"benign": 0.25, "malignant": 0.75}, images, about, ["For research use only."])
    path = tmp_path / "P0000" / "report.dcm"
    path.write_bytes(derived.encoded(made))
    assert '"probability malignant")="0.75" (1,UCUM,"no units")' in dcmtk("dsrdump", str(path))

    archive = orthanc()
    dcmtk("storescu", "-R", "-aec", "ARCHIVE", "127.0.0.1", str(archive.dicom_port), *map(str, (*files, path)))
    [study] = archive.client.get("studies").json()
    kinds = {
        series["MainDicomTags"]["Modality"]: series["Instances"]
        for series in archive.client.get(f"studies/{study}/series").json()
    }
    assert {kind: len(instances) for kind, instances in kinds.items()} == {"CT": 6, "SEG": 1, "SR": 1}
    for kind, sent in (("SEG", tmp_path / "P0000" / "segmentation.dcm"), ("SR", path)):
        stored = archive.client.get(f"instances/{kinds[kind][0]}/file").content
        assert dcmread(io.BytesIO(stored)) == dcmread(sent)
