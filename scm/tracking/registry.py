"""Versions of a registered model in MLflow, found by their tags and aliases.

The registry has no transactions, so the order of writes keeps it consistent: a version gets all its tags when it is
created, and the alias by which everybody finds the champion moves last.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scm.base import locks
from scm.errors import UserError
from scm.params.project import TrackingSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Version:
    number: str
    tags: Mapping[str, str]


class Registry:
    """The versions of one registered model, which need not exist yet."""

    def __init__(self, client: "MlflowClient", name: str) -> None:
        self.client, self.name = client, name

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
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
        """Number of the version that has the alias, None if no version has it."""
        found = self.client.search_registered_models(f"name = '{self.name}'")
        number = found[0].aliases.get(alias) if found else None
        return None if number is None else str(number)

    def register_again(self, number: str, tags: Mapping[str, str]) -> str:
        """Registers the files of version `number` as a new version with these tags; returns its number."""
        old = self.client.get_model_version(self.name, number)
        made = self.client.create_model_version(
            self.name, old.source or "", old.run_id, tags=dict(tags), await_creation_for=60
        )
        return str(made.version)

    def tag(self, number: str, key: str, value: str | None) -> None:
        """Sets a tag of a version, or removes it if `value` is None; writes nothing if nothing changes."""
        old = self.version(number).tags.get(key)
        if old == value:
            return
        if value is None:
            self.client.delete_model_version_tag(self.name, number, key)
        else:
            self.client.set_model_version_tag(self.name, number, key, value)

    def describe(self, number: str, text: str) -> None:
        """Writes the description that MLflow shows in its list of versions."""
        if self.client.get_model_version(self.name, number).description != text:
            self.client.update_model_version(self.name, number, text)

    def give(self, alias: str, number: str) -> None:
        if self.holder(alias) != number:
            self.client.set_registered_model_alias(self.name, alias, number)

    def take(self, alias: str, number: str) -> None:
        """Removes the alias if this version has it; another version keeps it."""
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
def sole_publisher(settings: TrackingSettings) -> Iterator[None]:
    """Lets one publish or rollback work at a time; a second one waits.

    With an SQLite store, the lock lies beside the store's file and so holds for all its users. With a server, the lock
    holds for this folder alone, and two machines may decide at the same time: `Registry.move_champion` looks again just
    before the alias moves, which leaves a moment in which the later of the two wins.
    """
    file = settings.store_file
    path = settings.home / ".work/publish.lock" if file is None else file.with_name(f"{file.name}.publish.lock")
    with locks.held(path, waiting=_say_waiting):
        yield


def _say_waiting(_: str) -> None:
    print("another `scm publish` or `scm rollback` is at work: waiting for it", file=sys.stderr, flush=True)
