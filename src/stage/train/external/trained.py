"""The policy that is trained, and what is left of it (docs/trainers.md)."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def with_adapters(model, recipe):
    """The model with low-rank adapters, where the recipe has any."""
    lora = recipe["lora"]
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    targets = list(lora["targets"])
    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def leave(recipe, state):
    """Writes weights, adapters merged, as transformers does. `state` is whole: all tensors by name, gathered from every process."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(recipe["work"] / "policy"))
        model = with_adapters(model, recipe)
    missing, unknown = model.load_state_dict(state, strict=False, assign=True)
    plain = model if recipe["lora"] is None else model.get_base_model()
    plain.tie_weights()
    empty = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    if unknown or empty:
        raise SystemExit(f"the trained weights are not those of the policy: {empty or unknown} (missing {missing})")
    model = plain if recipe["lora"] is None else model.merge_and_unload()
    model.save_pretrained(recipe["work"] / "out")
