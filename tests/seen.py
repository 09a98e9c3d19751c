"""An SAE that tells what its fit saw, for workers of any kind."""

import torch

from sparsecode_estimators import SAEEncoder


class Seeing(SAEEncoder):
    """Notes with how many threads of torch it was fitted."""

    def fit(self, X, y=None):
        super().fit(X, y)
        self.n_threads_ = torch.get_num_threads()
        return self


def n_threads(estimator, X, y=None):
    return estimator.n_threads_


def reconstruction(estimator, X, y=None):
    return estimator.score(X)
