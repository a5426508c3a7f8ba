"""Hostile reward programs: they hang, talk too much, answer wrongly, die, or refuse to end."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from forks import run_in, start_in, warm
from tries import Try

READY = 'print(json.dumps({"protocol": 1, "comparison": "bradley-terry"}), flush=True)\n'
HEAD = "import json, os, signal, subprocess, sys, time\n"
LOOP = "for line in sys.stdin:\n    request = json.loads(line)\n    n = len(request.get('prompts', []))\n"
HELLO = "    if 'protocol' in request:\n        " + READY + "        continue\n"


def answering(scores: str, more: str = "") -> str:
    """Return a program whose reply has `scores`, an expression of n, and `more` JSON fields."""
    text = f"json.dumps({{'id': request['id'], 'scores': {scores}{more}}})"
    return HEAD + LOOP + HELLO + f"    print({text}, flush=True)\n"


def saying(expression: str, before: str = "") -> str:
    """Return a program that is ready, and writes the bytes of an expression instead of a reply."""
    return HEAD + before + LOOP + HELLO + f"    sys.stdout.buffer.write({expression}); sys.stdout.flush()\n"


def comparing(temperature: str) -> str:
    """Return a program that declares a comparison with this temperature."""
    comparison = f"{{'comparison': 'bradley-terry', 'temperature': {temperature}}}"
    return HEAD + LOOP + f"    print(json.dumps({{'protocol': 1, 'comparison': {comparison}}}), flush=True)"


GOOD = answering("[float(i) for i in range(n)]")
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
SLEEPING = "import signal, time; signal.signal(15, 1); time.sleep(600)"
CHILD = f"subprocess.Popen([sys.executable, '-c', '{SLEEPING}']{{}})\n"

PROGRAMS = {
    "hangs at the start": HEAD + "time.sleep(600)",
    "hangs with a request": HEAD + LOOP + HELLO + "    time.sleep(600)",
    "hangs and ignores SIGTERM": HEAD + STUBBORN + LOOP + HELLO + "    time.sleep(600)",
    "never reads": HEAD + READY + "time.sleep(600)",
    "closes its output": HEAD + LOOP + HELLO + "    os.close(1); time.sleep(600)",
    "closes its input": HEAD + READY + "os.close(0); time.sleep(600)",
    "dies at once": HEAD + "sys.exit(3)",
    "dies with a signal": HEAD + "os.kill(os.getpid(), signal.SIGSEGV)",
    "dies once ready": HEAD + READY + "sys.exit(3)",
    "dies with a request": HEAD + LOOP + HELLO + "    os._exit(0)",
    "raises with escape sequences": HEAD
    + LOOP
    + HELLO
    + "    raise ValueError('\\x1b]0;owned\\x07\\x1b[2Jred\\u202e')",
    "a gigabyte on one line": HEAD + "while True: sys.stdout.write('x' * 1000000)",
    "a gigabyte in lines": HEAD + "while True: sys.stdout.write('x' * 100 + '\\n')",
    "a gigabyte of errors": HEAD + "while True: sys.stderr.write('x' * 1000000)",
    "a gigabyte instead of a reply": saying("b'x' * (1 << 30)"),
    "a gigabyte of JSON": saying("b'{\"id\": 2, \"scores\": [' + b'1,' * (1 << 28) + b'1]}\\n'"),
    "random bytes": saying("os.urandom(100000) + b'\\n'"),
    "deep JSON": saying("b'{\"a\":' + b'[' * 200000 + b'\\n'"),
    "a list": saying("b'[1, 2]\\n'"),
    "NUL bytes": saying("bytes(100000) + b'\\n'"),
    "protocol 2": HEAD + LOOP + "    print(json.dumps({'protocol': 2}), flush=True)",
    "protocol true": HEAD + LOOP + "    print(json.dumps({'protocol': [1]}), flush=True)",
    "an unknown comparison": HEAD
    + LOOP
    + "    print(json.dumps({'protocol': 1, 'comparison': 'x' * 5000000}), flush=True)",
    "a comparison without sense": comparing("float('nan')"),
    "a comparison with a list": comparing("[1]"),
    "too few scores": answering("[1.0] * (n - 1)"),
    "too many scores": answering("[1.0] * (n + 1)"),
    "no scores": answering("[]"),
    "scores of text": answering("['1'] * n"),
    "scores of lists": answering("[[1]] * n"),
    "scores of booleans": answering("[True] * n"),
    "huge integers": answering("[10 ** 400] * n"),
    "longer integers": answering("[1] * n").replace(
        "json.dumps({'id'",
        "'{' + '\"id\": ' + str(request['id']) + ', \"scores\": [' + '9' * 5000 + ']}' or json.dumps({'id'",
    ),
    "NaN": answering("[float('nan')] * n"),
    "infinity": answering("[float('inf')] * n"),
    "an object": answering("{'a': 1}"),
    "another id": answering("[1.0] * n").replace("request['id']", "7"),
    "errors of another length": answering("[1.0] * n", ", 'errors': ['x']"),
    "errors that are no list": answering("[1.0] * n", ", 'errors': 3"),
    "errors of 8 MB": answering("[1.0] * n", ", 'errors': ['x' * 8000000] * n"),
    "an error of 8 MB": answering("[1.0] * n", ", 'error': 'x' * 8000000"),
    "truncated that is no list": answering("[1.0] * n", ", 'truncated': 3"),
    "truncated with lists": answering("[1.0] * n", ", 'truncated': [[]] * n"),
    "leaves a child": HEAD + CHILD.format("") + LOOP + HELLO + "    sys.exit(0)",
    "leaves a child and answers": HEAD + CHILD.format("") + GOOD,
    "leaves a child in its own session": HEAD + CHILD.format(", start_new_session=True") + GOOD,
    "leaves a child in its own group": HEAD + CHILD.format(", process_group=0") + GOOD,
    "forks into the background": HEAD
    + "if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(600)",
    "stops itself": HEAD + LOOP + HELLO + "    os.kill(os.getpid(), signal.SIGSTOP)",
}
SECOND_TIMEOUT = 4
MOST_SECONDS = 90
"""For a program's failure: four timeouts, the starts of Python in between, and a loaded machine."""


def attack(folder: Path) -> Iterator[Try]:
    """Try rewards that are hostile programs, and look for what is left of them."""
    recipe = folder / "program.yaml"
    warm(folder, "rewards", "check", "shapes-aesthetic")
    for number, (name, text) in enumerate(PROGRAMS.items()):
        program = folder / f"program-{number}.py"
        program.write_text(text)
        recipe.write_text(_recipe(program))
        marker = f"{os.getpid()}-{number}"
        ended = run_in(folder, "rewards", "check", "mine", "--recipe", recipe.name, ATTACK=marker)
        time.sleep(0.5)
        left = _left(marker, end=True)
        fault = ended.fault((), (0, 1), MOST_SECONDS)
        yield Try("reward programs", name, fault, "rejected" if ended.code else "accepted")
        yield Try("processes left behind", name, f"{len(left)} are left: {left}" if left else "")
    yield from _killed_commands(folder)


def _killed_commands(folder: Path) -> Iterator[Try]:
    """Kill the command itself: its programs must end too, whatever they do."""
    for name in (
        "hangs with a request",
        "hangs and ignores SIGTERM",
        "leaves a child and answers",
        "leaves a child in its own session",
        "stops itself",
    ):
        for kill in (signal.SIGKILL, signal.SIGTERM):
            program = folder / "killed.py"
            program.write_text(PROGRAMS[name].replace("time.sleep(0)", "") + "\ntime.sleep(600)")
            (folder / "killed.yaml").write_text(_recipe(program, timeout=300))
            marker = f"{os.getpid()}-killed-{name[:12]}-{kill}".replace(" ", "_")
            command = start_in(folder, "rewards", "check", "mine", "--recipe", "killed.yaml", ATTACK=marker)
            started = time.monotonic()
            while len(_left(marker)) < 2 and time.monotonic() < started + 30:
                time.sleep(0.2)
            time.sleep(2)
            command.signal(kill)
            command.wait()
            time.sleep(4)
            left = _left(marker, end=True)
            yield Try(
                "the command is killed",
                f"{name}, {kill.name}",
                f"{len(left)} are left: {left}" if left else "",
            )


def _recipe(program: Path, timeout: int = SECOND_TIMEOUT) -> str:
    return (
        "name: p\nmodel: {checkpoint: shapes}\nprompts: {source: 'shapes:train', count: 8}\n"
        f"rewards: [{{name: mine, command: ['{sys.executable}', '{program}'], timeout: {timeout}}}]\n"
        "train: {beta: 1}\nevaluate: {prompts: {source: 'shapes:test', count: 4}}\n"
    )


def _left(marker: str, end: bool = False) -> list[str]:
    """Return the command lines of living processes with the marker in their environment, and `end` them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if (
                f"ATTACK={marker}".encode() in (process / "environ").read_bytes().split(b"\0")
                and state != "Z"
            ):
                arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found.append(" ".join(arguments)[:80])
                if end:
                    os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue
    return found
