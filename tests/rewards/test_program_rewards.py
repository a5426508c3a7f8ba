"""Rewards that are programs: in this Python, and in an environment of their own."""

import os
import subprocess
import sys
import time
import zipfile
from importlib.metadata import distribution, version

import numpy as np
import pytest
from PIL import Image

from capo import BradleyTerry
from capo.recipe import RecipeError, RewardSection
from capo.rewards import RewardError, Scored, build_comparison, load_reward, reward_identity, score_images
from capo.rewards.transports.environment import environment, environment_is_there
from capo.rewards.transports.program import PROGRAMS

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
    """Writes a program with `body` in its function; gives its section."""

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


def test_a_program_that_was_killed_is_started_again(program, tmp_path):
    mark = tmp_path / "mark"
    body = f"mark = {str(mark)!r}\n    if not os.path.exists(mark): open(mark, 'w'); os.kill(os.getpid(), 9)"
    reward = load_reward(program(body), "cpu")
    with pytest.raises(RuntimeError, match="ended with exit status -9"):
        reward.score(IMAGES, PROMPTS)
    assert mark.exists()
    np.testing.assert_allclose(reward.score(IMAGES, PROMPTS), EXPECTED)


def test_one_image_that_kills_the_program_costs_no_other_its_score(program):
    body = "images[0].getpixel((0, 0))[0] == 20 and sys.exit('cannot bear it')"
    found = score_images(load_reward(program(body), "cpu"), IMAGES, PROMPTS, 1)
    assert [each.score for each in found] == [
        pytest.approx(0.1),
        pytest.approx(10.2),
        None,
        pytest.approx(30.1),
    ]
    assert "ended with exit status 1" in found[2].error
    assert "cannot bear it" in found[2].error


def test_an_exception_and_a_missing_score_are_of_their_image_alone(program):
    body = (
        "reds = [i.getpixel((0, 0))[0] for i in images]\n"
        "    if 10 in reds: raise KeyError('ten')\n"
        "    if 30 in reds: return [None if r == 30 else float('nan') if r == 20 else 7 for r in reds]"
    )
    found = score_images(load_reward(program(body), "cpu"), IMAGES, PROMPTS, 4)
    assert found[:2] == [Scored(pytest.approx(0.1)), Scored(None, "RuntimeError: KeyError: 'ten'")]
    assert [each.score for each in found[2:]] == [pytest.approx(20.3), None]


def test_silence_is_ended_after_the_timeout(program):
    reward = load_reward(program("import time; time.sleep(60)", timeout=5.0), "cpu")
    reward._timeout = 0.3  # the start, with its imports, had the longer one
    with pytest.raises(RuntimeError, match=r"gave no answer in 0\.3 s"):
        reward.score(IMAGES, PROMPTS)


@pytest.mark.parametrize("name", ["topiq-iaa", "vila"])
def test_a_shipped_program_has_the_timeout_of_its_section(name, monkeypatch):
    module = "pyiqa" if name == "topiq-iaa" else name
    monkeypatch.setattr(f"capo.rewards.{module}.ProgramReward", lambda *given: given[-1])
    assert load_reward(RewardSection(name=name, timeout=7.0), "cpu")._program == 7.0


def test_what_a_shell_started_is_ended_with_it(program):
    """As of `conda run`: the program that keeps silent is a child, which holds the pipes open."""
    (python, path) = program("import time; time.sleep(60)").command
    section = RewardSection(name="reds", command=["sh", "-c", f"{python} {path}; true"])
    reward = load_reward(section, "cpu")
    reward._timeout = 0.3
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"gave no answer in 0\.3 s"):
        reward.score(IMAGES, PROMPTS)
    assert time.monotonic() - started < 30


def test_the_process_ends_with_the_reward(program):
    reward = load_reward(program(), "cpu")
    process = reward._program._process
    del reward
    assert process.poll() == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ImportError('no such model')", "ended with exit status 1.*no such model"),
        ("input(); print('hello')", "ended with exit status 0: hello"),
        ("input(); print('{\"protocol\": 2}')", "expected an answer of protocol 1"),
    ],
)
def test_what_does_not_speak_the_protocol_is_refused(tmp_path, text, message):
    (tmp_path / "wrong.py").write_text(text)
    section = RewardSection(name="r", command=[sys.executable, str(tmp_path / "wrong.py")])
    with pytest.raises(RewardError, match=f"(?s){message}"):
        load_reward(section, "cpu")


def test_a_program_that_is_not_there_is_refused():
    with pytest.raises(RewardError, match="no_such_program does not start"):
        load_reward(RewardSection(name="r", command=["no_such_program"]), "cpu")


def test_answers_of_another_length_are_refused(tmp_path):
    """Written without capo_reward: any language will do."""
    (tmp_path / "plain.py").write_text(
        "import sys, json\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    told = {'protocol': 1} if 'protocol' in asked else {'scores': [1, '2']}\n"
        "    print(json.dumps(told), flush=True)\n"
    )
    reward = load_reward(RewardSection(name="r", command=[sys.executable, str(tmp_path / "plain.py")]), "cpu")
    with pytest.raises(RewardError, match=r"must answer with 2 scores, got .*'2'"):
        reward.score(IMAGES[:2], PROMPTS[:2])
    assert reward.comparison is None


def test_identity_is_of_the_files_in_the_command_and_of_the_requirements(program):
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
def test_origins_that_contradict_are_refused(fields, message):
    import tiny_run

    with pytest.raises(RecipeError, match=message):
        tiny_run.recipe([{"name": "r", **fields}])


def test_a_shipped_reward_has_no_requirements():
    with pytest.raises(RewardError, match="requirements does not apply to the shipped reward pickscore"):
        reward_identity(RewardSection(name="pickscore", requirements=["a"]))


# Environments.


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A folder of wheels: this Pillow, and a `rich` that is none, so old that capo could not use it."""
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
def own_cache(shelf, tmp_path_factory):
    """A cache folder for environments, which are made from the shelf alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(shelf))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.delenv("PIP_CONSTRAINT", raising=False)
        yield


def test_a_function_runs_in_an_environment_with_what_capo_could_not_bear(own_cache, tmp_path, monkeypatch):
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


def test_an_environment_is_made_once_and_again_after_a_crash(own_cache):
    requirements = ["pillow", "rich==0.0.1"]  # those of the test before
    folder = environment(requirements)
    mark = folder / "mark"
    mark.touch()
    assert environment(requirements) == folder
    assert mark.exists()
    (folder / "requirements.txt").unlink()  # what is written last was not
    assert not environment_is_there(requirements)
    assert environment(requirements) == folder
    assert not mark.exists()


def test_what_cannot_be_installed_is_told(own_cache):
    with pytest.raises(RewardError, match=r"(?s)no environment with rich==7 can be made: .*rich==7"):
        environment(["rich==7"])
    assert not environment_is_there(["rich==7"])


def test_the_module_for_programs_needs_no_capo():
    """Its own Python has the standard library only."""
    code = "import capo_reward, sys; print('numpy' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(PROGRAMS)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False"]


CUTTING = """
import json, sys

for line in sys.stdin:
    asked = json.loads(line)
    if "protocol" in asked:
        told = {{"protocol": 1, "comparison": "bradley-terry"}}
    else:
        told = {{"id": asked["id"], "scores": [1.0] * len(asked["images"]), "truncated": {truncated}}}
    print(json.dumps(told), flush=True)
"""


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [("[True, False, None, True]", [True, False, None, True]), ("None", [None] * 4)],
)
def test_a_program_may_tell_which_prompts_it_cut(tmp_path, truncated, expected):
    path = tmp_path / "cutting.py"
    path.write_text(CUTTING.format(truncated=truncated))
    reward = load_reward(RewardSection(name="cutting", command=[sys.executable, str(path)]), "cpu")
    assert [each.truncated for each in score_images(reward, IMAGES, PROMPTS, 4)] == expected


def test_what_a_program_tells_of_cut_prompts_must_be_one_a_prompt(tmp_path):
    path = tmp_path / "cutting.py"
    path.write_text(CUTTING.format(truncated="[True]"))
    reward = load_reward(RewardSection(name="cutting", command=[sys.executable, str(path)]), "cpu")
    with pytest.raises(RewardError, match=r"`truncated` of an answer must be .* of 4 prompts, got \[True\]"):
        reward.score(IMAGES, PROMPTS)


def test_a_functions_attribute_tells_which_prompts_it_cuts(tmp_path, monkeypatch):
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
        found = score_images(load_reward(section, "cpu"), IMAGES, PROMPTS, 4)
        assert [each.truncated for each in found] == [False, False, True, False]
