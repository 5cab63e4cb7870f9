// The style sheet of report pages.
#pragma once

#include <string_view>

namespace stem {

// s0 … s9 are the colours of chart series; "donor" (s1) is whatever the edit brings in, "own" what it
// replaces.
inline constexpr std::string_view kPageStyle = R"css(
:root{color-scheme:light dark;--paper:#fbfaf7;--panel:#fff;--ink:#1d2430;--muted:#5f6978;--line:#e0ddd4;--track:#eeece5;
--s0:#2a5fb0;--s1:#c4501b;--s2:#2b7f5c;--s3:#8657a6;--s4:#94700f;--s5:#5c6675;--s6:#c2317e;--s7:#0b7f93;--s8:#6b8e1f;--s9:#8a4b2a;--tint:#fbeee7;--own:#7a8494}
@media (prefers-color-scheme:dark){:root{--paper:#13161b;--panel:#1a1e25;--ink:#e4e7eb;--muted:#9aa4b1;--line:#2d333d;
--track:#262c35;--s0:#7db0f7;--s1:#f29a63;--s2:#6fcaa0;--s3:#c6a3e3;--s4:#dcb758;--s5:#a9b3c0;--s6:#f58bbf;--s7:#5ccbdd;--s8:#b5d36b;--s9:#d3a283;--tint:#38261c;--own:#8f99a8}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer{max-width:800px;margin:0 auto;padding:0 40px}
header{padding-top:56px}
h1{font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 .5rem;font-weight:700}
.subtitle{color:var(--muted);margin:0;overflow-wrap:anywhere}
nav{margin:1.6rem 0 0;padding:.75rem 0;border-top:1px solid var(--line);border-bottom:1px solid var(--line);font-size:.9rem;
display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
a{color:var(--s0);text-decoration:none}a:hover{text-decoration:underline}
section{margin:3.2rem 0 0}
h2{font-size:1.35rem;letter-spacing:-.01em;line-height:1.25;margin:0 0 .7rem}
p{margin:0 0 .9rem;max-width:68ch}
code,.mono{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{font-size:.88em;background:var(--track);border-radius:4px;padding:.08em .32em;overflow-wrap:anywhere}
code.token{background:var(--track);white-space:pre-wrap}code.token i{color:var(--muted);font-style:normal;opacity:.7}
.note{border-left:3px solid var(--s1);background:var(--tint);padding:.7rem 1rem;border-radius:0 6px 6px 0;margin:1rem 0;font-size:.95rem}
.note p{margin:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:12px;margin:1.6rem 0 1rem}
.tiles div{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:.8rem .95rem}
.tiles b{display:block;font-size:1.3rem;line-height:1.25;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere}
.tiles span{color:var(--muted);font-size:.82rem;line-height:1.35;display:block;margin-top:.15rem}
dl{display:grid;grid-template-columns:minmax(7rem,auto) 1fr;gap:.35rem 1.2rem;margin:.6rem 0 1.2rem;font-size:.95rem}
dt{color:var(--muted)}dd{margin:0;overflow-wrap:anywhere;min-width:0}
.scroll{overflow-x:auto;margin:.8rem 0 1.2rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;line-height:1.4}
th{text-align:left;color:var(--muted);font-weight:500;font-size:.82rem;vertical-align:bottom;padding:.4rem .7rem .4rem 0;
border-bottom:1px solid var(--own)}
td{padding:.5rem .7rem .5rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th:last-child,td:last-child{padding-right:0}
.share{display:inline-flex;align-items:center;gap:.5rem;justify-content:flex-end}
.share span{width:52px;height:8px;border-radius:2px;background:var(--track);overflow:hidden;display:inline-block}
.share i{display:block;height:100%;background:var(--s2)}
.tag{font-size:.74rem;border:1px solid var(--line);border-radius:99px;padding:.05rem .5rem;color:var(--muted);white-space:nowrap}
.tag.new{color:var(--s1);border-color:var(--s1)}.good{color:var(--s2);font-weight:600}.bad{color:var(--s1);font-weight:600}
figure{margin:1.2rem 0 1.6rem;background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:20px 20px 14px}
figcaption{color:var(--muted);font-size:.87rem;line-height:1.5;margin-top:.7rem;max-width:72ch}
figure h3{font-size:.88rem;font-weight:600;margin:0 0 .4rem}
.beside{display:grid;grid-template-columns:1fr 1fr;gap:22px 24px}.beside.three{grid-template-columns:1fr 1fr 1fr}
.compare{display:grid;grid-template-columns:1fr 1fr;gap:14px;margin:1rem 0 1.4rem}
.compare div{background:var(--panel);border:1px solid var(--line);border-top:3px solid var(--own);border-radius:6px;padding:.7rem .95rem .8rem;min-width:0}
.compare div+div{border-top-color:var(--s1)}
.compare h3{margin:0 0 .35rem;font-size:.8rem;font-weight:500;color:var(--muted)}
.compare p{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.95rem}
.given{color:var(--muted)}
pre{background:var(--track);border-radius:6px;padding:.7rem .9rem;font-size:.84rem;white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0 1.1rem}
details{margin:.6rem 0 1.1rem}summary{cursor:pointer;color:var(--s0);font-size:.92rem}
footer{margin-top:4rem;padding-bottom:3rem;color:var(--muted);font-size:.85rem}
svg{display:block;max-width:100%;height:auto;margin:0 auto;overflow:visible}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--ink)}
svg .label{fill:var(--muted)}svg .strong{fill:var(--ink)}
svg .mono{font:14px ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre}
svg .mono.small{font-size:12px}svg .quiet{fill:var(--muted);opacity:.75}
svg .mono.answer{font-size:20px;font-weight:700}svg .answer.own{fill:var(--own)}svg .answer.donor{fill:var(--s1)}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--own);stroke-width:1;fill:none}
.line0,.line1,.line2,.line3,.line4,.line5,.line6,.line7,.line8,.line9{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.line0{stroke:var(--s0)}.line1{stroke:var(--s1)}.line2{stroke:var(--s2)}.line3{stroke:var(--s3)}.line4{stroke:var(--s4)}
.line5{stroke:var(--s5)}.line6{stroke:var(--s6)}.line7{stroke:var(--s7)}.line8{stroke:var(--s8)}.line9{stroke:var(--s9)}
.fill0{fill:var(--s0)}.fill1{fill:var(--s1)}.fill2{fill:var(--s2)}.fill3{fill:var(--s3)}.fill4{fill:var(--s4)}
.fill5{fill:var(--s5)}.fill6{fill:var(--s6)}.fill7{fill:var(--s7)}.fill8{fill:var(--s8)}.fill9{fill:var(--s9)}
svg .text0{fill:var(--s0)}svg .text1{fill:var(--s1)}svg .text2{fill:var(--s2)}svg .text3{fill:var(--s3)}svg .text4{fill:var(--s4)}
svg .text5{fill:var(--s5)}svg .text6{fill:var(--s6)}svg .text7{fill:var(--s7)}svg .text8{fill:var(--s8)}svg .text9{fill:var(--s9)}
.name{white-space:nowrap}.mark{stroke-width:1.6}.swatch{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:.5em;vertical-align:middle}
.bar{fill-opacity:.72}.faint{stroke-width:1;stroke-opacity:.35}.lone{stroke-width:6}.track{fill:var(--track)}
.chip{fill:var(--panel);stroke:var(--own);stroke-width:1}.chip.slot{fill:var(--tint);stroke:var(--s1);stroke-width:2}
.row{stroke-width:1.3}.row.own{fill:none;stroke:var(--own);stroke-dasharray:4 3}.row.donor{fill:var(--tint);stroke:var(--s1)}
.arrow{fill:none;stroke-width:2}.arrow.own{stroke:var(--own);stroke-width:1.5;stroke-dasharray:5 4}.arrow.donor{stroke:var(--s1);stroke-width:2.4}
.head.own,.meter.own{fill:var(--own)}.head.donor,.meter.donor{fill:var(--s1)}
.narrow{display:none}
@media (max-width:640px){main,header,footer{padding:0 16px}header{padding-top:30px}h1{font-size:1.6rem}
.wide{display:none}.narrow{display:block}figure{padding:12px 10px 10px;border-radius:8px}.compare{grid-template-columns:1fr}
.tiles{grid-template-columns:1fr 1fr;gap:8px}.tiles b{font-size:1.08rem}dl{grid-template-columns:minmax(5rem,8rem) 1fr;gap:.35rem .8rem}
.share span{display:none}section{margin-top:2.4rem}.beside,.beside.three{grid-template-columns:1fr}}
@media print{:root{color-scheme:light;--paper:#fff;--panel:#fff;--ink:#111;--muted:#555;--line:#d5d5d5;--track:#eee;--s0:#2a5fb0;
--s1:#c4501b;--s2:#2b7f5c;--s3:#8657a6;--s4:#94700f;--s5:#5c6675;--s6:#c2317e;--s7:#0b7f93;--s8:#6b8e1f;--s9:#8a4b2a;--tint:#fbeee7;--own:#7a8494}
body{font-size:10.5pt}nav{display:none}figure,table,.compare,.tiles,.note{break-inside:avoid}h2{break-after:avoid}
section{margin-top:1.8rem}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
)css";

}  // namespace stem
