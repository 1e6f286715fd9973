// Each still picture gives way to a live chart in the colours of the reader's scheme; print keeps the still one.
const dark = matchMedia("(prefers-color-scheme: dark)");

async function draw(chart) {
  const colours = getComputedStyle(chart);
  const resolved = (key, value) =>
    /^var\(--\w+\)$/.test(value) ? colours.getPropertyValue(value.slice(4, -1)).trim() : value;
  const spec = JSON.parse(chart.querySelector("script").textContent, resolved);
  chart.drawn?.finalize();
  chart.drawn = await vegaEmbed(chart.querySelector(".live"), spec, {
    renderer: "svg",
    ast: true,
    actions: { export: true, source: false, compiled: false, editor: false },
    tooltip: { theme: dark.matches ? "dark" : "light" },
  });
  chart.classList.add("drawn");
}

const drawAll = () => document.querySelectorAll(".chart").forEach(draw);
drawAll();
dark.addEventListener("change", drawAll);
// A chart that was folded away had no width to fill.
document.addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);
