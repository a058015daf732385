"""Programs and browsers that save at the same moment, to the same users and the same keys."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import func, select

from tests.durability.conftest import StartStack
from tests.durability.kept import assert_kept, assert_nothing_half, stored_keys
from tests.http_person import HttpPerson
from tests.saver import Saved, Savers, Wish
from tests.stack import Stack
from webapp.db import db, dispose_engines
from webapp.models import DataKey
from webapp.services.accounts import create_account

pytestmark = pytest.mark.durability

PASSWORD = "a long word that nobody guesses"
USERS = ("alice", "bob")
PROGRAMS = 3
TABS = 2
ROUNDS = 4
OF_ONE_PROGRAM = 2 * ROUNDS * len(USERS)


@pytest.fixture
def stack(start_stack: StartStack) -> Stack:
    stack = start_stack().start_web()
    with stack.app.app_context():
        for username in USERS:
            create_account(username, PASSWORD)
    dispose_engines(stack.app)  # the stack is to have the database for itself
    return stack


def wishes(who: str, usernames: Sequence[str] = USERS) -> list[Wish]:
    """Saves of `who`: for each user a key that all save to, and one that nobody else does."""
    return [
        (username, name, f"sk-{who}-{username}-{number}")
        for number in range(ROUNDS)
        for username in usernames
        for name in ("openai", f"{who}-{number}")
    ]


class Tab(threading.Thread):
    """Somebody at a browser who saves what is wished."""

    def __init__(self, person: HttpPerson, saves: Sequence[Wish]) -> None:
        super().__init__(daemon=True)
        self.saved: list[Saved] = []
        self.trouble: list[BaseException] = []
        self._person = person
        self._saves = saves

    def run(self) -> None:
        try:
            for wish in self._saves:
                self.save(wish)
        except BaseException as error:
            self.trouble.append(error)

    def save(self, wish: Wish) -> None:
        username, name, value = wish
        began = time.monotonic()
        receipt = self._person.save(name, value)
        result = (receipt.version, receipt.fingerprint, began, time.monotonic())
        self.saved.append(Saved(username, name, value, *result))


def open_tabs(stack: Stack) -> Iterator[Tab]:
    for username in USERS:
        person = HttpPerson(stack.port).sign_in(username, PASSWORD)
        for number in range(TABS):
            yield Tab(person.other_tab(), wishes(f"tab-{number}", [username]))


def save_at_once(stack: Stack) -> list[Saved]:
    """Let programs and browsers save, and return what was acknowledged to them."""
    with Savers(stack.environ, [wishes(f"program-{n}") for n in range(PROGRAMS)]) as programs:
        tabs = list(open_tabs(stack))
        programs.wait_until_ready()
        programs.go()
        for tab in tabs:
            tab.start()
        for tab in tabs:
            tab.join()
        assert [error for tab in tabs for error in tab.trouble] == []
        saved = programs.result()
        # The programs have come and gone; what a server that stays acknowledges is no less safe.
        tabs[0].save((USERS[0], "late", "sk-saved-when-the-programs-had-left"))
        return saved + [each for tab in tabs for each in tab.saved]


def test_every_save_survives_and_the_last_one_counts(stack: Stack) -> None:
    saves = save_at_once(stack)
    stack.kill_web()
    assert len(saves) == PROGRAMS * OF_ONE_PROGRAM + len(USERS) * TABS * 2 * ROUNDS + 1
    assert_kept(stack.app, saves)
    assert_nothing_half(stack.app)
    keys = stored_keys(stack.app)
    acknowledged = Counter((save.username, save.name) for save in saves)
    assert acknowledged == {key: len(versions) for key, versions in keys.items()}
    for username in USERS:
        assert acknowledged[username, "openai"] == (PROGRAMS + TABS) * ROUNDS
    with stack.app.app_context():
        of_each = select(func.count()).select_from(DataKey).group_by(DataKey.user_id)
        assert list(db.session.scalars(of_each)) == [1] * len(USERS), "first saves took turns"


def assert_nobody_starved(saves: Sequence[Saved]) -> None:
    """While one save waited, nobody else got all of theirs through."""
    for save in saves:
        overtaken = Counter(
            who(other)
            for other in saves
            if save.began <= other.began and other.ended <= save.ended and other is not save
        )
        assert all(count < OF_ONE_PROGRAM for count in overtaken.values()), (save, overtaken)


def who(save: Saved) -> str:
    program_or_tab = "-".join(save.value.split("-")[1:3])
    return program_or_tab if "program" in save.value else f"{program_or_tab} of {save.username}"
