"""Token weights of mindgap's losses, in PyTorch: what multiplies every target's negative log-prob.

Formulas and sources: docs/design/loss.md. A weight is a constant to the gradient. Losses that hold a second policy (`psft`, `asft`,
`gift`) or need statistics of a whole step (`talr`) are not here.
"""

import math

import torch


def target_facts(logprob, labels):
    """What weights may depend on, at every token `[B, T]`; 0 where there is no target.

    `logprob` `[B, T]` is of the token after each place, `labels` `[B, T]` the targets, not shifted, -100 where there is none.
    """
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    is_target = targets != -100
    return {"is_target": is_target, "targets": targets, "logprob": torch.where(is_target, logprob, 0.0)}


def token_facts(logits, labels, k=None):
    """The same of the model's `logits` `[B, T, V]`, with the entropy of every place, and that of its `k` likeliest tokens."""
    log_probs = logits.float().log_softmax(-1)
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100).clamp(min=0)
    facts = target_facts(log_probs.gather(-1, following[..., None])[..., 0], labels)
    with torch.no_grad():
        facts["entropy"] = -(log_probs.exp() * log_probs).sum(-1)
        if k is not None:
            likeliest = log_probs.topk(k, dim=-1).values.log_softmax(-1)
            facts["top_entropy"] = -(likeliest.exp() * likeliest).sum(-1)
    return facts


def shifted(column):
    """A column that belongs to tokens, at the places that predict them."""
    return torch.nn.functional.pad(column[:, 1:], (0, 1))


def clip(ratio, loss):
    return ratio.clamp(loss["clip_low"], loss["clip_high"])


@torch.no_grad()
def weights(loss, facts, step, eos_token_ids, behavior=None, reference=None):
    """The weight of every token `[B, T]`, under a loss with all its parameters (`{"name": "dft", "floor": 0.0, ..}`).

    `behavior` and `reference` `[B, T]` are stored log-probs of the tokens; the first is 0 where the policy that sampled is not known.
    """
    name, logprob, is_target = loss["name"], facts["logprob"].detach(), facts["is_target"]
    if name == "sft":
        return torch.ones_like(logprob)
    if name == "dft":
        weight = logprob.exp().clamp(min=loss["floor"])
        if loss.get("eos_weight") is None:
            return weight
        is_eos = torch.isin(facts["targets"], torch.tensor(eos_token_ids, device=weight.device))
        return torch.where(is_eos, loss["eos_weight"], weight)
    if name == "power":
        p = logprob.exp().clamp(max=1.0)
        return torch.where((loss["min_p"] <= p) & (p <= loss["max_p"]), (loss["q"] * logprob).exp(), 0.0)
    if name == "chord-phi":
        return logprob.exp() * -torch.expm1(logprob)
    if name == "eaft":
        return (facts["top_entropy"] / math.log(loss["k"])).clamp(0.0, 1.0) ** loss["power"]
    if name == "idft":
        warmup = loss["warmup_steps"]
        share = 1.0 if step >= warmup else step / warmup
        gamma = clip((-(logprob + facts["entropy"]) / loss["scale"]).exp(), loss)
        return (logprob * (1.0 + share * (gamma - 1.0))).exp()
    if name in ("importance", "iw-sft"):
        ratio = torch.where(is_target, logprob - shifted(behavior if name == "importance" else reference), 0.0)
        if loss["level"] == "token":
            return clip(ratio.exp(), loss)
        total = ratio.sum(-1, keepdim=True)
        if name == "iw-sft":
            total = loss["temperature"] * total / is_target.sum(-1, keepdim=True).clamp(min=1)
        return clip(total.exp(), loss).expand_as(ratio)
    raise SystemExit(f"loss `{name}` is not one that trainers beside mindgap's own know")
