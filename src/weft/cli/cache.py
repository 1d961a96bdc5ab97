"""`weft cache`: the compiled code that is kept for later starts."""

from __future__ import annotations

import click

from weft.cli.options import Command, json_option

EXAMPLES = """
weft cache                    where it is, and how large
weft cache --clear            remove all of it
"""


@click.command(cls=Command, examples=EXAMPLES)
@click.option("--clear", is_flag=True, help="Remove all of it; what is running goes on.")
@json_option
def command(clear: bool, json: bool) -> None:
    """Show or clear the compiled code that is kept for later starts.

    What has been compiled once is loaded the next time. What was not used for longest makes room
    for what is new, and code for another machine or version is never used.
    """
    from weft.cli.output import Table, amount, print_json, print_table
    from weft.runtime.cache import user_cache

    found = user_cache()
    if clear:
        found.clear()
    entries, size = found.count, found.size
    if json:
        about = {"folder": found.root, "entries": entries, "bytes": size, "limit": found.limit}
        print_json(about)
        return
    row = (str(found.root), str(entries), amount(size, "B"), amount(found.limit, "B"))
    print_table(Table(("folder", "entries", "size", "limit"), [row], frozenset({1, 2, 3})))
