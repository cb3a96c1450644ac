// Shows an arm's cell where the arm is pointed at, and its marks before all others. Without it, names and marks are links to the cell.
(() => {
  "use strict";
  const LINK = 'a[href^="#cell-"]';
  const card = document.createElement("div");
  card.id = "card";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  document.body.append(card);
  let shown = null;

  const linkOf = (event) => (event.target instanceof Element ? event.target.closest(LINK) : null);

  function mark(href, on) {
    for (const svg of document.querySelectorAll("figure svg")) {
      const own = svg.querySelectorAll(`a[href="${href}"]`);
      svg.classList.toggle("dimmed", on && own.length > 0);
      for (const link of own) link.classList.toggle("on", on);
    }
    for (const name of document.querySelectorAll(`th a[href="${href}"]`)) name.closest("tr").classList.toggle("on", on);
  }

  function hide() {
    if (!shown) return;
    mark(shown.getAttribute("href"), false);
    shown.removeAttribute("aria-describedby");
    shown = null;
    card.hidden = true;
  }

  function show(link) {
    if (link === shown) return;
    hide();
    const cell = document.getElementById(link.getAttribute("href").slice(1));
    if (!cell) return;
    const words = document.createElement("p");
    words.className = "said";
    words.textContent = link.getAttribute("aria-label");
    card.replaceChildren(...(words.textContent ? [words] : []), ...cell.cloneNode(true).childNodes);
    card.hidden = false;
    link.setAttribute("aria-describedby", "card");
    shown = link;
    mark(link.getAttribute("href"), true);
    place(link.getBoundingClientRect());
  }

  // Beside the mark, where there is room; never beyond the window, and never under the pointer.
  function place(at) {
    const width = document.documentElement.clientWidth, height = window.innerHeight, gap = 12;
    const own = card.getBoundingClientRect();
    const right = at.right + gap + own.width <= width;
    const left = right ? at.right + gap : at.left - gap - own.width;
    const below = at.bottom + gap + own.height <= height;
    const beside = right || left >= 0;
    card.style.left = `${Math.max(4, Math.min(beside ? left : at.left, width - own.width - 4))}px`;
    const top = beside ? at.top - own.height / 3 : below ? at.bottom + gap : at.top - gap - own.height;
    card.style.top = `${Math.max(4, Math.min(top, height - own.height - 4))}px`;
  }

  // The keyboard scrolls to what it reaches, after that was shown.
  function follow() {
    if (!shown) return;
    const at = shown.getBoundingClientRect();
    if (at.bottom < 0 || at.top > window.innerHeight) hide();
    else place(at);
  }

  // Thin lines and small points are hard to hit: an unseen copy of each is wider.
  for (const path of document.querySelectorAll(`svg ${LINK} > path`)) {
    const wide = path.cloneNode(false);
    for (const name of ["stroke", "stroke-dasharray", "opacity", "fill"]) wide.removeAttribute(name);
    wide.setAttribute("class", "wide");
    path.before(wide);
  }
  for (const title of document.querySelectorAll(`svg ${LINK} > title`)) title.remove(); // the card says it

  // Only where the pointer itself moves: what is scrolled under it, as by the keyboard, was not pointed at.
  document.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const link = linkOf(event);
    link ? show(link) : hide();
  });
  document.addEventListener("focusin", (event) => { const link = linkOf(event); link ? show(link) : hide(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", follow, { passive: true });
  // A first touch shows the card, a second one goes to the cell. A touch focuses before it clicks, so it is told here what it found.
  let fresh = false;
  document.addEventListener("pointerdown", (event) => { fresh = linkOf(event) !== shown; });
  document.addEventListener("click", (event) => {
    const link = linkOf(event);
    if (!link) return hide();
    if (event.pointerType === "touch" && fresh) { event.preventDefault(); show(link); return; }
    hide();
  });
  window.addEventListener("beforeprint", () => { for (const each of document.querySelectorAll("details")) each.open = true; });
})();
