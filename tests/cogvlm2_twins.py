"""CogVLM2's parts written a second time, token by token and head by head, in float64."""

import torch
from torch.nn import functional as F


def official_positions(types, attention):
    """`build_position_ids` as its reference notes tell it."""
    result = torch.zeros_like(types)
    for row, (row_types, row_real) in enumerate(zip(types.tolist(), attention.tolist())):
        kinds = [kind if real else -1 for kind, real in zip(row_types, row_real)]
        last = len(kinds) - 1
        ends = [
            kind == 1
            and (i in (0, last) or kinds[i - 1] == 0 or kinds[i + 1] == 0)
            for i, kind in enumerate(kinds)
        ]  # fmt: skip
        kinds = [0 if end else kind for kind, end in zip(kinds, ends)]
        number = 0
        for i in range(1, len(kinds)):
            number += kinds[i] == 0 or (kinds[i] == 1 and kinds[i - 1] == 0)
            result[row, i] = number
    return result


def norm(x, weight, eps):
    return weight * x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()


def turned(x, position, base=500000.0):
    """One head's vector `[d]` at a position: halves are turned against each other."""
    half = len(x) // 2
    angle = position * base ** (-torch.arange(half).double() / half)
    a, b = x[:half], x[half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()])


class OfficialLayer:
    """One decoder layer with experts over official weights; one row at a time, and its cache."""

    def __init__(self, weights, config):
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.heads, self.groups = config["num_attention_heads"], config["num_multi_query_heads"]
        self.head = config["hidden_size"] // self.heads
        self.eps = config["rms_norm_eps"]

    def qkv(self, x, seen):
        kind = "vision" if seen else "language"
        name = f"self_attn.{kind}_expert_query_key_value"
        fused = self.w[f"{name}.weight"] @ x
        if seen:
            fused = fused + self.w[f"{name}.bias"]
        return fused.reshape(-1, self.head)  # [H + 2K, d]

    def mlp(self, x, seen):
        name = "mlp.vision_mlp" if seen else "mlp.language_mlp"
        gate, up, down = (self.w[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        return down @ (F.silu(gate @ x) * (up @ x))

    def row(self, states, types, real, positions, cache=None):
        """Outputs by name of one row `[L, E]`; `cache` is what an earlier call returned."""
        H, K = self.heads, self.groups
        seen = [a == 1 and b == 1 for a, b in zip(types, [*types[1:], 0])]
        keys, values = ([], []) if cache is None else cache
        out = {name: [] for name in ("query_rotated", "self_attn", "mlp", "hidden_states")}
        start, present = len(keys), [True] * len(keys) + [bool(r) for r in real]
        for i, x in enumerate(states.double()):
            qkv = self.qkv(norm(x, self.w["input_layernorm.weight"], self.eps), seen[i])
            query = torch.stack([turned(q, positions[i]) for q in qkv[:H]])
            keys.append(torch.stack([turned(k, positions[i]) for k in qkv[H : H + K]]))
            values.append(qkv[H + K :])
            there = [j for j in range(start + i + 1) if present[j] or j == start + i]
            mixed = []
            for head in range(H):
                group = head // (H // K)
                scores = torch.stack([query[head] @ keys[j][group] for j in there])
                share = (scores / self.head**0.5).softmax(0)
                mixed.append(sum(s * values[j][group] for s, j in zip(share, there)))
            dense = "vision" if seen[i] else "language"
            attended = self.w[f"self_attn.{dense}_expert_dense.weight"] @ torch.cat(mixed)
            x = x + attended
            thought = self.mlp(
                norm(x, self.w["post_attention_layernorm.weight"], self.eps), seen[i]
            )
            for name, value in zip(out, (query, attended, thought, x + thought)):
                out[name].append(value)
        found = {name: torch.stack(value) for name, value in out.items()}
        found["query_rotated"] = found["query_rotated"].transpose(0, 1)  # [H, L, d]
        found["key_rotated"] = torch.stack(keys).transpose(0, 1)
        found["value"] = torch.stack(values).transpose(0, 1)
        found["vision_token_mask"] = torch.tensor(seen).long()
        return found, (keys, values)


def layer_weights(config, seed=0):
    """Random official weights of a layer with experts."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = width // config["num_attention_heads"]
    fused = width + 2 * head * config["num_multi_query_heads"]
    shapes = {f"{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    for kind in ("vision", "language"):
        shapes[f"self_attn.{kind}_expert_query_key_value.weight"] = (fused, width)
        shapes[f"self_attn.{kind}_expert_dense.weight"] = (width, width)
        shapes[f"mlp.{kind}_mlp.gate_proj.weight"] = (inner, width)
        shapes[f"mlp.{kind}_mlp.up_proj.weight"] = (inner, width)
        shapes[f"mlp.{kind}_mlp.down_proj.weight"] = (width, inner)
    shapes["self_attn.vision_expert_query_key_value.bias"] = (fused,)
    weights = {n: 0.3 * torch.randn(s, generator=generator) for n, s in shapes.items()}
    half = torch.arange(head // 2) / (head // 2)
    weights["self_attn.rotary_emb.inv_freq"] = 500000.0**-half
    return weights


class OfficialEyes:
    """Encoder, convolution and adapter over official weights, in the order of the official code."""

    def __init__(self, weights, config):
        self.w, self.config = {n: t.double() for n, t in weights.items()}, config["vision_config"]

    def linear(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def layer_norm(self, x, name, eps):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def attention(self, x, layer):
        heads, width = self.config["num_heads"], x.shape[-1]
        name = f"transformer.layers.{layer}.attention"
        q, k, v = self.linear(x, f"{name}.query_key_value").split(width, dim=-1)
        size, parts = width // heads, []
        for h in range(heads):
            own = slice(h * size, (h + 1) * size)
            scores = q[..., own] @ k[..., own].mT / size**0.5
            parts.append(scores.softmax(-1) @ v[..., own])
        return self.linear(torch.cat(parts, -1), f"{name}.dense")

    def outputs(self, images):
        images, patch = images.double(), self.config["patch_size"]
        eps, side = self.config["layer_norm_eps"], self.config["image_size"] // patch
        pieces = images.unfold(2, patch, patch).unfold(3, patch, patch)  # [N, 3, g, g, p, p]
        pieces = pieces.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)  # [N, g * g, 3 * p * p]
        proj = self.w["patch_embedding.proj.weight"].flatten(1)
        x = pieces @ proj.mT + self.w["patch_embedding.proj.bias"]
        begin = self.w["patch_embedding.cls_embedding"].expand(len(x), 1, -1)
        x = torch.cat([begin, x], 1) + self.w["patch_embedding.position_embedding.weight"]
        found = {"patch_embedding": x}
        for layer in range(self.config["num_hidden_layers"]):
            name = f"transformer.layers.{layer}"
            found[f"layer_{layer}_attention"] = attended = self.attention(x, layer)
            x = x + self.layer_norm(attended, f"{name}.input_layernorm", eps)
            thought = self.linear(F.gelu(self.linear(x, f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
            x = x + self.layer_norm(thought, f"{name}.post_attention_layernorm", eps)
            found[f"layer_{layer}"] = x
        grid = x[:, 1:].unflatten(1, (side, side))  # [N, g, g, D]
        corners = [grid[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        kernel = self.w["conv.weight"]
        merged = sum(c @ kernel[:, :, i // 2, i % 2].mT for i, c in enumerate(corners))
        merged = merged + self.w["conv.bias"]  # [N, g / 2, g / 2, D]
        found["conv"] = merged.permute(0, 3, 1, 2)
        x = self.linear(merged.flatten(1, 2), "linear_proj.linear_proj")
        found["adapter_norm1"] = x = self.layer_norm(x, "linear_proj.norm1", 1e-5)
        x = F.gelu(x)
        x = F.silu(self.linear(x, "linear_proj.gate_proj")) * self.linear(
            x, "linear_proj.dense_h_to_4h"
        )
        found["linear_proj"] = x = self.linear(x, "linear_proj.dense_4h_to_h")
        ends = [self.w[name].expand(len(x), -1, -1) for name in ("boi", "eoi")]
        found["embeddings"] = torch.cat([ends[0], x, ends[1]], 1)
        return found


def eyes_weights(config, seed=0):
    """Random official weights of encoder, convolution, adapter and marks."""
    eyes, width, inner = config["vision_config"], config["hidden_size"], config["intermediate_size"]
    own, mlp = eyes["hidden_size"], eyes["intermediate_size"]
    rows = 1 + (eyes["image_size"] // eyes["patch_size"]) ** 2
    shapes = {
        "patch_embedding.proj.weight": (own, 3, eyes["patch_size"], eyes["patch_size"]),
        "patch_embedding.proj.bias": (own,),
        "patch_embedding.cls_embedding": (1, own),
        "patch_embedding.position_embedding.weight": (rows, own),
        "conv.weight": (own, own, 2, 2),
        "conv.bias": (own,),
        "linear_proj.linear_proj.weight": (width, own),
        "linear_proj.norm1.weight": (width,),
        "linear_proj.norm1.bias": (width,),
        "linear_proj.gate_proj.weight": (inner, width),
        "linear_proj.dense_h_to_4h.weight": (inner, width),
        "linear_proj.dense_4h_to_h.weight": (width, inner),
        "boi": (1, 1, width),
        "eoi": (1, 1, width),
    }
    for layer in range(eyes["num_hidden_layers"]):
        for name, shape in (
            ("attention.query_key_value", (3 * own, own)),
            ("attention.dense", (own, own)),
            ("mlp.fc1", (mlp, own)),
            ("mlp.fc2", (own, mlp)),
            ("input_layernorm", (own,)),
            ("post_attention_layernorm", (own,)),
        ):
            shapes[f"transformer.layers.{layer}.{name}.weight"] = shape
            shapes[f"transformer.layers.{layer}.{name}.bias"] = shape[:1]
    generator = torch.Generator().manual_seed(seed)
    return {n: 0.3 * torch.randn(s, generator=generator) for n, s in shapes.items()}
