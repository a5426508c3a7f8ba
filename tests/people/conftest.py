"""Browsers for the page of a study."""

import pytest

SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


@pytest.fixture
def visit(browser):
    """Open an address in a browser of its own; fails on messages in its console and on dialogs.

    `visit.messages` has them, for tests that expect some.
    """
    contexts, messages = [], []

    def visit(address, screen="desktop"):
        context = browser.new_context(**SCREENS[screen], reduced_motion="reduce")
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("dialog", lambda dialog: messages.append(dialog.message))
        tab.goto(address)
        return tab

    visit.messages = messages
    yield visit
    for context in contexts:
        context.close()
    assert messages == []
