#!/usr/bin/env python3
"""The official openai client against stem serve: sync, async, streams, schemas, errors.

    STEM_OPENAI_PYTHON=/path/to/python tests/http/openai_client_test.py --stem build/stem MODEL

Run with a Python that has the package openai (ctest: the one that STEM_OPENAI_PYTHON names; skipped without it).
"""
import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile

if "STEM_OPENAI_PYTHON" in os.environ and os.environ.get("STEM_OPENAI_INSIDE") != "1":
    os.environ["STEM_OPENAI_INSIDE"] = "1"
    os.execv(os.environ["STEM_OPENAI_PYTHON"], [os.environ["STEM_OPENAI_PYTHON"], *sys.argv])
try:
    import openai
except ImportError:
    print("skipped: set STEM_OPENAI_PYTHON to a Python with the package openai")
    sys.exit(77)

def check(condition, what):
    if not condition:
        raise AssertionError(what)


def raises(kind, call):
    try:
        call()
    except kind as e:
        return e
    raise AssertionError(f"expected {kind.__name__}")


def sync_calls(client, model):
    check(client.models.list().data[0].id == model, "models.list")
    check(client.models.retrieve(model).id == model, "models.retrieve")
    ask = {"model": model, "prompt": "Once upon", "max_tokens": 10, "temperature": 0}
    whole = client.completions.create(**ask)
    check(whole.usage.completion_tokens <= 10 and whole.choices[0].text, "a completion")
    pieces = [c.choices[0].text for c in client.completions.create(**ask, stream=True)]
    check("".join(pieces) == whole.choices[0].text and len(pieces) > 1, "its stream")
    several = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=3, seed=1, temperature=1)
    check([c.index for c in several.choices] == [0, 1, 2, 3], "batched prompts, n")
    scored = client.completions.create(**ask, logprobs=2, echo=True).choices[0].logprobs
    check(scored.token_logprobs[0] is None and scored.token_logprobs[1] < 0, "echo with logprobs")
    ids = client.completions.create(model=model, prompt=[1, 5, 9], max_tokens=2)
    check(ids.usage.prompt_tokens == 3, "token ids")


def chat_calls(client, model):
    messages = [{"role": "user", "content": "Hello"}]
    ask = {"model": model, "messages": messages, "max_tokens": 8, "seed": 4, "temperature": 0.8}
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    check(whole.choices[0].message.role == "assistant", "a chat")
    check(len(whole.choices[0].logprobs.content[0].top_logprobs) == 3, "its scores")
    text, usage = "", None
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    check(text == whole.choices[0].message.content, "its stream")
    check(usage.completion_tokens == whole.usage.completion_tokens, "usage at the end of a stream")
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "size": {"type": "integer"}},
              "required": ["city", "size"], "additionalProperties": False}
    answer = client.chat.completions.create(
        model=model, messages=messages, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}})
    check(answer.choices[0].message.content.lstrip().startswith("{"), "an answer by a schema")
    if answer.choices[0].finish_reason == "stop":  # a short context may cut it
        value = json.loads(answer.choices[0].message.content)
        check(value["city"] in ("Paris", "Rome") and isinstance(value["size"], int), "its members")


def error_calls(client, model, port):
    e = raises(openai.BadRequestError,
               lambda: client.completions.create(model=model, prompt="a", max_tokens=10**6))
    check(e.param == "max_tokens" and "max_tokens" in e.message, "a bad request names its field")
    raises(openai.NotFoundError, lambda: client.completions.create(model="other", prompt="a"))
    other = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: other.models.list())


async def async_calls(port, model):
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=0) as client:
        async def one(i):
            stream = await client.completions.create(model=model, prompt="Once", max_tokens=20, seed=i, temperature=1,
                                                     stream=True)
            return "".join([c.choices[0].text async for c in stream])

        together = await asyncio.gather(*[one(i) for i in range(12)])
        for i in range(0, 12, 5):
            check(await one(i) == together[i], "an answer is the same alone and among others")
        check(len(set(together)) > 1, "seeds differ")
        stream = await client.completions.create(model=model, prompt="Once", max_tokens=40, stream=True)
        async for _ in stream:
            break
        await stream.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--stem", default="build/stem")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keys = os.path.join(folder, "keys")
        with open(keys, "w") as f:
            f.write("secret\n")
        server = subprocess.Popen([args.stem, "serve", args.model, "--port", "0", "--name", "m", "--api-keys", keys],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            port = int(server.stdout.readline().strip().rsplit(":", 1)[1])
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="secret", max_retries=0)
            sync_calls(client, "m")
            try:
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}], max_tokens=1)
                chat_calls(client, "m")
            except openai.BadRequestError as e:
                check("chat_template" in e.message, "a model without a template says so")
                print("no chat template: chats were not tried")
            error_calls(client, "m", port)
            asyncio.run(async_calls(port, "m"))
        finally:
            server.terminate()
            code = server.wait(60)
        check(code == 0, f"exit code {code}")
    print("all right, openai", openai.__version__)


if __name__ == "__main__":
    main()
