"""What a Hugging Face user writes today: PEFT's LoRA in Trainer, rows with choices, and how far the tuned model is from its base.

peft_lora.py MODEL TRAIN TEST PROBE --steps N --batch B --lr R --rank K --seed S
TRAIN and TEST: lines of {"prompt", "choices", "gold"}; PROBE: a text, of which 16 rows of 256 tokens are read.
Linear rate with a warm-up of 6 %, AdamW without weight decay, gradients clipped to 1. An answer is learned after one blank.
Prints one JSON line: accuracy (the choice with the highest log-probability) with its standard error, KL(base || tuned) in nats a
token over all tokens of the probe's rows but the first of each, the loss of them, seconds.
"""
import argparse, json, math, os, statistics, tempfile, time
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

p = argparse.ArgumentParser()
p.add_argument("model"); p.add_argument("train"); p.add_argument("test"); p.add_argument("probe")
p.add_argument("--steps", type=int, default=40); p.add_argument("--batch", type=int, default=8)
p.add_argument("--lr", type=float, default=1e-3); p.add_argument("--rank", type=int, default=4); p.add_argument("--seed", type=int, default=0)
a = p.parse_args()
torch.manual_seed(a.seed)
tok = AutoTokenizer.from_pretrained(a.model)
tok.pad_token = tok.pad_token or tok.eos_token
tok.padding_side = "right"
rows = lambda path: [json.loads(line) for line in open(path, encoding="utf-8")]

def encode(prompt, answer):
    head, tail = tok(prompt)["input_ids"], tok(" " + answer, add_special_tokens=False)["input_ids"]
    return {"input_ids": head + tail, "attention_mask": [1] * len(head + tail), "labels": [-100] * len(head) + tail}

targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
model = get_peft_model(model, LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules=targets, task_type="CAUSAL_LM"))
pad = DataCollatorForSeq2Seq(tok, padding=True)
begun = time.perf_counter()
Trainer(model=model, args=TrainingArguments(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=a.batch, max_steps=a.steps, learning_rate=a.lr,
    lr_scheduler_type="linear", warmup_steps=math.ceil(0.06 * a.steps), weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, report_to=[], use_cpu=True,
    save_strategy="no", disable_tqdm=True, seed=a.seed), train_dataset=[encode(r["prompt"], r["choices"][r["gold"]]) for r in rows(a.train)],
    data_collator=pad).train()
seconds = time.perf_counter() - begun
model.eval()
right = []
for r in rows(a.test):
    batch = pad([encode(r["prompt"], choice) for choice in r["choices"]])
    with torch.no_grad():
        logp = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    said = logp.gather(2, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels < 0, 0).sum(1)
    right.append(float(int(said.argmax()) == r["gold"]))
ids = tok(open(a.probe, encoding="utf-8").read(), add_special_tokens=False)["input_ids"]
kl = loss = count = 0
for first in range(0, min(len(ids), 16 * 256), 256):
    x = torch.tensor([ids[first : first + 256]])
    if x.shape[1] < 2: continue
    with torch.no_grad():
        now = model(input_ids=x).logits[0, :-1].log_softmax(-1)
        with model.disable_adapter(): was = model(input_ids=x).logits[0, :-1].log_softmax(-1)
    kl += float((was.exp() * (was - now)).sum()); loss -= float(now.gather(1, x[0, 1:, None]).sum()); count += len(now)
print(json.dumps({"trainable": sum(q.numel() for q in model.parameters() if q.requires_grad), "steps": a.steps, "acc": statistics.mean(right),
    "acc_stderr": statistics.stdev(right) / math.sqrt(len(right)) if len(right) > 1 else None, "kl": kl / count, "probe_loss": loss / count, "seconds": round(seconds, 1)}))
