"""Hostile recipes, studies and prompt files: YAML that explodes, tags, odd numbers, control characters."""

from collections.abc import Iterator
from pathlib import Path

from forks import run_in, warm
from tries import Try

BASE = "name: mine\nmodel: {checkpoint: shapes}\nprompts: {source: 'shapes:train', count: 8}\n"
REWARDS = """
rewards: [{name: r, source: shapes-aesthetic}]
train: {beta: 1}
evaluate: {prompts: {source: 'shapes:test', count: 4}}
"""
GOOD = BASE + REWARDS
DEEP = 20_000


def exploding(levels: int, kind: str) -> str:
    lines = [f"a0: &a0 {kind}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def yaml_files() -> Iterator[tuple[str, bytes]]:
    yield "aliases", (GOOD + exploding(12, "lol")).encode()
    yield "aliases of mappings", (GOOD + exploding(9, "{x: 1}")).encode()
    merges = ["m0: &m0 {k0: 1}"] + [
        f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}], k{n}: 1}}" for n in range(1, 40)
    ]
    yield "merge keys", (GOOD + "\n".join(merges) + "\n").encode()
    yield "alias of itself", (GOOD + "a: &a [*a]\n").encode()
    yield "anchor on the root", f"&a {{name: *a, {GOOD.splitlines()[1]}}}".encode()
    yield "repeated key", (GOOD + "name: other\n").encode()
    yield "repeated key of a section", (GOOD + "engine: {device: cpu, device: cuda}\n").encode()
    yield "deep lists", (GOOD + "x: " + "[" * DEEP + "]" * DEEP).encode()
    yield "deep mappings", (GOOD + "x: " + "{a: " * 3000 + "1" + "}" * 3000).encode()
    yield "deep block", (GOOD + "".join(" " * n + "a:\n" for n in range(1500))).encode()
    for tag in (
        "!!python/object/apply:os.system ['touch PWNED']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object/new:os.system ['touch PWNED']",
        "!!python/tuple [1]",
        "!foreign 1",
        "!!bool maybe",
        "!!int x",
        "!!int ''",
        "!!float x",
        "!!float ''",
        "!!null x",
        "!!binary '####'",
        "!!timestamp x",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!omap 3",
        "!!set 3",
        "!!map x",
        "!!seq {}",
        "!!str [a]",
        "2001-13-99",
        "2001-01-01 99:99:99",
        "2001-02-30",
        "2001-01-01T00:00:00+99:99",
        "0000-01-01",
        "9" * 5000,
        "0x" + "f" * 100_000,
        "0b" + "1" * 5000,
        "1:1:1:1:1:1:1",
        "9" * 400 + ".0",
        "1e999",
        ".nan",
        "-.inf",
        "{? [a, b] : 1}",
        "{? {a: 1} : 1}",
        "{1: 2}",
        "{null: 2}",
        "{.nan: 1}",
        "{<<: 3}",
        "{<<: [3]}",
        "{=: 3}",
        "=",
        "<<",
        "'" + "x" * 1_000_000 + "'",
        "'\\'",
        '"\\uD800"',
        '"\\x00"',
        '"\\e[31mred"',
        '"\\u202Eabc"',
        "|\n  x\n bad",
        "*nowhere",
        "&x",
        "%YAML 9.9",
        "- a",
        "? ",
        "@",
        "`",
        "\t",
        "[",
        "{",
        "]",
        ",",
    ):
        yield f"seed: {tag[:40]}", f"{GOOD}seed: {tag}\n".encode(errors="surrogatepass")
    yield from (
        ("NUL", b"name: a\x00b\n"),
        ("Latin-1", b"name: caf\xe9\n"),
        ("UTF-16", GOOD.encode("utf-16")),
        ("escape", b"name: \x1b[31m\n"),
        ("lone surrogate", b"name: \xed\xa0\x80\n"),
        ("empty", b""),
        ("list", b"[1]"),
        ("two documents", GOOD.encode() + b"---\n" + GOOD.encode()),
        ("zeros", bytes(100_000)),
        ("text", b"hello"),
        ("BOM", b"\xef\xbb\xbf" + GOOD.encode() + b"x: 1\n"),
        ("CRLF", GOOD.replace("\n", "\r\n").encode() + b"x: 1\r\n"),
        ("64 MB of list", b"x: [" + b"1," * (32 << 20) + b"]"),
        ("64 MB of text", b"x: '" + b"a" * (64 << 20) + b"'"),
        ("64 MB of comment", GOOD.encode() + b"#" * (64 << 20)),
        ("8 MB of keys", b"".join(b"k%d: 1\n" % n for n in range(700_000))),
    )


def override_values() -> Iterator[str]:
    yield from (
        "seed=!!bool x",
        "seed=2001-13-99",
        "seed=" + "9" * 5000,
        "=",
        "a",
        "seed=[",
        "..=1",
        "rewards.9.x=1",
        "rewards.-1.name=x",
        f"rewards.{'9' * 5000}.x=1",
        "name=\x1b[31mred",
        "na\x1b[2Jme=1",
        "name=\u202eabc",
        "model=1",
        "name=../../etc/passwd",
        "name=a/b",
        "name=" + "n" * 300,
        "name=.",
        "name=''",
        "seed=1e999",
        "seed=0x" + "f" * 70_000,
        "rewards=[]",
        "rewards=3",
        "rewards.0=null",
        "__class__=1",
        "model.__class__=1",
        "train.steps=-1",
        "train.steps=1e30",
        "generate.samples_per_prompt=1000000000000",
        "prompts.count=-5",
        "prompts.source=/dev/zero",
        "prompts.source=/etc",
        "prompts.source=hub:../..",
        "images.source=/dev/zero",
        "model.checkpoint=../../../etc",
        "model.checkpoint=/dev/zero",
        "model.checkpoint=" + "x" * 10_000,
        "rewards.0.source=os:system",
        "rewards.0.source=/etc/passwd",
        "rewards.0.name=<script>alert(1)</script>",
        "rewards.0.name=../x",
        "rewards.0.name=con",
        "rewards.0.url=file:///etc/passwd",
        "rewards.0.url=http://[",
        "rewards.0.url=gopher://x",
        "rewards.0.url='http://a b'",
        "rewards.0.url=http://user:pw@localhost:1/",
        "rewards.0.url=http://localhost:99999/",
        "rewards.0.command=['']",
        "rewards.0.timeout=-1",
        "rewards.0.timeout=.nan",
        "rewards.0.timeout=.inf",
        "rewards.0.weight=.nan",
        "rewards.0.weight=-1",
        "train.learning_rate=.nan",
        "train.beta=.inf",
        "train.beta=-1",
        "engine.device=cuda:99999999999",
        "engine.device='; rm -rf /'",
        "rewards.0.requirements=['--index-url=http://x']",
        "rewards.0.checkpoint=/etc/passwd",
    )


def prompt_files() -> Iterator[tuple[str, str, bytes, str]]:
    """Yield a name, the file's ending, its content, and what the error names (empty if it is accepted)."""
    yield "100 kB", ".txt", b"x" * 100_000, ":1"
    yield "60 kB", ".txt", b"x y " * 15_000, ""
    controls = {
        "NUL": b"\0",
        "ESC": b"\x1b[31m",
        "BEL": b"\7",
        "BS": b"\x08",
        "C1": "\x9b31m".encode(),
        "DEL": b"\x7f",
        "VT": b"\x0b",
        "CR": b"a\rb",
    }
    for name, data in controls.items():
        yield name, ".txt", b"fine\nbad" + data + b"x\n", ":2"
    yield "lone surrogate in UTF-8", ".txt", b"fine\n\xed\xa0\x80\n", ":2"
    for name, text in {"lone surrogate": "\\ud800", "NUL": "\\u0000", "ESC": "\\u001b[0m"}.items():
        yield f"{name} in JSON", ".jsonl", f'{{"text": "fine"}}\n{{"text": "a{text}"}}\n'.encode(), ":2"
        yield f"{name} in a category", ".jsonl", f'{{"text": "fine", "category": "a{text}"}}\n'.encode(), ":1"
        yield f"{name} in metadata", ".jsonl", f'{{"text": "fine", "other": "a{text}"}}\n'.encode(), ""
    yield "deep JSON", ".jsonl", b'{"text": ' + b"[" * 200_000, ":1"
    yield "deep JSON in metadata", ".jsonl", b'{"text": "a", "x": ' + b"[" * 900 + b"]" * 900 + b"}", ""
    yield "long number", ".jsonl", b'{"text": "a", "x": ' + b"9" * 5000 + b"}", ":1"
    yield "infinite number", ".jsonl", b'{"text": "a", "x": Infinity}', ""
    yield "text is a number", ".jsonl", b'{"text": 3}', ":1"
    yield "text is a list", ".jsonl", b'{"text": ["a"]}', ":1"
    yield "category is an object", ".jsonl", b'{"text": "a", "category": {"b": 1}}', ""
    yield "empty file", ".txt", b"", "prompts"
    yield "only blank lines", ".txt", b"\n \n\t\n", "prompts"
    yield "BOM and CRLF", ".txt", b"\xef\xbb\xbfone\r\ntwo\r\n", ""
    yield "UTF-16", ".txt", "one\ntwo\n".encode("utf-16"), ":1"
    yield "Latin-1", ".csv", b"text\ncaf\xe9\n", ":2"
    yield "unequal rows", ".csv", b"text,a\nx\n", ":2"
    yield "open quote", ".csv", b'text\n"x\n', "prompts.csv"
    yield "long cell", ".csv", b"text\n" + b"x" * 200_000 + b"\n", "prompts.csv"
    yield "repeated column", ".csv", b"text,text\na,b\n", "prompts.csv"
    yield (
        "marks and joiners",
        ".txt",
        "e\u0301\n\u00e9\n\u202eabc\u202c\n\u200d\U0001f469\u200d\U0001f680\n".encode(),
        "",
    )
    yield "not Parquet", ".parquet", b"PAR1" + bytes(100) + b"PAR1", "prompts.parquet"
    yield "empty Parquet", ".parquet", b"", "prompts.parquet"
    yield "unknown ending", ".exe", b"MZ", "prompts.exe"
    yield "JSON object", ".json", b'{"text": "a"}', "prompts.json"
    yield "JSON of numbers", ".json", b"[1]", ":1"


def attack(folder: Path) -> Iterator[Try]:
    """Give hostile recipes, studies, overrides and prompts to the command."""
    recipe, marker = folder / "mine.yaml", folder / "PWNED"
    recipe.write_text(GOOD)
    warm(folder, "status", "mine.yaml")
    for name, data in yaml_files():
        recipe.write_bytes(data)
        ended = run_in(folder, "status", "mine.yaml")
        fault = ended.fault(["mine.yaml"], (0, 1, 2)) or "ran code" * marker.exists()
        yield Try("YAML of a recipe", name, fault, ended.outcome)
    recipe.write_text(GOOD)
    for command in ("check", "prompts"):
        warm(folder, command, "mine.yaml")
    for name, data in yaml_files():
        if not name.startswith(("seed", "64 MB")):
            recipe.write_bytes(data)
            ended = run_in(folder, "compare", "mine.yaml", "--list")
            yield Try("YAML of a study", name, ended.fault(["mine.yaml"], (0, 1, 2)), ended.outcome)
    recipe.write_text(GOOD)
    for value in override_values():
        ended = run_in(folder, "check", "mine.yaml", "--set", value)
        yield Try("values of --set", value[:60], ended.fault((), (0, 1, 2)), ended.outcome)
    for number, (name, suffix, data, named) in enumerate(prompt_files()):
        source = folder / f"prompts{suffix}"
        source.write_bytes(data)
        section = f"name: p\nmodel: {{checkpoint: shapes}}\nprompts: {{source: prompts{suffix}}}\n"
        recipe.write_text(section + REWARDS)
        ended = run_in(folder, "prompts", "mine.yaml", "--run", f"run-{number}")
        fault = ended.fault([named] if named else [], (1,) if named else (0,))
        yield Try("prompt files", name, fault, ended.outcome)
