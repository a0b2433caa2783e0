"""What a model finds goes to a real archive, Orthanc, beside the images that it was made from."""

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import dcmread

from fedward_client.dicom_results import derived
from fedward_client.dicom_results.report import report, report_of_findings
from fedward_client.findings import Finding
from fedward_client.intake import source
from fedward_client.intake.dicom import read_slices
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
    slices = [path for path in files if path.name != "segmentation.dcm"]
    images = [source.read(path) for path in slices]
    made = report({"benign": 0.25, "malignant": 0.75}, images, about, ["For research use only."])
    path, places = tmp_path / "P0000" / "report.dcm", tmp_path / "P0000" / "findings.dcm"
    path.write_bytes(derived.encoded(made))
    assert '"probability malignant")="0.75" (1,UCUM,"no units")' in dcmtk("dsrdump", str(path))
    finding = Finding(label="malignant", score=0.5, lower=(1, 2, 3), upper=(3, 5, 7), affine=read_slices(slices).affine)
    detector = about.model_copy(update={"study": tiny_study(input={"size": [8, 16, 16]})})
    places.write_bytes(derived.encoded(report_of_findings([finding], images, detector, [])))
    assert "SCOORD3D:" in dcmtk("dsrdump", str(places))

    archive = orthanc()
    sent = map(str, (*files, path, places))
    dcmtk("storescu", "-R", "-aec", "ARCHIVE", "127.0.0.1", str(archive.dicom_port), *sent)
    [study] = archive.client.get("studies").json()
    kinds = [series["MainDicomTags"]["Modality"] for series in archive.client.get(f"studies/{study}/series").json()]
    assert sorted(kinds) == ["CT", "SEG", "SR", "SR"]
    stored = {}
    for one in archive.client.get(f"studies/{study}/instances").json():
        dataset = dcmread(io.BytesIO(archive.client.get(f"instances/{one['ID']}/file").content))
        stored[dataset.SOPInstanceUID] = dataset
    for original in map(dcmread, (*files, path, places)):
        assert stored.pop(original.SOPInstanceUID) == original
    assert not stored
