// Text as elements. Nothing here or elsewhere makes HTML from a string: text that comes from
// the corpus becomes the content of a text node.
function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content.map((part) => (part instanceof Node ? part : String(part))));
  return made;
}

// Characters that would be seen nowhere, or move others about.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

function sign(character) {
  const code = character.charCodeAt(0);
  if (character === "\n") return "↵";
  if (character === "\t") return "⇥";
  return `⟨${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

function visible(text) {
  return text === "" ? "∅" : text.replace(HIDDEN, sign);
}

function unindented(text) {
  return text.replace(/^ +(?! *$)/, ""); // spaces alone stay
}

// A token as one of several in a line: whether it begins a word matters little there.
function trimmed(text) {
  return visible(/^ +$/.test(text) ? text.replaceAll(" ", "␣") : unindented(text));
}

// A token by itself: the space before it is shown.
function spaced(text) {
  const made = element("span", "");
  if (/^ +[^ ]/.test(text)) made.append(element("span", "sign", "␣"), visible(text.slice(1)));
  else made.append(trimmed(text));
  return made;
}

// A token, shaded by its code as a share of the largest one of its latent.
function tokenElement(text, code, largest, isCenter) {
  const made = element("span", isCenter ? "token center" : "token");
  let end = 0;
  for (const hidden of text.matchAll(HIDDEN)) {
    made.append(text.slice(end, hidden.index), element("span", "sign", sign(hidden[0])));
    end = hidden.index + hidden[0].length;
  }
  made.append(text === "" ? "∅" : text.slice(end));
  if (code) {
    made.classList.add("fires");
    made.classList.toggle("below", code < 0);
    const share = Math.min(1, Math.abs(code) / (largest || 1));
    made.style.setProperty("--share", `${Math.round(8 + 92 * share)}%`);
    made.title = `${visible(text)}  ${number(code)}`;
  }
  return made;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(1);
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

function percent(share) {
  if (share === 0) return "0 %";
  const value = 100 * share;
  return value < 0.001 ? "<0.001 %" : `${value.toLocaleString("en", { maximumSignificantDigits: 2 })} %`;
}
