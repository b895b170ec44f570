"""One entry point for every data file: the file's name tells the format."""

from __future__ import annotations

from pathlib import Path

from recgpt.data.interactions import Interactions
from recgpt.data.logs import LOG_SUFFIXES, column_names, read_logs
from recgpt.data.sequences import read_sequences
from recgpt.data.text import content_suffix
from recgpt.errors import DataError


def load_interactions(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    clicked: str | None = None,
    min_count: int = 5,
) -> Interactions:
    """Reads a raw log (.csv, .tsv, both also .xz or .gz; .parquet) or, under any other name, a sequence file.

    Args:
        path: the file.
        user: name of the user column; needed for a raw log, as are item and time, and for nothing else.
        item: name of the item column.
        timestamp: name of the time column.
        clicked: name of a feedback log's column that tells clicked rows from unclicked ones.
        min_count: k of a raw log's k-core filter. Sequence files are taken as they are.

    Raises:
        DataError: as ``read_logs`` or ``read_sequences``; or column names do not go with the format.
        ConfigError: ``min_count`` is below 1.
    """
    path = Path(path)
    if content_suffix(path) in LOG_SUFFIXES:
        if user is None or item is None or timestamp is None:
            named = {"user": user, "item": item, "timestamp": timestamp}
            missing = ", ".join(role for role, name in named.items() if name is None)
            raise DataError(
                f"{path}: a raw log, but which column is the {missing} was not said; expected one of its columns for "
                f"each, with --user-column, --item-column, --time-column: {', '.join(column_names(path))}"
            )
        return read_logs(path, user=user, item=item, timestamp=timestamp, clicked=clicked, min_count=min_count)
    if any(name is not None for name in (user, item, timestamp, clicked)):
        raise DataError(
            f"{path}: columns were named, but by its name this is a sequence file, which has none; expected a raw log "
            f"({', '.join(LOG_SUFFIXES)}), or no column names"
        )
    return read_sequences(path)
