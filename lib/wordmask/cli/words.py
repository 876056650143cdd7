"""``wordmask words``: lists the vocabulary, or suggests words."""

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
            help="beginning of a word, or a misspelt word; default: all words",
            show_default=False,
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="maximum number of suggestions")] = 10,
) -> None:
    """List the words of the vocabulary, or suggest words that match PREFIX.

    You can also segment words that are not in the vocabulary.

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
            f"The vocabulary has no word like {prefix!r}. You can still segment it.", soft_wrap=True
        )
        return
    table = Table("word", "matches", "kind")
    for suggestion in suggestions:
        table.add_row(escape(suggestion.word), escape(suggestion.matched), suggestion.kind)
    answers().print(table)
