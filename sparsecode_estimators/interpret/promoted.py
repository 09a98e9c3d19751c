"""Which tokens an atom makes a language model say."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ELEMENTS = 2**24  # of a product at a time


class PromotedTokens(NamedTuple):
    """Tokens whose logits atoms change most, each of shape (n_components, n).

    Attributes
    ----------
    raised, lowered : object ndarray of str
        The largest change first.
    raised_logits, lowered_logits : float32 ndarray
        Change of the logit for one unit of the code.

    See Also
    --------
    promoted_tokens : Makes them.
    """

    raised: np.ndarray
    raised_logits: np.ndarray
    lowered: np.ndarray
    lowered_logits: np.ndarray


def promoted_tokens(components: Any, unembedding: Any, tokens: Any, n: int = 10) -> PromotedTokens:
    r"""Tokens that each atom makes more and less probable, if it acts on the output directly.

    The change of the logits is the atom times the unembedding, :math:`d W_U^\top`, from which
    its mean over all tokens is subtracted, as that changes no probability. This leaves out
    the layers in between and the final normalisation, so it says the more the later the
    layer. Scale the rows of `unembedding` by the weight of the final norm to take that in.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Atoms in the space of the residual stream.
    unembedding : array-like or tensor of shape (n_vocabulary, n_features)
        ``model.get_output_embeddings().weight`` in transformers.
    tokens : sequence of n_vocabulary str
        The text of each token.
    n : int, default=10
        Tokens in each direction, at most n_vocabulary.

    Returns
    -------
    PromotedTokens

    Raises
    ------
    ValueError
        If shapes do not fit, or n is below 1.

    See Also
    --------
    LatentReport : Shows them.

    References
    ----------
    nostalgebraist (2020), "Interpreting GPT: the logit lens".

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.interpret import promoted_tokens
    >>> unembedding = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> promoted = promoted_tokens([[1.0, 0.0]], unembedding, ["yes", "no", "perhaps"], n=1)
    >>> promoted.raised.tolist(), promoted.lowered.tolist()
    ([['yes']], [['perhaps']])
    """
    atoms, output = _matrix("components", components), _matrix("unembedding", unembedding)
    if atoms.shape[1] != output.shape[1]:
        raise ValueError(
            f"components has shape {atoms.shape} and unembedding {output.shape}: both must have "
            "one column for each feature of the residual stream."
        )
    if len(tokens) != len(output):
        raise ValueError(
            f"tokens has {len(tokens)} entries, but unembedding {len(output)} rows: give the "
            "text of every token."
        )
    if n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    n = min(int(n), len(output))
    texts = np.empty(len(tokens), dtype=object)
    texts[:] = list(tokens)
    output = output - output.mean(axis=0)
    ids = np.empty((2, len(atoms), n), np.int64)
    logits = np.empty((2, len(atoms), n), np.float32)
    step = max(1, _ELEMENTS // len(output))
    for start in range(0, len(atoms), step):
        change = atoms[start : start + step] @ output.T
        for which, sign in enumerate((1, -1)):
            best = np.argpartition(-sign * change, n - 1, axis=1)[:, :n]
            values = np.take_along_axis(change, best, 1)
            order = np.argsort(-sign * values, axis=1, kind="stable")
            ids[which, start : start + step] = np.take_along_axis(best, order, 1)
            logits[which, start : start + step] = np.take_along_axis(values, order, 1)
    return PromotedTokens(texts[ids[0]], logits[0], texts[ids[1]], logits[1])


def _matrix(name: str, values: Any) -> NDArray[np.float32]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    matrix = np.asarray(values, dtype=np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} has shape {matrix.shape}, but must be two-dimensional.")
    return matrix
