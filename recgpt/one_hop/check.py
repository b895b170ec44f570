"""Whether what recalls on a server is of the bundle that a client has opened."""

from __future__ import annotations

from recgpt.asking import Steps
from recgpt.bundle import Bundle
from recgpt.bundle_check import another_model
from recgpt.errors import BundleError, RequestError
from recgpt.one_hop.plan import Codec
from recgpt.one_hop.remote import InferSteps, recall_steps
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.fingerprint import NUM_ASKED, TOLERANCE, recalled_distance, recalled_history
from recgpt.types import Candidates, ItemId, RecallRequest


def recalled_check(
    codec: Codec, infer: InferSteps, bundle: Bundle, catalogue: Catalogue, *, who: str, has_filters: bool
) -> Steps[None]:
    """Asks for the bundle's test request and compares items and scores.

    Args:
        codec: of the form that the server offers.
        infer: asks a model.
        bundle: holds the request and the answer.
        catalogue: of the bundle.
        who: is asked, for the message.
        has_filters: whether the server can be told which items are allowed: then none that was added since the export,
            and might be better, is in the way.

    Raises:
        BundleMismatchError: the server recalls otherwise than the exported model.
        BundleError: the bundle holds no such answer.
    """
    manifest = bundle.manifest
    if not manifest.recalled:
        raise BundleError(
            f"{bundle.path} does not say what its model recalls, so a server that recalls cannot be recognised; export "
            "the checkpoint again"
        )
    rows = [row for row in manifest.recalled if row not in catalogue.deleted]
    expected: dict[ItemId, float] = {catalogue.item_ids.id(row): manifest.recalled[row] for row in rows}
    if len(expected) < min(NUM_ASKED, len(manifest.recalled)):
        return  # Nearly all of them are deleted. The version, by which a server is asked, has to do.
    request = _test_request(bundle, expected, has_filters=has_filters)
    try:
        [answer] = yield from recall_steps(codec, infer, [request])
    except RequestError as error:
        raise another_model(bundle, who=who, how=f"it refuses the bundle's test request: {error}") from error
    distance = recalled_distance(_first_step(answer), expected)
    if not distance <= TOLERANCE:
        how = "it recalls other items for" if distance == float("inf") else f"its scores are off by {distance:.0%} for"
        raise another_model(bundle, who=who, how=f"{how} the bundle's test request")


def _test_request(bundle: Bundle, expected: dict[ItemId, float], *, has_filters: bool) -> RecallRequest:
    manifest, example = bundle.manifest, bundle.examples()[0]
    further = min(manifest.recalls, default=1) - 1
    quotas = (max(1, min(NUM_ASKED, len(expected) - further)), *[1] * further)
    return RecallRequest(
        history=recalled_history(example.history, max_length=manifest.model.max_length, recalls=manifest.recalls),
        user_id=example.user_id,
        k=sum(quotas),
        quotas=quotas,
        filter_seen=False,
        allowed=set(expected) if has_filters else None,
    )


def _first_step(answer: Candidates) -> dict[ItemId, float]:
    found = zip(answer.item_ids, answer.scores.tolist(), answer.steps.tolist(), strict=True)
    return {item: score for item, score, step in found if step == 1}
