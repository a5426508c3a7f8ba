"""Studies go to other tools, and votes come back from them or go to training."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

import tiny_training
from capo.images import open_images
from capo.pairing.training_pairs import read_pairs
from capo.people.collect import add_votes
from capo.people.exchange import export_study, import_results
from capo.people.human_study import read_key, read_study
from capo.people.votes import VotesError, collected_votes
from capo.people.votes_report import write_votes_report
from capo.pipeline import run
from capo.recipe import ImagesSection, parse_recipe
from capo.store import Run
from synthetic_study import ballot, write_ballot, write_study

AT = "2026-07-13T11:07:53.577348+00:00"


@pytest.fixture
def folder(tmp_path):
    write_study(
        tmp_path / "study", prompts=4, questions=("looks", "follows"), tie=True, identical=1, repeated=1
    )
    return tmp_path / "study"


def answered(job, version="4.1.0", choose=lambda n, left, right: (left, left, right)):
    """Return results of a job as Rapidata's aggregator writes them; every pair gets the votes of `choose`."""
    results = []
    for n, (datapoint, context) in enumerate(zip(job["datapoints"], job["contexts"], strict=True)):
        left, right = (Path(file).name for file in datapoint)
        votes = choose(n, left, right)
        options = dict.fromkeys((left, right, *votes))
        results.append(
            {
                "context": context,
                "assetUrls": {left: "https://assets/1", right: "https://assets/2"},
                "aggregatedResults": {option: votes.count(option) for option in options},
                "detailedResults": [{"votedFor": v, "userDetails": {"country": "CH"}} for v in votes],
            }
        )
    info = {"createdAt": AT, "version": version, "type": "Compare", "instruction": job["instruction"]}
    return {"info": info, "results": results, "summary": {}}


def rapidata(folder, tmp_path, question="looks", **settings):
    export_study(folder, tmp_path / "out", "rapidata")
    job = json.loads((tmp_path / "out" / f"{question}.json").read_text())
    path = tmp_path / "results.json"
    path.write_text(json.dumps(answered(job, **settings)))
    return job, path


def test_a_rapidata_job_has_the_pairs_and_no_names(folder, tmp_path):
    job, _ = rapidata(folder, tmp_path)
    assert len(job["datapoints"]) == len(job["contexts"]) == 4  # without catch trials
    assert all((tmp_path / "out" / file).is_file() for pair in job["datapoints"] for file in pair)
    assert job["responses_per_datapoint"] == 5
    for path in (tmp_path / "out").glob("*.json"):
        assert "tuned" not in path.read_text()


def test_results_of_rapidata_are_votes_of_strangers(folder, tmp_path):
    def choose(n, left, right):
        return (left, right, "Both") if n == 0 else (left, left, right)

    _, path = rapidata(folder, tmp_path, choose=choose)
    imported = import_results(folder, path)
    assert (imported["outcome"], imported["votes"], imported["raters"]) == ("added", 12, 12)
    assert import_results(folder, path)["outcome"] == "already there"
    results = write_votes_report(folder)
    key = json.loads((folder / "key.json").read_text())["pairs"]
    tuned_left = sum(a["left"] == "tuned" for a in key.values() if a["catch"] is None)
    shares = [2 / 3] * tuned_left + [1 / 3] * (4 - tuned_left)
    first = next(a for a in key.values() if a["catch"] is None)
    shares[0 if first["left"] == "tuned" else -1] = 0.5
    (looks,) = results["comparisons"]
    assert looks["win_rate"]["value"] == pytest.approx(sum(shares) / 4)
    assert results["seconds"] is None


def test_other_results_of_rapidata_are_refused(folder, tmp_path):
    job, path = rapidata(folder, tmp_path)
    good = json.loads(path.read_text())

    def refused(word, change):
        values = json.loads(json.dumps(good))
        change(values)
        path.write_text(json.dumps(values))
        with pytest.raises(VotesError, match=word) as caught:
            import_results(folder, path)
        assert str(path) in str(caught.value)

    first = Path(job["datapoints"][0][0]).name
    refused("version 5", lambda v: v["info"].update(version="5.0.0"))
    refused("instruction", lambda v: v["info"].update(instruction="Which is nicer?"))
    refused("instruction", lambda v: v["info"].update(instruction=["x"]))
    refused("createdAt", lambda v: v["info"].update(createdAt="yesterday"))
    refused("createdAt", lambda v: v["info"].update(createdAt="0001-01-01T00:00:00+23:00"))
    refused("counts disagree", lambda v: v["results"][0]["aggregatedResults"].update({first: 9}))
    refused(r"results\[1\].*images of a pair", lambda v: v["results"][1].update(aggregatedResults={"a": 1}))
    refused("no image", lambda v: v["results"][0]["detailedResults"][0].update(votedFor="../x"))
    refused("no image", lambda v: v["results"][0]["detailedResults"][0].update(votedFor=[1]))
    refused("second result", lambda v: v["results"].append(v["results"][0]))
    refused("detailed", lambda v: v["results"][0].pop("detailedResults"))
    refused("Rapidata", lambda v: v.pop("info"))
    assert not (folder / "votes").exists()


def annotated(tasks, control, people=(7, 8)):
    """Return annotated tasks as Label Studio exports them: everyone picks left, on the last task nothing."""
    exported = []
    for number, task in enumerate(tasks):
        value = {"selected": "left"}
        left = {"from_name": control, "to_name": "left", "type": "pairwise", "value": value}
        annotations = [
            {
                "id": 10 * number + person, "completed_by": {"id": person, "email": "x@example.org"},
                "result": [left] if number + 1 < len(tasks) else [], "was_cancelled": False,
                "created_at": "2026-07-13T11:07:53.577348Z", "lead_time": 4.288,
            }
            for person in people
        ]  # fmt: skip
        exported.append({"id": number, "annotations": annotations, "predictions": [], "data": task["data"]})
    return exported


@pytest.mark.parametrize("address", ["https://example.org/study/", "https://example.org/study"])
def test_label_studio_tasks_and_configuration(folder, tmp_path, address):
    export_study(folder, tmp_path / "out", "label-studio", address=address)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert len(tasks) == 6  # with catch trials
    for task in tasks:
        for side in ("left", "right"):
            prefix, name = task["data"][side].split("/study/")
            assert prefix == "https://example.org"
            assert (tmp_path / "out" / name).is_file()
    root = ElementTree.parse(tmp_path / "out" / "follows.xml").getroot()
    control = root.find(".//Pairwise")
    assert control.get("name") == "follows"
    values = {each.get("name"): each.get("value") for each in root.iter("Image")}
    assert [values[name] for name in control.get("toName").split(",")] == ["$left", "$right"]
    assert {value[1:] for value in values.values()} < tasks[0]["data"].keys()


def test_annotations_of_label_studio_are_votes_of_annotators(folder, tmp_path):
    export_study(folder, tmp_path / "out", "label-studio")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    path = tmp_path / "export.json"
    path.write_text(json.dumps(annotated(tasks, "looks", people=(7,))))
    assert import_results(folder, path) == {
        "source": "label-studio", "outcome": "added", "votes": 5, "raters": 1, "without_choice": 1,
    }  # fmt: skip
    path.write_text(json.dumps(annotated(tasks, "looks")))
    assert import_results(folder, path)["outcome"] == "extended"
    votes = collected_votes(folder, read_study(folder))
    assert {(vote.rater, vote.side, vote.ms) for vote in votes} == {
        ("label-studio-7", "left", 4288),
        ("label-studio-8", "left", 4288),
    }
    path.write_text(json.dumps(annotated(tasks, "looks", people=(7,))))
    with pytest.raises(VotesError, match="lacks"):
        import_results(folder, path)
    for word, change in {
        "control": lambda v: v[0]["annotations"][0]["result"][0].update(from_name="other"),
        "'selected': 'up'": lambda v: v[0]["annotations"][0]["result"][0].update(value={"selected": "up"}),
        "'value': 3": lambda v: v[0]["annotations"][0]["result"][0].update(value=3),
        "'from_name': {}": lambda v: v[0]["annotations"][0]["result"][0].update(from_name={}),
        r"pair \['p0000'\]": lambda v: v[1]["data"].update(pair=["p0000"]),
        "completed_by -1": lambda v: v[0]["annotations"][0].update(completed_by=-1),
        "pair 'p0099'": lambda v: v[1]["data"].update(pair="p0099"),
        "two annotations": lambda v: v[0]["annotations"].append(v[0]["annotations"][0]),
        "JSON-MIN": lambda v: v[0].pop("annotations"),
        "completed_by": lambda v: v[0]["annotations"][0].update(completed_by=None),
    }.items():
        values = annotated(tasks, "looks")
        change(values)
        path.write_text(json.dumps(values))
        with pytest.raises(VotesError, match=word):
            import_results(folder, path)


def test_a_run_trains_on_votes(tmp_path, sdxl):
    """Three raters of four pairs: shares 1, 2/3, 1/3, 0 for the tuned model. A catch trial is no label."""
    folder = tmp_path / "study"
    study = write_study(folder, prompts=4, identical=1)
    key = read_key(folder, study).pairs
    wins = {f"id{n}": 3 - n for n in range(4)}
    for number in range(3):

        def choose(pair, question, number=number):
            about = key[pair.pair]
            model = "tuned" if number < wins[about.prompt_id] else "base"
            return "left" if about.left == model else "right"

        add_votes(folder, [write_ballot(tmp_path / "votes", study, ballot(study, f"r{number}", choose))])
    assert export_study(folder, tmp_path / "labels", "pick-a-pic")["pairs"] == 4

    entries = open_images(ImagesSection(source=str(tmp_path / "labels"))).entries
    table = pq.read_table(tmp_path / "labels" / "data").to_pylist()
    shares = {}
    for entry, row in zip(entries, table, strict=True):
        assert (entry.labels[0] > 0.5) == (row["label_0"] == 1)
        shares[row["caption"]] = entry.labels[0 if row["model_0"] == "the tuned" else 1]
    assert shares == pytest.approx({f"prompt {n}": (3 - n) / 3 for n in range(4)})

    values = tiny_training.recipe(tmp_path, sdxl, train={"steps": 1, "objective": "dpo"}).model_dump(
        mode="json"
    )
    values |= {"prompts": {"source": "images"}, "images": {"source": str(tmp_path / "labels")}}
    values["pairs"] = {"selection": "labels"}
    settings = parse_recipe(values)
    for stage in ("prompts", "generate", "pair", "train"):
        run(settings, tmp_path / "run", stage=stage)
    pairs, _ = read_pairs(Run(tmp_path / "run").artifact("pairs"), 0.0)
    margins = sorted(each.delta_reward(*each.allowed[0].tolist()) for each in pairs)
    assert margins == pytest.approx([1 / 3, 1 / 3, 1, 1])
    assert len(Run(tmp_path / "run").artifact("train").read_json_lines("metrics.jsonl")) == 1


class Client:
    """A stand-in for Rapidata's client: its job takes the arguments of version 3.21.0 and answers itself."""

    def __init__(self):
        self.job = self.audience = self

    def create_compare_job_definition(self, name, instruction, datapoints, responses_per_datapoint, contexts):
        assert all(Path(file).is_file() for pair in datapoints for file in pair)
        self._arguments = {"instruction": instruction, "datapoints": datapoints, "contexts": contexts}
        return self

    def get_audience_by_id(self, audience_id):
        return self

    def assign_job(self, definition):
        return definition

    def display_progress_bar(self):
        pass

    def get_results(self):
        return answered(self._arguments)


def test_the_documented_job_runs_and_comes_back(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "guides" / "people.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    folder = tmp_path / "study"
    write_study(folder, prompts=3, questions=("preference",))
    export_study(folder, tmp_path / "out", "rapidata")
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "rapidata", SimpleNamespace(RapidataClient=Client))
    exec(compile(code, "people.md", "exec"), {})
    assert import_results(folder, Path("results.json"))["votes"] == 9
