"""What belongs to studies rather than to images: the triplets and the reports of a prepared folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from replication.data.cache import ArrayWriter
from replication.data.manifest import table_digest
from replication.data.readers import DatasetReader
from replication.data.reports import report_text
from replication.errors import DataError

_SLICE = 4096
"""Studies written at a time; the matrix of the real data is too large to be copied whole."""


def write_triplets(
    reader: type[DatasetReader], source: Path, records: pd.DataFrame, folder: Path, digests: dict[str, str]
) -> list[int]:
    """Fill ``triplets.npy`` with the studies of the records; the row of every record, -1 for none."""
    annotation = reader.triplets(source)
    if annotation is None:
        return [-1] * len(records)
    study_ids, matrix = annotation
    wanted = set(records["study_id"])
    kept = np.array([k for k, study in enumerate(study_ids) if study in wanted], np.int64)
    if not kept.size:
        raise DataError(
            "No study of the data set is annotated.",
            where=source,
            found=f"{len(study_ids)} annotated studies, none of them listed",
            remedy="check that tables and RadGraph file belong together",
        )
    rows = {study_ids[k]: row for row, k in enumerate(kept)}
    with ArrayWriter(folder / "triplets.npy", matrix.shape[1:], np.int8) as writer:
        for start in range(0, len(kept), _SLICE):
            writer.append(matrix[kept[start : start + _SLICE]])
        digests["triplets"] = writer.sha256
    return [rows.get(study, -1) for study in records["study_id"]]


def write_reports(source: Path, records: pd.DataFrame, folder: Path, digests: dict[str, str]) -> int:
    """Fill ``reports.parquet`` with findings and impression of every study; how many of them are empty."""
    files = records.loc[records["report_file"] != "", ["study_id", "report_file"]].drop_duplicates()
    if files.empty:
        return 0
    texts = [_report(source / name) for name in files["report_file"]]
    table = pd.DataFrame({"study_id": files["study_id"].to_numpy(), "report": texts})
    table.to_parquet(folder / "reports.parquet", index=False)
    digests["reports"] = table_digest(table)
    return sum(not text for text in texts)


def _report(path: Path) -> str:
    try:
        return report_text(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            "A report is no UTF-8 text.", where=path, found=error, remedy="fetch it again"
        ) from error
    except OSError as error:
        raise DataError("A report cannot be read.", where=path, found=error) from error
