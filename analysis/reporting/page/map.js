// The map: a point per trial, gap against sharpness; hover, keyboard, click; its controls, filters and legend.

const map = { rows: [], left: [], top: [], at: -1, plot: null };

const suggestsLog = (name) => {
  const values = (data.trials[name] ?? []).filter((value) => typeof value === "number");
  const above = values.filter((value) => value > 0);
  return above.length > 0 && above.length >= 0.9 * values.length && Math.max(...above) / Math.min(...above) > 8;
};
const isLogX = () => state.logX ?? suggestsLog(state.x);

/** Chooses what the reader has not chosen, and drops what the data no longer has. */
function settleChoices() {
  const known = (name, kinds) => name && fieldsOf(...kinds).some((found) => found.name === name);
  const first = (kind) => fieldsOf(kind)[0]?.name;
  if (!known(state.x, ["measure", "result", "axis"])) state.x = first("measure") ?? first("result");
  if (!known(state.y, ["gap", "result"])) state.y = first("gap") ?? first("result");
  if (!known(state.colour, ["axis"])) state.colour = first("axis");
  if (!known(state.shape, ["axis"])) {
    const axes = fieldsOf("axis").map((axis) => axis.name);
    state.shape = ["remedy", "learning_rate", ...axes].find((name) => axes.includes(name) && name !== state.colour) ?? first("axis");
  }
}

function drawMap() {
  const { x, y } = state, logX = isLogX(), logY = state.logY;
  const usable = (row) => {
    const [left, top] = [valueOf(x, row), valueOf(y, row)];
    return typeof left === "number" && typeof top === "number" && (!logX || left > 0) && (!logY || top > 0);
  };
  const visible = visibleRows();
  map.rows = visible.filter(usable).sort((a, b) => valueOf(x, a) - valueOf(x, b));
  const xs = map.rows.map((row) => scaled(x, row)), ys = map.rows.map((row) => scaled(y, row));
  const colourValues = valuesOf(state.colour), shapeValues = valuesOf(state.shape);
  const box = byId("map");
  map.at = -1;
  byId("tip").hidden = true;
  map.plot = chart(box, (width) => {
    const height = Math.round(Math.min(480, Math.max(300, width * 0.6)));
    const options = frame({
      width, height, x: field(x).label, y: field(y).label, logX, logY, rangeX: range(xs, logX), rangeY: range(logY ? ys : [...ys, 0], logY),
    });
    const palette = colours(colourValues);
    const looks = map.rows.map((row) => [palette[colourValues.indexOf(valueOf(state.colour, row))], shapeValues.indexOf(valueOf(state.shape, row)) % SHAPES.length]);
    options.series = [{}, { paths: () => null, points: { show: false } }];
    options.legend = { show: false };
    options.cursor = { x: false, y: false, points: { show: false }, drag: { x: true, y: true, dist: 5, uni: 30 } };
    options.hooks = { draw: [(plot) => drawPoints(plot, xs, ys, looks)], ready: [listen] };
    return [options, [xs, ys]];
  });
  drawLegend(colourValues, shapeValues);
  const left = visible.length - map.rows.length;
  const gone = left ? ` ${plural(left, "trial")} without a value${logX || logY ? " above 0" : ""} not shown.` : "";
  const rank = data.correlations[y]?.[x];
  const partial = visible.length < data.trials.trial_id.length ? " (of all trials, not only those shown)" : "";
  byId("map-note").textContent = `${plural(map.rows.length, "trial")} shown.${gone}${rank ? ` ${rank.replace(/\.$/, "")}${partial}.` : ""}`;
  box.setAttribute("aria-label", `Map of ${plural(map.rows.length, "trial")}: ${field(y).label} against ${field(x).label}`);
}

function drawPoints(plot, xs, ys, looks) {
  const context = plot.ctx, pixel = devicePixelRatio, box = plot.bbox;
  context.save();
  context.beginPath();
  context.rect(box.left - 7, box.top - 7, box.width + 14, box.height + 14);
  context.clip();
  if (!state.logY) drawZero(plot);
  const crowded = map.rows.length > 1500; // then rings would cover the colours
  const size = (crowded ? 3 : 4.6) * pixel, edge = css("--back"), ring = css("--text");
  map.left = []; map.top = [];
  map.rows.forEach((row, index) => {
    const left = plot.valToPos(xs[index], "x", true), top = plot.valToPos(ys[index], "y", true);
    map.left.push((left - box.left) / pixel);
    map.top.push((top - box.top) / pixel);
    const [colour, shape] = looks[index], hollow = valueOf("off_target", row), pale = valueOf("is_reference", row);
    context.globalAlpha = pale ? 0.5 : 0.92;
    drawMarker(context, shape, left, top, pale ? size * 0.75 : size, hollow ? null : colour, hollow ? colour : edge, (hollow ? 1.5 : 0.6) * pixel);
    if (valueOf("is_switched", row)) {
      context.globalAlpha = crowded ? 0.25 : 0.8;
      drawMarker(context, 0, left, top, size * 1.65, null, ring, (crowded ? 0.6 : 0.9) * pixel);
    }
  });
  context.restore();
  placeRing(plot.over, "selected", map.rows.indexOf(data.trials.trial_id.indexOf(state.trial)));
  placeRing(plot.over, "hovered", map.at);
}

/** Puts the ring of a kind around a point; -1 takes it away. */
function placeRing(over, kind, index) {
  let ring = over.querySelector(`.${kind}`);
  if (!ring) over.append((ring = element("div", { class: `ring ${kind}` })));
  ring.hidden = index < 0;
  if (index >= 0) { ring.style.left = `${map.left[index]}px`; ring.style.top = `${map.top[index]}px`; }
}

function listen(plot) {
  plot.over.addEventListener("mousemove", (event) => point(nearest(event.offsetX, event.offsetY, 16)));
  plot.over.addEventListener("mouseleave", () => point(-1));
  plot.over.addEventListener("click", (event) => {
    const index = nearest(event.offsetX, event.offsetY, 22);
    if (index >= 0) openTrial(data.trials.trial_id[map.rows[index]]);
  });
}

function nearest(left, top, within) {
  let best = -1, least = within * within;
  for (let index = 0; index < map.rows.length; index += 1) {
    const distance = (map.left[index] - left) ** 2 + (map.top[index] - top) ** 2;
    if (distance < least) { least = distance; best = index; }
  }
  return best;
}

/** Shows what the point is; -1 shows nothing. */
function point(index) {
  if (index === map.at) return;
  map.at = index;
  const tip = byId("tip"), over = map.plot.over;
  placeRing(over, "hovered", index);
  over.style.cursor = index < 0 ? "" : "pointer";
  tip.hidden = index < 0;
  if (index < 0) return;
  const row = map.rows[index];
  const lines = [...new Set(["test_accuracy", state.y, state.x])].map((name) => `${field(name).label}: ${cell(name, row)}`);
  const marks = [["is_reference", "reference"], ["off_target", "off target"]].filter(([name]) => valueOf(name, row)).map(([, text]) => text);
  fill(tip,
    element("strong", {}, nameOf(row)), ...lines.map((line) => element("div", {}, line)),
    marks.length ? element("div", {}, marks.join(", ")) : null, element("code", {}, data.trials.trial_id[row]));
  const figure = tip.parentElement.getBoundingClientRect(), inside = over.getBoundingClientRect();
  const left = inside.left - figure.left + map.left[index], top = inside.top - figure.top + map.top[index];
  tip.style.left = `${Math.max(0, Math.min(left + 14, figure.width - tip.offsetWidth))}px`;
  tip.style.top = `${top + 16}px`;
}

/** Arrow keys go to the next point along an axis, Home and End to its ends, Enter opens, Escape lets go. */
function mapKey(event) {
  const step = { ArrowRight: ["left", 1], ArrowLeft: ["left", -1], ArrowUp: ["top", -1], ArrowDown: ["top", 1] }[event.key];
  const last = map.rows.length - 1;
  if (step && last >= 0) {
    const [along, sign] = step;
    const order = map.rows.map((_, index) => index).sort((a, b) => map[along][a] - map[along][b] || a - b);
    const rank = map.at < 0 ? (sign > 0 ? -1 : last + 1) : order.indexOf(map.at);
    point(order[Math.max(0, Math.min(last, rank + sign))]);
  } else if (event.key === "Home" || event.key === "End") point(event.key === "Home" ? Math.min(0, last) : last);
  else if ((event.key === "Enter" || event.key === " ") && map.at >= 0) openTrial(data.trials.trial_id[map.rows[map.at]], byId("map"));
  else if (event.key === "Escape") point(-1);
  else return;
  event.preventDefault();
}

function drawLegend(colourValues, shapeValues) {
  const palette = colours(colourValues), text = css("--text");
  const group = (title, entries) => element("div", { class: "keys" }, element("span", { class: "faint" }, title), ...entries);
  const key = (icon, label) => element("span", { class: "key" }, icon, label);
  const groups = [];
  if (state.colour === state.shape)
    groups.push(group(field(state.colour).label, colourValues.map((value, rank) => key(shapeIcon(rank % SHAPES.length, palette[rank]), shown(value)))));
  else {
    groups.push(group(field(state.colour).label, colourValues.map((value, rank) => key(shapeIcon(0, palette[rank]), shown(value)))));
    groups.push(group(field(state.shape).label, shapeValues.map((value, rank) => key(shapeIcon(rank % SHAPES.length, text), shown(value)))));
  }
  const has = (name) => map.rows.some((row) => valueOf(name, row));
  const marks = [];
  if (has("is_reference")) marks.push(key(null, "pale: reference, gap 0 by construction"));
  if (has("is_switched")) marks.push(key(shapeIcon(0, text, true), "ring: batch size switched"));
  if (has("off_target")) marks.push(key(null, "hollow: off target"));
  if (marks.length) groups.push(group("trial", marks));
  byId("legend").replaceChildren(...groups);
}

function drawControls() {
  const choice = (label, name, groups) => element("label", {}, label, element("select", {
    "data-key": `choose ${name}`,
    onchange: (event) => { state[name] = event.target.value; if (name === "x") state.logX = null; render(); },
  }, ...groups.map(([title, fields]) => {
    const options = fields.map((found) => element("option", { value: found.name, selected: found.name === state[name] }, found.label));
    return title ? element("optgroup", { label: title }, ...options) : options[0] && element("optgroup", { label: "choose" }, ...options);
  }).filter((found) => found?.childElementCount)));
  const tick = (label, checked, change) => element("label", { class: "tick" }, element("input", {
    type: "checkbox", checked, "data-key": label, onchange: (event) => { change(event.target.checked); render(); },
  }), label);
  const numeric = fieldsOf("axis").filter((axis) => data.trials[axis.name].every((value) => value === null || typeof value === "number"));
  byId("controls").replaceChildren(
    choice("x", "x", [["sharpness", fieldsOf("measure")], ["results", fieldsOf("result")], ["configuration", numeric]]),
    tick("log x", isLogX(), (on) => { state.logX = on; }),
    choice("y", "y", [["gaps", fieldsOf("gap")], ["results", fieldsOf("result")]]),
    tick("log y", state.logY, (on) => { state.logY = on; }),
    choice("colour", "colour", [["axes", fieldsOf("axis")]]),
    choice("shape", "shape", [["axes", fieldsOf("axis")]]));
}

function drawFilters() {
  const open = new Set([...byId("filters").querySelectorAll("details[open]")].map((found) => found.dataset.axis));
  const axes = fieldsOf("axis").filter((axis) => valuesOf(axis.name).length > 1);
  const filters = axes.map((axis) => {
    const values = valuesOf(axis.name), hidden = (state.hidden[axis.name] ??= new Set());
    const kept = values.filter((value) => !hidden.has(value));
    const summary = kept.length === values.length ? "all" : kept.length > 4 ? `${kept.length} of ${values.length}` : kept.map((value) => shown(value)).join(", ") || "no value";
    const all = (on) => () => { state.hidden[axis.name] = new Set(on ? [] : values); changeFilter(); };
    return element("details", { class: "filter", "data-axis": axis.name, open: open.has(axis.name) },
      element("summary", { "data-key": `filter ${axis.name}`, class: kept.length < values.length ? "on" : null }, `${axis.label}: ${summary}`),
      element("div", { class: "menu" },
        element("div", { class: "row" },
          element("button", { type: "button", "data-key": `all ${axis.name}`, onclick: all(true) }, "all"),
          element("button", { type: "button", "data-key": `none ${axis.name}`, onclick: all(false) }, "none")),
        ...values.map((value) => element("label", { class: "tick" }, element("input", {
          type: "checkbox", checked: !hidden.has(value), "data-key": `value ${axis.name} ${value}`,
          onchange: (event) => { if (event.target.checked) hidden.delete(value); else hidden.add(value); changeFilter(); },
        }), shown(value)))));
  });
  byId("filters").replaceChildren(...filters);
  const note = byId("selection");
  const filtered = state.where || Object.values(state.hidden).some((values) => values.size);
  note.hidden = !filtered;
  note.replaceChildren(
    `${plural(visibleRows().length, "trial")} of ${data.trials.trial_id.length} chosen${state.where ? `: ${state.where.label}` : ""}. `,
    element("button", { type: "button", "data-key": "clear", onclick: () => { state.where = null; state.hidden = {}; changeFilter(); } }, "show all"));
}

function changeFilter() {
  state.page = 0;
  render();
}
