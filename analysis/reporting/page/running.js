// On the live page: the curves so far of trials that are still running. They are in no table and no statistic yet.

const MOST_RUNNING = 28; // colours and dashes tell so many lines apart

function drawRunning({ metric, trials, curves }) {
  const section = byId("running"), rows = trials.map((_, row) => row).filter((row) => curves.trials[row]).slice(0, MOST_RUNNING);
  const was = section.hidden;
  section.hidden = rows.length === 0;
  if (was !== section.hidden) drawContents();
  if (section.hidden) return update(section);
  const found = curveCharts(metric, (name, factor) => rows.map((row, place) => {
    const { label, state } = trials[row];
    return { points: [], ...curve(curves, row, name, letter(place), factor), name: letter(place), full: `${label}, running` };
  }));
  update(section,
    element("h2", {}, `Running: ${plural(trials.length, "trial")}`),
    element("p", { class: "faint" }, "Curves so far. A trial enters the tables and the verdicts when it ends.", rows.length < trials.length ? ` The first ${rows.length} are shown.` : ""),
    element("ul", { class: "plain" }, ...rows.map((row, place) => element("li", { "data-running": trials[row].trial_id },
      shapeIcon(1, lineColour(place)), ` ${letter(place)}: ${trials[row].label}, running: ${trials[row].state}`))),
    curveBoxesOf("running", found));
  return drawCurveCharts(section, "running", found);
}
