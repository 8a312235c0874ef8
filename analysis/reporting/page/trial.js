// One trial: its configuration and results, its curves, and where it stands in the tables.

/** Opens the trial: the address gets #trial=ID, so that it can be linked and the back button closes it. */
function openTrial(id, from = document.activeElement) {
  openTrial.from = from?.dataset?.key ?? from?.id;
  state.trial = id;
  history.replaceState(null, "", id ? `#trial=${encodeURIComponent(id)}` : location.pathname + location.search);
  drawTrial();
  byId("tip").hidden = true;
  if (map.plot) placeRing(map.plot.over, "selected", map.rows.indexOf(data.trials.trial_id.indexOf(id)));
  markRow();
  const panel = byId("trial");
  const isBeside = matchMedia("(min-width: 64rem)").matches; // then the reader can go on to the next point
  if (id && !(isBeside && from?.id === "map")) { panel.focus({ preventScroll: true }); panel.scrollIntoView({ block: "start" }); }
  if (!id) (document.querySelector(`[data-key="${CSS.escape(openTrial.from ?? "")}"]`) ?? byId("map")).focus({ preventScroll: true });
}

function trialOfAddress() {
  const found = /^#trial=(.+)$/.exec(location.hash);
  return found ? decodeURIComponent(found[1]) : null;
}

function drawTrial() {
  const panel = byId("trial"), row = data.trials.trial_id.indexOf(state.trial);
  panel.classList.toggle("empty", row < 0);
  if (row < 0) return fill(panel, element("p", { class: "faint" }, "Hover over a point, or focus the map and use the arrow keys, for a trial’s numbers. Click it, or press Enter, and its curves stand here."));
  const list = (...kinds) => element("dl", {}, ...fieldsOf(...kinds).filter((found) => !["error", "trial_id"].includes(found.name))
    .filter((found) => valueOf(found.name, row) !== null && valueOf(found.name, row) !== "" || found.kind === "axis")
    .flatMap((found) => [element("dt", {}, found.label), element("dd", { "data-field": found.name }, cell(found.name, row))]));
  const error = valueOf("error", row);
  const order = visibleRows(), at = order.indexOf(row);
  const step = (label, to) => element("button", { type: "button", "data-key": label, disabled: order[to] === undefined,
    onclick: () => openTrial(data.trials.trial_id[order[to]]) }, label);
  fill(panel,
    element("div", { class: "row" }, step("previous", at - 1), step("next", at + 1),
      element("button", { type: "button", class: "last", "data-key": "close", onclick: () => openTrial(null, null) }, "close")),
    element("h3", {}, nameOf(row)),
    element("p", { class: "faint" }, "trial_id ", element("code", {}, state.trial), ", a row of trials.parquet"),
    error ? element("details", { open: true }, element("summary", {}, "error"), element("pre", {}, error)) : null,
    ...curveBoxes(row),
    list("result", "gap", "measure"),
    element("details", {}, element("summary", {}, "configuration and where it ran"), list("axis", "fact")));
  drawCurves(row);
  return undefined;
}

function curveBoxes(row) {
  const known = data.curves.trials[row];
  const boxes = known ? ["loss", "accuracy"].map((kind) => element("div", { class: "chart", "data-chart": kind })) : [];
  const kept = known ? known.values[0].length : 0;
  const points = known && !known.values[0].every(Number.isInteger) ? "logging point" : "epoch";
  if (known) boxes.push(element("p", { class: "faint" }, known.epochs > kept ? `Curves: ${kept} of ${plural(known.epochs, points)}, evenly spaced.` : `Curves: ${plural(known.epochs, points)}.`));
  return [...boxes, ...(data.profiles[state.trial] ?? []).map((_, index) => element("div", { class: "chart", "data-chart": `profile ${index}` }))];
}

/** A line per column of the trial's epochs, as lineChart wants it. */
function curve(row, name, label, factor = 1) {
  const { values } = data.curves.trials[row], at = data.curves.names.indexOf(name);
  if (at < 0) return null;
  const column = values[at];
  const points = values[0].map((epoch, index) => [epoch, Array.isArray(column) ? column[index] : column]);
  return { name: label, points: points.filter(([, value]) => value !== null).map(([epoch, value]) => [epoch, value * factor]) };
}

function drawCurves(row) {
  const panel = byId("trial"), box = (kind) => panel.querySelector(`[data-chart="${kind}"]`);
  const draw = (kind, y, lines, more) => {
    const found = lines.filter((line) => line?.points.length);
    if (found.length) lineChart(box(kind), { x: "epoch", y, height: 210, markers: false, lines: found, ...more });
    else box(kind).remove();
  };
  if (data.curves.trials[row]) {
    draw("loss", "loss [nats]", [curve(row, "train_loss", "train"), curve(row, "test_loss", "test")], { logY: true });
    draw("accuracy", "accuracy [%]", [curve(row, "train_accuracy", "train", 100), curve(row, "test_accuracy", "test", 100)]);
  }
  (data.profiles[state.trial] ?? []).forEach(({ title, x, log, lines }, index) =>
    draw(`profile ${index}`, title, Object.entries(lines).map(([name, points]) => ({ name, points })), { x, logY: log }));
}
