// The histogram of the codes of a latent where it fires, over a logarithmic axis.
const WIDTH = 320;
const HEIGHT = 92;

function shape(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The first filled bin and the one after the last, over several histograms: one axis for all.
function binRange(histograms) {
  const filled = histograms.filter(([, counts]) => counts.length);
  if (!filled.length) return null;
  const first = Math.min(...filled.map(([begin]) => begin));
  const stop = Math.max(...filled.map(([begin, counts]) => begin + counts.length));
  return stop - first < 8 ? [first - 4, stop + 4] : [first, stop];
}

function histogramChart([begin, counts], [first, stop]) {
  const chart = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 18}`, class: "histogram", role: "img" });
  const edge = (bin) => page.head.edges[0] * 2 ** (bin / 4);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const most = Math.max(1, ...counts);
  const step = WIDTH / (stop - first);
  chart.setAttribute(
    "aria-label",
    `Histogram of ${total.toLocaleString("en")} activations from ${number(edge(begin))} to ${number(edge(begin + counts.length))}`,
  );
  counts.forEach((count, i) => {
    if (!count) return;
    const height = Math.max(1, (HEIGHT * count) / most);
    const bar = shape("rect", {
      x: (begin + i - first) * step,
      y: HEIGHT - height,
      width: Math.max(1, step - 1),
      height,
    });
    bar.append(shape("title", {}, `${number(edge(begin + i))} to ${number(edge(begin + i + 1))}: ${count.toLocaleString("en")}`));
    chart.append(bar);
  });
  chart.append(shape("line", { x1: 0, y1: HEIGHT, x2: WIDTH, y2: HEIGHT }));
  for (const bin of ticks(first, stop)) {
    const x = (bin - first) * step;
    const anchor = x < 12 ? "start" : x > WIDTH - 12 ? "end" : "middle";
    chart.append(shape("text", { x, y: HEIGHT + 14, "text-anchor": anchor }, Number(edge(bin).toPrecision(2))));
  }
  return chart;
}

// Whole octaves, five or fewer.
function ticks(first, stop) {
  const every = 4 * Math.ceil((stop - first) / 4 / 5);
  const found = [];
  for (let bin = Math.ceil(first / every) * every; bin <= stop; bin += every) found.push(bin);
  return found;
}
