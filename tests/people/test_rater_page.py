"""The page of a study in a real browser: clicked through, interrupted, and lied to."""

import json
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from capo.people.human_study import PAGE, is_swapped, rater_order, read_key
from capo.people.votes import read_votes
from made_study import PROMPTS, TEXTS, answer, make, wait_for_pair

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "study"
    return folder, make(folder, tie=True)


def address(folder, rater="anna"):
    return f"{(folder / PAGE / 'index.html').as_uri()}#rater={rater}"


def saved(tab, path):
    with tab.expect_download() as download:
        tab.click("#save")
    download.value.save_as(path / download.value.suggested_filename)
    return path / download.value.suggested_filename


@pytest.mark.parametrize("screen", SIZES)
def test_a_study_from_disk(visit, folder, tmp_path, screen):
    """Clicked through with a reload in the middle; its votes are those that were made."""
    place, study = folder
    tab = visit(address(place), screen)
    assert tab.is_visible("#from-disk")
    tab.click("#start") if screen == "desktop" else tab.tap("#start")
    choices = [answer(tab, number, screen == "phone") for number in range(1, 4)]
    wait_for_pair(tab, 4)
    tab.reload()
    choices += [answer(tab, number, screen == "phone") for number in range(4, len(study.pairs) + 1)]
    tab.wait_for_selector("#end:not([hidden])")
    assert tab.evaluate("document.activeElement.id") == "thanks"
    file = saved(tab, tmp_path)
    assert file.name == f"capo-votes-{study.id}-anna.json"
    ballot = read_votes(file, study)
    order = rater_order(study, "anna")
    assert [vote.pair for vote in ballot.votes] == [pair.pair for pair in order]
    assert [vote.swapped for vote in ballot.votes] == [is_swapped(study, "anna", pair) for pair in order]
    assert [vote.choice for vote in ballot.votes] == choices
    assert ballot.finished is not None


def test_what_a_rater_sees_is_what_the_vote_says(visit, folder, tmp_path):
    place, study = folder
    key = read_key(place, study)
    tab = visit(address(place, "bert"))
    tab.click("#start")
    for number, pair in enumerate(rater_order(study, "bert"), start=1):
        wait_for_pair(tab, number)
        assert tab.inner_text("#prompt").split() == pair.prompt.split()
        left = tab.get_attribute("#left img", "src")
        wanted = pair.right if is_swapped(study, "bert", pair) else pair.left
        assert left == wanted.file
        # Chooses the tuned model, wherever it is.
        tuned_is_left = key.pairs[pair.pair].left == "tuned"
        tab.click("#left" if tuned_is_left != is_swapped(study, "bert", pair) else "#right")
    tab.wait_for_selector("#end:not([hidden])")
    for vote in read_votes(saved(tab, tmp_path), study).votes:
        assert (
            getattr(key.pairs[vote.pair], vote.side) == "tuned" or key.pairs[vote.pair].catch == "identical"
        )


@pytest.mark.parametrize("screen", SIZES)
def test_the_page_fits_and_can_be_used_without_eyes(visit, folder, screen):
    place, _ = folder
    tab = visit(address(place, "clara"), screen)
    tab.click("#start")
    wait_for_pair(tab, 1)
    width, height = SIZES[screen]
    root = "document.documentElement"
    assert tab.evaluate(f"[{root}.scrollWidth, {root}.scrollHeight]") == [width, height]
    left, right = (tab.locator(f"#{side} img").bounding_box() for side in ("left", "right"))
    assert left["width"] == right["width"] > width / 3
    assert left["height"] == pytest.approx(right["height"], abs=1)
    assert left["height"] > height / 3.5
    for button in ("#back", "#tie"):
        assert tab.locator(button).bounding_box()["height"] < 50  # one line of text
    assert tab.inner_text("#status") == "Pair 1 of 6. Which image looks better?"
    tab.get_by_role("button", name="Left").focus()
    tab.keyboard.press("Enter")
    wait_for_pair(tab, 2)
    assert tab.inner_text("#status").startswith("Pair 2 of 6")
    assert tab.evaluate("document.activeElement.id") == "question"


def test_going_back_and_what_does_not_count(visit, folder, tmp_path):
    place, study = folder
    tab = visit(address(place, "dora"))
    tab.keyboard.press("ArrowLeft")  # nothing to answer yet
    tab.click("#start")
    wait_for_pair(tab, 1)
    assert tab.is_disabled("#back")
    tab.keyboard.press("ArrowLeft")
    wait_for_pair(tab, 2)
    tab.keyboard.press("Control+ArrowRight")
    tab.keyboard.press("Backspace")
    wait_for_pair(tab, 1)
    tab.evaluate("dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', repeat: true}))")
    tab.keyboard.press("ArrowRight")
    for number in range(2, len(study.pairs) + 1):
        wait_for_pair(tab, number)
        tab.keyboard.press("ArrowLeft")
    tab.wait_for_selector("#end:not([hidden])")
    votes = read_votes(saved(tab, tmp_path), study).votes
    assert [vote.choice for vote in votes] == ["right"] + ["left"] * (len(study.pairs) - 1)


def test_hostile_prompts_are_text(visit, folder):
    place, study = folder
    tab = visit(address(place, "emil"))
    assert tab.evaluate("document.querySelectorAll('script:not([type])').length") == 1
    tab.click("#start")
    seen = []
    for number in range(1, len(study.pairs) + 1):
        wait_for_pair(tab, number)
        seen.append(tab.evaluate("document.getElementById('prompt').textContent"))
        tab.keyboard.press("ArrowLeft")
    assert set(seen) == set(TEXTS)


@pytest.mark.parametrize("spoil", ["missing", "another size", "page"])
def test_a_spoiled_study_is_refused(visit, folder, tmp_path, spoil):
    place, study = folder
    copied = shutil.copytree(place, tmp_path / "study")
    first = rater_order(study, "fritz")[0]
    image = copied / PAGE / first.left.file
    index = copied / PAGE / "index.html"
    if spoil == "missing":
        image.unlink()
    elif spoil == "another size":
        from PIL import Image

        Image.new("RGB", (47, 48)).save(image)
    else:
        index.write_text(index.read_text().replace('"prompt":"a red circle"', '"prompt":"a blue circle"'))
    tab = visit(address(copied, "fritz"))
    if spoil != "page":
        tab.click("#start")
    tab.wait_for_selector("#refusal:not([hidden])")
    assert {"missing": "missing", "another size": "changed", "page": "changed"}[spoil] in tab.inner_text(
        "#reason"
    )
    if spoil == "missing":
        image.write_bytes((place / PAGE / first.left.file).read_bytes())
        tab.click("#again")
        wait_for_pair(tab, 1)
        visit.messages.clear()  # the browser says that the file was not found
    elif spoil == "another size":
        visit.messages.clear()


def test_votes_are_saved_under_the_name_in_the_address(visit, folder, tmp_path):
    """Another name in the same tab begins as that rater; a second tab keeps to its own."""
    place, study = folder
    tab = visit(address(place, "ida"))
    tab.click("#start")
    answer(tab, 1, touch=False)
    wait_for_pair(tab, 2)
    tab.evaluate("location.hash = 'rater=jan'")
    tab.wait_for_selector("#introduction:not([hidden])")
    other = tab.context.new_page()
    other.goto(address(place, "ida"))
    wait_for_pair(other, 2)
    tab.click("#start")
    for number in range(1, len(study.pairs) + 1):
        answer(tab, number, touch=False)
    tab.wait_for_selector("#end:not([hidden])")
    assert read_votes(saved(tab, tmp_path), study).rater == "jan"
    assert other.inner_text("#number").startswith("2 of")


@pytest.mark.parametrize("name", ["erin@example.org", "we ird \u00e9", "", "x" * 65])
def test_a_name_that_cannot_be_used_is_refused(visit, folder, name):
    place, _ = folder
    tab = visit(address(place, "karl"))
    tab.evaluate("name => { location.hash = `rater=${encodeURIComponent(name)}`; }", name)
    tab.wait_for_selector("#refusal:not([hidden])")
    assert f"“{name}”" in tab.evaluate("document.getElementById('reason').textContent")
    tab.evaluate("location.hash = 'rater=lea'")
    tab.wait_for_selector("#introduction:not([hidden])")


def test_text_has_contrast(browser, folder):
    place, _ = folder
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(address(place, "gina"))
        colors = tab.evaluate(
            """() => ['ink', 'quiet', 'accent', 'amber'].flatMap(ink => ['paper', 'raised'].map(paper => {
                const light = name => { const v = getComputedStyle(document.documentElement)
                    .getPropertyValue(`--${name}`).trim().replace(/^#(.)(.)(.)$/, '#$1$1$2$2$3$3');
                    const [r, g, b] = [1, 3, 5].map(n => parseInt(v.slice(n, n + 2), 16) / 255)
                    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
                    return .2126 * r + .7152 * g + .0722 * b; };
                const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
                return [ink, paper, (a + .05) / (b + .05)]; })).filter(([,, ratio]) => ratio < 4.5)"""
        )
        assert colors == []
        tab.close()


def test_the_data_in_the_page_is_the_study(folder):
    place, study = folder
    page = (place / PAGE / "index.html").read_text()
    data = page.partition('id="study">')[2].partition("</script>")[0]
    assert json.loads(data) == study.model_dump(mode="json")


class Collector(BaseHTTPRequestHandler):
    """An owner's own address for votes: fails once, then takes them from any page."""

    received: ClassVar[list[str]] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.received.append(body)
        self.send_response(503 if len(self.received) == 1 else 200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_votes_go_to_the_address_that_the_owner_named(visit, tmp_path):
    """From a page on disk, once, at the end, and again until they are accepted."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/collect"
    try:
        study = make(tmp_path / "study", prompts=PROMPTS[:2], catches=0, post=url)
        tab = visit(address(tmp_path / "study", "hans"))
        tab.click("#start")
        for number in (1, 2):
            assert Collector.received == []
            answer(tab, number, touch=False, ties=False)
        tab.wait_for_selector("#end-sent:not([hidden])")
    finally:
        server.shutdown()
        server.server_close()
    assert len(Collector.received) == 2
    (tmp_path / "votes.json").write_text(Collector.received[1])
    assert [vote.choice for vote in read_votes(tmp_path / "votes.json", study).votes] == ["right", "left"]
    assert all("503" in message for message in visit.messages)
    visit.messages.clear()
