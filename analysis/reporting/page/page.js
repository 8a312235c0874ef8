// The whole: draws the page from the data, and where the page is served live, asks for news and draws again.

const POLL_MILLISECONDS = 2000;

function render() {
  drawAgain(() => {
    drawControls();
    drawFilters();
    drawMap();
    drawTable();
    drawTrial();
  });
}

/** Draws and gives the focus back to what had it, which is now another element of the same data-key. */
function drawAgain(draw) {
  const key = document.activeElement?.dataset?.key;
  draw();
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

function show(news) {
  data = news;
  document.title = `${data.name}: batch size, gap and sharpness`;
  byId("name").textContent = data.name;
  const progress = data.progress, bar = byId("bar");
  byId("state").textContent = progress ? `${progress.sentence}: ${Object.entries(progress.counts).map(([name, count]) => `${count} ${name}`).join(", ")}.` : "";
  bar.hidden = !progress?.is_running || !progress.planned;
  if (!bar.hidden) { bar.max = progress.planned; bar.value = progress.ended; }
  say(data.message);
  const partial = data.answer_trials < data.trials.trial_id.length;
  fill(byId("answer"), ...data.answer.map((sentence) => element("p", {}, sentence)),
    partial ? element("p", { class: "faint" }, data.answer_trials ? `Answer and statistics are of the first ${plural(data.answer_trials, "trial")} that ended; those of all follow.` : "The statistics follow.") : null);
  const empty = data.trials.trial_id.length === 0;
  for (const id of ["answer", "explore", "all"]) byId(id).hidden = empty;
  if (empty) return byId("sections").replaceChildren();
  settleChoices();
  drawAgain(drawSections);
  return render();
}

function say(message) {
  byId("notice").hidden = !message;
  byId("notice").textContent = message ?? "";
}

/** Asks the server for the data if it is newer than what is shown; it answers 304 and nothing else if it is not. */
async function poll(tag) {
  try {
    const answer = await fetch("data.json", { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.ok) { show(await answer.json()); tag = answer.headers.get("ETag"); }
    else if (answer.status === 304) say(data.message);
    else say(`The server answers ${answer.status}.`);
  } catch {
    say("The server does not answer; what is shown is the last that it said. Trying again.");
  }
  setTimeout(poll, POLL_MILLISECONDS, tag);
}

byId("map").addEventListener("keydown", mapKey);
byId("map").addEventListener("blur", () => point(-1));
addEventListener("hashchange", () => { if (data && trialOfAddress() !== state.trial) openTrial(trialOfAddress()); });
addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.filter[open]")) if (!menu.contains(event.target) && event.target.isConnected) menu.open = false;
});
addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.activeElement?.closest("details.filter[open]");
  if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
});
state.trial = trialOfAddress();
if (byId("data")) show(JSON.parse(byId("data").textContent));
else { say("Reading the sweep."); poll(null); }
