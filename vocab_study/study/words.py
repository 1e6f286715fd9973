"""Words of a text, for fertility: what stands between white space, so an eojeol in Korean."""

from collections.abc import Iterable, Iterator


class WordCount:
    """Counts the words of each group while texts pass by."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def watch(self, texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The same pairs of group and text; counting starts anew with every call."""
        self.words = {}
        for group, text in texts:
            self.words[group] = self.words.get(group, 0) + len(text.split())
            yield group, text
