"use strict";
const $ = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children); // texts become text nodes: nothing is parsed as HTML
  return element;
};
const data = JSON.parse($("data").textContent);
for (const item of data.items) item.values = item.values.map((value) => (value === "inf" ? Infinity : value));

// theme: that of the system until the button is used
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const sayTheme = () => {
  $("theme").textContent = isDark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", isDark() ? "Light theme" : "Dark theme");
};
$("theme").hidden = false;
$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("reddiff-theme", theme); } catch { /* storage may be shut off */ }
  sayTheme();
});
dark.addEventListener("change", sayTheme);
sayTheme();

// sliders
const label = (kind) => data.kinds[kind];
function slide(compare) {
  const input = compare.querySelector("input");
  input.hidden = false;
  input.addEventListener("input", () => compare.style.setProperty("--x", `${input.value}%`));
}
document.querySelectorAll(".compare").forEach(slide);

function compareOf(item, left, right, at) {
  const image = (kind) => make("img", {
    src: item.pictures[kind], alt: label(kind), className: Math.max(...item.size) <= 128 ? "pixel" : "",
  });
  const input = make("input", { type: "range", min: 0, max: 100, step: 1, value: at });
  input.setAttribute("aria-label", `${label(left)} to the left, ${label(right)} to the right`);
  const tags = [make("span", { className: "tag", textContent: label(left) }),
    make("span", { className: "tag right", textContent: label(right) })];
  tags.forEach((tag) => tag.setAttribute("aria-hidden", "true"));
  const compare = make("div", { className: "compare" }, image(right), image(left), ...tags, input);
  compare.style.setProperty("--ratio", `${item.size[0]} / ${item.size[1]}`);
  compare.style.setProperty("--x", `${at}%`);
  slide(compare);
  return compare;
}

const say = (value, metric) => {
  if (value === null) return "-";
  return value === Infinity ? "∞" : value.toFixed(metric.digits) + (metric.unit ? ` ${metric.unit}` : "");
};

// the viewer: one image, two of its pictures against each other
const viewer = $("viewer");
let order = []; // items in the order shown
let current = null;
let opener = null;

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, textContent: text })));
  if (chosen !== undefined) select.value = chosen;
}

function draw() {
  const at = viewer.querySelector(".compare input")?.value ?? 50;
  const kinds = Object.keys(current.pictures);
  $("viewer-compare").replaceChildren(
    kinds.length ? compareOf(current, $("left").value, $("right").value, at) : make("p", { textContent: current.note }));
}

function show(item) {
  current = item;
  const kinds = Object.keys(item.pictures);
  const pick = (wished, fallbacks) => [wished, ...fallbacks, "restored"].find((kind) => kinds.includes(kind));
  const entries = kinds.map((kind) => [kind, label(kind)]);
  options($("left"), entries, pick($("left").value, ["measurement", "reference"]));
  options($("right"), entries, pick($("right").value === $("left").value ? "" : $("right").value, []));
  $("viewer-tools").hidden = kinds.length < 2;
  $("viewer-key").textContent = item.key;
  const rows = [["shard", item.shard], ...data.metrics.map((metric, i) => [metric.label, say(item.values[i], metric)]), ...item.meta];
  $("viewer-values").replaceChildren(...rows.map(([name, value]) =>
    make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
  const place = order.indexOf(item);
  $("previous").disabled = place <= 0;
  $("next").disabled = place < 0 || place >= order.length - 1;
  draw();
}

function open(item, from) {
  opener = from;
  $("left").replaceChildren();
  $("right").replaceChildren();
  show(item);
  viewer.showModal();
}
$("left").addEventListener("change", draw);
$("right").addEventListener("change", draw);
$("previous").addEventListener("click", () => show(order[order.indexOf(current) - 1]));
$("next").addEventListener("click", () => show(order[order.indexOf(current) + 1]));
viewer.addEventListener("close", () => opener?.focus());
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

// best, median and worst open with their large pictures
const byRow = new Map(data.items.map((item) => [item.row, item]));
document.querySelectorAll(".contact li").forEach((li) => {
  const item = byRow.get(Number(li.dataset.row));
  const button = li.querySelector(".open");
  if (!item || !button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const pictures = {};
    li.querySelectorAll("figure").forEach((figure) => { pictures[figure.dataset.kind] = figure.querySelector("img").src; });
    open({ ...item, pictures }, button);
  });
});

// the grid: a button an image, made once; its picture is set when it comes near the screen
if (data.items.length) {
  const grid = $("grid");
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting && !target.querySelector("img")) paint(target);
  }, { rootMargin: "600px 0px" });
  const nodes = new Map();

  function paint(li) {
    const item = li.item;
    const source = item.pictures[$("kind").value];
    const frame = li.querySelector(".frame");
    frame.replaceChildren(...(source ? [make("img", {
      src: source, alt: "", decoding: "async", className: Math.max(...item.size) <= 128 ? "pixel" : "",
    })] : []));
  }

  for (const item of data.items) {
    const value = make("span");
    const button = make("button", { type: "button" }, make("span", { className: "frame" }),
      make("span", { className: "line" }, make("span", { className: "key" }, make("bdi", { textContent: item.key })), value));
    button.setAttribute("aria-label", [item.key, ...data.metrics.map((metric, i) => `${metric.label} ${say(item.values[i], metric)}`)].join(", "));
    button.addEventListener("click", () => open(item, button));
    const li = make("li", { item }, button);
    nodes.set(item, { li, value });
    near.observe(li);
  }

  const kinds = Object.keys(data.kinds).filter((kind) => data.items.some((item) => kind in item.pictures));
  const metrics = data.metrics.map((metric, i) => [i, metric.label]);
  options($("kind"), kinds.map((kind) => [kind, label(kind)]), "restored");
  options($("sort"), [...metrics, [-1, "Key"]], data.by);
  options($("metric"), metrics, Math.max(data.by, 0));
  $("between").hidden = !metrics.length;
  const bestFirst = (i) => (i >= 0 && data.metrics[i].better >= 0 ? "-1" : "1");
  $("order").value = bestFirst(data.by);

  function arrange() {
    const by = Number($("sort").value);
    const sign = Number($("order").value);
    const filter = Number($("metric").value);
    const low = $("low").value === "" ? -Infinity : Number($("low").value);
    const high = $("high").value === "" ? Infinity : Number($("high").value);
    const bounded = low !== -Infinity || high !== Infinity;
    const text = $("text").value.toLowerCase();
    const compare = (a, b) => {
      if (by < 0) return sign * a.key.localeCompare(b.key, undefined, { numeric: true });
      const [x, y] = [a.values[by], b.values[by]];
      if (x === null || y === null) return (x === null) - (y === null); // without a value: last
      return x === y ? 0 : sign * (x < y ? -1 : 1);
    };
    order = data.items.filter((item) => {
      // as it is shown, so that what is typed from the page is found
      const value = item.values[filter] == null ? null : Number(item.values[filter].toFixed(data.metrics[filter].digits));
      return (!bounded || (value !== null && value >= low && value <= high))
        && (!text || `${item.shard}/${item.key}`.toLowerCase().includes(text));
    }).sort(compare);
    for (const item of order) nodes.get(item).value.textContent = by < 0 ? "" : say(item.values[by], { ...data.metrics[by], unit: "" });
    grid.replaceChildren(...order.map((item) => nodes.get(item).li));
    $("shown").textContent = `${order.length.toLocaleString("en")} of ${data.items.length.toLocaleString("en")} shown`;
  }

  $("tools").hidden = false;
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("tools").addEventListener("reset", () => setTimeout(() => {
    options($("kind"), kinds.map((kind) => [kind, label(kind)]), "restored");
    $("sort").value = data.by;
    $("metric").value = Math.max(data.by, 0);
    $("order").value = bestFirst(data.by);
    arrange();
  }));
  $("sort").addEventListener("input", () => { $("order").value = bestFirst(Number($("sort").value)); });
  for (const id of ["sort", "order", "metric", "low", "high", "text"]) $(id).addEventListener("input", arrange);
  $("kind").addEventListener("input", arrange);
  $("kind").addEventListener("input", () => {
    for (const { li } of nodes.values()) if (li.querySelector("img")) paint(li);
  });
  arrange();
}
