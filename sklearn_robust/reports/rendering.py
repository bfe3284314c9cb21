"""A report as text: Markdown, HTML and JSON, the same bytes for the same content."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2em .6em;text-align:left}"
)

Table = tuple[list[str], list[list[str]]]
Block = tuple[str, Any]  # ("heading" | "text" | "list" | "table", content)


def to_json(content: dict[str, Any]) -> str:
    """The content with sorted keys."""
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def to_markdown(blocks: list[Block]) -> str:
    """Blocks as Markdown."""
    parts = []
    for kind, body in blocks:
        if kind == "heading":
            parts.append(f"## {body}")
        elif kind == "text":
            parts.append(body)
        elif kind == "list":
            parts.append("\n".join(f"- {line}" for line in body))
        else:
            header, rows = body
            lines = [header, ["---"] * len(header), *rows]
            parts.append("\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines))
    return "\n\n".join(parts) + "\n"


def to_html(title: str, blocks: list[Block], *, page: bool) -> str:
    """Blocks as HTML, a page of its own or a part of one."""
    parts = []
    for kind, body in blocks:
        if kind == "heading":
            parts.append(f"<h2>{escape(body)}</h2>")
        elif kind == "text":
            parts.append(f"<p>{escape(body)}</p>")
        elif kind == "list":
            parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in body) + "</ul>")
        else:
            header, rows = body
            head = "".join(f"<th>{escape(name)}</th>" for name in header)
            lines = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
                for row in rows
            )
            parts.append(f"<table>\n<tr>{head}</tr>\n{lines}</table>")
    body = "\n".join(parts)
    if not page:
        return f"<div>\n{body}\n</div>\n"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n"
        "</body>\n</html>\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
