from capo.training.log import Log, best_row


def test_rows_are_on_disk_after_a_flush_and_dropped_on_rewind(artifact):
    log = Log(artifact, "metrics.jsonl")
    for step in (1, 2, 3):
        log.add({"step": step, "loss": step / 3})
    log.flush()
    log.add({"step": 4, "loss": 1.0})

    resumed = Log(artifact, "metrics.jsonl")
    assert [row["step"] for row in resumed.rows] == [1, 2, 3]
    assert resumed.rows[0]["loss"] == 1 / 3
    resumed.rewind(2)
    resumed.flush()
    assert [row["step"] for row in artifact.read_json_lines("metrics.jsonl")] == [1, 2]
    resumed.add({"step": 3, "loss": 3.0})
    resumed.flush()
    assert [row["step"] for row in artifact.read_json_lines("metrics.jsonl")] == [1, 2, 3]


def test_a_flush_writes_the_new_rows_alone(artifact):
    log, rows = Log(artifact, "metrics.jsonl"), [{"step": step, "loss": step / 3} for step in range(4)]
    files = set()
    for row in rows:
        log.add(row)
        log.flush()
        log.flush()
        files.add((artifact.folder / "metrics.jsonl").stat().st_ino)
    assert len(files) == 1
    artifact.write_json_lines("whole.jsonl", rows)
    artifact.commit()
    described = artifact.manifest().files
    assert described["metrics.jsonl"] == described["whole.jsonl"]
    artifact.verify()


def test_the_best_row_has_the_highest_win_rate_and_is_the_first_of_equals():
    rows = [{"step": 0, "win_rate": 0.9}] + [
        {"step": step, "win_rate": rate} for step, rate in ((2, 0.4), (4, 0.6), (6, 0.6))
    ]
    assert best_row(rows)["step"] == 4


def test_the_base_model_is_never_the_best():
    assert best_row([{"step": 0, "win_rate": 0.5}]) is None
    assert best_row([]) is None
