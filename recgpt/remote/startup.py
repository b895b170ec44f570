"""Whether a client may start with the servers as they are."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from recgpt.errors import BundleMismatchError, RecGPTError, ServerTimeoutError, ServerUnavailableError

_log = logging.getLogger(__name__)


def refuse_to_start(urls: Sequence[str], errors: Sequence[RecGPTError | None], *, even_if_down: bool) -> None:
    """Raises what is wrong if that is wrong for good, or if no server is of use; logs what may pass.

    Args:
        urls: of the servers.
        errors: why each is of no use; None if it is.
        even_if_down: whether it is fine that no server answers at all.
    """
    found = [error for error in errors if error is not None]
    for error in found:
        if isinstance(error, BundleMismatchError):
            raise error
    only_down = all(isinstance(error, ServerUnavailableError | ServerTimeoutError) for error in found)
    if len(found) == len(errors) and not (even_if_down and only_down):
        raise found[0]
    for url, one in zip(urls, errors, strict=True):
        if one is not None:
            _log.warning("%s gets no calls until it answers: %s", url, one)
