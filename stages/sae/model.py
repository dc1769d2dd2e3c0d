"""The sparse autoencoder: inputs, encoder, sparsifier, decoder."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stages.sae.codes import Codes
from stages.sae.products import product
from stages.sae.sparsifier import Sparsifier


class SAE(nn.Module):
    """`codes = sparsifier((x - b_dec) W_enc + b_enc)` and `reconstruction = codes W_dec + b_dec`.

    `x` is in the units that the weights are in: normalised ones in training, raw activations once saved
    (`stages.sae.files`). Parts that look at one token only, as all parts here do, accept `[n, d_in]` too.
    """

    def __init__(self, d_in: int, d_sae: int, sparsifier: Sparsifier) -> None:
        """Parameters are float32 and undefined until `initialise` or a load."""
        super().__init__()
        self.d_in = d_in
        self.d_sae = d_sae
        self.sparsifier = sparsifier
        self.products = torch.float32
        """The dtype of dense matrix products; parameters and everything else stay float32."""
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Decoder rows uniform on the unit sphere, the encoder its transpose, biases 0.

        `b_dec` starts at 0 because normalised inputs have mean 0.
        """
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(self.d_sae, self.d_in, generator=generator)
        self.W_dec.copy_(directions / directions.norm(dim=-1, keepdim=True))
        self.W_enc.copy_(self.W_dec.T)
        self.b_enc.zero_()
        self.b_dec.zero_()

    def sparse_codes(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Codes:
        """What `encode` returns, in the form that is cheapest to decode and differentiate."""
        return self.sparsifier.encode(self._inputs(x), self.W_enc, self._bias(), self.products)

    def encode(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "*tokens d_sae"]:
        """Codes of `x: [batch, seq, d_in]`.

        `segments` are document ids, which parts that look across tokens never cross; None means one
        document with BOS at position 0. `start` is the absolute position of the first token in its stored row.
        """
        return self.sparse_codes(x, segments, start).dense()

    def decode(self, codes: Float[Tensor, "*tokens d_sae"]) -> Float[Tensor, "*tokens d_in"]:
        """The reconstruction that codes stand for."""
        return codes @ self.W_dec + self.b_dec

    def decode_sparse(self, codes: Codes) -> Float[Tensor, "*tokens d_in"]:
        """`decode` of codes in the form of `sparse_codes`."""
        return codes.decode(self.W_dec, self.products) + self.b_dec

    def forward(
        self,
        x: Float[Tensor, "*tokens d_in"],
        segments: Int[Tensor, "batch seq"] | None = None,
        start: int = 0,
    ) -> Float[Tensor, "*tokens d_in"]:
        """`decode(encode(x))`."""
        return self.decode_sparse(self.sparse_codes(x, segments, start))

    def pre_activations(
        self, x: Float[Tensor, "*tokens d_in"], latents: Int[Tensor, " n_latents"]
    ) -> Float[Tensor, "*tokens n_latents"]:
        """What the encoder gives the sparsifier for some latents."""
        weight = self.W_enc.index_select(1, latents)
        bias = self._bias().index_select(0, latents)
        pre = product(self._inputs(x).flatten(0, -2), weight, self.products).add_(bias)
        return pre.view(*x.shape[:-1], -1)

    def _inputs(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_in"]:
        """What the encoder reads. `b_dec` gets its gradient through `_bias`, see there."""
        return x.to(self.b_dec.dtype) - self.b_dec.detach()

    def _bias(self) -> Float[Tensor, " d_sae"]:
        """`b_enc`, plus a term of value zero that carries the gradient of `- b_dec @ W_enc`.

        Through `x - b_dec` that gradient would cost a product as large as the encoder's own: one row a token, only
        to be summed over tokens.
        """
        return self.b_enc + (self.b_dec.detach() - self.b_dec) @ self.W_enc.detach()
