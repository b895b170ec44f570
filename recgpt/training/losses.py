"""The training losses. Knows tensors of interests and target rows only.

All take interests already gathered at the positions that have a target, so that nothing of width V is ever computed
for padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Scores computed at a time. A chunk that stays in the processor's cache made the loss three times as fast as one (N, V)
# matrix on Amazon Beauty; and memory no longer grows with N times V.
_CHUNK_ELEMENTS = 2_500_000
_MIN_CHUNK_ROWS = 64
# Rows of scores begin at multiples of this many numbers: products into rows of odd sizes are slower.
_ALIGNMENT = 16


def full_cross_entropy(interests: Tensor, targets: Tensor, shares: Tensor, item_matrix: Tensor) -> Tensor:
    """Softmax cross entropy over the whole catalogue, rows 1..V.

    The paper has the binary loss of eq. 4 instead, see ``sampled_bce``. Under autocast the three products are of its
    type; the softmax and all sums are float32.

    Args:
        interests: (N, D).
        targets: (N, F) int64 rows, 1..V, or 0 where the share is 0.
        shares: (N, F), of each target in the distribution that the softmax shall be; 1 in each row together.
        item_matrix: (V + 1, D), row 0 is padding and never a candidate.

    Returns:
        Mean over the N positions, a scalar.
    """
    device = interests.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    with torch.autocast(device, enabled=False):
        rows = interests if dtype is None else interests.float()
        loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            rows, item_matrix[1:], (targets - 1).clamp(min=0), shares.to(rows.dtype), dtype
        )
    return loss


def target_shares(targets: Tensor, future_share: float) -> Tensor:
    """How much of what a position shall predict is the next item, and how much each of those after it.

    Source: positives from a window of the future, as in the "dense all action loss" of PinnerFormer (Pancha et al.
    2022); here with weights that fall by half from item to item. The order of what a user takes at one time says
    little, and a rare item is more often near in the future than next.

    Args:
        targets: (N, F) int64, the next item and those after it, 0 behind the end of a sequence.
        future_share: of the items after the next, together, where there are any.

    Returns:
        (N, F) float32, 1 in each row together.
    """
    weights = 0.5 ** torch.arange(targets.shape[1], device=targets.device)
    later = (weights * (targets != 0))[:, 1:]
    # The least sum that is not 0 is the last weight.
    later = later * (future_share / later.sum(dim=1, keepdim=True).clamp(min=weights[-1].item()))
    return torch.cat([1.0 - later.sum(dim=1, keepdim=True), later], dim=1)


def sampled_cross_entropy(interests: Tensor, targets: Tensor, item_matrix: Tensor, negatives: Tensor) -> Tensor:
    """Softmax cross entropy of each target against a sample of the catalogue, for catalogues too large for all of it.

    Source: Jean et al. 2015, section 3.1 (importance sampling). Each negative stands for as many items as there are for
    one of the sample, which makes the sum over the sample an unbiased estimate of that over all other items.

    Args:
        interests: (N, D).
        targets: (N,) int64 rows, 1..V.
        item_matrix: (V + 1, D), row 0 is padding.
        negatives: (M,) int64 rows, 1..V, different ones drawn uniformly; shared by all positions.

    Returns:
        Mean over the N positions, a scalar.
    """
    target_scores = (interests * functional.embedding(targets, item_matrix)).sum(dim=-1).float()
    scores = (interests @ functional.embedding(negatives, item_matrix).T).float()
    is_target = negatives.unsqueeze(0) == targets.unsqueeze(1)
    num_others = len(item_matrix) - 2
    stands_for = num_others / (len(negatives) - is_target.sum(dim=1)).clamp(min=1)
    others = scores.masked_fill(is_target, -torch.inf).logsumexp(dim=1) + stands_for.log()
    return (torch.logaddexp(target_scores, others) - target_scores).mean()


def sampled_bce(interests: Tensor, targets: Tensor, item_matrix: Tensor, negatives: Tensor) -> Tensor:
    """Binary cross entropy of each target against its sampled negatives.

    Source: eq. 4 of the paper (arXiv 2404.08675), averaged over positions.

    Args:
        interests: (N, D).
        targets: (N,) int64 rows, 1..V.
        item_matrix: (V + 1, D).
        negatives: (N, M) int64 rows, 1..V.

    Returns:
        Mean over the N positions of -log sigma(target) - sum of log sigma(-negative), a scalar.
    """
    positive = (interests * functional.embedding(targets, item_matrix)).sum(dim=-1)
    negative = torch.einsum("nd,nmd->nm", interests, functional.embedding(negatives, item_matrix))
    losses = functional.softplus(-positive) + functional.softplus(negative).sum(dim=-1)
    return losses.mean()


def sample_items(num_negatives: int, num_items: int, device: torch.device) -> Tensor:
    """Different rows 1..V, drawn uniformly from torch's global generator: (M,) int64, all of them if V is at most M."""
    if num_items <= num_negatives:
        return torch.arange(1, num_items + 1, device=device)
    return 1 + torch.randperm(num_items, device=device)[:num_negatives]


def sample_negatives(targets: Tensor, num_negatives: int, num_items: int) -> Tensor:
    """Uniform rows 1..V that are neither padding nor the target.

    Args:
        targets: (N,) int64 rows, 1..V.
        num_negatives: M.
        num_items: V, at least 2.

    Returns:
        (N, M) int64, drawn from torch's global generator.
    """
    shape = (len(targets), num_negatives)
    drawn = torch.randint(1, num_items, shape, device=targets.device)
    # V - 1 values for V - 1 allowed rows: those from the target on move up by one.
    return drawn + (drawn >= targets.unsqueeze(1)).long()


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross entropy of ``interests @ item_matrix.T``, a chunk of rows at a time.

    The gradient is softmax minus the targets' shares, so it is made together with the loss while the chunk is at hand:
    nothing of width V is kept for the backward pass and nothing is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        interests: Tensor,
        item_matrix: Tensor,
        targets: Tensor,
        shares: Tensor,
        product_dtype: torch.dtype | None,
    ) -> Tensor:
        """(N, D), (V, D), (N, F) columns 0..V-1, (N, F), what products are computed in (None: as given) -> scalar."""
        num_rows, num_items = len(interests), len(item_matrix)
        dtype = product_dtype or interests.dtype
        chunk = max(_MIN_CHUNK_ROWS, _CHUNK_ELEMENTS // num_items)
        interest_grad, item_grad = torch.empty_like(interests), torch.zeros_like(item_matrix)
        queries, items = interests.to(dtype), item_matrix.to(dtype)
        row_size = -(-num_items // _ALIGNMENT) * _ALIGNMENT
        products = queries.new_empty((min(chunk, num_rows), row_size))[:, :num_items]
        loss = interests.new_zeros(())
        for start in range(0, num_rows, chunk):
            rows, columns, parts = (each[start : start + chunk] for each in (queries, targets, shares))
            scores = torch.mm(rows, items.T, out=products[: len(rows)]).to(interests.dtype)
            highest = scores.amax(dim=1, keepdim=True)
            target_scores = ((scores.gather(1, columns) - highest) * parts).sum(dim=1, keepdim=True)
            exponentials = scores.sub_(highest).exp_()
            total = exponentials.sum(dim=1, keepdim=True)
            loss += (total.log() - target_scores).sum()
            gradient = exponentials.div_(total)
            gradient = gradient.scatter_add_(1, columns, -parts).to(dtype)
            interest_grad[start : start + chunk] = gradient @ items
            if dtype == item_grad.dtype:
                item_grad.addmm_(gradient.T, rows)
            else:
                item_grad += gradient.T @ rows
        ctx.save_for_backward(interest_grad.div_(num_rows), item_grad.div_(num_rows))
        return loss / num_rows

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Scales the gradients that the forward pass made."""
        interest_grad, item_grad = ctx.saved_tensors
        return interest_grad * grad_outputs[0], item_grad * grad_outputs[0], None, None, None
