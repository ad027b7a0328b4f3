"""MA-LMM's Q-Former with its banks once more, from official weights, plain and in float64.

Written from the description of the released code, one video after the other, one token position
after the other; nothing of the package is used.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F


class Bank:
    """Entries of every token position of one video, `[position][slot] -> (vector, size)`."""

    def __init__(self, capacity):
        self.capacity, self.lists = capacity, None

    def append(self, frame):
        self.lists = self.lists or [[] for _ in frame]
        for entries, vector in zip(self.lists, frame):
            entries.append((vector, 1.0))
            if len(entries) <= self.capacity:
                continue
            alike = [float(F.cosine_similarity(a[0], b[0], dim=0)) for a, b in pairwise(entries)]
            best = alike.index(max(alike))
            (x, n), (y, m) = entries[best : best + 2]
            entries[best : best + 2] = [((n * x + m * y) / (n + m), n + m)]

    def tensor(self):
        """`[slots, positions, C]`."""
        if self.lists is None:
            return None
        return torch.stack([torch.stack([vector for vector, _ in one]) for one in self.lists], 1)

    def sizes(self):
        return torch.tensor([[size for _, size in one] for one in self.lists]).T


class Twin:
    """`heads` and `freq` are not in the weights."""

    def __init__(self, weights, heads, freq, norm_eps=1e-5):
        self.w = {key: value.double() for key, value in weights.items()}
        self.heads, self.freq, self.norm_eps = heads, freq, norm_eps
        layers = {key.split(".")[4] for key in weights if ".encoder.layer." in key}
        self.num_layers = len(layers)

    def norm(self, x, name, eps=1e-12):
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)

    def linear(self, x, name):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def attention(self, x, source, name, hidden=None):
        q = self.linear(x, f"{name}.self.query")
        k, v = (self.linear(source, f"{name}.self.{part}") for part in ("key", "value"))
        q, k, v = (one.unflatten(-1, (self.heads, -1)).transpose(0, 1) for one in (q, k, v))
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if hidden is not None:
            scores = scores - 10000.0 * hidden
        read = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        return self.norm(self.linear(read, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def feed_forward(self, x, layer, kind):
        up = F.gelu(self.linear(x, f"{layer}.intermediate{kind}.dense"))
        down = self.linear(up, f"{layer}.output{kind}.dense")
        return self.norm(down + x, f"{layer}.output{kind}.LayerNorm")

    def begin(self, ids):
        table = "Qformer.bert.embeddings"
        words = self.w[f"{table}.word_embeddings.weight"][ids]
        words = words + self.w[f"{table}.position_embeddings.weight"][: len(ids)]
        both = torch.cat([self.w["query_tokens"][0], words])
        return self.norm(both, f"{table}.LayerNorm")

    def read(self, features, ids, mask, capacity):
        """One video `[T, N, C]`: what there is after every frame, as the unit names it."""
        visual, banks = Bank(capacity), [Bank(capacity) for _ in range(self.num_layers)]
        nq, steps = self.w["query_tokens"].shape[1], []
        frames = self.norm(features.double(), "ln_vision", self.norm_eps)
        for t, frame in enumerate(frames):
            frame = frame + self.w["image_pe.weight"][t]
            past = visual.tensor()
            seen = frame if past is None else torch.cat([past.flatten(0, 1), frame])
            x = self.begin(ids)
            for index, bank in enumerate(banks):
                layer, memory = f"Qformer.bert.encoder.layer.{index}", bank.tensor()
                source = x if memory is None else torch.cat([memory.flatten(0, 1), x])
                kept = torch.cat([torch.ones(nq), mask]).repeat(len(source) // len(x))
                bank.append(x)
                x = self.attention(x, source, f"{layer}.attention", 1 - kept.double())
                queries, text = x[:nq], x[nq:]
                if index % self.freq == 0:
                    queries = self.attention(queries, seen, f"{layer}.crossattention")
                queries = self.feed_forward(queries, layer, "_query")
                x = torch.cat([queries, self.feed_forward(text, layer, "")])
            visual.append(frame)
            found = {"encoder_hidden_states": seen, "query_output": x}
            found["visual_size"] = visual.sizes()
            for index, bank in enumerate(banks):
                found[f"query_bank.layer{index}"] = bank.tensor()
                found[f"query_size.layer{index}"] = bank.sizes()[:, :nq]
            steps.append(found)
        return steps
