"""SimpleITK, whose results must not depend on the machine: imported where it is needed, with one thread."""

from types import ModuleType


def itk() -> ModuleType:
    """SimpleITK with one thread for this whole process.

    A filter's own number of threads does not reach the filters inside it: N4's bits then still follow the machine's.
    """
    import SimpleITK as sitk  # noqa: N813 - its own name for itself

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return sitk
