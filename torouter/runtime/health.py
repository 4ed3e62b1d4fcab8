"""Health: the state of every replica as a table, for a terminal and for a notebook."""

from __future__ import annotations

from html import escape

from torouter.dispatch import ReplicaSnapshot

_HEAD = ("expert", "url", "state", "in flight", "seconds", "cools down", "answered", "failed", "last error")


class Health(tuple[ReplicaSnapshot, ...]):
    """One `ReplicaSnapshot` per replica, in the pool's order; `print` shows it as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [_HEAD, *map(_cells, self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        head = "".join(f"<th>{cell}</th>" for cell in _HEAD)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(row))}</tr>" for row in self)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(row: ReplicaSnapshot) -> tuple[str, ...]:
    return (
        row.expert,
        row.url,
        row.state,
        str(row.in_flight) if row.limit is None else f"{row.in_flight}/{row.limit}",
        "" if row.seconds is None else f"{row.seconds:.3g}",
        f"{row.cooling_seconds:.1f} s" if row.cooling_seconds else "",
        str(row.answered),
        str(row.failed),
        row.last_error or "",
    )
