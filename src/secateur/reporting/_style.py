"""How the page of a report looks: at the width of a phone and of a desk, in light and in dark."""

STYLE = """
:root{--back:#fdfdfc;--ink:#1c2024;--soft:#60646c;--line:#dcdedf;--fill:#30795a;--track:#e8ebe9}
@media (prefers-color-scheme:dark){:root{--back:#151718;--ink:#ecedee;--soft:#9ba1a6;--line:#313538;--fill:#5bb98b;
--track:#26292b}img.mask{filter:invert(1)}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:70rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:0 0 .5rem;overflow-wrap:anywhere}
small,.small,figcaption{color:var(--soft);font-size:.85rem;font-weight:normal}
p{overflow-wrap:anywhere}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
tbody th,tfoot th,thead th:first-child{text-align:left;font-weight:600}
td.said{text-align:left;white-space:normal;min-width:14rem}
tfoot th,tfoot td{border-bottom:0;font-weight:600}
.bar{display:grid;grid-template-columns:5rem 1fr 9rem;gap:.6rem;align-items:center;font-size:.85rem;margin:.25rem 0;
max-width:40rem}
.track{background:var(--track);height:.7rem;border-radius:.35rem;overflow:hidden}
.fill{display:block;background:var(--fill);height:100%}
section{border-top:1px solid var(--line);padding:1rem 0}
.figures{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:flex-end}
figure{margin:.5rem 0;max-width:100%}
img.mask{image-rendering:pixelated;border:1px solid var(--line);max-width:100%;min-width:3rem;min-height:1rem}
svg.bars{width:16rem;max-width:100%;display:block}
svg.bars rect{fill:var(--fill)}svg.bars line{stroke:var(--soft);stroke-dasharray:2 2}
svg.bars rect.went{fill:var(--soft);opacity:.45}svg.bars polyline{fill:none;stroke:var(--fill);stroke-width:1.5}
img.pixels{width:10rem;height:auto}
svg.bars text{fill:var(--soft);font-size:10px}
@media (max-width:40rem){.bar{grid-template-columns:4rem 1fr 7rem}}
"""
