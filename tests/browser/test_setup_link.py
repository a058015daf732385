"""The first admin of an empty installation."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PASSWORD, OpenBrowser
from tests.stack import Stack
from webapp.services.setup import setup_token

pytestmark = pytest.mark.browser


def test_the_link_creates_the_first_admin_and_then_no_other(
    open_browser: OpenBrowser, database_url: str, tmp_path: Path
) -> None:
    with Stack(tmp_path / "stack", database_url) as stack:
        stack.start_web()
        with stack.app.app_context():
            link = f"/setup/{setup_token()}"
        person = open_browser(stack.url)
        person.go(link)
        for field, text in (("username", "first"), ("password", PASSWORD), ("confirm", PASSWORD)):
            person.page.locator(f"input[name={field}]").fill(text)
        person.page.get_by_role("button", name="Create administrator").click()
        expect(person.page.get_by_role("link", name="Admin")).to_be_visible()
        person.go("/keys")
        person.save("openai", "sk-of-the-first-admin", version=1)

        stranger = open_browser(stack.url)
        answer = stranger.page.goto(link)
        assert answer is not None
        assert answer.status in {404, 410}
        expect(stranger.page.locator("input[name=password]")).to_have_count(0)
