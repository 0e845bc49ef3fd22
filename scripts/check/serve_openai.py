"""Many clients of the official `openai` package at once against `compresso serve`: tokens a second (by the clock, and of the server's CPU time),
times to the first token, and whether each answer is that of the same request alone.

Half of the requests are streams, half are greedy, the others have a seed. Development only; needs the package openai. See serve_openai.sh.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from pathlib import Path

import openai

TOPICS = ["rivers", "the sea", "bread", "mountains", "trains", "the moon", "music", "gardens"]
TASKS = ["Explain {} to a child.", "Write three sentences about {}.", "Why do people like {}?", "Tell a story about {}."]


def requests(model, clients, tokens):
    made = []
    for index in range(clients):
        question = TASKS[index // len(TOPICS) % len(TASKS)].format(TOPICS[index % len(TOPICS)])
        drawn = {"temperature": 0.8, "top_p": 0.95, "seed": index} if index // 2 % 2 else {"temperature": 0}
        made.append({"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": tokens, **drawn})
    return made


async def ask(client, request, stream):
    """Text, tokens, seconds to the first text (streams) and to the end."""
    start = time.perf_counter()
    if not stream:
        answer = await client.chat.completions.create(**request)
        return answer.choices[0].message.content, answer.usage.completion_tokens, None, time.perf_counter() - start
    text, first, tokens = "", None, 0
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async for chunk in await client.chat.completions.create(**request, **options):
        piece = "".join(choice.delta.content or "" for choice in chunk.choices)
        if piece and first is None:
            first = time.perf_counter() - start
        text += piece
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
    return text, tokens, first, time.perf_counter() - start


def cpu_seconds(pid):
    """CPU time of a process so far, of all its threads. Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url", help="what the server says, with /v1 at its end")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48, help="tokens of an answer at most")
    parser.add_argument("--alone", required=True, help="file with the answers of each request alone; made where it does not exist")
    parser.add_argument("--pid", type=int, required=True, help="process of the server")
    args = parser.parse_args()

    async with openai.AsyncOpenAI(base_url=args.url, api_key="none", max_retries=0, timeout=600) as client:
        model = (await client.models.list()).data[0].id
        all_requests = requests(model, args.clients, args.tokens)
        alone = Path(args.alone)
        if not alone.exists():
            texts = [(await ask(client, request, stream=False))[0] for request in all_requests]
            alone.write_text(json.dumps(texts), "utf-8")
        expected = json.loads(alone.read_text("utf-8"))
        start, cpu = time.perf_counter(), cpu_seconds(args.pid)
        asked = [ask(client, request, stream=index % 2 == 0) for index, request in enumerate(all_requests)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        seconds, cpu = time.perf_counter() - start, cpu_seconds(args.pid) - cpu

    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    whole = [answer for answer in answers if not isinstance(answer, BaseException)]
    other = sum(1 for answer, text in zip(answers, expected) if answer not in lost and answer[0] != text)
    firsts, ends = [first for _, _, first, _ in whole if first is not None], [end for *_, end in whole]
    tokens = sum(count for _, count, _, _ in whole)
    print(
        json.dumps({
            "clients": args.clients,
            "tokens": tokens,
            "seconds": round(seconds, 2),
            "tokensPerSecond": round(tokens / seconds, 1),
            "cpuSeconds": round(cpu, 2),
            "tokensPerCpuSecond": round(tokens / cpu, 1),
            "firstToken": {"median": round(statistics.median(firsts), 2), "worst": round(max(firsts), 2)},
            "end": {"median": round(statistics.median(ends), 2), "worst": round(max(ends), 2)},
            "lost": len(lost),
            "otherThanAlone": other,
        })
    )
    for error in lost[:3]:
        print(repr(error))
    raise SystemExit(1 if lost or other else 0)


asyncio.run(main())
