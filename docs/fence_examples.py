"""Shows the examples of docstrings, `>>> ...`, as code; an extension of mkdocstrings."""

import re

import griffe

EXAMPLE = re.compile(r"^(>>> .*(?:\n(?!\n).+)*)", re.MULTILINE)


class FenceExamples(griffe.Extension):
    """Puts fences around examples."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Changes the docstring of an object, if it has one."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\1\n```", obj.docstring.value)
