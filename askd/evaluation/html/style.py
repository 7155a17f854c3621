"""How the report looks: on a phone and on a wide screen, light and dark, and on paper."""
from __future__ import annotations

# Hues of Okabe & Ito in the order of figures.COLOURS, each at least 3 : 1 against its paper, and of such different lightness that the first
# four are apart (CIELAB, 17 and more) for protan, deutan and tritan eyes as well (Machado et al. 2009). Marks and dashes say the same again.
LIGHT = ("#00538f", "#d55e00", "#0b9d78", "#c56fa8", "#6b4a00", "#4498d0", "#3a3f45")
DARK = ("#4a9fe6", "#e8662e", "#3fdca8", "#f2b3d6", "#f5d04f", "#6f7cf0", "#a3a9b0")


def _series(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{place}:{colour};" for place, colour in enumerate(colours))


_LIGHT = f"--paper:#fff;--ink:#1b1f24;--muted:#56606b;--rule:#d7dce1;--panel:#f5f7f9;--heat:0 114 178;--real:#00694d;{_series(LIGHT)}"
_DARK = f"--paper:#15181c;--ink:#e6e9ec;--muted:#a0aab4;--rule:#363d45;--panel:#1d2126;--heat:64 150 214;--real:#4fd3aa;{_series(DARK)}"
_CLASSES = "".join(f".c{place}{{--c:var(--c{place})}}" for place in range(len(LIGHT)))

STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%}}
body{{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}}
main{{max-width:76rem;margin:0 auto;padding:1.25rem 1rem 3rem}}
h1{{font-size:1.7rem;line-height:1.2;margin:.2em 0 .4em;overflow-wrap:anywhere}}
h2{{font-size:1.25rem;line-height:1.25;margin:2.4em 0 .5em;padding-top:.6em;border-top:1px solid var(--rule)}}
h3{{font-size:1rem;margin:1.6em 0 .4em;overflow-wrap:anywhere}}
p,li,dd{{max-width:46rem;overflow-wrap:anywhere}}
p{{margin:.5em 0}}
.note,figcaption,.legend,.card dl{{color:var(--muted);font-size:.875rem}}
nav ul{{display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;margin:1rem 0 0;list-style:none;font-size:.9rem}}
a{{color:var(--c0)}}
.cards{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:.75rem;margin:1rem 0}}
.card{{border:1px solid var(--rule);border-left:5px solid var(--c);border-radius:6px;padding:.7rem .9rem;background:var(--panel);min-width:0}}
.card h3{{margin:0}}
.card p{{margin:.1rem 0 0}}
.card .big{{font-size:1.35rem;font-variant-numeric:tabular-nums;line-height:1.35;margin:0}}
.card small{{color:var(--muted);font-size:.875rem}}
.card dl{{margin:.3rem 0 0;display:grid;grid-template-columns:auto 1fr;gap:0 .6rem}}
dt{{color:var(--muted)}}
dd{{margin:0;min-width:0}}
code{{font:.85em/1.4 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}}
.scroll{{overflow-x:auto;max-width:100%;margin:.6rem 0;border:1px solid var(--rule);border-radius:6px;width:fit-content}}
.scroll:focus-visible,a:focus-visible{{outline:2px solid var(--c0);outline-offset:2px}}
table{{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.875rem;line-height:1.35}}
th,td{{padding:.38rem .65rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}}
tbody tr:last-child>*{{border-bottom:0}}
thead th{{color:var(--muted);font-weight:600;vertical-align:bottom;background:var(--panel)}}
tbody th{{font-weight:600}}
.name{{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:6.5rem;max-width:16rem}}
.differences .name{{min-width:9rem}}
th:first-child{{position:sticky;left:0;background:var(--panel);z-index:1}}
td small,th small{{display:block;color:var(--muted);font-size:.86em}}
th small{{font-weight:400}}
.empty{{color:var(--muted)}}
.heat td{{text-align:center;min-width:4.2rem;border:1px solid var(--paper)}}
.heat td small{{color:inherit}}
.heat .best{{font-weight:700}}
.real{{color:var(--real);font-weight:700}}
.charts{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1rem 1.5rem;margin:.6rem 0}}
figure{{margin:0;min-width:0}}
figcaption{{margin:0 0 .2rem;color:var(--ink);font-weight:600;overflow-wrap:anywhere}}
svg{{display:block;width:100%;height:auto;overflow:visible}}
svg text{{fill:var(--muted);font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}}
svg .grid{{stroke:var(--rule);stroke-width:1;fill:none}}
svg .axis{{stroke:var(--muted);stroke-width:1;fill:none}}
svg .line{{stroke:var(--c);stroke-width:2.2;fill:none;stroke-linejoin:round;stroke-linecap:round}}
svg .bar{{stroke:var(--c);stroke-width:1.4;fill:none}}
svg .mark{{fill:var(--c);stroke:var(--paper);stroke-width:1}}
.legend{{display:flex;flex-wrap:wrap;gap:.15rem 1rem;list-style:none;padding:0;margin:.1rem 0 0}}
.legend li{{display:flex;align-items:center;gap:.4rem;min-width:0}}
.legend svg{{width:34px;height:14px;flex:none}}
svg.difference{{width:150px;height:16px}}
{_CLASSES}
.faces{{display:grid;gap:.35rem;margin:.6rem 0;max-width:46rem}}
.faces span{{font-size:.78rem;line-height:1.2;color:var(--muted);align-self:end;overflow-wrap:anywhere}}
img{{display:block;width:100%;height:auto;border-radius:3px}}
.sides{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:0 2rem}}
.error{{margin:0 0 1rem;break-inside:avoid}}
.error>div{{display:grid;grid-template-columns:repeat(4,1fr);gap:3px;max-width:34rem}}
.error figcaption{{font-weight:400;font-size:.85rem}}
.error figcaption small{{display:block;color:var(--muted);font-size:.92em}}
.scale{{height:.7rem;max-width:16rem;border-radius:3px;margin:.4rem 0 0;background:linear-gradient(90deg,#440154,#3b528b,#21918c,#5ec962,#fde725)}}
.scale+p{{display:flex;justify-content:space-between;max-width:16rem;margin:0}}
.facts{{display:grid;grid-template-columns:minmax(7rem,max-content) minmax(0,1fr);gap:.15rem 1rem;font-size:.875rem;margin:.4rem 0}}
.facts .facts{{margin:0;grid-column:1/-1;padding-left:1rem;border-left:2px solid var(--rule)}}
.facts dd{{max-width:none}}
@media (max-width:30rem){{
 main{{padding:.75rem .9rem 2rem}}
 h1{{font-size:1.4rem}}
 th,td{{padding:.35rem .5rem}}
 .name{{max-width:8.5rem}}
}}
@media print{{
 :root{{color-scheme:light;{_LIGHT}}}
 @page{{size:A4;margin:14mm}}
 body{{font-size:10pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}}
 main{{max-width:none;padding:0}}
 nav{{display:none}}
 .scroll{{overflow:visible;border:0;width:auto}}
 table{{font-size:7.5pt}}
 th,td{{padding:2pt 4pt}}
 th:first-child{{position:static}}
 tr,figure,.card,.error,.faces,.sides>div:has(table){{break-inside:avoid}}
 h2,h3{{break-after:avoid}}
 thead{{display:table-header-group}}
 .charts{{grid-template-columns:1fr 1fr}}
 .sides{{grid-template-columns:1fr 1fr;gap:0 1rem}}
}}
"""
