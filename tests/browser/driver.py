"""Somebody at a browser: what people do on the pages, by what they see there."""

import re

from playwright.sync_api import BrowserContext, ConsoleMessage, Error, Locator, Page, expect

_BROWSERS_OWN_NOTE = re.compile(r"Failed to load resource: the server responded with a status of 4")


class Person:
    """One browser with one open page.

    `trouble` collects what a console shows on any of its pages: scripts that failed, and what the
    content security policy blocked.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.trouble: list[str] = []
        context.on("console", self._hear)
        context.on("weberror", lambda failed: self.trouble.append(str(failed.error)))
        self.page: Page = context.new_page()

    def go(self, path: str) -> None:
        self.page.goto(path)

    def sign_in(self, username: str, password: str) -> None:
        """Fill in the form of the sign-in; what follows depends on the account."""
        self.go("/login")
        self.page.get_by_label("Username").fill(username)
        self.page.get_by_label("Password", exact=True).fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def enter_code(self, code: str) -> None:
        self.page.locator("input[name=code]").fill(code)
        self.page.get_by_role("button", name="Continue").click()

    def sign_out(self) -> None:
        self.page.get_by_role("button", name="Sign out").click()
        self.sees_heading("Sign in")

    def sees_heading(self, heading: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(heading)

    def is_refused(self, reason: str) -> None:
        """See why what was just sent is not accepted: an error of the form, or beside a field."""
        expect(self.page.locator(".alert.danger, .field .error")).to_contain_text(reason)

    def key(self, name: str) -> Locator:
        return self.page.locator(f'[data-key="{name}"]')

    def sees_key(self, name: str, state: str) -> None:
        expect(self.key(name)).to_have_attribute("data-state", state)

    def type_key(self, name: str, value: str) -> Locator:
        """Put `value` into the field of a key and return the button that saves it."""
        key = self.key(name)
        key.wait_for()  # whether its form is open shows once the page is there
        form = key.locator(".key-form")
        if not form.locator("[name=value]").is_visible():
            key.locator(".key-edit > summary").click()
        form.locator("[name=value]").fill(value)
        return form.get_by_role("button", name=re.compile("^Save"))

    def save(self, name: str, value: str, version: int | None = None) -> None:
        """Save `value` and see the receipt."""
        self.type_key(name, value).click()
        receipt = self.key(name).locator(".receipt")
        expect(receipt).to_contain_text(f"version {version}" if version else "version")
        expect(receipt).to_contain_text("fingerprint")
        self.sees_key(name, "saved")

    def reveal(self, name: str) -> str:
        """Have the value of a key shown, and return it."""
        self.key(name).get_by_role("button", name="Reveal").click()
        value = self.shown(name)
        expect(value).to_be_visible()
        return value.text_content() or ""

    def shown(self, name: str) -> Locator:
        return self.page.locator(f"#revealed-value-{name}")

    def delete(self, name: str) -> None:
        """Delete a key, with the second step that the page asks for."""
        self.key(name).locator(".key-delete > summary").click()
        self.key(name).get_by_role("button", name="Delete this key").click()
        self.sees_key(name, "deleted")

    def _hear(self, message: ConsoleMessage) -> None:
        try:
            text = message.text
        except Error:  # the page is gone
            return
        if message.type == "error" and not _BROWSERS_OWN_NOTE.match(text):
            self.trouble.append(text)
