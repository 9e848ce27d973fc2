"""A linear regression, the smallest thing that trains: weights by hand, one loss, one call of `fit`."""

from functools import partial

import torch
from torch import nn

from lib.engine import training
from lib.quantization import rtn

Q = partial(rtn.fake_quant, bits=3, group=4, symmetric=False)
X = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))


def linear():
    torch.manual_seed(3)
    return nn.Linear(8, 6, bias=False).requires_grad_(False)


def loss_of(m):
    def loss(indices):
        i = list(indices)
        return ((m(X[i]) - Y[i]) ** 2).sum(), {}

    return loss


def fit(latent, m, *, micro=4, steps=5, lr=0.05, clip=1e9, seed=0, **kw):
    batches = training.epochs(12, 4, torch.Generator().manual_seed(seed))
    return training.fit(latent, batches, loss_of(m), training.AdamW(lr, 2, clip), steps=steps, micro=micro, **kw)
