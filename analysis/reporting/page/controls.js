// What the reader chooses: the axes of the map, filters, search, ranges.

function drawControls() {
  const look = choices();
  const choose = (name, value) => {
    state[name] = value;
    if (name === "x" || name === "y") { state[name === "x" ? "logX" : "logY"] = null; state.zoom = {}; }
    render();
  };
  const choice = (label, name, groups) => element("label", {}, label, element("select", { "data-key": `choose ${name}`, onchange: (event) => choose(name, event.target.value) },
    ...groups.filter(([, fields]) => fields.length).map(([title, fields]) => element("optgroup", { label: title },
      ...fields.map((found) => element("option", { value: found.name, selected: found.name === look[name] }, found.label))))));
  const tick = (label, checked, change) => element("label", { class: "tick" }, element("input", {
    type: "checkbox", checked, "data-key": label, onchange: (event) => change(event.target.checked),
  }), label);
  const scale = (name) => (on) => { state[name] = on; state.zoom = {}; render(); };
  const numeric = fieldsOf("axis").filter((axis) => data.trials[axis.name].every((value) => value === null || typeof value === "number"));
  update(byId("controls"),
    choice("x", "x", [["sharpness", fieldsOf("measure")], ["results", fieldsOf("result")], ["configuration", numeric]]),
    tick("log x", look.logX, scale("logX")),
    choice("y", "y", [["gaps", fieldsOf("gap")], ["results", fieldsOf("result")]]),
    tick("log y", look.logY, scale("logY")),
    choice("colour", "colour", [["axes", fieldsOf("axis")]]),
    choice("shape", "shape", [["axes", fieldsOf("axis")]]),
    tick("drag filters", map.brush, (on) => { map.brush = on; }),
    Object.keys(state.zoom).length ? element("button", { type: "button", "data-key": "zoom out", onclick: () => { zoomTo(byId("map"), {}); drawControls(); } }, "zoom out") : null);
}

function drawFilters() {
  const axes = fieldsOf("axis").filter((axis) => valuesOf(axis.name).length > 1);
  const filters = axes.map((axis) => {
    const values = valuesOf(axis.name), hidden = state.hidden[axis.name] ?? new Set();
    const kept = values.filter((value) => !hidden.has(value));
    const summary = kept.length === values.length ? "all" : kept.length > 4 ? `${kept.length} of ${values.length}` : kept.map((value) => brief(shown(value))).join(", ") || "no value";
    const hide = (found) => { state.hidden[axis.name] = new Set(found); changeFilter(); };
    return menu(`filter ${axis.name}`, `${axis.label}: ${summary}`, kept.length < values.length,
      element("div", { class: "row" },
        element("button", { type: "button", "data-key": `all ${axis.name}`, onclick: () => hide([]) }, "all"),
        element("button", { type: "button", "data-key": `none ${axis.name}`, onclick: () => hide(values) }, "none")),
      ...values.map((value) => element("label", { class: "tick", title: shown(value) }, element("input", {
        type: "checkbox", checked: !hidden.has(value), "data-key": `value ${axis.name} ${value}`,
        onchange: (event) => hide(event.target.checked ? [...hidden].filter((other) => other !== value) : [...hidden, value]),
      }), brief(shown(value)))));
  });
  const search = element("input", { type: "search", "data-key": "search", value: state.search, "aria-label": "Search trials", placeholder: "trial, text or batch_size=64", spellcheck: "false",
    oninput: (event) => { state.search = event.target.value; changeFilter(); } });
  update(byId("filters"), search, rangeMenu(), ...filters);
  const end = (value) => (Number.isFinite(value) ? shown(value) : value < 0 ? "−∞" : "∞");
  const note = byId("selection"), ranges = Object.entries(state.ranges).map(([name, [low, high]]) => `${field(name)?.label ?? name} ${end(low)} to ${end(high)}`);
  note.hidden = !isFiltered();
  update(note, `${visibleRows().length} of ${plural(data.trials.trial_id.length, "trial")} shown${[...(state.where ? [state.where.label] : []), ...ranges].map((text) => `; ${text}`).join("")}. `,
    element("button", { type: "button", "data-key": "clear", onclick: clearFilters }, "show all"));
}

/** A button with a list to choose from, which stays open until the reader leaves it. */
function menu(key, label, on, ...content) {
  return element("details", { class: "filter", "data-key": `menu ${key}` }, element("summary", { "data-key": key, class: on ? "on" : null }, label),
    element("div", { class: "menu" }, ...content));
}

/** From and to of every column of numbers. */
function rangeMenu() {
  const numbers = data.fields.filter((found) => found.kind !== "key" && data.trials[found.name].some((value) => typeof value === "number"));
  const end = (found, place) => element("input", { type: "number", step: "any", "aria-label": `${found.label}, ${place ? "to" : "from"}`, "data-key": `range ${place} ${found.name}`,
    value: Number.isFinite(state.ranges[found.name]?.[place]) ? state.ranges[found.name][place] : null,
    onchange: (event) => {
      const ends = [...(state.ranges[found.name] ?? [-Infinity, Infinity])];
      ends[place] = event.target.value === "" ? (place ? Infinity : -Infinity) : Number(event.target.value);
      if (ends.every((one) => Math.abs(one) === Infinity)) delete state.ranges[found.name];
      else state.ranges[found.name] = ends;
      changeFilter();
    } });
  const made = menu("filter ranges", "ranges", Object.keys(state.ranges).length > 0,
    ...numbers.map((found) => element("div", { class: "range", "data-key": `range ${found.name}` }, element("span", {}, found.label), end(found, 0), "to", end(found, 1))));
  return made;
}

function clearFilters() {
  Object.assign(state, { where: null, hidden: {}, ranges: {}, search: "" });
  changeFilter();
}

function changeFilter() {
  state.page = 0;
  render();
}
