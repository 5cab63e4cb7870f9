#!/usr/bin/env python3
"""Tokens a second of stem serve with 1, 4 and 16 answers at once, with and without guesses, interleaved.

    bench/serve_rate.py --stem build/stem MODEL [--tokens 64] [--rounds 3]

Two kinds of prompts: prose to go on with, and a text to repeat (where guesses pay). One line of JSON each.
"""
import argparse
import http.client
import json
import statistics
import subprocess
import threading
import time

PROSE = "The history of the town begins with a small harbour on the northern shore of the lake, where"
COPY = ("Repeat the list. apples, pears, plums, cherries, quinces, medlars, apricots, peaches, figs, dates.\n"
        "apples, pears, plums, cherries, quinces, medlars, apricots, peaches, figs, dates.\napples, pears,")


def ask(port, prompt, tokens, seed):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "seed": seed}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["usage"]["completion_tokens"]


def rate(port, prompt, tokens, streams):
    made = []
    threads = [threading.Thread(target=lambda i=i: made.append(ask(port, f"{i}. {prompt}", tokens, i)))
               for i in range(streams)]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sum(made) / (time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--stem", default="build/stem")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--guesses", default="0,3,6")
    parser.add_argument("--streams", default="1,4,16")
    args = parser.parse_args()
    servers = {}
    for guesses in args.guesses.split(","):
        server = subprocess.Popen([args.stem, "serve", args.model, "--port", "0", "--guesses", guesses],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        servers[guesses] = (server, int(server.stdout.readline().strip().rsplit(":", 1)[1]))
    try:
        for kind, prompt in (("prose", PROSE), ("copy", COPY)):
            for streams in map(int, args.streams.split(",")):
                rates = {g: [] for g in servers}
                for round in range(args.rounds + 1):
                    for g, (_, port) in servers.items():
                        got = rate(port, prompt, args.tokens, streams)
                        if round:
                            rates[g].append(got)
                print(json.dumps({"what": f"{kind}, {streams} at once", "tokens_per_s":
                                  {f"{g} guesses": round_to(statistics.median(r)) for g, r in rates.items()}}), flush=True)
    finally:
        for server, _ in servers.values():
            server.terminate()
        for server, _ in servers.values():
            server.wait(60)


def round_to(value):
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
