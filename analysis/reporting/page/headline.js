// The first screen: what was run, three questions with a verdict and one result each, and where everything is.

function drawHeadline() {
  byId("run").textContent = data.run ?? "";
  const badge = data.badge ? element("p", { class: "badge" }, element("strong", {}, "PRELIMINARY"), ` ${data.badge}`) : null;
  const cards = data.cards.map((card) => element("article", { class: "card", "data-key": `card ${card.question}` },
    element("h2", {}, card.question), element("p", { class: "verdict" }, card.verdict), card.result ? element("p", { class: "result" }, [card.result, card.further].filter(Boolean).join("; ")) : null,
    card.why.length ? element("details", { "data-key": `why ${card.question}` }, element("summary", {}, "why?"), ...card.why.map((sentence) => element("p", {}, sentence))) : null));
  update(byId("answer"), badge, element("div", { class: "cards" }, ...cards), ...data.notes.map((note) => element("p", { class: "faint" }, note)));
}

/** The gap against batch size: the first of the charts of means, with the margin and what is free. */
function drawGap() {
  const found = data.gap_chart;
  byId("gap").hidden = !found;
  if (!found) return;
  const more = { zoom: state.gap, zoomed: (zoom) => { state.gap = zoom; remember(); } };
  lineChart(byId("gap"), { ...chartSpec(found, chartHeight(byId("gap"))), title: `${found.y} by batch size` }, more);
  const box = byId("gap").querySelector(".plot");
  if (charts.get(box).zoom !== state.gap) zoomTo(box, state.gap); // by the address, while the chart is as it was
}

/** The height of the two charts of the first screen. */
const chartHeight = (box) => Math.round(Math.min(330, Math.max(240, box.clientWidth * 0.5)));

function drawContents() {
  const running = byId("running").hidden ? [] : [["running", "Running trials"]];
  const places = [["map-section", "Map and filters"], ...running, ...data.sections.map((section) => [section.id, section.title]), ["all", "All trials"]];
  update(byId("contents"), ...places.map(([id, title]) => element("a", { href: `#${id}`, onclick: (event) => {
    event.preventDefault(); // the address is for the reader's choices
    byId(id).scrollIntoView({ block: "start" });
    byId(id).focus({ preventScroll: true });
  } }, title)));
}
