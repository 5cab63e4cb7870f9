#!/usr/bin/env python3
"""Many streams at once for a while, some clients hanging up: no error, no leak, every answer equal to its single-stream one.

    OMP_WAIT_POLICY=passive bench/serve_soak.py --stem build/stem MODEL [--streams 64] [--seconds 120] [--drop 0.05]

Starts the server, asks every question once alone, then lets --streams clients ask random ones until the time is over.
Prints one line of JSON; exit code 0 if nothing was wrong. Needs only Python's own library.
"""
import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time

QUESTIONS = 48


def requests(rng):
    words = "the a once upon time little girl boy cat dog tree went to said and was happy big red ball park mother day".split()
    shared = "Once upon a time there was a little girl named Lily . She liked to play in the park . "
    made = []
    for i in range(QUESTIONS):
        text = (shared if i % 3 == 0 else "") + " ".join(rng.choice(words) for _ in range(rng.randint(1, 60)))
        made.append({"prompt": text, "max_tokens": rng.randint(4, 100), "seed": i, "stream": True,
                     "temperature": 0 if i % 2 else 0.9, "top_p": 0.95 if i % 4 == 0 else 1.0,
                     "stop": [" ball"] if i % 5 == 0 else None})
    return made


def ask(port, body, drop_after=None):
    """The text and how it ended; None when hung up on purpose."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status} {response.read()[:200]}")
    text, finish, pieces = "", None, 0
    while True:
        line = response.readline()
        if not line:
            raise RuntimeError("the stream ended early")
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            break
        event = json.loads(line[6:])
        if "error" in event:
            raise RuntimeError(event["error"]["message"])
        for choice in event["choices"]:
            text += choice["text"]
            finish = choice["finish_reason"] or finish
        pieces += 1
        if drop_after is not None and pieces >= drop_after:
            connection.close()
            return None
    connection.close()
    return text, finish


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def metric(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + "{"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--stem", default="build/stem")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--drop", type=float, default=0.05)
    parser.add_argument("--option", action="append", default=[], help="passed to stem serve, as --option=--slots=8")
    args = parser.parse_args()
    server = subprocess.Popen([args.stem, "serve", args.model, "--port", "0", "--slots", "32", *args.option],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    port = int(server.stdout.readline().strip().rsplit(":", 1)[1])
    try:
        questions = requests(random.Random(1))
        alone = [ask(port, q) for q in questions]
        faults, done, dropped, lock = [], [0], [0], threading.Lock()
        end = time.monotonic() + args.seconds

        def client(number):
            rng = random.Random(number)
            while time.monotonic() < end and len(faults) < 20:
                i = rng.randrange(len(questions))
                drop = rng.randint(1, 5) if rng.random() < args.drop else None
                try:
                    got = ask(port, questions[i], drop)
                    with lock:
                        if got is None:
                            dropped[0] += 1
                        else:
                            done[0] += 1
                            if got != alone[i]:
                                faults.append(f"question {i}: {got} instead of {alone[i]}")
                except Exception as e:  # noqa: BLE001 - whatever went wrong is the finding
                    with lock:
                        faults.append(f"question {i}: {type(e).__name__}: {e}")

        threads = [threading.Thread(target=client, args=(n,)) for n in range(args.streams)]
        for t in threads:
            t.start()
        memory = []
        while any(t.is_alive() for t in threads):
            time.sleep(min(2.0, args.seconds / 20))
            memory.append(resident_mb(server.pid))
        for t in threads:
            t.join()
        time.sleep(1)
        running, rows = metric(port, "vllm:num_requests_running"), metric(port, "vllm:kv_cache_usage_perc")
        tokens = metric(port, "stem:generated_tokens_total")
    finally:
        server.terminate()
        code = server.wait(60)
    quarter = max(len(memory) // 4, 1)
    grown = max(memory[-quarter:]) - max(memory[quarter:2 * quarter] or memory)
    right = not faults and code == 0 and running == 0 and rows == 0 and grown < 16
    print(json.dumps({"streams": args.streams, "seconds": args.seconds, "answers": done[0], "hung_up": dropped[0],
                      "faults": len(faults), "tokens": tokens, "resident_mb": round(memory[-1], 1),
                      "grown_mb_after_half": round(grown, 1), "exit": code, "left_running": running, "right": right}))
    for fault in faults[:5]:
        print(fault, file=sys.stderr)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
