"""The one exception that a user is meant to read."""

from __future__ import annotations


class Problem(Exception):
    """Something a user can mend: what is wrong, where, what was expected and found, what to do.

    The command line prints it without a traceback and exits with `exit_status`: 1 for work that
    failed, 2 for a command that was wrong from the start (an unknown name, an impossible value).
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        do: str | None = None,
        usage: bool = False,
    ) -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.found = found
        self.do = do
        self.exit_status = 2 if usage else 1
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = {
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "what to do": self.do,
        }
        lines = [f"  {name}: {value}" for name, value in parts.items() if value is not None]
        return "\n".join([self.what, *lines])
