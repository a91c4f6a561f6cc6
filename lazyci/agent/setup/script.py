"""A plan as one POSIX shell script, for image bakes and user data."""

from __future__ import annotations

import shlex

from lazyci.agent.setup.model import Change, Plan
from lazyci.agent.setup.record import digest

__all__ = ["script"]

_HEAD = """\
#!/bin/sh
# Made by `lazyci agent setup --print` for {format} and {engine}. Run it as root.
# A file that is there and is not the one this was made from stops the script before it writes
# anything: make it again from a host or a --root that has that file.
set -eu

is() {{ # FILE DIGEST: whether the file has these bytes; the digest of a missing one is empty.
    if [ -e "$1" ]; then
        [ "$(sha256sum <"$1" | cut -d ' ' -f 1)" = "$2" ]
    else
        [ -z "$2" ]
    fi
}}
expect() {{ # FILE DIGEST...
    expected=$1
    shift
    for known; do
        if is "$expected" "$known"; then return; fi
    done
    echo "$expected is another file than the one this was made from; nothing was written" >&2
    exit 1
}}
put() {{ # FILE MODE: standard input becomes the file.
    mkdir -p "${{1%/*}}"
    (umask 077; cat >"$1.lazyci")
    chmod "$2" "$1.lazyci"
    mv -f "$1.lazyci" "$1"
}}
"""


def script(plan: Plan) -> str:
    """A script that writes what a plan would write.

    Args:
        plan: The plan; the files that it read are those the script expects.

    Returns:
        The script. It needs `sha256sum`, and writes nothing where a file is another than expected.
    """
    parts = [_HEAD.format(format=plan.options.format, engine=plan.options.engine), ""]
    for change in plan.changes:
        if change.file.kind != "private":
            before = "" if change.before is None else digest(change.before)
            # A file that is all lazyci's may be missing elsewhere.
            known = {before, digest(change.after), *([""] if change.file.kind == "text" else [])}
            digests = " ".join(shlex.quote(each) for each in sorted(known))
            parts.append(f"expect {shlex.quote(change.path)} {digests}")
    for change in plan.changes:
        parts += ["", _put(change)]
    for title, lines in (("Then", plan.restart), ("To start the daemons", plan.start)):
        if lines:
            parts += ["", f"# {title}:", *(f"#   {line}" for line in lines)]
    return "\n".join(parts) + "\n"


def _put(change: Change) -> str:
    text = change.after.decode()
    path = shlex.quote(change.path)
    if change.file.kind == "private":
        # Credentials that are there already stay.
        return f"[ -e {path} ] || put {path} 0600 <<'{_mark(text)}'\n{text}{_mark(text)}"
    command = f"put {path} {change.file.mode:04o}"
    if text.endswith("\n"):
        return f"{command} <<'{_mark(text)}'\n{text}{_mark(text)}"
    # A here-document always ends in a line break.
    return f"printf %s {shlex.quote(text)} | {command}"


def _mark(text: str) -> str:
    """A word that is no line of the text."""
    mark = "LAZYCI_END"
    while mark in text.splitlines():
        mark += "_"
    return mark
