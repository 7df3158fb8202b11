"""Does a model go on as before? Greedy answers behind a compressed prompt, held against those behind an exact one.

Only the prompt's pass is compressed; every token after it is computed exactly, as in decode. Legend: B prompts, T
tokens of a prompt, N tokens of an answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thinwire.reference.decoder.sync import ExactSync
from thinwire.reference.quality.accuracy import Run


@torch.no_grad()
def greedy(run: Run, ids_BT: Tensor, tokens: int) -> Tensor:
    """The likeliest continuation of each prompt, token by token, [B, N = tokens]; the whole of ids is prompt."""
    if tokens < 1:
        raise ValueError(f"tokens must be positive: tokens={tokens}")
    decoder = run.decoder
    cache, exact = decoder.new_cache(ids_BT.shape[0], ids_BT.shape[1] + tokens), ExactSync(decoder.group)
    hidden_BTD = decoder.prefill(ids_BT, cache, run.sync, run.split)
    found = [decoder.logits(hidden_BTD[:, -1]).argmax(-1)]
    while len(found) < tokens:
        hidden_BTD = decoder.forward(found[-1][:, None], cache, exact)
        found.append(decoder.logits(hidden_BTD[:, -1]).argmax(-1))
    return torch.stack(found, dim=1)


def first_difference(reference_BN: Tensor, found_BN: Tensor) -> list[int]:
    """For each answer the token, from 1, at which it first differs; N + 1 where it never does."""
    if reference_BN.shape != found_BN.shape:
        raise ValueError(f"answers must be equally many and long: {list(reference_BN.shape)}, {list(found_BN.shape)}")
    same_BN = (reference_BN == found_BN).int()
    return (1 + same_BN.cumprod(-1).sum(-1)).tolist()
