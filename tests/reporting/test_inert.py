"""Text from data never adds elements or attributes to the page."""

from dataclasses import replace
from pathlib import Path

import pytest

from capo.reporting.examples import ImagePair
from capo.reporting.gather import Material, gather
from capo.reporting.report_page import render
from parsed_page import ParsedPage
from synthetic_run import Options, make_run

WINS_AND_LOSSES = "../evaluate/index.html#extremes"
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "</script></style></title></textarea>--><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% include 'style.css' %}",
    "<a href='javascript:alert(1)'>x</a>&lt;b&gt;&#x3c;i>",
    "\u202eright to left\u2066\u0000 and a null\u2028",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A run in which all free text is hostile."""
    options = Options(
        prompts=len(HOSTILE),
        samples=6,
        evaluation_prompts=len(HOSTILE),
        evaluation_samples=2,
        steps=20,
        texts=HOSTILE,
        categories=HOSTILE[:4],
        title=HOSTILE[3],
        warnings=HOSTILE,
        model={"checkpoint": HOSTILE[1], "revision": HOSTILE[0]},
    )
    recipe, run = make_run(tmp_path_factory.mktemp("runs") / "hostile", options)
    material = gather(recipe, run)
    return _with_names(
        material, dict(zip(("preference", "vqa", "aesthetic", "heldout"), HOSTILE, strict=False))
    )


def _with_names(material: Material, names: dict[str, str]) -> Material:
    """The material with its rewards renamed, bypassing the recipe's rules for names."""
    results = material.results
    judge = results.judge and results.judge.model_copy(update={"name": HOSTILE[0]})
    rewards = tuple(r.model_copy(update={"name": names[r.name]}) for r in results.rewards)
    recipe = material.recipe
    sections = tuple(r.model_copy(update={"name": names[r.name]}) for r in recipe.rewards)
    return replace(
        material,
        recipe=recipe.model_copy(update={"rewards": sections, "name": HOSTILE[1]}),
        results=results.model_copy(update={"judge": judge, "rewards": rewards}),
        pairs=replace(material.pairs, rewards=tuple(names[n] for n in material.pairs.rewards)),
        comparisons={names[n]: {"comparison": HOSTILE[1]} for n in material.comparisons},
        raw_scores={names[n]: scores for n, scores in material.raw_scores.items()},
        summaries={"samples": {}, "train": {}}
        | {f"scores/{name}": {"missing": 1} for name in names.values()},
        versions={HOSTILE[0]: HOSTILE[1]},
        timings=tuple(replace(t, artifact=HOSTILE[0], device=HOSTILE[1]) for t in material.timings),
        side_by_side=tuple(
            replace(c, images=tuple(_renamed(pair, names) for pair in c.images))
            for c in material.side_by_side
        ),
    )


def _renamed(pair: ImagePair, names: dict[str, str]) -> ImagePair:
    return replace(pair, scores=tuple((names[n], base, tuned) for n, base, tuned in pair.scores))


def test_no_element_or_attribute_comes_from_data(hostile: Material, page: str) -> None:
    parsed = ParsedPage(render(hostile))
    allowed = ParsedPage(page).vocabulary | {("section", "class"), ("section", "aria-labelledby")}
    assert parsed.vocabulary <= allowed
    assert not any(name.startswith("on") for _, name in parsed.vocabulary)
    assert "script" not in {tag for tag, _ in parsed.vocabulary}


def test_addresses_are_anchors_and_data(hostile: Material) -> None:
    for element in ParsedPage(render(hostile)).elements:
        for name in ("href", "src"):
            if (address := element.attributes.get(name)) is not None:
                inside = ("#", "data:image/png;", "data:image/jpeg;")
                assert address.startswith(inside) or address in ("data:,", WINS_AND_LOSSES)


def test_hostile_text_appears_verbatim(hostile: Material) -> None:
    text = ParsedPage(render(hostile)).text
    for words in HOSTILE[:7]:
        assert words in text


def test_policy_forbids_everything_but_inline_styles_and_data_images(page: str) -> None:
    policies = [
        e.attributes["content"]
        for e in ParsedPage(page).all("meta")
        if e.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert policies[0].split("; ")[:3] == ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]


def test_hostile_page_in_a_browser(hostile: Material, tmp_path: Path, browser: object) -> None:
    from playwright.sync_api import Browser

    assert isinstance(browser, Browser)
    path = tmp_path / "index.html"
    path.write_text(render(hostile), encoding="utf-8")
    tab = browser.new_page()
    alerts: list[str] = []
    tab.on("dialog", lambda dialog: alerts.append(dialog.message))
    tab.on("console", lambda message: alerts.append(message.text))
    tab.goto(path.as_uri())
    assert tab.evaluate("document.querySelectorAll('script, iframe, object, embed, form, base').length") == 0
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => /^on/.test(n))"
    )
    assert tab.evaluate(handlers) == []
    assert alerts == []
    tab.close()
