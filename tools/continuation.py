"""Prompts, and what transformers writes after them when it always takes the likeliest token."""

import torch

MARGIN = 2e-3  # the least lead of the best over the second token on a greedy path


def random_tokens(length, vocab, seed):
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(3, vocab, (length,), generator=generator).tolist()


@torch.no_grad()
def continue_greedily(model, tokens, new_tokens):
    """transformers' own greedy continuation of `tokens`, with the logits of its steps."""
    prompt = torch.tensor([tokens])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),  # or a padding token in the prompt would be left out
        do_sample=False,
        max_new_tokens=new_tokens,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.cat(output.logits)
    new = output.sequences[0, len(tokens) :].tolist()
    assert new == logits.argmax(-1).tolist(), "generate did something else than taking the best token"
    best = logits.topk(2).values
    eos = model.generation_config.eos_token_id
    eos = eos if isinstance(eos, list) else [] if eos is None else [eos]
    entry = {
        "prompt_ids": tokens,
        "new_ids": new,
        "max_new_tokens": new_tokens,
        "eos_token_ids": eos,
        "stopped_by_eos": new[-1] in eos,
        "smallest_margin": float((best[:, 0] - best[:, 1]).min()),
    }
    return entry, logits
