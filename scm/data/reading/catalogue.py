"""Names, places and sizes of millions of files, in 24 bytes each besides the letters of the name."""

from array import array
from collections.abc import Sequence


class Catalogue:
    """Files, numbered in the order in which they were added.

    Attributes:
        places: where each file is in its archive: an offset, or the number of a member.
        sizes: declared sizes in bytes.
    """

    def __init__(self) -> None:
        self._names, self._ends = bytearray(), array("q")
        self.places, self.sizes = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, name: str, place: int, size: int) -> None:
        """Adds a file whose name has '/' between its parts."""
        self._names += name.replace("/", "\0").encode(errors="surrogatepass")
        self._ends.append(len(self._names))
        self.places.append(place)
        self.sizes.append(size)

    def name(self, number: int) -> str:
        return self._packed(number).decode(errors="surrogatepass").replace("\0", "/")

    def by_name(self) -> Sequence[int]:
        """The files' numbers in the order of their names, folder by folder ("cat/x" before "cat-2/x")."""
        numbers = range(len(self))
        if all(self._packed(number) <= self._packed(number + 1) for number in numbers[:-1]):
            return numbers
        return array("q", sorted(numbers, key=self._packed))

    def _packed(self, number: int) -> bytes:
        """The name with zeros for slashes, so that bytes compare as lists of the names' parts do."""
        return bytes(self._names[self._ends[number - 1] if number else 0 : self._ends[number]])
