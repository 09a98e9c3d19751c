// All that is known of one latent, one column for each encoder.
async function showLatent(latent) {
  const details = await Promise.all(page.columns.map((_, encoder) => unpackLatent(encoder, latent)));
  if (page.latent !== latent) return; // another one was asked for meanwhile
  const range = binRange(details.map((detail) => detail.histogram));
  const heading = element("div", "heading", element("h1", "", `Latent ${latent}`));
  const back = element("button", "quiet", "All latents");
  Object.assign(back, { id: "back", type: "button" });
  back.addEventListener("click", closeDetail);
  heading.append(back);
  const columns = element("div", details.length > 1 ? "columns two" : "columns");
  details.forEach((detail, encoder) => columns.append(encoderColumn(latent, encoder, detail, range)));
  const box = document.getElementById("detail");
  box.replaceChildren(heading, columns);
  box.scrollTop = 0;
  box.setAttribute("aria-label", `Latent ${latent}`);
}

function encoderColumn(latent, encoder, detail, range) {
  const columns = page.columns[encoder];
  const largest = columns.max[latent];
  const cards = element("div", "cards");
  if (range) cards.append(part("Activations", histogramChart(detail.histogram, range)));
  if (detail.raised) cards.append(promotedCard(detail));
  if (detail.nearest.length) cards.append(nearestCard(encoder, detail.nearest));
  // each of the six has a row of its own, so that two encoders stand level
  const name = visible(page.head.encoders[encoder].name);
  const rows = [
    page.columns.length > 1 && element("h2", "name", name),
    page.hasExplanations && explanation(columns.explanation[latent]),
    facts(columns, latent),
    cards,
    detail.top.length > 0 && part("Strongest contexts", contextList(detail.top, largest)),
    detail.quantiles.some((contexts) => contexts.length) && quantiles(detail.quantiles, largest),
  ];
  return element("section", "encoder", ...rows.map((row) => row || element("div", "")));
}

function part(title, ...content) {
  return element("section", "", element("h2", "", title), ...content);
}

function explanation(text) {
  return text ? element("p", "explained", visible(text)) : element("p", "explained none", "No explanation");
}

function facts(columns, latent) {
  const list = element("dl", "facts");
  const add = (name, value) => list.append(element("div", "", element("dt", "", name), element("dd", "", value)));
  add("fires on", columns.rate[latent] ? `${percent(columns.rate[latent])} of tokens` : "no token");
  add("mean", number(columns.mean[latent]));
  add("largest", number(columns.max[latent]));
  if (columns.score[latent] !== null) add("score", columns.score[latent].toFixed(2));
  return list;
}

function promotedCard(detail) {
  const column = (title, tokens) => {
    const list = element("ol", "");
    for (const [token, logit] of tokens) {
      list.append(element("li", "", spaced(page.texts[token]), element("span", "", logit.toFixed(2))));
    }
    return part(title, list);
  };
  return element("div", "promoted", column("Raises", detail.raised), column("Lowers", detail.lowered));
}

function nearestCard(encoder, nearest) {
  const list = element("div", "near");
  for (const [latent, cosine] of nearest) {
    const button = element(
      "button", "",
      element("span", "id", latent),
      element("span", "what", shortName(encoder, latent)),
      element("span", "cosine", cosine.toFixed(2)),
    );
    button.type = "button";
    button.addEventListener("click", () => openLatent(latent));
    list.append(button);
  }
  return part("Fire with it", list);
}

function shortName(encoder, latent) {
  const { explanation, tokens } = page.columns[encoder];
  return explanation[latent] ? visible(explanation[latent]) : tokens[latent].map((i) => trimmed(page.texts[i])).join(" · ");
}

function contextList(contexts, largest) {
  const list = element("ol", "contexts");
  for (const [tokens, firing, center, document_, row] of contexts) {
    const codes = new Map();
    for (let i = 0; i < firing.length; i += 2) codes.set(firing[i], firing[i + 1]);
    const text = element("p", "");
    text.dir = "auto";
    tokens.forEach((token, i) => text.append(tokenElement(i ? page.texts[token] : unindented(page.texts[token]), codes.get(i), largest, i === center)));
    const item = element("li", "", element("span", "code", number(codes.get(center))), text);
    item.title = `document ${document_}, row ${row}`;
    list.append(item);
  }
  return list;
}

// The strongest first, each with what share of the firings it is drawn from.
function quantiles(parts, largest) {
  const made = part("Drawn from all firings, by rank");
  const share = (q) => Math.round((100 * q) / parts.length);
  for (let q = parts.length - 1; q >= 0; q -= 1) {
    if (!parts[q].length) continue;
    const title = element("h3", "", `${share(q)} to ${share(q + 1)} %`);
    made.append(element("div", "quantile", title, contextList(parts[q], largest)));
  }
  return made;
}
