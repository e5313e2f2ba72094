"""Groups: what must not be parted by a split, such as all images of one bead, field or experiment."""

import re
from collections.abc import Sequence
from pathlib import Path

from resnet_zclass.errors import InputError


def find_groups(names: Sequence[str], pattern: str) -> list[str]:
    """The group that a regular expression finds in each file name: its first bracket, else all that it finds.

    Args:
        names: Names or paths of files; folders are not looked at.
        pattern: Regular expression.

    Raises:
        InputError: If the pattern is no regular expression, or finds nothing in a name.

    >>> find_groups(["day1_a.tif", "x/day2_a.tif"], "(day[0-9]+)_")
    ['day1', 'day2']
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group_regex {pattern!r} is no regular expression: {error}.") from error
    groups = []
    for name in names:
        found = compiled.search(Path(name).name)
        if not found or not found[min(1, compiled.groups)]:
            raise InputError(f"{name}: --group_regex {pattern!r} finds nothing in this name.")
        groups.append(found[min(1, compiled.groups)])
    return groups
