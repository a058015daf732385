"""The predecessor at work: reads all, changes one value, writes all in place, without a lock.

    python -m tests.predecessor_process FOLDER TOKEN_KEY SECONDS

Prints a line per save that it would have told its user about: username and value.
"""

import json
import random
import sys
import time
from pathlib import Path

from cryptography.fernet import Fernet


def main(folder: Path, key: str, seconds: float) -> None:
    """Save keys named `theirs` until the time is over."""
    fernet = Fernet(key)
    path = folder / "users.json"
    chance = random.Random(7)
    ends = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends:
        everything = json.loads(path.read_text())
        username = chance.choice(list(everything["users"]))
        time.sleep(chance.random() / 50)  # its user thinks
        number += 1
        value = f"saved there {number}"
        keys = everything["users"][username].setdefault("api_keys", {})
        keys["theirs"] = fernet.encrypt(value.encode()).decode()
        with path.open("w") as file:
            json.dump(everything, file, indent=2)
        print(username, value, sep="\t", flush=True)
        time.sleep(chance.random() / 10)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
