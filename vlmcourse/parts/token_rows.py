"""Training a few rows of a frozen embedding table.

Paper: Video-ChatGPT, arXiv 2306.05424, says that only the linear layer trains.
Official: mbzuai-oryx/Video-ChatGPT@659e04b:video_chatgpt/model/video_chatgpt.py: the rows of two
new tokens train too, by letting the whole table ask for gradients and cutting all other positions
off the graph.
Differs: the rows that train are a parameter of their own and the table stays frozen. So weight
decay, text-only samples and optimiser state cannot reach any other row; the table may be half
precision; and what a stage trains can be read from a list of parameter names.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TokenRows(nn.Module):
    """Embeddings of a few tokens that stand in for their rows of a table.

    Args:
        ids: the tokens, each once.
        width: E.
    """

    def __init__(self, ids: Sequence[int], width: int):
        super().__init__()
        if len(set(ids)) != len(ids):
            raise ValueError(f"a token stands twice in {list(ids)}")
        self.ids = tuple(ids)
        self.weight = nn.Parameter(torch.empty(len(self.ids), width))
        if not self.weight.is_meta:
            nn.init.normal_(self.weight, std=0.02)

    def forward(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """Replace the embeddings of these tokens.

        Args:
            ids: `[B, L]` int.
            embeddings: `[B, L, E]` looked up in the table.

        Returns:
            `[B, L, E]`; positions of other tokens pass through untouched.
        """
        for token, row in zip(self.ids, self.weight):
            embeddings = torch.where(
                (ids == token)[..., None], row.to(embeddings.dtype), embeddings
            )
        return embeddings

    def read_from(self, table: Tensor) -> None:
        """Take the rows' values from a table `[V, E]`."""
        with torch.no_grad():
            self.weight.copy_(table[list(self.ids)])

    def written_into(self, table: Tensor) -> Tensor:
        """A copy of a table `[V, E]` with these rows in their places."""
        index = torch.tensor(self.ids, device=table.device)
        return table.index_copy(0, index, self.weight.detach().to(table))
