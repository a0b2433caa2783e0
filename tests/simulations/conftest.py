from datetime import UTC, datetime

import numpy as np
import pytest

from fedward_common.study import About, Cohort, Model, StudySpec
from fedward_simulations.results import (
    Block,
    CalibrationPoint,
    Compared,
    Curve,
    Figure,
    PrecisionRecall,
    Results,
    RoundPoint,
    SeedRun,
    SiteReport,
    SiteResult,
    StudyInfo,
    Traffic,
    combine,
)

WITHHELD = "fewer than 5 patients with or without a label: figures of malignant stay home"
# ROC-AUC of local, federated, pooled; test patients
SITES = {
    "north-university": (214, 43, (0.83, 0.88, 0.90)),
    "harbour-clinic": (126, 25, (0.76, 0.86, 0.85)),
    "valley-hospital": (58, 16, (0.71, 0.84, 0.86)),
}


def figure(value: float, spread: float) -> Figure:
    return Figure(value=value, low=max(0.0, value - spread), high=min(1.0, value + 0.8 * spread))


def block(auc: float, patients: int) -> Block:
    spread = 0.75 / patients**0.5
    return Block(
        roc_auc=figure(auc, spread),
        sensitivity=figure(auc - 0.031, 1.2 * spread),
        specificity=figure(auc - 0.052, spread),
        precision=figure(auc - 0.113, 1.4 * spread),
        brier=0.32 - 0.2 * auc,
        f1=auc - 0.08,
        threshold=0.412,
        patients=patients,
        positives=round(0.36 * patients),
        negatives=patients - round(0.36 * patients),
    )


def roc_curve(auc: float) -> Curve:
    """The binormal-like family tpr = fpr^(1/auc - 1), whose area is exactly `auc`."""
    fpr = np.linspace(0, 1, 60) ** 2
    return Curve(fpr=tuple(fpr.tolist()), tpr=tuple((fpr ** (1 / auc - 1)).tolist()))


def calibration_points(bias: float) -> tuple[CalibrationPoint, ...]:
    centres = np.linspace(0.06, 0.94, 8)
    observed = np.clip(centres + bias * np.sin(2 * np.pi * centres), 0.02, 0.98)
    return tuple(
        CalibrationPoint(predicted=float(x), observed=figure(float(y), 0.16), patients=10.0)
        for x, y in zip(centres, observed, strict=True)
    )


def history(end: float, seed: int, *, missing: bool) -> tuple[RoundPoint, ...]:
    wobble = np.random.default_rng(seed).normal(0, 0.012, 13)
    points = []
    for index in range(13):
        progress = 1 - np.exp(-index / 3)
        out = {"valley-hospital": "no reply within 600 s"} if missing and index == 4 else {}
        points.append(
            RoundPoint(
                round=index,
                seconds=None if index == 0 else 1.31,
                train_loss=None if index == 0 else float(0.72 - 0.45 * progress + wobble[index]),
                validation_loss=float(0.71 - 0.28 * progress + 2 * wobble[index]),
                primary=float(0.52 + (end - 0.52) * progress + wobble[index]),
                sites=tuple(name for name in SITES if name not in out),
                missing=out,
            )
        )
    return tuple(points)


def seed_run(seed: int) -> SeedRun:
    shift = 0.01 if seed == 42 else -0.01
    sites = tuple(
        SiteResult(
            name=name,
            patients=patients,
            local=(Block(withheld=WITHHELD) if name == "valley-hospital" else block(aucs[0] + shift, tested)),
            federated=block(aucs[1] + shift, tested),
            pooled=block(aucs[2] + shift, tested),
        )
        for name, (patients, tested, aucs) in SITES.items()
    )
    return SeedRun(
        seed=seed,
        model_sha256=("ab" if seed == 42 else "cd") * 32,
        wall_s=81.4,
        seconds_per_round=1.3125,
        training_share=0.914,
        bytes_per_site_per_round=Traffic(up=3_214_567, down=3_214_001),
        sites=sites,
        overall=Compared(
            local=block(0.80 + shift, 80), federated=block(0.87 + shift, 80), pooled=block(0.88 + shift, 80)
        ),
        history=history(0.88, seed, missing=seed == 7),
        local_history={
            name: history(aucs[0], seed + index, missing=False)
            for index, (name, (_, _, aucs)) in enumerate(SITES.items())
        },
        roc={
            "local": {"malignant": roc_curve(0.80 + shift)},
            "federated": {"malignant": roc_curve(0.87 + shift)},
            "pooled": {"malignant": roc_curve(0.88 + shift)},
        },
        precision_recall={
            model: {"malignant": PrecisionRecall(recall=(0.2, 0.6, 1.0), precision=(0.95, 0.8 + shift, 0.36))}
            for model in ("federated", "pooled")
        },
        calibration={
            "local": {"malignant": calibration_points(0.12)},
            "federated": {"malignant": calibration_points(-0.05)},
            "pooled": {"malignant": calibration_points(0.02)},
        },
    )


def site_report(name: str, patients: int, scanner: str) -> SiteReport:
    return SiteReport(
        name=name,
        min_cell=5,
        images=patients * 2 + 17,
        patients=patients + 9,
        labelled=patients + 2,
        labels={"benign": patients - round(0.36 * patients), "malignant": round(0.36 * patients)},
        sides={"train": round(0.6 * patients), "validation": round(0.2 * patients), "test": round(0.2 * patients)},
        left_out={"patients without a label": 7, "label is neither benign nor malignant": None},
        quarantined={"not a DICOM file": None, "pixel data cut short": 6},
        scanners=(scanner,),
        transfer_syntaxes={"JPEG Lossless": 40, "Explicit VR Little Endian": patients * 2 - 23},
        modalities={"US": patients * 2 + 17},
    )


def spec(**changes: object) -> StudySpec:
    return StudySpec(
        study=About(
            id="breast-ultrasound",
            title="Benign or malignant: breast ultrasound",
            purpose="Can three hospitals tell malignant from benign breast lesions better together than each alone?",
            contact="trial office",
            task="classification",
        ),
        cohort=Cohort(modality="US", labels=("benign", "malignant"), positive="malignant"),
        model=Model(name="enhanced-alexnet"),
        training={"rounds": 12, "augmentation": ("flip", "contrast")},  # type: ignore[arg-type]
        **changes,  # type: ignore[arg-type]
    )


def combined(*seeds: int) -> Results:
    scanners = ("Aloka ProSound", "GE LOGIQ E9", "Philips EPIQ 7")
    return combine(
        [seed_run(seed) for seed in seeds],
        study=StudyInfo.of(spec()),
        engine="embedded",
        created=datetime(2026, 11, 24, 9, 30, tzinfo=UTC),
        wall_s=171.2,
        planted=True,
        data_notes=("Near-duplicate images are grouped as one planted patient.", "Callipers and text are burned in."),
        site_reports=[
            site_report(name, SITES[name][0], scanner) for name, scanner in zip(SITES, scanners, strict=True)
        ],
        versions={"flwr": "1.41.0", "torch": "2.13.0", "monai": "1.6.0", "numpy": "2.4.1"},
    )


@pytest.fixture(scope="session")
def results() -> Results:
    """Three hospitals, two seeds; one hospital's local figures are withheld."""
    return combined(42, 7)


@pytest.fixture(scope="session")
def one_seed() -> Results:
    return combined(42)
