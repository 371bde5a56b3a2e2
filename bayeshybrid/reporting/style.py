"""How the page looks: light and dark, phone and desk, screen and paper."""

from __future__ import annotations

FONT = '--font:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Noto Sans",sans-serif;'

# Contrast of all text on its ground is at least 4.5 to 1 in both schemes (WCAG 2.2, 1.4.3 AA).
LIGHT = (
    "--ground:#ffffff;--card:#f4f5f7;--ink:#1c1d20;--quiet:#555a62;--line:#c9ccd2;--strong:#0b5a91;"
    "--good:#1a6b35;--care:#8a5300;--bad:#ad1f1f;--none:#555a62;--before:#f3d9a4;--beforeline:#9a6a00;--after:#5ba3d0;"
)
DARK = (
    "--ground:#15171b;--card:#1f2228;--ink:#e9eaec;--quiet:#a9afb8;--line:#3d424b;--strong:#7cc0f2;"
    "--good:#7bd494;--care:#f0b75a;--bad:#ff8d85;--none:#a9afb8;--before:#5c4a20;--beforeline:#d9ab4d;--after:#3f83b0;"
)

RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:1rem/1.55 var(--font)}
main{max-width:70rem;margin:0 auto;padding:1rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.6rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2.4rem 0 .6rem;padding-top:.8rem;border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.2rem 0 .4rem;overflow-wrap:anywhere}
p,li{max-width:46rem;overflow-wrap:anywhere}
p{margin:.5rem 0}
.note,figcaption,caption{color:var(--quiet);font-size:.92rem}
.absent{border-left:.3rem solid var(--none);padding-left:.7rem}
.five li{margin:.5rem 0}
.lights{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.8rem;padding:0;margin:0;list-style:none}
.light{background:var(--card);border:1px solid var(--line);border-left:.4rem solid var(--tone);padding:.7rem .9rem}
.light h3{margin:0 0 .2rem}
.light p,.light li{font-size:.95rem}
.light ul{margin:.3rem 0;padding-left:1.1rem}
.word{display:flex;align-items:center;gap:.5rem;font-weight:600;color:var(--tone)}
.word svg{width:1.5rem;height:1.5rem;flex:none}
.good{--tone:var(--good)}.care{--tone:var(--care)}.bad{--tone:var(--bad)}.none{--tone:var(--none)}
.light svg .shape{fill:none;stroke:var(--tone);stroke-width:2}
.light.good svg .shape,.light.care svg .shape,.light.bad svg .shape{fill:var(--tone)}
.light svg .sign{fill:none;stroke:var(--card);stroke-width:2.4;stroke-linecap:round}
.light.none svg .shape{stroke-dasharray:3 2}
.scroll{overflow-x:auto;max-width:100%;margin:.8rem 0}
.scroll:focus-visible{outline:2px solid var(--strong)}
table{border-collapse:collapse;font-size:.93rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.3rem 0;font-weight:600}
th,td{text-align:left;vertical-align:middle;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line)}
thead th{color:var(--quiet);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600;min-width:6.5rem}
td{min-width:3rem;white-space:nowrap}
td:last-child,thead th{white-space:normal}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem;align-items:start}
.small{grid-template-columns:repeat(auto-fill,minmax(min(48%,12rem),1fr));gap:.2rem .6rem}
.small figure{margin:.1rem 0}
figure{margin:.6rem 0;min-width:0}
.picture{width:100%;height:auto;display:block}
.picture *{stroke-linejoin:round;stroke-linecap:butt}
.picture text{fill:var(--ink)}
.ridge{width:9.4rem;height:2rem;display:block}
.ridge .before{fill:var(--before);stroke:var(--beforeline);stroke-width:1;stroke-dasharray:3 2}
.ridge .after{fill:var(--after);fill-opacity:.75;stroke:var(--strong);stroke-width:1.2}
.bar{width:8rem;height:.8rem;display:block}
.bar rect{fill:var(--strong)}
details{border:1px solid var(--line);padding:.5rem .9rem}
summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;white-space:pre;font-size:.85rem}
@media print{
main{max-width:none;padding:0}
h2{break-after:avoid}
.light,figure,tr{break-inside:avoid}
.scroll{overflow:visible}
.pictures{grid-template-columns:repeat(2,1fr)}
.small{grid-template-columns:repeat(4,1fr)}
pre{white-space:pre-wrap}
details::details-content{content-visibility:visible!important;display:block!important;block-size:auto!important}
table{font-size:.8rem}
th,td{white-space:normal;overflow-wrap:break-word;padding-right:.4rem}
}
"""


def stylesheet(pictures: str) -> str:
    """All rules of the page, with those of its pictures."""
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    return f":root{{{FONT}{LIGHT}}}\n{dark}\n{pictures}{RULES}"
