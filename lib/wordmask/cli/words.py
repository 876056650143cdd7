"""``wordmask words``: which words the vocabulary knows, and what one may have meant."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from wordmask.cli.consoles import answers, messages


def words(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX",
            help="beginning of a word, or a misspelt one; all words when left out",
            show_default=False,
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="how many suggestions at most")] = 10,
) -> None:
    """List the words of the vocabulary, or suggest some for the beginning of one.

    A word outside the vocabulary may be asked for all the same: that is the point of text prompts.

    [bold]Examples[/]

      wordmask words
      wordmask words sple
      wordmask words "lefft kidny"
    """
    from wordmask.words.vocabulary import load_vocabulary

    vocabulary = load_vocabulary()
    if not prefix.strip():
        table = Table("word", "also known as", "code", "window")
        for entry in vocabulary.entries:
            code = "" if entry.code is None else f"{entry.code.scheme} {entry.code.value}"
            table.add_row(
                escape(entry.word), escape(", ".join(entry.synonyms)), escape(code), entry.window or ""
            )
        answers().print(table)
        return
    suggestions = vocabulary.suggest(prefix, limit=limit)
    if not suggestions:
        messages().print(
            f"The vocabulary has nothing like {prefix!r}; it may be asked for all the same.", soft_wrap=True
        )
        return
    table = Table("word", "because of", "kind")
    for suggestion in suggestions:
        table.add_row(escape(suggestion.word), escape(suggestion.matched), suggestion.kind)
    answers().print(table)
