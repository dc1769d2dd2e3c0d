"""SAEBench core's scalars, written down literally: whole logits, forward hooks on the unmodified model, lists
of per-token values, softmax and its logarithm in float64. Slow, and independent of the code it judges.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def run_hooked(model: nn.Module, block: nn.Module, tokens: Tensor, replace=None) -> tuple[Tensor, Tensor]:
    """Logits, and the residual stream after `block`, which `replace` (if given) rewrites on the way."""
    seen = []

    def hook(_module, _inputs, output):
        act = output[0] if isinstance(output, tuple) else output
        seen.append(act.clone())
        if replace is None:
            return None
        new = replace(act)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = block.register_forward_hook(hook)
    try:
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits
    finally:
        handle.remove()
    return logits.double(), seen[0]


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    return -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    p, q = p_logits.softmax(-1), q_logits.softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def reconstruction(model, block, sae, batches: list[Tensor], ignore: set[int]) -> dict[str, float]:
    values: dict[str, list[Tensor]] = {}
    for tokens in batches:
        keep = torch.ones_like(tokens, dtype=torch.bool)
        for token in ignore:
            keep &= tokens != token

        def spliced(act, keep=keep):
            return torch.where(keep[..., None], sae.decode(sae.encode(act)), act)

        clean, _ = run_hooked(model, block, tokens)
        with_sae, _ = run_hooked(model, block, tokens, spliced)
        ablated, _ = run_hooked(model, block, tokens, torch.zeros_like)
        per_token = {
            "ce_loss_without_sae": cross_entropy(clean, tokens),
            "ce_loss_with_sae": cross_entropy(with_sae, tokens),
            "ce_loss_with_ablation": cross_entropy(ablated, tokens),
            "kl_div_with_sae": kl(clean, with_sae),
            "kl_div_with_ablation": kl(clean, ablated),
        }
        for name, value in per_token.items():
            values.setdefault(name, []).append(value[keep[:, : value.shape[1]]])
    m = {name: torch.cat(parts).mean().item() for name, parts in values.items()}
    ablation, without = m["ce_loss_with_ablation"], m["ce_loss_without_sae"]
    m["ce_loss_score"] = (ablation - m["ce_loss_with_sae"]) / (ablation - without)
    m["kl_div_score"] = (m["kl_div_with_ablation"] - m["kl_div_with_sae"]) / m["kl_div_with_ablation"]
    return m


def variance(sae, batches: list[tuple[Tensor, Tensor]]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scalars and the two density metrics, from pairs of activations [batch, seq, d] and keep masks."""
    values: dict[str, list[Tensor]] = {}
    bias, residuals, squares, dimension_squares, kept_x, kept_y, fired, prompts = ([] for _ in range(8))
    for x_full, keep in batches:
        codes_full = sae.encode(x_full)
        x, codes = x_full[keep].double(), codes_full[keep].double()
        y = sae.decode(codes_full)[keep].double()
        residual = (x - y).pow(2).sum(-1)
        per_token = {
            "l2_norm_in": x.norm(dim=-1),
            "l2_norm_out": y.norm(dim=-1),
            "l2_ratio": y.norm(dim=-1) / x.norm(dim=-1),
            "l0": (codes != 0).sum(-1).double(),
            "l0_events": (codes > 0).sum(-1).double(),
            "l1": codes.sum(-1),
            "l1_saelens": codes.abs().sum(-1),
            "mse": residual / keep.sum(),
            "mse_saelens": residual,
            "cossim": (x / x.norm(dim=-1, keepdim=True) * (y / y.norm(dim=-1, keepdim=True))).sum(-1),
            "explained_variance_legacy": 1 - residual / (x - x.mean(0)).pow(2).sum(-1),
        }
        for name, value in per_token.items():
            values.setdefault(name, []).append(value)
        bias.append((y.norm(dim=-1) ** 2).mean() / (x * y).sum(-1).mean())
        residuals.append(residual.mean())
        squares.append(x.pow(2).sum(-1).mean())
        dimension_squares.append(x.pow(2).mean(0))
        kept_x.append(x)
        kept_y.append(y)
        active = (codes_full > 0) & keep[..., None]
        fired.append(active.sum((0, 1)))
        prompts.append((active.sum(1) > 0).sum(0))
    m = {name: torch.cat(parts).mean().item() for name, parts in values.items()}
    m["relative_reconstruction_bias"] = torch.stack(bias).mean().item()
    total = torch.stack(squares).mean() - torch.cat(dimension_squares).mean() ** 2
    m["explained_variance"] = (1 - torch.stack(residuals).mean() / total).item()
    x, y = torch.cat(kept_x), torch.cat(kept_y)
    m["explained_variance_centred"] = (1 - (x - y).pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item()
    m["explained_variance_saelens"] = m["explained_variance_centred"]
    counts = torch.stack(fired).sum(0).double()
    return m, {
        "feature_density": counts / len(x),
        "consistent_activation_heuristic": counts / torch.stack(prompts).sum(0),
    }
