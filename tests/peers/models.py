"""Log-probs of a few texts and greedy continuations by another program, as JSON for the test `a_real_policy_agrees_with_its_peer`.

    pip install torch==2.13.0 transformers==5.24.0            # a folder in Hugging Face layout
    pip install xllamacpp==2026.10.11549                          # a GGUF file, by llama.cpp
    python tests/peers/models.py FOLDER_OR_GGUF peer.json
    MINDGAP_PEER=peer.json MINDGAP_PEER_POLICY=FOLDER_OR_GGUF cargo test --release --test it a_real_policy -- --nocapture

Tokens of texts. Of a folder: per-token log-probs of whole texts, and 100 greedy tokens, f32 on the CPU. Of a GGUF file: the 40 likeliest next
tokens after each of some beginnings of a text, with their log-probs, because llama.cpp's server scores no prompts.
"""

import json
import sys
import urllib.request

TEXTS = [
    "The capital of France is Paris. The capital of Germany is Berlin, and that of Italy is Rome.",
    "def fib(n):\n    if n < 2:\n        return n\n    return fib(n - 1) + fib(n - 2)\n",
    "Solve: 12 + 30 = 42. Therefore x² ≤ √2 naïve café 数学很有趣.",
    " ".join(f"{i} squared is {i * i}." for i in range(1, 90)),
]
TRICKY = ["  leading spaces,\ttabs\n\nand new lines \r\n end ", "don't I'll WE'VE 1234567 3.14159 a_b-c", "日本語, العربية, 😀👩‍🚀 ﬁ ½"]
BEGINNINGS = ["The history of mathematics begins", "Once upon a time, there was"]


def transformers_numbers(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    def encode(text):
        ids = tok.encode(text)
        begins = model.config.model_type.startswith("gemma") and ids[0] != tok.bos_token_id
        return [tok.bos_token_id] + ids if begins else ids

    scores, greedy = [], []
    with torch.no_grad():
        for ids in map(encode, TEXTS):
            rows = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            scores.append({"ids": ids, "log_probs": [float(rows[i, ids[i + 1]]) for i in range(len(ids) - 1)]})
        for ids in map(encode, BEGINNINGS):
            out = model.generate(torch.tensor([ids]), max_new_tokens=100, min_new_tokens=100, do_sample=False)
            greedy.append({"ids": ids, "next": out[0].tolist()[len(ids) :]})
    texts = [{"text": text, "ids": tok.encode(text, add_special_tokens=False)} for text in TEXTS + TRICKY]
    return {"texts": texts, "scores": scores, "greedy": greedy, "likeliest": []}


def llama_cpp_numbers(file):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = 512
    params.n_parallel = 1
    params.cpuparams.n_threads = 2
    params.warmup = False
    server = xllamacpp.Server(params)

    def ask(path, body):
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        return json.load(urllib.request.urlopen(request))

    likeliest = []
    for text in TEXTS[:3]:
        ids = ask("/tokenize", {"content": text, "add_special": True})["tokens"]
        for end in range(1, len(ids), 2):
            asked = {
                "prompt": ids[:end], "n_predict": 1, "n_probs": 40, "temperature": 0.0, "cache_prompt": False,
                "samplers": [],
            }
            answer = ask("/completion", asked)
            if "completion_probabilities" not in answer:
                continue  # the likeliest token ends the text, and llama.cpp shows none then
            top = answer["completion_probabilities"][0]["top_logprobs"]
            likeliest.append({"ids": ids[:end], "top": [[t["id"], t["logprob"]] for t in top]})
    def plain(text):
        return ask("/tokenize", {"content": text, "add_special": False})["tokens"]

    texts = [{"text": text, "ids": plain(text)} for text in TEXTS + TRICKY]
    return {"texts": texts, "scores": [], "greedy": [], "likeliest": likeliest}


def main():
    policy, out = sys.argv[1:]
    numbers = llama_cpp_numbers(policy) if policy.endswith(".gguf") else transformers_numbers(policy)
    with open(out, "w") as file:
        json.dump(numbers, file)


if __name__ == "__main__":
    main()
