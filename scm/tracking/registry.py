"""Versions of a registered model in MLflow, found by tags and aliases; each write says what it is for.

The registry has no transactions. What must hold at any moment holds by order: a version gets all its tags as it is
made, and the alias, by which everybody else finds the champion, moves last.
"""

import fcntl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scm.errors import UserError
from scm.tracking.records import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
ROLLED_BACK = "scm.rolled_back"
"""Tag with the time at which a person took the version back."""


@dataclass(frozen=True)
class Version:
    """One version of the registered model."""

    number: str
    tags: Mapping[str, str]


class Registry:
    """The versions of one registered model, which need not exist yet."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self.client, self.name = client, name

    def versions(self) -> list[Version]:
        """All, oldest first."""
        found = self.client.search_model_versions(f"name = '{self.name}'")
        versions = [Version(str(each.version), dict(each.tags)) for each in found]
        return sorted(versions, key=lambda each: int(each.number))

    def version(self, number: str) -> Version:
        versions = self.versions()
        for each in versions:
            if each.number == number:
                return each
        known = ", ".join(each.number for each in versions) or "none"
        raise UserError(f"{self.name} has no version {number}: choose from {known}")

    def holder(self, alias: str) -> str | None:
        """Number of the version that has the alias."""
        found = self.client.search_registered_models(f"name = '{self.name}'")
        number = found[0].aliases.get(alias) if found else None
        return None if number is None else str(number)

    def register_again(self, number: str, tags: Mapping[str, str]) -> str:
        """Makes another version of the same files, with tags of its own; returns its number."""
        old = self.client.get_model_version(self.name, number)
        made = self.client.create_model_version(
            self.name, old.source or "", old.run_id, tags=dict(tags), await_creation_for=60
        )
        return str(made.version)

    def tag(self, number: str, key: str, value: str | None) -> None:
        """Sets a tag of a version, None = takes it away, unless it is so already."""
        old = self.version(number).tags.get(key)
        if old == value:
            return
        if value is None:
            self.client.delete_model_version_tag(self.name, number, key)
        else:
            self.client.set_model_version_tag(self.name, number, key, value)

    def describe(self, number: str, text: str) -> None:
        """Says in MLflow's list of versions why a version is what it is."""
        if self.client.get_model_version(self.name, number).description != text:
            self.client.update_model_version(self.name, number, text)

    def give(self, alias: str, number: str) -> None:
        if self.holder(alias) != number:
            self.client.set_registered_model_alias(self.name, alias, number)

    def take(self, alias: str, number: str) -> None:
        """Takes the alias from this version; another's stays."""
        if self.holder(alias) == number:
            self.client.delete_registered_model_alias(self.name, alias)

    def move_champion(self, before: str | None, number: str) -> None:
        """The last step of a promotion or rollback.

        Raises:
            UserError: the champion is no longer `before`, which the decision was made against.
        """
        now = self.holder(CHAMPION)
        if now not in (before, number):
            raise UserError(
                f"the champion of {self.name} became version {now} meanwhile (it was {before or 'none'}): "
                "run the command again, so that it compares with that one"
            )
        self.take(CHALLENGER, number)
        self.give(CHAMPION, number)


@contextmanager
def sole_publisher(settings: Settings) -> Iterator[None]:
    """Lets one publish or rollback work at a time, a second one waits.

    With an SQLite store the lock lies beside it, and so holds for everybody who uses that store. With a server it
    holds for this folder alone: two machines may decide at the same time. `Registry.move_champion` looks again just
    before the alias moves, which leaves a moment in which the later of the two wins.
    """
    if settings.store.startswith("sqlite:///"):
        database = Path(settings.store.removeprefix("sqlite:///").partition("?")[0])
        path = database.with_name(f"{database.name}.publish.lock")
    else:
        path = settings.home / ".work" / "publish.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another `scm publish` or `scm rollback` is at work: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
