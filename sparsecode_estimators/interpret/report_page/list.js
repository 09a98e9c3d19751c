// A list of any length: only the rows that are in sight are elements.
const ROW = 58; // pixels, as in the style
const BEYOND = 8; // rows above and below those in sight

class LatentList {
  constructor(box, rows, { makeRow, onSelect, onOpen }) {
    Object.assign(this, { box, rows, makeRow, onSelect, onOpen });
    this.latents = [];
    this.selected = -1;
    this.pending = false;
    box.addEventListener("scroll", () => this.drawSoon(), { passive: true });
    box.addEventListener("keydown", (event) => this.onKey(event));
    rows.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.select(Number(row.dataset.latent), { open: true });
    });
    new ResizeObserver(() => this.drawSoon()).observe(box);
  }

  show(latents, { keepPlace = false } = {}) {
    this.latents = latents;
    this.rows.style.height = `${latents.length * ROW}px`;
    if (!keepPlace) this.box.scrollTop = 0;
    this.draw();
  }

  select(latent, { open = false } = {}) {
    this.selected = latent;
    this.reveal();
    this.draw();
    this.onSelect(latent);
    if (open) this.onOpen(latent);
  }

  reveal() {
    const place = this.latents.indexOf(this.selected);
    if (place < 0 || !this.box.clientHeight) return; // nothing is in sight before a layout
    const top = place * ROW;
    const bottom = top + ROW - this.box.clientHeight;
    if (this.box.scrollTop > top) this.box.scrollTop = top;
    else if (this.box.scrollTop < bottom) this.box.scrollTop = bottom;
  }

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.latents.length) return;
    const last = this.latents.length - 1;
    const inSight = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const place = this.latents.indexOf(this.selected);
    const next = {
      ArrowDown: Math.min(place + 1, last),
      ArrowUp: Math.max(place - 1, 0),
      PageDown: Math.min(place + inSight, last),
      PageUp: Math.max(place - inSight, 0),
      Home: 0,
      End: last,
    }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      this.select(this.latents[next]);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (place < 0) this.select(this.latents[0], { open: true });
      else this.onOpen(this.selected);
    }
  }

  drawSoon() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - BEYOND);
    const inSight = Math.ceil(this.box.clientHeight / ROW) + 2 * BEYOND;
    const shown = this.latents.slice(first, first + inSight);
    this.rows.replaceChildren(
      ...shown.map((latent, i) => {
        const row = this.makeRow(latent);
        row.id = `row-${latent}`;
        row.dataset.latent = latent;
        row.style.top = `${(first + i) * ROW}px`;
        row.setAttribute("role", "option");
        row.setAttribute("aria-selected", String(latent === this.selected));
        row.setAttribute("aria-posinset", String(first + i + 1));
        row.setAttribute("aria-setsize", String(this.latents.length));
        return row;
      }),
    );
    const isShown = shown.includes(this.selected);
    if (isShown) this.box.setAttribute("aria-activedescendant", `row-${this.selected}`);
    else this.box.removeAttribute("aria-activedescendant");
  }
}
