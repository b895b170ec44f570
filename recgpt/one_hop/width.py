"""How much one request may say to ``recall_engine``, which reads all of it in the server's one Python process."""

from __future__ import annotations

from recgpt import signature
from recgpt.errors import RequestError

MAX_WIDTH = 65_536
"""Values of one request in one input; a filter may have as many more as the catalogue has items."""

_FILTERS = (signature.BLOCKED, signature.ALLOWED)


def check_width(name: str, width: int, num_items: int | None) -> None:
    """Refuses more values than an input may have.

    Args:
        name: of the input.
        width: values of one request.
        num_items: of the catalogue; None, where it is not known, lets filters pass.

    Raises:
        RequestError: there are more.
    """
    more = num_items if name in _FILTERS else 0
    if more is not None and width > MAX_WIDTH + more:
        raise RequestError(
            f"{name} of {width} values: expected at most {MAX_WIDTH + more}; of a history send the newest, of a filter "
            f"the ids that the catalogue has"
        )
