"""How the report looks: one style sheet for light, dark and paper."""

STYLE = """
:root { color-scheme: light dark; --page: #f7f8fa; --card: #ffffff; --ink: #1b1f27; --soft: #5d6675; --line: #e1e5eb;
  --accent: #2457c5; --tint: #eaf0fd; }
@media (prefers-color-scheme: dark) { :root { --page: #11141a; --card: #191d25; --ink: #e6e9ef; --soft: #9aa4b5;
  --line: #2c333f; --accent: #8ab0ff; --tint: #1d2a45; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.25; margin: 2px 0 12px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 4px; }
h3 { font-size: 15px; margin: 24px 0 8px; }
p { margin: 6px 0 12px; max-width: 84ch; text-wrap: pretty; }
p.note { max-width: 105ch; }
.kicker { color: var(--accent); font-size: 13px; font-weight: 600; letter-spacing: 0.06em; text-transform: uppercase; }
.lead { font-size: 18px; line-height: 1.5; }
.note, figcaption, .key { color: var(--soft); font-size: 13px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 20px 0 8px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; padding: 4px 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-size: 12.5px; font-weight: 600; vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
.facts th { width: 190px; vertical-align: top; font-size: 13px; line-height: 23px; }
td.n, th.n { text-align: right; }
tr.best td { background: var(--tint); font-weight: 600; }
td.wrap { white-space: normal; overflow-wrap: anywhere; }
.bars td { padding: 2px 8px 2px 0; border: 0; font-size: 13px; }
.bars td:last-child { width: 50%; }
.bar { height: 8px; min-width: 1px; border-radius: 2px; background: var(--accent); opacity: 0.55; }
code { font: 13px ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", monospace; }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 14px; margin-top: 14px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 14px; }
figure { margin: 0; }
figure img { display: block; width: 100%; image-rendering: pixelated; border-radius: 4px; background: #000; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-top: 8px; }
figcaption b { color: var(--ink); font-weight: 600; }
.plots figcaption { margin: 0 0 6px; }
.key { display: flex; flex-wrap: wrap; gap: 4px 14px; align-items: center; margin: 8px 0 4px; }
.key i { display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; }
details { margin-top: 16px; }
summary { cursor: pointer; font-weight: 600; padding: 4px 0; }
@media print { body { background: none; } .card, .tile { break-inside: avoid; } }
"""
