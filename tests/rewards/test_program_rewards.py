"""Rewards that are programs, in this Python or in an environment of their own."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import distribution, version

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from capo import BradleyTerry
from capo.cli import app
from capo.recipe import RecipeError, RewardSection
from capo.rewards import (
    RewardError,
    Scored,
    TransientError,
    build_comparison,
    load_reward,
    reward_identity,
    score_images,
)
from capo.rewards.protocol import ProtocolError
from capo.rewards.transports import environment as environments
from capo.rewards.transports.child_program import PROGRAMS
from capo.rewards.transports.environment import environment
from served_reward import wait_until

IMAGES = [Image.new("RGB", (3, 2), (10 * n, 0, 255)) for n in range(4)]
PROMPTS = ["a", "bb", "ccc", "\N{BICYCLE}"]

REDS = """
import os, sys
from capo_reward import serve_stdio

print("libraries print while they are imported")

def score(images, prompts):
    print("and later")
    {body}
    return [image.getpixel((0, 0))[0] + len(prompt) / 10 for image, prompt in zip(images, prompts)]

serve_stdio(score, comparison={{"comparison": "bradley-terry", "temperature": 5.0}})
"""
EXPECTED = [0.1, 10.2, 20.3, 30.1]


@pytest.fixture
def program(tmp_path):
    """Write a program with `body` in its function and return its section."""

    def write(body="pass", **fields):
        path = tmp_path / "reds.py"
        path.write_text(REDS.format(body=body))
        return RewardSection(name="reds", command=[sys.executable, str(path)], **fields)

    return write


def test_a_program_scores(program):
    section = program()
    reward = load_reward(section, "cpu")
    np.testing.assert_allclose(reward.score(IMAGES, PROMPTS), EXPECTED)
    np.testing.assert_allclose(reward.score(IMAGES[2:], PROMPTS[2:]), EXPECTED[2:])
    assert reward.comparison == build_comparison(section) == BradleyTerry(5.0)


def test_a_killed_program_is_restarted(program, tmp_path):
    mark = tmp_path / "mark"
    body = f"mark = {str(mark)!r}\n    if not os.path.exists(mark): open(mark, 'w'); os.kill(os.getpid(), 9)"
    reward = load_reward(program(body), "cpu")
    with pytest.raises(RuntimeError, match="ended with exit status -9"):
        reward.score(IMAGES, PROMPTS)
    assert mark.exists()
    np.testing.assert_allclose(reward.score(IMAGES, PROMPTS), EXPECTED)


def test_an_image_that_ends_the_program_costs_no_other_its_score(program):
    body = "images[0].getpixel((0, 0))[0] == 20 and sys.exit('cannot score')"
    scored = score_images(load_reward(program(body), "cpu"), IMAGES, PROMPTS, 1)
    assert [s.score for s in scored] == [
        pytest.approx(0.1),
        pytest.approx(10.2),
        None,
        pytest.approx(30.1),
    ]
    assert "ended with exit status 1" in scored[2].error
    assert "cannot score" in scored[2].error


def test_an_exception_and_a_missing_score_affect_only_their_image(program):
    body = (
        "reds = [i.getpixel((0, 0))[0] for i in images]\n"
        "    if 10 in reds: raise KeyError('ten')\n"
        "    if 30 in reds: return [None if r == 30 else float('nan') if r == 20 else 7 for r in reds]"
    )
    scored = score_images(load_reward(program(body), "cpu"), IMAGES, PROMPTS, 4)
    assert scored[:2] == [Scored(pytest.approx(0.1)), Scored(None, "RuntimeError: KeyError: 'ten'")]
    assert [s.score for s in scored[2:]] == [pytest.approx(20.3), None]


def silent(section, seconds=0.3):
    """Load a reward and then shorten its timeout, which is also the time for its start."""
    reward = load_reward(section, "cpu")
    reward.timeout = seconds
    return reward


def test_a_silent_program_is_killed_after_the_timeout(program):
    reward = silent(program("import time; time.sleep(60)"))
    with pytest.raises(RewardError, match=r"gave no answer in 0\.3 s"):
        reward.score(IMAGES, PROMPTS)


def test_a_program_that_is_always_silent_is_retried_for_a_few_timeouts_only(program):
    """Not once for the batch and once for each of its images, twice."""
    reward = silent(program("import time; time.sleep(60)"), 0.5)
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"more than 4 times its timeout.*gave no answer"):
        score_images(reward, IMAGES * 16, PROMPTS * 16, 64)
    assert time.monotonic() - started < 10


def test_an_image_that_silences_the_program_costs_no_other_its_score(program):
    body = "import time; any(i.getpixel((0, 0))[0] == 20 for i in images) and time.sleep(60)"
    scored = score_images(silent(program(body), 2.0), IMAGES, PROMPTS, 4)
    assert [s.score for s in scored] == [pytest.approx(0.1), pytest.approx(10.2), None, pytest.approx(30.1)]
    assert "gave no answer in 2 s" in scored[2].error


@pytest.mark.parametrize("name", ["topiq-iaa", "vila"])
def test_shipped_programs_use_the_timeout_of_their_section(name, monkeypatch):
    module = "pyiqa" if name == "topiq-iaa" else name
    monkeypatch.setattr(f"capo.rewards.models.{module}.ProgramReward", lambda *arguments: arguments[-1])
    assert load_reward(RewardSection(name=name, timeout=7.0), "cpu")._program == 7.0


def test_children_of_a_silent_program_are_killed_with_it(program):
    """The silent program is a child that holds the pipes open, as under `conda run`."""
    (python, path) = program("import time; time.sleep(60)").command
    reward = silent(RewardSection(name="reds", command=["sh", "-c", f"{python} {path}; true"]))
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"gave no answer in 0\.3 s"):
        reward.score(IMAGES, PROMPTS)
    assert time.monotonic() - started < 30


def test_the_process_ends_with_the_reward(program):
    reward = load_reward(program(), "cpu")
    process = reward._program._process
    del reward
    assert process.poll() == 0


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


LEAVING = """
import os, subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session={apart})
open({pids!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
from capo_reward import serve_stdio
serve_stdio(lambda images, prompts: [float({body}) for _ in images], comparison="bradley-terry")
"""

OWNER = """
import sys
from PIL import Image
from capo.recipe import RewardSection
from capo.rewards import load_reward
reward = load_reward(RewardSection(name="r", command=[sys.executable, sys.argv[1]]), "cpu")
reward.score([Image.new("RGB", (2, 2))], ["a"])
"""


def leaving(folder, body, apart=False):
    """Write a program that leaves a process behind; return its path and the file of both ids."""
    pids, path = folder / "pids", folder / "leaving.py"
    path.write_text(LEAVING.format(pids=str(pids), body=body, apart=apart))
    return path, pids


ON_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="descendants in other sessions end on Linux only"
)


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=ON_LINUX)])
def test_background_children_of_a_program_end_with_it(tmp_path, apart):
    path, pids = leaving(tmp_path, "0", apart)
    reward = load_reward(RewardSection(name="r", command=[sys.executable, str(path)]), "cpu")
    started = [int(pid) for pid in pids.read_text().split()]
    assert all(map(alive, started))
    del reward
    wait_until(lambda: not any(map(alive, started)))


def test_no_process_outlives_capo(tmp_path):
    """Not even if capo is killed while the program, which then cannot notice it, is silent."""
    path, pids = leaving(tmp_path, "__import__('time').sleep(600)", apart=sys.platform == "linux")
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(path)])
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, 60)
    started = [int(pid) for pid in pids.read_text().split()]
    time.sleep(1)
    assert owner.poll() is None
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not any(map(alive, started)))


@ON_LINUX
def test_a_program_that_moves_to_the_background_has_ended(tmp_path):
    """Its descendant would keep the pipes open, and capo waiting, after the timeout."""
    (tmp_path / "daemon.py").write_text(DAEMON.format(pid=str(tmp_path / "pid")))
    section = RewardSection(name="r", command=[sys.executable, str(tmp_path / "daemon.py")], timeout=60)
    started = time.monotonic()
    with pytest.raises(RewardError, match="ended with exit status 0"):
        load_reward(section, "cpu")
    assert time.monotonic() < started + 40
    assert not alive(int((tmp_path / "pid").read_text()))


DAEMON = """
import os, time
if os.fork(): time.sleep(1); os._exit(0)
os.setsid()
open({pid!r}, "w").write(str(os.getpid()))
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ImportError('no such model')", "ended with exit status 1.*no such model"),
        ("input(); print('hello')", "ended with exit status 0: hello"),
        ("input(); print('{\"protocol\": 2}')", "expected a reply with protocol 1"),
        (
            "input(); print('{\"protocol\": 1, \"comparison\": \"' + 'x' * 10**6 + '\"}')",
            "reward 'r': .*comparison 'xxx",
        ),
        ("import sys; sys.stderr.write('x' * 10**6)", "ended with exit status 0: xxx"),
    ],
    ids=range(5),
)
def test_other_programs_are_rejected(tmp_path, text, message):
    (tmp_path / "wrong.py").write_text(text)
    section = RewardSection(name="r", command=[sys.executable, str(tmp_path / "wrong.py")])
    with pytest.raises(RewardError, match=f"(?s){message}") as caught:
        load_reward(section, "cpu")
    assert len(str(caught.value)) < 10_000


def test_a_missing_program_is_rejected():
    with pytest.raises(RewardError, match="no_such_program does not start"):
        load_reward(RewardSection(name="r", command=["no_such_program"]), "cpu")


PLAIN = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if "protocol" in request:
        print(json.dumps({{"protocol": 1}}), flush=True)
    else:
        number, count = request["id"], len(request["images"])
        {body}
"""
"""A program without capo_reward, as in any language."""


def plain(folder, body):
    path = folder / "plain.py"
    path.write_text(PLAIN.format(body=body))
    return load_reward(RewardSection(name="r", command=[sys.executable, str(path)]), "cpu")


@pytest.mark.parametrize(
    ("scores", "count"),
    [("[1] * (count + 1 - (count == 1))", 4), ("[1] * max(count - 1, 1)", 4), ("[1, '2']", 2), ("[]", 1)],
)
def test_a_wrong_number_of_scores_stops_at_once(tmp_path, scores, count):
    """Even if the answers for single images would fit."""
    reward = plain(tmp_path, f'print(json.dumps({{"id": number, "scores": {scores}}}), flush=True)')
    with pytest.raises(ProtocolError, match=f"must answer with {count} scores"):
        score_images(reward, IMAGES[:count], PROMPTS[:count], 4)


@pytest.mark.parametrize(
    "body",
    [
        'print(json.dumps({"id": number, "scores": [number] * count}), flush=True); '
        'print(json.dumps({"id": number, "scores": [number] * count}), flush=True)',
        'print(json.dumps({"id": number - (number > 2), "scores": [number] * count}), flush=True)',
    ],
    ids=["answers twice", "repeats an id"],
)
def test_answers_are_matched_by_id(tmp_path, body):
    reward = plain(tmp_path, body)
    np.testing.assert_array_equal(reward.score(IMAGES[:1], PROMPTS[:1]), [2])
    with pytest.raises(ProtocolError, match="answered request 3 with id 2"):
        reward.score(IMAGES[:1], PROMPTS[:1])


def test_an_answer_without_an_id_is_rejected(tmp_path):
    reward = plain(tmp_path, 'print(json.dumps({"scores": [1] * count}), flush=True)')
    with pytest.raises(ProtocolError, match="with id None"):
        reward.score(IMAGES[:1], PROMPTS[:1])


def test_an_endless_line_is_rejected(tmp_path):
    reward = plain(tmp_path, 'while True: sys.stdout.write("x" * 2**20)')
    with pytest.raises(ProtocolError, match="wrote a line of"):
        reward.score(IMAGES[:1], PROMPTS[:1])


def test_output_of_a_failed_program_holds_no_terminal_commands(program):
    reward = load_reward(program("os.write(2, b'\\x1b[2Jred\\x1b[31m 10%\\r20%\\n'); os._exit(3)"), "cpu")
    with pytest.raises(RuntimeError, match=r"(?s)ended with exit status 3: .*\nred 10%\n20%$"):
        reward.score(IMAGES[:1], PROMPTS[:1])


EXITING = """
import sys
if {at_import}: sys.exit(0)
def score(images, prompts):
    sys.exit(0)
score.comparison = "bradley-terry"
"""


@pytest.mark.parametrize("at_import", [True, False])
def test_sys_exit_in_a_function_is_an_error(tmp_path, monkeypatch, at_import):
    monkeypatch.chdir(tmp_path)
    module = f"exiting_{at_import}"
    (tmp_path / f"{module}.py").write_text(EXITING.format(at_import=at_import))
    result = CliRunner().invoke(app, ["rewards", "check", f"{module}:score", "--device", "cpu"])
    assert result.exit_code == 1
    assert f"{module}:score" in result.output
    assert "sys.exit(0)" in result.output


def test_identity_covers_the_files_in_the_command_and_the_requirements(program):
    before = reward_identity(program())
    assert before == reward_identity(program())
    assert reward_identity(program("return [0] * len(images)")) != before
    assert reward_identity(program(requirements=["a==1"])) != before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"command": ["x"], "source": "pickscore"}, "source does not apply to a reward with a command"),
        ({"command": ["x"], "url": "http://x"}, "url does not apply to a reward with a command"),
        ({"url": "http://x", "requirements": ["a"]}, "requirements does not apply to a reward with a url"),
        ({"url": "gpu:8800"}, "rewards.0.url: String should match pattern"),
    ],
)
def test_contradictory_sources_are_rejected(fields, message):
    import tiny_run

    with pytest.raises(RecipeError, match=message):
        tiny_run.recipe([{"name": "r", **fields}])


def test_a_shipped_reward_has_no_requirements():
    with pytest.raises(RewardError, match="requirements does not apply to the shipped reward pickscore"):
        reward_identity(RewardSection(name="pickscore", requirements=["a"]))


# Environments.


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder of wheels: the installed Pillow, and a fake `rich` that capo could not use."""
    folder = tmp_path_factory.mktemp("wheels")
    pillow = distribution("pillow")
    tag = next(line for line in pillow.read_text("WHEEL").splitlines() if line.startswith("Tag: "))[5:]
    with zipfile.ZipFile(folder / f"pillow-{pillow.version}-{tag}.whl", "w") as wheel:
        for file in pillow.files:
            if "__pycache__" not in file.parts and ".." not in file.parts:
                wheel.write(file.locate(), str(file))
    with zipfile.ZipFile(folder / "rich-0.0.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rich/__init__.py", "AGE = 'old'\n")
        info = "rich-0.0.1.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: rich\nVersion: 0.0.1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        names = [*wheel.namelist(), f"{info}/RECORD"]
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return folder


@pytest.fixture(scope="module")
def own_cache(wheels, tmp_path_factory):
    """A cache folder for environments, which are made from the wheels alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.delenv("PIP_CONSTRAINT", raising=False)
        yield


def test_a_function_runs_with_requirements_that_conflict_with_capo(own_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "antique.py").write_text(
        "import importlib.util, rich\n"
        "def score(images, prompts):\n"
        "    assert rich.AGE == 'old' and importlib.util.find_spec('capo') is None\n"
        "    return [image.getpixel((0, 0))[0] for image in images]\n"
        "score.comparison = 'bradley-terry'\n"
    )
    section = RewardSection(name="antique", source="antique:score", requirements=["rich==0.0.1"])
    np.testing.assert_array_equal(load_reward(section, "cpu").score(IMAGES, PROMPTS), [0, 10, 20, 30])
    assert build_comparison(section) == BradleyTerry()
    assert version("rich") != "0.0.1"
    assert "rich==0.0.1" in reward_identity(section)
    assert "antique" not in sys.modules


def test_an_environment_is_made_once_and_again_if_incomplete(own_cache):
    requirements = ["pillow", "rich==0.0.1"]  # those of the previous test
    folder = environment(requirements)
    mark = folder / "mark"
    mark.touch()
    assert environment(requirements) == folder
    assert mark.exists()
    (folder / "requirements.txt").unlink()  # written last
    assert environment(requirements) == folder
    assert not mark.exists()


def test_pip_errors_are_shown(own_cache):
    for _ in range(2):  # a failed environment does not count as made
        with pytest.raises(RewardError, match=r"(?s)no environment with rich==7 can be made: .*rich==7"):
            environment(["rich==7"])


def test_a_hanging_installation_is_ended(own_cache, tmp_path, monkeypatch):
    """With everything it started, such as the build of a package."""
    package, pids = tmp_path / "package", tmp_path / "pids"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "hang"\nbackend-path = ["."]\n'
    )
    (package / "hang.py").write_text(
        f"import os, time\nopen({str(pids)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    monkeypatch.setattr(environments, "LONGEST_INSTALLATION", 8.0)
    with pytest.raises(RewardError, match="pip did not finish in 8 s"):
        environment([str(package)])
    assert pids.exists()
    wait_until(lambda: not alive(int(pids.read_text())))


def test_capo_reward_needs_no_capo():
    """Nor anything else than the standard library."""
    code = "import capo_reward, sys; print('numpy' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(PROGRAMS)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False"]


CUTTING = """
import json, sys

for line in sys.stdin:
    request = json.loads(line)
    if "protocol" in request:
        reply = {{"protocol": 1, "comparison": "bradley-terry"}}
    else:
        reply = {{"id": request["id"], "scores": [1.0] * len(request["images"]), "truncated": {truncated}}}
    print(json.dumps(reply), flush=True)
"""


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [("[True, False, None, True]", [True, False, None, True]), ("None", [None] * 4)],
)
def test_a_program_can_report_truncated_prompts(tmp_path, truncated, expected):
    path = tmp_path / "cutting.py"
    path.write_text(CUTTING.format(truncated=truncated))
    reward = load_reward(RewardSection(name="cutting", command=[sys.executable, str(path)]), "cpu")
    assert [s.truncated for s in score_images(reward, IMAGES, PROMPTS, 4)] == expected


def test_truncated_must_have_one_value_a_prompt(tmp_path):
    path = tmp_path / "cutting.py"
    path.write_text(CUTTING.format(truncated="[True]"))
    reward = load_reward(RewardSection(name="cutting", command=[sys.executable, str(path)]), "cpu")
    with pytest.raises(RewardError, match=r"`truncated` of a reply must be .* of 4 prompts, got \[True\]"):
        reward.score(IMAGES, PROMPTS)


def test_a_function_reports_truncated_prompts_by_its_attribute(tmp_path, monkeypatch):
    """In this process, and in one of its own."""
    module = tmp_path / "cutting_function.py"
    module.write_text(
        "def score(images, prompts): return [0.5] * len(images)\n"
        "score.truncated = lambda prompts: [len(prompt) > 2 for prompt in prompts]\n"
    )
    monkeypatch.chdir(tmp_path)
    own = RewardSection(name="mine", source="cutting_function:score")
    program = [sys.executable, str(PROGRAMS / "capo_reward.py"), "cutting_function:score"]
    for section in (own, RewardSection(name="mine", command=program)):
        scored = score_images(load_reward(section, "cpu"), IMAGES, PROMPTS, 4)
        assert [s.truncated for s in scored] == [False, False, True, False]
