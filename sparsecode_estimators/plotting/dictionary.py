"""Which learned atom is which true one."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.utils.validation import check_is_fitted

from ..metrics.correlation import unit_rows
from ..metrics.inputs import as_codes
from .axes import make_axes


class DictionaryDisplay:
    """Absolute cosines between true and learned atoms, matched one to one.

    Rows are true atoms, columns the learned ones that the Hungarian algorithm matches to them.
    The best recovered come first, so the diagonal fades from the upper left. Learned atoms
    without a partner stand to the right, true ones below. A bright place off the diagonal is an
    atom that stands for several, or one that was learned twice.

    Parameters
    ----------
    dictionary_true : array-like of shape (n_true, n_features)
    dictionary_learned : array-like of shape (n_learned, n_features)
    name : str or None, default=None
        For the title.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    image_ : matplotlib AxesImage
        The matrix, in the order of ``rows_`` and ``columns_``.
    rows_ : ndarray of shape (n_true,)
        True atoms, in the order drawn.
    columns_ : ndarray of shape (n_learned,)
        Learned atoms, in the order drawn.
    score_ : float
        Mean over the true atoms of the matched cosines: `dictionary_corr_coef`.

    Raises
    ------
    ValueError
        If the dictionaries do not have the same number of features.

    See Also
    --------
    sparsecode_estimators.metrics.dictionary_corr_coef : How like two dictionaries are.

    Examples
    --------
    >>> import numpy as np
    >>> from sparsecode_estimators.plotting import DictionaryDisplay
    >>> D = np.random.RandomState(0).randn(6, 4)
    >>> display = DictionaryDisplay.from_results(D, -D[::-1])
    >>> round(display.score_, 6)
    1.0
    """

    def __init__(self, dictionary_true: Any, dictionary_learned: Any, *, name: str | None = None):
        self.dictionary_true = dictionary_true
        self.dictionary_learned = dictionary_learned
        self.name = name

    def plot(self, ax: Any = None, *, cmap: str = "cividis") -> DictionaryDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to. None: in a new figure.
        cmap : str, default="cividis"

        Returns
        -------
        display : DictionaryDisplay
        """
        true = unit_rows(as_codes(self.dictionary_true, "dictionary_true"))
        learned = unit_rows(as_codes(self.dictionary_learned, "dictionary_learned"))
        if true.shape[1] != learned.shape[1]:
            raise ValueError(
                f"dictionary_true has {true.shape[1]} features and dictionary_learned has "
                f"{learned.shape[1]}; give both in the same space."
            )
        cosines = np.abs(true @ learned.T)
        self.rows_, self.columns_, matched = _order(cosines)
        self.score_ = float(matched.sum() / len(true))
        self.ax_ = make_axes(self, ax, figsize=(4.8, 4.2))
        self.figure_ = self.ax_.figure
        self.image_ = self.ax_.imshow(
            cosines[np.ix_(self.rows_, self.columns_)], vmin=0, vmax=1, cmap=cmap, aspect="auto"
        )
        self.figure_.colorbar(self.image_, ax=self.ax_, label="|cosine|")
        self.ax_.set(
            xlabel="learned atoms, as matched",
            ylabel="true atoms, best recovered first",
            title=f"{'' if self.name is None else self.name + ': '}mean |cos| {self.score_:.3f}",
        )
        return self

    @classmethod
    def from_results(
        cls,
        dictionary_true: Any,
        dictionary_learned: Any,
        *,
        name: str | None = None,
        ax: Any = None,
    ) -> DictionaryDisplay:
        """Draw two dictionaries.

        Parameters
        ----------
        dictionary_true, dictionary_learned, name
            As for the class.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : DictionaryDisplay
        """
        return cls(dictionary_true, dictionary_learned, name=name).plot(ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, dictionary: Any, *, name: str | None = None, ax: Any = None
    ) -> DictionaryDisplay:
        """Draw the dictionary of a fitted encoder beside the true one.

        Parameters
        ----------
        estimator : fitted encoder
            Anything with ``components_``.
        dictionary : array-like of shape (n_true, n_features)
        name : str or None, default=None
            None: that of its class.
        ax : matplotlib Axes, default=None

        Returns
        -------
        display : DictionaryDisplay
        """
        check_is_fitted(estimator)
        name = type(estimator).__name__ if name is None else name
        return cls(dictionary, estimator.components_, name=name).plot(ax)


def _order(cosines: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matched rows and columns, the best first, then those without a partner; their cosines."""
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    best = np.argsort(-cosines[rows, columns], kind="stable")
    rows, columns = rows[best], columns[best]
    alone = [
        np.setdiff1d(np.arange(n), used)
        for n, used in zip(cosines.shape, (rows, columns), strict=True)
    ]
    matched = cosines[rows, columns]
    return np.concatenate([rows, alone[0]]), np.concatenate([columns, alone[1]]), matched
