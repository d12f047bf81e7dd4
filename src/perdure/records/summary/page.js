// The page of a summary: a treemap that zooms, and a table of the modules. Every name goes in as text, never as markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const map = document.getElementById("map");
const trail = document.getElementById("trail");
const details = document.getElementById("details");
const legend = document.getElementById("legend");
const LEAST_SIDE = 3; // pixels below which a cell is not drawn
const N_COLOURS = 9;
const N_ROWS = 500; // rows of the table that are shown at first

const nodes = data.rows.map((row, index) => ({ ...row, index, children: [], parent: null, totals: [] }));
let measure = 0;
let shown = nodes[0];
let colours = new Map();

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- figures

function exact(figure, unit) {
  if (unit === "seconds") return `${(figure * 1000).toPrecision(4)} ms`;
  return `${BigInt(figure).toLocaleString("en")}${unit === "bytes" ? " bytes" : ""}`;
}

function short(figure, unit) {
  if (unit === "seconds") return figure >= 1 ? `${figure.toPrecision(3)} s` : `${(figure * 1000).toPrecision(3)} ms`;
  const step = unit === "bytes" ? 1024 : 1000;
  const prefixes = unit === "bytes" ? ["bytes", "KiB", "MiB", "GiB", "TiB"] : ["", "K", "M", "G", "T", "P", "E"];
  let size = Number(figure);
  let power = 0;
  while (size >= (unit === "bytes" ? step : 999.5) && power < prefixes.length - 1) {
    size /= step;
    power += 1;
  }
  const decimals = unit === "bytes" ? 1 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  const digits = power === 0 ? String(size) : rounded(size, decimals);
  return `${digits} ${prefixes[power]}`.trim();
}

// Round as the text of the summary does: what lies between two digits goes to the even one.
function rounded(size, decimals) {
  const scaled = size * 10 ** decimals;
  const tied = scaled % 1 === 0.5 && Math.floor(scaled) % 2 === 0;
  return (tied ? Math.floor(scaled) / 10 ** decimals : size).toFixed(decimals);
}

// What is said of a part. A peak is no sum: a module's own is shown, in the area of what those below it add up to.
function figureOf(part) {
  const { unit, peak } = data.measures[measure];
  if (!peak) return [short(part.size, unit), share(part)];
  const figure = part.own ? null : part.node.figures[measure];
  return figure === null ? [] : [short(figure, unit)];
}

function share(node) {
  const whole = nodes[0].totals[measure];
  const percent = whole ? (100 * node.size) / whole : 0;
  return `${percent >= 99.95 ? "100" : percent.toPrecision(percent < 0.1 ? 1 : 3)} %`;
}

// ---- the tree

function link() {
  const above = [];
  for (const node of nodes) {
    while (above.length && above[above.length - 1].depth >= node.depth) above.pop();
    node.parent = above[above.length - 1] || null;
    if (node.parent) node.parent.children.push(node);
    above.push(node);
  }
  // Children stand behind their parents, so that from the end each sum is complete when it is needed.
  for (let index = nodes.length - 1; index >= 0; index -= 1) {
    const node = nodes[index];
    node.totals = node.counted.map((figure, number) => {
      const below = node.children.reduce((sum, child) => sum + child.totals[number], 0);
      return Math.max(Number(figure || 0), below);
    });
  }
}

// The parts that a module is drawn in: the modules below it, and what it has itself beside them.
function partsOf(node) {
  if (!node.children.length) return [];
  const parts = node.children.map((child) => ({ node: child, size: child.totals[measure] }));
  const own = node.totals[measure] - parts.reduce((sum, part) => sum + part.size, 0);
  if (own > 0) parts.push({ node, size: own, own: true });
  return parts.sort((one, other) => other.size - one.size);
}

function category(part) {
  if (part.own) return "own part of a module";
  return part.node.kind || part.node.label.replace(/\d+/g, "") || "module";
}

function colourKinds() {
  const sizes = new Map();
  for (const node of nodes) {
    const part = { node, own: node.children.length > 0 };
    const below = node.children.reduce((sum, child) => sum + child.totals[measure], 0);
    const own = node.totals[measure] - below;
    if (own > 0) sizes.set(category(part), (sizes.get(category(part)) || 0) + own);
  }
  const kinds = [...sizes.keys()].sort((one, other) => sizes.get(other) - sizes.get(one));
  colours = new Map(kinds.slice(0, N_COLOURS).map((kind, number) => [kind, `colour${number}`]));
  const names = [...colours].map(([kind, colour]) => [kind, colour]);
  if (kinds.length > N_COLOURS) names.push([`${kinds.length - N_COLOURS} more`, "other"]);
  legend.replaceChildren(
    ...names.map(([kind, colour]) => element("li", {}, element("i", { className: colour }), element("bdi", {}, kind)))
  );
}

// ---- the treemap

function place(cell, rectangle) {
  cell.style.left = `${rectangle.x}px`;
  cell.style.top = `${rectangle.y}px`;
  cell.style.width = `${rectangle.width}px`;
  cell.style.height = `${rectangle.height}px`;
}

function draw() {
  const box = { x: 0, y: 0, width: map.clientWidth, height: map.clientHeight };
  const parts = partsOf(shown).length ? partsOf(shown) : [{ node: shown, size: shown.totals[measure] }];
  const cells = [];
  for (const [part, rectangle] of squarify(parts, box)) {
    if (Math.min(rectangle.width, rectangle.height) >= LEAST_SIDE) cells.push(cellOf(part, rectangle));
  }
  map.replaceChildren(...cells);
  if (!cells.length) map.append(element("p", { className: "nothing" }, `No ${data.measures[measure].title} here.`));
  if (cells.length) cells[0].tabIndex = 0;
  const missing = parts.filter((part) => part.size > 0).length - cells.length;
  const hints = [];
  if (data.measures[measure].peak) hints.push("A module has the area of its parts together, which is no measure of its own peak.");
  if (missing) hints.push(`${missing} more ${missing > 1 ? "are" : "is"} too small to draw.`);
  document.getElementById("missing").textContent = hints.join(" ");
  drawTrail();
  describe(shown);
}

function cellOf(part, rectangle) {
  const name = part.own ? "(own)" : part.node.label;
  const figures = figureOf(part);
  const leads = !part.own && part.node.children.length > 0;
  const cell = element("button", { className: "cell", type: "button", tabIndex: -1 });
  cell.dataset.name = part.node.name;
  cell.dataset.size = part.size;
  cell.setAttribute("aria-label", [name, ...figures, ...(leads ? ["opens"] : [])].join(", "));
  place(cell, rectangle);
  if (leads) {
    cell.classList.add("leads");
    drawInside(cell, part.node, { ...rectangle, x: 0, y: 0 });
  } else {
    cell.classList.add(colours.get(category(part)) || "other");
  }
  const { width, height } = rectangle;
  if (width > 44 && height > 22) {
    const label = element("span", { className: "label" }, element("b", {}, element("bdi", {}, name)));
    const said = width > 130 ? figures.join(" · ") : figures[0];
    if (height > 40 && width > 60 && said) label.append(element("small", {}, said));
    cell.append(label);
  }
  cell.addEventListener("click", () => (leads ? zoom(part.node) : describe(part.node, part)));
  cell.addEventListener("focus", () => describe(part.node, part));
  cell.addEventListener("pointerenter", () => describe(part.node, part));
  return cell;
}

// Draw what a module consists of into its cell, down to the modules that have none below them; name the first below it.
function drawInside(cell, top, box) {
  const waiting = [[top, box]];
  while (waiting.length) {
    const [node, within] = waiting.pop();
    for (const [part, rectangle] of squarify(partsOf(node), within)) {
      const least = Math.min(rectangle.width, rectangle.height);
      if (least < LEAST_SIDE) continue;
      const opens = !part.own && part.node.children.length && least > 3 * LEAST_SIDE;
      const piece = element("span", { className: `piece ${opens ? "group" : colours.get(category(part)) || "other"}` });
      place(piece, rectangle);
      cell.append(piece);
      if (opens) waiting.push([part.node, rectangle]);
      if (node === top && rectangle.width > 40 && rectangle.height > 60) {
        const name = element("bdi", {}, part.own ? "(own)" : part.node.label);
        piece.append(element("span", { className: "inner label" }, name));
      }
    }
  }
}

function zoom(node, from = null) {
  shown = node;
  draw();
  const cell = from && [...map.children].find((each) => each.dataset.name === from.name);
  (cell || map.querySelector(".cell") || map).focus({ preventScroll: true });
}

function zoomOut() {
  if (shown.parent) zoom(shown.parent, shown);
}

function drawTrail() {
  const path = [];
  for (let node = shown; node; node = node.parent) path.unshift(node);
  trail.replaceChildren(
    ...path.map((node) => {
      const step = element("button", { type: "button" }, element("bdi", {}, node.label));
      if (node === shown) step.setAttribute("aria-current", "location");
      step.addEventListener("click", () => zoom(node));
      return element("li", {}, step);
    })
  );
}

function describe(node, part = null) {
  const facts = [["class", node.kind], ["output", node.output], ["calls", node.calls > 1 ? String(node.calls) : ""]];
  data.measures.forEach(({ title, unit }, number) => {
    if (node.figures[number] !== null) facts.push([title, exact(node.figures[number], unit)]);
  });
  if (node.note) facts.push(["counted at", node.note]);
  const { title, peak } = data.measures[measure];
  const figures = figureOf(part || { node, size: node.totals[measure] });
  const what = figures.length ? `${figures[0]} ${title}${peak ? " at most at once" : `, ${figures[1]} of the model`}` : "";
  details.replaceChildren(
    element("h2", {}, element("bdi", {}, node.name || node.label)),
    element("p", {}, part && part.own ? `own part: ${what}` : what),
    element(
      "dl",
      {},
      ...facts.filter(([, text]) => text).map(([name, text]) => element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, text))))
    )
  );
}

// Move to the nearest cell in a direction, of those that are equally near to the one that is most in line.
function move(from, [right, down]) {
  const sides = (cell) => {
    const box = cell.getBoundingClientRect();
    const along = right ? [box.left, box.right] : [box.top, box.bottom];
    const across = right ? [box.top, box.bottom] : [box.left, box.right];
    return { along: right + down > 0 ? along : [-along[1], -along[0]], across };
  };
  const here = sides(from);
  let nearest = null;
  let least = Infinity;
  for (const cell of map.querySelectorAll(".cell")) {
    const { along, across } = sides(cell);
    const gap = along[0] - here.along[1];
    const aside = Math.max(across[0] - here.across[1], here.across[0] - across[1], 0);
    const askew = Math.abs(across[0] + across[1] - here.across[0] - here.across[1]) / 2000;
    if (cell !== from && gap > -1 && gap + 2 * aside + askew < least) [nearest, least] = [cell, gap + 2 * aside + askew];
  }
  if (nearest) {
    from.tabIndex = -1;
    nearest.tabIndex = 0;
    nearest.focus();
  }
}

const DIRECTIONS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

document.addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.type === "search") return;
  if (event.key === "Escape" || (event.key === "Backspace" && !event.altKey)) zoomOut();
  else if (event.key in DIRECTIONS && event.target.classList.contains("cell")) move(event.target, DIRECTIONS[event.key]);
  else return;
  event.preventDefault();
});

// ---- the table

const body = document.querySelector("#rows tbody");
const search = document.getElementById("search");
const words = [["class", "kind"], ["output", "output"]].filter(([, field]) => nodes.some((node) => node[field]));
let order = null; // the column that the table is sorted by, and whether from the largest
let limit = N_ROWS;

function fillTable() {
  const wanted = search.value.trim().toLowerCase();
  let found = nodes.filter((node) => `${node.name}\n${node.kind}`.toLowerCase().includes(wanted));
  if (order !== null) found = [...found].sort((one, other) => compare(one, other));
  body.replaceChildren(...found.slice(0, limit).map(rowOf));
  document.getElementById("count").textContent = `${Math.min(limit, found.length)} of ${found.length} modules`;
  document.getElementById("more").hidden = found.length <= limit;
}

function compare(one, other) {
  const value = (node) => (order < 0 ? node.name : Number(node.counted[order] ?? -1));
  return order < 0 ? (value(one) < value(other) ? -1 : 1) : value(other) - value(one);
}

function rowOf(node) {
  const name = element("button", { type: "button", title: node.name.slice(0, 200) }, element("bdi", {}, node.name || node.label));
  name.addEventListener("click", () => {
    zoom(node.children.length ? node : node.parent || node, node);
    map.scrollIntoView({ block: "nearest" });
  });
  return element(
    "tr",
    {},
    element("td", {}, name),
    ...words.map(([, field]) => element("td", {}, element("bdi", {}, node[field]))),
    ...data.measures.map(({ unit }, number) => {
      const figure = node.figures[number];
      const text = figure === null || Number(figure) === 0 ? "" : short(figure, unit);
      const cell = element("td", { className: "figure" }, node.counted[number] === figure || !text ? text : `(${text})`);
      if (text) cell.title = exact(figure, unit);
      return cell;
    })
  );
}

function sortable(title, column) {
  const button = element("button", { type: "button" }, title);
  button.addEventListener("click", () => {
    order = order === column ? null : column;
    document.querySelectorAll("#rows th").forEach((head) => head.removeAttribute("aria-sort"));
    if (order !== null) button.parentElement.setAttribute("aria-sort", column < 0 ? "ascending" : "descending");
    fillTable();
  });
  return element("th", { scope: "col", className: column < 0 ? "" : "figure" }, button);
}

// ---- the start

function offerMeasures() {
  document.getElementById("measures").append(
    ...data.measures.map(({ title }, number) => {
      const choice = element("input", { type: "radio", name: "measure", value: String(number), checked: number === 0 });
      choice.addEventListener("change", () => {
        measure = number;
        colourKinds();
        draw();
      });
      return element("label", {}, choice, title);
    })
  );
}

link();
offerMeasures();
colourKinds();
document
  .querySelector("#rows thead tr")
  .append(
    sortable("module", -1),
    ...words.map(([title]) => element("th", { scope: "col" }, title)),
    ...data.measures.map(({ title }, number) => sortable(title, number))
  );
search.addEventListener("input", () => {
  limit = N_ROWS;
  fillTable();
});
document.getElementById("more").addEventListener("click", () => {
  limit = Infinity;
  fillTable();
});
fillTable();
new ResizeObserver(draw).observe(map);
