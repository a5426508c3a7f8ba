"""`capo people power|add|report|export|import` as commands."""

import json

from typer.testing import CliRunner

from capo.cli import app
from synthetic_study import ballot, write_ballot, write_study


def capo(*arguments, code=0):
    """Call the command; its result, after checking the exit code."""
    result = CliRunner().invoke(app, ["people", *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_votes_are_added_reported_and_exported(tmp_path):
    folder = tmp_path / "study"
    study = write_study(folder, prompts=4)
    assert "people add" in capo("report", folder, code=1).output
    files = [
        write_ballot(tmp_path / "votes", study, ballot(study, rater, lambda *_, side=side: side))
        for rater, side in (("ada", "left"), ("bob", "right"), ("cyd", "left"))
    ]
    damaged = tmp_path / "damaged.json"
    damaged.write_text(files[0].read_text().replace('"ms":2000', '"ms":1', 1))
    refused = capo("add", folder, damaged, *files, code=1)
    assert f"{damaged}, line 1:" in refused.stdout
    assert refused.stdout.count("added: ") == 3
    again = json.loads(capo("add", folder, *files, "--json").stdout)
    assert [each["outcome"] for each in again["files"]] == ["already there"] * 3

    results = json.loads(capo("report", folder, "--json").stdout)
    assert json.loads((folder / "report" / "results.json").read_text()) == results
    assert "50.0%" in capo("report", folder).stdout
    pilot = json.loads(capo("power", "--pilot", folder, "--raters", 3, "--json").stdout)
    assert pilot["agreement"] == 0.5
    assert pilot["measured"]["agreement"] < 0.5
    printed = capo("power", "--pilot", folder, "--raters", 3).output
    assert "3 raters, 4 prompts" in printed
    assert "taken as 50%" in printed
    assert "Warning" in printed
    written = json.loads(
        capo("export", folder, "--layout", "rapidata", "--to", tmp_path / "r", "--json").stdout
    )
    assert written["pairs"] == 4
    assert "not the results" in capo("import", folder, tmp_path / "r" / "looks.json", code=1).output


def test_power_is_printed_and_checked():
    values = json.loads(capo("power", "--points", 4, "--rater-spread", 0, "--json").stdout)
    assert 0.2 < values["power"] < 0.6
    assert values["measured"] is None
    assert values["smallest_difference"] > 0.04
    needed = {each["raters"]: each["prompts"] for each in values["needed"]}
    assert needed[2] > needed[5] > needed[50] > 200
    assert "raters must be at least 2" in capo("power", "--raters", 1, code=1).output
    assert "no number suffices" in capo("power", "--rater-spread", 20, "--agreement", "0.6").output
    capo("power", "--pilot", "x", "--agreement", "0.6", code=2)
