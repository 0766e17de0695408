"""report.html: one page with the answer first, then the pictures, the numbers, and every excluded
row.

Self-contained: styles inline, pictures as data, no script and no link to anywhere. Only shows what
it is given.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from analysis.answer.study import Study

LISTED = 200  # excluded rows shown on the page
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}
body{color:#1a1a1a}
pre{background:#f6f6f4;padding:1rem;font-size:14px;border-left:4px solid #0072B2}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
img{max-width:100%;height:auto}figure{margin:2rem 0}figcaption{color:#555;font-size:15px}
table{border-collapse:collapse;font-size:14px}
td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
figure,tr{break-inside:avoid}
@media print{body{max-width:none;margin:0;font-size:11pt}pre,table{font-size:9pt}}
"""


def page(study: Study, title: str, text: str, pictures: Mapping[str, tuple[bytes, str]]) -> str:
    """The page as one string. pictures: name -> (PNG bytes, caption), in the order to show."""
    parts = [f"<h1>{escape(title)}</h1>", f"<pre>{escape(text)}</pre>"]
    for name, (content, caption) in pictures.items():
        data = base64.b64encode(content).decode()
        parts.append(
            f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    if study.fit is not None and study.draws is not None:
        intervals = study.draws.parameter_intervals()
        rows: list[tuple[str, ...]] = [
            (
                p.natural_name,
                f"{study.fit.parameters[p.natural_name]:.5g}",
                "[{:.4g}, {:.4g}]".format(*intervals[p.natural_name]),
                p.meaning,
            )
            for p in study.fit.law.parameters
        ]
        parts += ["<h2>Parameters</h2>", _table(("name", "value", "95 % interval", "meaning"), rows)]
    if study.tried:
        rows = [
            (
                c.law.name,
                f"{c.rmse:.4f} ± {c.error:.4f}" if c.fit is not None else "-",
                "; ".join(c.unsuited + c.lacking) or c.law.about,
            )
            for c in study.tried
        ]
        parts += ["<h2>Laws considered</h2>", _table(("law", "cross-validated RMSE, nats", "why not, or what"), rows)]
    if study.comparison is not None and study.comparison.trials:
        rows = [
            (
                t.law,
                t.split,
                str(t.held_out),
                "-" if t.lacking else f"{t.rmse:.4f}",
                "; ".join(t.lacking) or f"{100 * t.coverage:.0f} % inside the 95 % interval, bias {t.bias:+.4f}",
            )
            for t in study.comparison.trials
        ]
        parts += [
            "<h2>Hold-outs: fitted below, judged beyond</h2>",
            f"<p>{escape(study.comparison.why)}</p>",
            _table(("law", "held out by", "rows", "RMSE, nats", "coverage, or why not"), rows),
        ]
    if study.runs.excluded:
        rows = [(row.row, row.reason) for row in study.runs.excluded[:LISTED]]
        more = len(study.runs.excluded) - len(rows)
        parts += ["<h2>Excluded rows</h2>", _table(("row", "reason"), rows)]
        parts += [f"<p>and {more} more, all in report.json</p>"] if more else []
    return _document(title, "".join(parts))


def plain_page(title: str, text: str) -> str:
    """A page with the summary only."""
    return _document(title, f"<h1>{escape(title)}</h1><pre>{escape(text)}</pre>")


def _document(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
