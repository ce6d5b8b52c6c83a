"""Files that are left out, with their reasons: millions of them, in 24 bytes each besides the letters of the name."""

from collections import Counter
from collections.abc import Iterable, Iterator

from scm.data.reading.catalogue import Catalogue
from scm.errors import printable


class Skipped:
    """Files with the reason why each is left out, in the order in which they were added."""

    def __init__(self, entries: Iterable[dict[str, str]] = ()) -> None:
        self._files = Catalogue()
        self._number_of: dict[str, int] = {}
        self._reasons: list[str] = []
        self.extend(entries)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[dict[str, str]]:
        for number, reason in enumerate(self._files.places):
            yield {"file": self._files.name(number), "reason": self._reasons[reason]}

    def __contains__(self, entry: object) -> bool:
        return any(entry == each for each in self)

    def append(self, entry: dict[str, str]) -> None:
        """Adds a file; `entry` has the keys "file" and "reason", in which what cannot be printed is escaped."""
        name, reason = (text if text.isprintable() else printable(text) for text in (entry["file"], entry["reason"]))
        number = self._number_of.setdefault(reason, len(self._reasons))
        if number == len(self._reasons):
            self._reasons.append(reason)
        self._files.add(name, number, 0)

    def extend(self, entries: Iterable[dict[str, str]]) -> None:
        for entry in entries:
            self.append(entry)

    def reasons(self) -> Counter[str]:
        """The number of files of each reason."""
        return Counter({self._reasons[number]: count for number, count in Counter(self._files.places).items()})
