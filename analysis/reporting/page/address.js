// The reader's choices in the address, so that a view can be linked and reloaded, and the back button closes a trial.
//
// #trial=ID&x=COLUMN&hide.batch_size=[16]&range.box_sharpness=[0.1,null]&zoom={"x":[1,2]}&gap={"y":[0,1]}&sort=-test_accuracy&...
// Only what differs from the default is there. Entries of ours in the history have a state; others were typed or linked.

const TEXTS = ["x", "y", "colour", "shape", "search", "trial"];
const VALUES = ["logX", "logY", "zoom", "gap", "where", "columns", "compared"];

function addressOf() {
  const found = new URLSearchParams();
  if (state.trial) found.set("trial", state.trial);
  for (const name of TEXTS) if (state[name]) found.set(name, state[name]);
  const usual = unchosen();
  for (const name of VALUES) if (JSON.stringify(state[name]) !== JSON.stringify(usual[name])) found.set(name, JSON.stringify(state[name]));
  for (const [axis, values] of Object.entries(state.hidden)) if (values.size) found.set(`hide.${axis}`, JSON.stringify([...values]));
  for (const [name, ends] of Object.entries(state.ranges)) found.set(`range.${name}`, JSON.stringify(ends));
  if (state.sort) found.set("sort", (state.descending ? "-" : "") + state.sort);
  if (state.page) found.set("page", state.page);
  return String(found);
}

/** Puts the choices in the address; `push` makes an entry of the history, which the back button leaves again. */
function remember(push = false) {
  const hash = addressOf();
  const address = location.pathname + location.search + (hash ? `#${hash}` : "");
  if (push) history.pushState({ opened: true }, "", address);
  else if (!history.state || location.hash.replace(/^#/, "") !== hash) history.replaceState(history.state ?? {}, "", address);
}

/** The choices that the address tells; what it does not understand is left out. */
function recall() {
  const found = unchosen();
  for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
    const [kind, name] = key.includes(".") ? [key.slice(0, key.indexOf(".")), key.slice(key.indexOf(".") + 1)] : [key, null];
    try {
      if (TEXTS.includes(kind)) found[kind] = text;
      else if (VALUES.includes(kind)) found[kind] = checked[kind](JSON.parse(text));
      else if (kind === "hide" && name) found.hidden[name] = new Set(listed(JSON.parse(text)));
      else if (kind === "range" && name) found.ranges[name] = bounds(listed(JSON.parse(text)));
      else if (kind === "sort") Object.assign(found, { sort: text.replace(/^-/, ""), descending: text.startsWith("-") });
      else if (kind === "page") found.page = Math.max(0, Math.trunc(Number(text)) || 0);
    } catch { /* not written by this page */ }
  }
  Object.assign(state, found);
}
const listed = (value) => (Array.isArray(value) ? value : []);
const bounds = ([low, high]) => [typeof low === "number" ? low : -Infinity, typeof high === "number" ? high : Infinity];
const ends = (value) => listed(value).length === 2 && value.every((end) => typeof end === "number") && value[0] < value[1];
const zoomed = (value) => Object.fromEntries(Object.entries(value).filter(([axis, found]) => ["x", "y"].includes(axis) && ends(found)));
const checked = {
  logX: Boolean, logY: Boolean,
  zoom: zoomed,
  gap: zoomed,
  where: (value) => (value && typeof value.label === "string" && value.where && typeof value.where === "object" ? { label: value.label, where: value.where } : null),
  compared: (value) => listed(value).filter((id) => typeof id === "string"),
  columns: (value) => (Array.isArray(value) ? value.filter((name) => typeof name === "string") : null),
};

addEventListener("popstate", (event) => {
  if (!data) return;
  if (event.state) { // an entry of ours: back or forward opens or closes a trial and leaves the other choices
    const was = state.trial;
    state.trial = new URLSearchParams(location.hash.slice(1)).get("trial");
    showTrial(was);
    remember();
  } else {
    recall();
    remember();
    drawGap();
    render();
    showTrial(null);
  }
});
