"""The report in a real browser: desktop and phone, light and dark."""

from pathlib import Path
from typing import Any

import pytest

from capo.reporting.gather import gather
from capo.reporting.report_page import render
from synthetic_run import Options, make_run

SCREENS = [(1280, 900), (390, 844)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SCREENS, ids=["desktop", "phone"])
def test_loads_clean(browser: Any, page_file: Path, size: tuple[int, int], scheme: str) -> None:
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    messages: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page_file.as_uri())
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    images = tab.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth * i.width)))"
    )
    assert len(images) > 48
    assert all(images)
    tab.close()


@pytest.mark.parametrize("size", SCREENS, ids=["desktop", "phone"])
def test_chart_labels_stay_apart_and_inside(browser: Any, page_file: Path, size: tuple[int, int]) -> None:
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    tab.goto(page_file.as_uri())
    problems = tab.evaluate(
        """() => [...document.querySelectorAll('svg.chart, svg.forest')].flatMap(svg => {
            const frame = svg.getBoundingClientRect();
            const texts = [...svg.querySelectorAll('text')];
            const labels = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
            const outside = labels.filter(([, r]) => r.left < frame.left - 1 || r.right > frame.right + 1);
            const overlaps = labels.flatMap(([a, r], i) => labels.slice(i + 1).filter(([, q]) =>
                r.left < q.right && q.left < r.right && r.top < q.bottom - 2 && q.top < r.bottom - 2
            ).map(([b]) => `${a} over ${b}`));
            return [...outside.map(([a]) => `${a} outside`), ...overlaps];
        })"""
    )
    assert problems == []
    tab.close()


@pytest.mark.parametrize("size", SCREENS, ids=["desktop", "phone"])
def test_long_names_and_prompts_fit(browser: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    long = Options(
        prompts=2,
        samples=6,
        evaluation_prompts=2,
        evaluation_samples=2,
        steps=20,
        training_rewards=("x" * 64, "a-reward-of-the-longest-name-that-a-recipe-allows-one-to-give-it"),
        held_out=("y" * 64,),
        texts=("w" * 300, "https://example.org/" + "path/" * 60),
        categories=("z" * 80, "a long category of many words, which wraps"),
        title="t" * 120,
        name="n" * 64,
    )
    path = tmp_path / "index.html"
    path.write_text(render(gather(*make_run(tmp_path / "run", long))), encoding="utf-8")
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    tab.goto(path.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    tab.screenshot(path=tmp_path / "long.png", full_page=True)
    tab.close()


def test_text_is_readable(browser: Any, page_file: Path) -> None:
    """All text has a contrast of at least 4.5 (WCAG AA) with the page, in both schemes."""
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(page_file.as_uri())
        faint = tab.evaluate(
            """() => {
                const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
                    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                    return .2126 * r + .7152 * g + .0722 * b; };
                const page = light(getComputedStyle(document.body).backgroundColor);
                const texts = document.querySelectorAll('p, th, td, li, a, dt, dd, h2, h3, h4, text, span');
                const shade = e => getComputedStyle(e)[e.matches('text') ? 'fill' : 'color'];
                return [...texts].map(e => [light(shade(e)), e.outerHTML.slice(0, 80)])
                    .map(([v, e]) => [(Math.max(v, page) + .05) / (Math.min(v, page) + .05), e])
                    .filter(([ratio]) => ratio < 4.5);
            }"""
        )
        assert faint == []
        tab.close()
