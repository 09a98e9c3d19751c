// What is searched, how it is sorted, and which latent is open.
const page = { head: null, texts: null, columns: null, latent: null, encoder: 0 };
const SORTS = [["id", "Latent"], ["rate", "Fires"], ["max", "Largest"], ["score", "Score"]];
const sorting = { by: "id", falling: false };
const get = (id) => document.getElementById(id);
let list;

function listRow(latent) {
  const { rate, max, score, explanation, tokens } = page.columns[page.encoder];
  const what = element("span", "what");
  if (explanation[latent]) what.append(element("span", "explanation", visible(explanation[latent])));
  const strongest = element("span", "tokens");
  strongest.append(...tokens[latent].map((i) => element("span", "", trimmed(page.texts[i]))));
  if (!tokens[latent].length) strongest.append("never fires");
  what.append(strongest);
  const row = element("div", rate[latent] ? "row" : "row dead", element("span", "id", latent), what);
  const cells = [percent(rate[latent]), number(max[latent])];
  if (page.isScored) cells.push(score[latent] === null ? "" : score[latent].toFixed(2));
  row.append(...cells.map((text) => element("span", "number", text)));
  return row;
}

// Every word must be in the explanation, or in a token on which the latent fires most strongly.
// A number alone is the number of a latent, too, or its beginning.
function found(query) {
  const all = Array.from({ length: page.head.n_latents }, (_, latent) => latent);
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return all;
  const { lowered, tokens } = page.columns[page.encoder];
  const start = numberIn(query);
  const hits = words.map((word) => page.lowered.map((text) => text.includes(word)));
  const fits = (latent) => words.every((word, w) => lowered[latent].includes(word) || tokens[latent].some((i) => hits[w][i]));
  return all.filter((latent) => (start && String(latent).startsWith(start)) || fits(latent));
}

function numberIn(query) {
  return query.trim().match(/^#?(\d+)$/)?.[1];
}

// The latent of the very number that was searched comes first.
function withNumberFirst(latents, query) {
  const place = latents.indexOf(Number(numberIn(query) ?? NaN));
  return place > 0 ? [latents[place], ...latents.slice(0, place), ...latents.slice(place + 1)] : latents;
}

function sorted(latents) {
  const { by, falling } = sorting;
  const direction = falling ? -1 : 1;
  if (by === "id") return falling ? latents.reverse() : latents;
  const values = page.columns[page.encoder][by];
  return latents.sort((a, b) => {
    if (values[a] === values[b]) return a - b;
    if (values[a] === null) return 1; // those without a value are last either way
    if (values[b] === null) return -1;
    return direction * (values[a] - values[b]);
  });
}

function refresh(options) {
  const query = get("search").value;
  const latents = withNumberFirst(sorted(found(query)), query);
  list.show(latents, options);
  const all = page.head.n_latents.toLocaleString("en");
  const some = latents.length.toLocaleString("en");
  get("count").textContent = latents.length === page.head.n_latents ? `${all} latents` : `${some} of ${all} latents`;
}

function openLatent(latent) {
  if (!list.latents.includes(latent)) {
    get("search").value = "";
    refresh();
  }
  list.select(latent, { open: true });
}

function onSelect(latent) {
  page.latent = latent;
  showLatent(latent);
  try {
    history.replaceState(null, "", `#${latent}`);
  } catch {
    // a page within another may have no address of its own
  }
}

function onOpen() {
  get("main").classList.add("opened");
  get("detail").focus({ preventScroll: true });
}

function closeDetail() {
  get("main").classList.remove("opened");
  list.reveal();
  list.draw();
  get("list").focus();
}

function makeSorting() {
  const buttons = SORTS.filter(([by]) => by !== "score" || page.isScored).map(([by, title]) => {
    const button = element("button", "", title);
    button.type = "button";
    button.dataset.by = by;
    button.addEventListener("click", () => {
      sorting.falling = sorting.by === by ? !sorting.falling : by !== "id";
      sorting.by = by;
      showSorting();
      refresh();
    });
    return button;
  });
  get("sorting").replaceChildren(...buttons);
  get("browser").classList.toggle("unscored", !page.isScored);
  showSorting();
}

function showSorting() {
  for (const button of get("sorting").children) {
    const isChosen = button.dataset.by === sorting.by;
    const title = SORTS.find(([by]) => by === button.dataset.by)[1];
    button.setAttribute("aria-pressed", String(isChosen));
    button.textContent = isChosen ? `${title} ${sorting.falling ? "↓" : "↑"}` : title;
    button.setAttribute("aria-label", `Sort by ${title}${isChosen ? (sorting.falling ? ", falling" : ", rising") : ""}`);
  }
}

function makeEncoders() {
  const box = get("encoders");
  box.hidden = page.columns.length < 2;
  page.head.encoders.forEach(({ name }, encoder) => {
    const button = element("button", "", visible(name));
    button.type = "button";
    button.setAttribute("aria-pressed", String(encoder === page.encoder));
    button.addEventListener("click", () => {
      page.encoder = encoder;
      [...box.children].forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      refresh({ keepPlace: true });
    });
    box.append(button);
  });
}

function makeThemes() {
  const themes = ["auto", "light", "dark"];
  const remembered = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  let theme = themes.includes(remembered()) ? remembered() : "auto";
  const show = () => {
    document.documentElement.dataset.theme = theme;
    get("theme").textContent = `Theme: ${theme}`;
  };
  get("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("theme", theme); } catch { /* then it is for this visit */ }
    show();
  });
  show();
}

function onKey(event) {
  const isTyping = event.target === get("search");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    get("main").classList.remove("opened");
    get("search").focus();
    get("search").select();
  } else if (event.key === "Escape" && isTyping) {
    get("search").value = "";
    refresh();
  } else if (event.key === "Escape" && get("detail").contains(event.target)) {
    closeDetail();
  } else if (isTyping && (event.key === "ArrowDown" || event.key === "Enter") && list.latents.length) {
    event.preventDefault();
    get("list").focus();
    if (!list.latents.includes(list.selected)) list.select(list.latents[0]);
    if (event.key === "Enter") onOpen();
  }
}

function title() {
  const names = page.head.encoders.map(({ name }) => visible(name));
  const sizes = page.head.encoders.map(({ n_dead, l0 }) => `${number(l0)} active per token, ${n_dead.toLocaleString("en")} dead`);
  document.title = names.join(" | ");
  get("title").textContent = names.join(" · ");
  const [{ n_tokens }] = page.head.encoders;
  const described = sizes.length === 1 ? sizes[0] : sizes.map((size, i) => `${names[i]}: ${size}`).join("; ");
  get("summary").textContent = `${page.head.n_latents.toLocaleString("en")} latents on ${n_tokens.toLocaleString("en")} tokens; ${described}`;
}

function fromAddress() {
  const latent = Number(location.hash.slice(1) || NaN);
  return Number.isInteger(latent) && latent >= 0 && latent < page.head.n_latents ? latent : null;
}

async function start() {
  makeThemes();
  [page.head, page.texts, page.columns] = await Promise.all([unpack("head"), unpack("texts"), unpack("columns")]);
  page.lowered = page.texts.map((text) => text.toLowerCase());
  page.isScored = page.columns.some(({ score }) => score.some((value) => value !== null));
  for (const column of page.columns) {
    column.lowered = column.explanation.map((text) => (text ?? "").toLowerCase());
  }
  page.hasExplanations = page.columns.some(({ explanation }) => explanation.some(Boolean));
  title();
  makeSorting();
  makeEncoders();
  list = new LatentList(get("list"), get("rows"), { makeRow: listRow, onSelect, onOpen });
  get("search").addEventListener("input", () => refresh());
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => { if (fromAddress() !== null) openLatent(fromAddress()); });
  refresh();
  list.select(fromAddress() ?? 0);
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

start().catch((error) => {
  get("detail").replaceChildren(element("p", "empty", `This browser cannot show the page (${error.message}). Try a newer one.`));
});
