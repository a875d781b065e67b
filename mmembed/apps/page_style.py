"""How do the pages look? One theme for Gradio's controls and one style sheet for what we draw, light and dark."""

from __future__ import annotations

from typing import Any

_SANS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

# The colours are those of the report page, so that both are one house.
CSS = """
.gradio-container{--paper:#fff;--panel:#f5f6f8;--ink:#1d2126;--grey:#59636e;--rule:#dfe3e8;--accent:#0b62c4;--soft:#e8f0fb;
--right:#1a7f37;--wrong:#b3261e;--on:#fff;max-width:82rem!important;margin:0 auto!important}
.dark .gradio-container,.gradio-container.dark{--paper:#14171b;--panel:#1d2228;--ink:#e7eaee;--grey:#9da7b2;--rule:#333a43;
--accent:#6cb0ff;--soft:#1c2f47;--right:#4cc26b;--wrong:#ff8a80;--on:#10141a}
.gradio-container .mm{color:var(--ink);font-size:.95rem;line-height:1.45;overflow-wrap:anywhere}
.mm *{box-sizing:border-box}
.gradio-container .html-container{padding:0!important}
.gradio-container .mm :is(h1,h2,p,ul,dl,button,table){margin-inline:0}
.mm h1{font-size:clamp(1.5rem,4vw,2rem);line-height:1.15;letter-spacing:-.015em;margin:.2rem 0 .1rem;color:var(--ink)}
.mm h2{font-size:1.15rem;line-height:1.25;margin:0 0 .5rem;color:var(--ink)}
.mm p{margin:.25rem 0}
.mm .grey{color:var(--grey)}
.mm .eyebrow{font-size:.75rem;letter-spacing:.08em;text-transform:uppercase;color:var(--grey);margin:0}
.mm .facts{display:flex;flex-wrap:wrap;gap:.15rem 1.3rem;margin:.2rem 0 0;color:var(--grey);font-size:.88rem}
.mm .facts b{color:var(--ink);font-weight:600}
.mm .grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,10.5rem),1fr));gap:.8rem}
.mm .card{display:flex;flex-direction:column;background:var(--panel);border:1px solid var(--rule);border-radius:.7rem;overflow:hidden;
min-width:0;position:relative}
.mm .card.chosen{border-color:var(--accent);box-shadow:0 0 0 1px var(--accent)}
.mm .frame{aspect-ratio:1;display:flex;align-items:center;justify-content:center;background:#fff;overflow:hidden}
.mm .frame img{display:block;width:100%;height:100%;object-fit:contain;margin:0}
.mm .frame .gap{color:#59636e;font-size:.8rem}
.mm .about{padding:.5rem .65rem .6rem;display:flex;flex-direction:column;gap:.25rem;flex:1}
.mm .title{font-size:.86rem;line-height:1.3;display:-webkit-box;-webkit-line-clamp:3;-webkit-box-orient:vertical;overflow:hidden}
.mm .rank{position:absolute;top:.4rem;left:.4rem;background:var(--ink);color:var(--paper);border-radius:1rem;padding:0 .5rem;
font-size:.75rem;line-height:1.35rem;font-variant-numeric:tabular-nums;opacity:.9}
.mm .score{font-size:.78rem;color:var(--grey);font-variant-numeric:tabular-nums}
.mm .score b{color:var(--ink)}
.mm details{font-size:.8rem}
.mm summary{cursor:pointer;color:var(--grey);line-height:1.35}
.mm dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:.1rem .6rem;margin:.3rem 0;font-size:.8rem}
.mm dt{color:var(--grey)}.mm dd{margin:0}
.mm .acts{display:flex;gap:.35rem;padding:0 .5rem .55rem}
.mm button{margin:0;font:inherit;font-size:.8rem;line-height:1.5rem;color:var(--ink);background:var(--paper);border:1px solid var(--rule);
border-radius:.45rem;padding:0 .55rem;cursor:pointer;min-height:2rem}
.mm button:hover{border-color:var(--accent);color:var(--accent)}
.mm button:focus-visible,.mm summary:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
.mm button[aria-pressed=true]{background:var(--accent);border-color:var(--accent);color:var(--on)}
.mm button.wide{flex:1}
.mm .notice{border-inline-start:3px solid var(--wrong);background:var(--panel);border-radius:.3rem;padding:.5rem .8rem}
.mm .chips{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center;margin:.1rem 0}
.mm .chip{display:inline-flex;gap:.4rem;align-items:center;background:var(--soft);border-radius:1rem;padding:.1rem .3rem .1rem .7rem;
font-size:.83rem;max-width:100%}
.mm .chip img{width:1.7rem;height:1.7rem;object-fit:contain;border-radius:.3rem;background:#fff;margin:0}
.mm .chip span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;max-width:16rem}
.mm .chip button{min-height:1.5rem;line-height:1.2rem;border-radius:1rem}
.mm .scroll{overflow-x:auto;max-width:100%}
.mm :is(table,thead,tbody,tr,th,td){border:0!important}
.mm table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;margin:.2rem 0;width:auto;color:var(--ink)}
.mm th{font-weight:600;color:var(--grey)}
.mm :is(th,td){text-align:start;padding:.25rem 1rem .25rem 0!important;border-bottom:1px solid var(--rule)!important;background:none;
vertical-align:top;overflow-wrap:break-word}
.mm :is(th,td).number{text-align:end}.mm td.number{white-space:nowrap}
.mm tr.on td{font-weight:650}
.mm .ask{background:var(--soft);border-radius:.8rem;padding:1rem 1.1rem}
.mm .ask .text{font-size:1.25rem;line-height:1.3;font-weight:600;margin:0 0 .7rem}
.mm .revealed{display:flex;gap:.8rem;align-items:center;margin:.7rem 0}
.mm .revealed .frame{width:5.5rem;flex:none;border-radius:.6rem}
.mm .options{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center}
.mm .options button{margin:0;font-size:.95rem;padding:.25rem .9rem;border-radius:1.2rem;min-height:2.5rem}
.mm .options button.quiet{background:none;color:var(--grey)}
.mm .belief{height:.35rem;border-radius:1rem;background:var(--rule);overflow:hidden}
.mm .belief i{display:block;height:100%;background:var(--accent)}
.mm .up{color:var(--right)}.mm .down{color:var(--wrong)}
.mm .target+.chips{margin-top:.7rem}
.mm .target{display:grid;grid-template-columns:minmax(7rem,11rem) minmax(0,1fr);gap:.9rem;align-items:start}
.mm .target .frame{border-radius:.7rem;border:1px solid var(--rule)}
.mm svg{display:block;width:100%;max-width:34rem;height:auto}
.mm svg .line{fill:none;stroke:var(--accent);stroke-width:2.5}
.mm svg .dot{fill:var(--accent)}.mm svg .axis{stroke:var(--rule)}
.mm svg text{fill:var(--grey);font-size:12px}.mm svg text.value{fill:var(--ink);font-weight:600}
#go,#say{min-height:2.9rem;align-self:center}:is(#text,#words) :is(textarea,input){min-height:2.9rem;font-size:1.05rem}
#begin:disabled{background:var(--rule);color:var(--grey)}
footer{display:none!important}
@media(max-width:40rem){.mm :is(th,td){padding-inline-end:.6rem!important}.mm td.number{white-space:normal}.gradio-container{padding:.6rem!important}.mm .grid{gap:.55rem}.mm .target{grid-template-columns:6.5rem minmax(0,1fr)}}
""".strip()


def page_theme() -> Any:
    """The theme of Gradio's own controls: the fonts that a machine has, so that none is asked for.

    Returns:
        A `gradio.Theme`.
    """
    import gradio

    fonts = gradio.themes.Font
    return gradio.themes.Base(
        primary_hue=gradio.themes.colors.blue,
        neutral_hue=gradio.themes.colors.slate,
        radius_size=gradio.themes.sizes.radius_md,
        font=[fonts(name) for name in _SANS],
        font_mono=[fonts(name) for name in _MONO],
    ).set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#14171b",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1d2228",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1d2228",
        border_color_primary="#dfe3e8",
        border_color_primary_dark="#333a43",
        button_primary_background_fill="#0b62c4",
        button_primary_background_fill_hover="#09519f",
        button_primary_background_fill_dark="#2c7fdc",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
    )
