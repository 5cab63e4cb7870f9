#!/usr/bin/env python3
"""lm-evaluation-harness through stem serve (local-completions) against stem eval: the same accuracy, item by item.

    LM_EVAL=path/to/lm_eval tools/compare_lm_eval.py --stem build/stem MODEL TASK.yaml=DATA.jsonl [--limit 200]

TASK.yaml is a task file that reads DATA.jsonl ({query, choices, gold}); both programs score its first --limit items.
Prints one line of JSON; exit code 1 when accuracies differ by more than 0.1 points.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile


def harness(lm_eval, task, data, base_url, limit, folder):
    """{metric: value} of the harness."""
    with open(task) as f:
        lines = f.read().splitlines()
    name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("task:"))
    with open(os.path.join(folder, "task.yaml"), "w") as f:
        for line in lines:
            f.write(line.split(":")[0] + ": " + os.path.abspath(data) + "\n" if line.strip().startswith("test:") else line + "\n")
    subprocess.run([lm_eval, "run", "--model", "local-completions", "--tasks", name, "--include_path", folder,
                    "--limit", str(limit), "--output_path", os.path.join(folder, "out"), "--model_args",
                    f"model=m,base_url={base_url}/v1/completions,tokenizer_backend=remote,num_concurrent=4,max_length=512", "--batch_size", "4"],
                   check=True, stdout=sys.stderr, env=dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1"))
    found = glob.glob(os.path.join(folder, "out", "**", "*.json"), recursive=True)[0]
    with open(found) as f:
        return json.load(f)["results"][name]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("task", help="TASK.yaml=DATA.jsonl")
    parser.add_argument("--stem", default="build/stem")
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args()
    task, data = args.task.split("=")
    server = subprocess.Popen([args.stem, "serve", args.model, "--port", "0", "--name", "m"], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    try:
        url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            theirs = harness(os.environ.get("LM_EVAL", "lm_eval"), task, data, url, args.limit, folder)
    finally:
        server.terminate()
        server.wait(60)
    ours = json.loads(subprocess.run([args.stem, "eval", args.model, "--suite", f"s={data}", "--limit", str(args.limit),
                                      "--json"], check=True, stdout=subprocess.PIPE).stdout)
    metrics = ours["suites"][0]["metrics"]
    pairs = {m: (theirs[f"{m},none"], metrics[m]["value"]) for m in ("acc", "acc_norm") if f"{m},none" in theirs}
    right = bool(pairs) and all(abs(a - b) <= 0.001 for a, b in pairs.values())
    print(json.dumps({"task": os.path.basename(data), "items": ours["suites"][0]["items"],
                      **{m: {"lm_eval": a, "stem_eval": b} for m, (a, b) in pairs.items()}, "right": right}))
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
