"""The tutorial's images in Slicer's module *Sample Data*: from the clone if the module lies in one, otherwise
from its public address.

They are drawings of bodies, not patients. Knows Slicer's module SampleData; no server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CATEGORY = "WordMask"
# Of the repository; see docs/slicer.md, "What only a public address can complete".
ADDRESS = "https://example.org/SlicerWordMask"
STUDIES = "sample_data/studies"
MODULE = Path(__file__).resolve().parents[2]
REPOSITORY = MODULE.parents[1]


@dataclass(frozen=True)
class Sample:
    """One image of *Sample Data*.

    Attributes:
        name: text on its button
        file: name in the folder of sample studies
        sha256: of the file
    """

    name: str
    file: str
    sha256: str

    @property
    def stem(self) -> str:
        """The file's name without its ending, for the node and for the picture on the button."""
        return self.file.split(".")[0]

    def address(self, repository: Path = REPOSITORY) -> str:
        """Return where Slicer gets it; ``repository`` is where the clone would be, and an installed extension
        lies in none.
        """
        local = repository / STUDIES / self.file
        return local.as_uri() if local.is_file() else f"{ADDRESS}/raw/main/{STUDIES}/{self.file}"


SAMPLES = (
    Sample(
        "CT of chest and abdomen (drawing)",
        "ct_chest_abdomen.nii.gz",
        "5f5ea578f86b19c9ff92c439418905651e148fa6708941d2eca4b0417a2a4119",
    ),
    Sample(
        "Endoscopy with a polyp (drawing)",
        "endoscopy_1.png",
        "3d6dc821292bcb22539c00792836ee8b3e7b8bd067e184d5f9ee4f43ff48f9e6",
    ),
)


def register() -> None:
    """Add the images to *Sample Data*; Slicer loads one when a person clicks it."""
    import SampleData

    for sample in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=sample.name,
            uris=sample.address(),
            fileNames=sample.file,
            nodeNames=sample.stem,
            checksums=f"SHA256:{sample.sha256}",
            thumbnailFileName=str(MODULE / "Resources" / "SampleData" / f"{sample.stem}.png"),
            loadFileProperties={
                "singleFile": True
            },  # else Slicer may take endoscopy_1.png, endoscopy_2.png for one volume
        )
