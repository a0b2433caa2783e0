// A run, live: follows its events and draws them. What sites and studies say is only ever put in as text.
"use strict";

const root = document.getElementById("run");
const words = JSON.parse(root.dataset.words);
const state = { sites: [], rounds: [], answered: [], loss: [], primary: [], refused: [], log: [] };
const [NUMBER, BEGAN, ENDED, LOSS, PRIMARY, UP, DOWN, NOTE] = [0, 1, 2, 3, 4, 5, 6, 7]; // of a round
const MANY_SITES = 12; // more than these are drawn alike, without a legend
const MIB = 2 ** 20;
const LOGGED = 100; // lines that are shown of what happened
const GAP = 0.02; // the longest pause between two rounds on the timeline, as a share of all rounds
let last = 20; // rounds that the timeline shows; 0: all
let late = 0; // seconds by which this machine's clock is ahead of the hub's

const at = (id) => document.getElementById(id);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const short = (value, digits = 3) => (value === null || value === undefined ? "" : value.toFixed(digits));

if (location.hash === "#started") {
  sessionStorage.removeItem("study"); // which study.js has kept until now
  history.replaceState(null, "", location.pathname);
}

// Following ----------------------------------------------------------------------------------------------------------

let events = null;
let again = 0; // a timer

// Only while somebody looks: a person has few streams at a time.
function follow() {
  events?.close();
  clearTimeout(again);
  if (document.hidden || state.status === "finished") return;
  events = new EventSource(root.dataset.events);
  events.onmessage = (message) => {
    at("lost").hidden = true;
    take(JSON.parse(message.data));
  };
  events.addEventListener("clock", (message) => {
    late = Date.now() / 1000 - Number(message.data);
  });
  events.addEventListener("over", () => {
    events.close();
    if (state.status !== "finished") again = setTimeout(lookWhetherResumed, 4000);
  });
  events.onerror = async () => {
    at("lost").hidden = false;
    if (events.readyState !== EventSource.CLOSED) return; // it tries again by itself
    await ask("/api/v1/session");
    again = setTimeout(follow, 2000);
  };
}

// The answer, or nothing where there is none; whoever has to log in again is sent there.
async function ask(path) {
  const answer = await fetch(path, { headers: { "hx-request": "true" } }).catch(() => null);
  if (answer?.status === 401) location.assign("/login?over=1");
  return answer?.ok ? answer.json() : null;
}

// A run that failed or was stopped may be resumed by somebody else.
async function lookWhetherResumed() {
  const runs = await ask(`/api/v1/runs?many=100&words=${state.run}`);
  const now = runs?.find((run) => run.run === state.run);
  if (now && now.status !== state.status) follow();
  else if (!document.hidden) again = setTimeout(lookWhetherResumed, 4000);
}

// What came: everything, or what is new since the last.
function take(news) {
  const rows = ["rounds", "answered", "loss", "primary"];
  const first = news.whole ? 0 : news.rounds.length ? place(news.rounds[0][NUMBER]) : state.rounds.length;
  const from = news.rounds.length ? news.rounds[0][NUMBER] : Infinity;
  const kept = news.whole ? [] : state.refused.filter(([number]) => number < from);
  for (const name of rows) state[name] = [...state[name].slice(0, first), ...news[name]];
  state.refused = [...kept, ...news.refused];
  state.log = [...(news.whole ? [] : state.log), ...news.log].slice(-LOGGED);
  const { rounds, answered, loss, primary, refused, log, ...now } = news;
  Object.assign(state, now);
  draw();
}

function place(number) {
  const found = state.rounds.findIndex((round) => round[NUMBER] >= number);
  return found < 0 ? state.rounds.length : found;
}

let drawn = 0; // when, in milliseconds
let waiting = false;

// At most twice a second, however many sites answer.
function draw() {
  if (waiting) return;
  waiting = true;
  setTimeout(() => {
    waiting = false;
    drawn = performance.now();
    tell();
    drawTimeline();
    fillSites();
    fillLog();
    drawPlots();
  }, Math.max(0, drawn + 500 - performance.now()));
}

// Words --------------------------------------------------------------------------------------------------------------

function tell() {
  const shown = state.paused ? "paused" : state.status;
  if (shown !== root.dataset.status) {
    root.dataset.status = shown;
    at("status").textContent = words[shown];
    // other things can be done with it now
    htmx.ajax("GET", `/runs/${state.run}`, { target: "#actions", select: "#actions", swap: "outerHTML" });
  }
  at("round").textContent = `${state.round} / ${state.of}`;
  at("stage").textContent = state.rounds.at(-1)?.[NOTE] ?? "";
  const scored = state.rounds.filter((round) => round[PRIMARY] !== null);
  at("figure").textContent = scored.length ? short(scored.at(-1)[PRIMARY]) : "–";
  const now = waitsFor();
  if (at("now").textContent !== now) at("now").textContent = now; // it is read out
  at("reason").textContent = state.reason ?? "";
  at("reason").hidden = !state.reason;
}

function waitsFor() {
  if (state.status !== "running" || !state.rounds.length) return words[`kind_${state.kind}`] ?? "";
  const names = state.awaited.slice(0, 3);
  const more = state.awaited.length - names.length;
  const others = state.awaited_others ? [fill(words.live_others, { many: state.awaited_others })] : [];
  const sites = [...names, ...others].join(", ");
  if (!sites) {
    const inHand = state.rounds.at(-1)[ENDED] === null && state.kind === "round";
    return inHand ? fill(words.live_aggregates, { round: state.round }) : (words[`kind_${state.kind}`] ?? "");
  }
  const told = more > 0 ? fill(words.live_more, { sites, many: more }) : sites;
  return fill(words.live_awaits, { round: state.round, sites: told });
}

// Timeline: a row a site, time to the right; a round ends when the slowest has answered ------------------------------

function drawTimeline() {
  const canvas = at("timeline");
  const rounds = last ? state.rounds.slice(-last) : state.rounds;
  const first = state.rounds.length - rounds.length;
  const row = state.sites.length > 60 ? 8 : state.sites.length > MANY_SITES ? 14 : 24;
  const named = row >= 14;
  const left = named ? 130 : 8;
  const [width, height] = [canvas.parentElement.clientWidth, 22 + row * state.sites.length + 4];
  const scale = Math.min(window.devicePixelRatio || 1, 16000 / height);
  Object.assign(canvas, { width: width * scale, height: height * scale });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px sans-serif";
  pen.textBaseline = "middle";
  const ink = colour("ink");
  if (named) {
    pen.fillStyle = ink;
    state.sites.forEach((name, index) => pen.fillText(name, 0, 22 + row * (index + 0.5), left - 8));
  }
  if (!rounds.length) return;
  const now = state.halted ?? (state.ended ? Date.parse(state.ended) / 1000 : Date.now() / 1000 - late);
  const lengths = rounds.map((round) => (round[ENDED] ?? now) - round[BEGAN]);
  const working = lengths.reduce((sum, each) => sum + each, 0);
  const starts = [0]; // of each round on the axis, in seconds; a night in which the run was paused takes little of it
  rounds.slice(1).forEach((round, index) => {
    const pause = Math.max(round[BEGAN] - rounds[index][BEGAN] - lengths[index], 0);
    starts.push(starts[index] + lengths[index] + Math.min(pause, GAP * working));
  });
  const whole = Math.max(starts.at(-1) + lengths.at(-1), 1);
  const x = (index, time) => left + ((starts[index] + time - rounds[index][BEGAN]) / whole) * (width - left - 4);
  const refused = new Set(state.refused.map(([number, site]) => `${number} ${site}`));
  const awaited = new Set(state.awaited);
  const [work, wait, bad] = [colour("accent"), colour("rule"), colour("bad")];
  let free = 0;
  rounds.forEach((round, index) => {
    const [begins, ends] = [x(index, round[BEGAN]), x(index, round[ENDED] ?? now)];
    if (begins > free) {
      pen.fillStyle = ink;
      pen.fillText(round[NUMBER], begins, 10);
      free = begins + pen.measureText(round[NUMBER]).width + 14;
    }
    state.answered[first + index].forEach((seconds, site) => {
      const top = 22 + row * site + row * 0.12;
      const answered = seconds === null ? ends : Math.min(x(index, round[BEGAN] + seconds), ends);
      const out = refused.has(`${round[NUMBER]} ${state.sites[site]}`);
      const atWork = seconds === null && round[ENDED] === null && awaited.has(state.sites[site]);
      pen.fillStyle = wait;
      pen.fillRect(answered, top, Math.max(ends - answered, 0), row * 0.76);
      if (seconds === null && !out && !atWork) return; // it takes no part
      pen.fillStyle = out ? bad : work;
      pen.globalAlpha = atWork ? 0.55 : 1;
      pen.fillRect(begins, top, Math.max(answered - begins - 1, 0.6), row * 0.76);
      pen.globalAlpha = 1;
    });
  });
}

for (const button of document.querySelectorAll("[data-last]")) {
  button.addEventListener("click", () => {
    last = Number(button.dataset.last);
    for (const each of document.querySelectorAll("[data-last]")) each.ariaPressed = String(each === button);
    drawTimeline();
  });
}

// Plots --------------------------------------------------------------------------------------------------------------

const plots = {};
let plotted = ""; // of which rounds' figures
const SITE_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#6a51a3", "#999933", "#aa4499", "#44aa99", "#882255"]; // told apart by people who are colour-blind (Okabe and Ito 2008; Tol)

function drawPlots() {
  const known = (row) => row.filter((number) => number !== null).length;
  const figures = state.rounds
    .map((round, index) => [...round.slice(LOSS, NOTE), known(state.loss[index]), known(state.primary[index])])
    .join();
  if (figures === plotted) return;
  plotted = figures;
  const numbers = state.rounds.map((round) => round[NUMBER]);
  const bySite = (rows) => state.sites.map((_, site) => rows.map((row) => row[site]));
  const pooled = (column) => state.rounds.map((round) => round[column]);
  const mib = (column) => pooled(column).map((bytes) => (bytes === null ? null : bytes / MIB));
  plot("primary", [numbers, ...bySite(state.primary), pooled(PRIMARY)], siteSeries(), 3);
  plot("loss", [numbers, ...bySite(state.loss), pooled(LOSS)], siteSeries(), 3);
  const both = [
    { label: words.live_up, stroke: () => colour("accent"), width: 2 },
    { label: words.live_down, stroke: () => colour("muted"), width: 2, dash: [6, 4] },
  ];
  plot("bytes", [numbers, mib(UP), mib(DOWN)], both, 1, (_, __, most) => [0, (most || 1) * 1.1]);
}

function siteSeries() {
  const many = state.sites.length > MANY_SITES;
  const lines = state.sites.map((name, index) => ({
    label: name,
    stroke: many ? () => colour("idle") : SITE_COLOURS[index],
    width: 1,
    alpha: many ? 0.35 : 0.9,
  }));
  return [...lines, { label: words.live_all_sites, stroke: () => colour("ink"), width: 2.5 }];
}

function plot(id, data, series, digits, range) {
  const box = at(id);
  if (plots[id] && plots[id].series.length === series.length + 1) {
    plots[id].setData(data);
    return;
  }
  plots[id]?.destroy();
  const points = { show: state.of <= 60, size: 5 };
  const axis = { stroke: () => colour("ink"), grid: { stroke: () => colour("rule"), width: 1 }, ticks: { show: false } };
  const value = (_, number) => (number === null || number === undefined ? "–" : number.toFixed(digits));
  plots[id] = new uPlot(
    {
      width: box.clientWidth,
      height: 240,
      cursor: { focus: { prox: 12 } },
      focus: { alpha: 0.3 },
      legend: { show: series.length <= MANY_SITES + 1 },
      scales: { x: { time: false, range: (_, from, to) => (from === null ? [0, 1] : [Math.min(from, 1), Math.max(to, 2)]) }, y: range ? { range } : {} },
      axes: [axis, { ...axis, size: 56 }],
      series: [{ label: words.live_round, value: (_, number) => number ?? "–" }, ...series.map((one) => ({ points, value, spanGaps: true, ...one }))],
    },
    data,
    box,
  );
}

addEventListener("resize", () => {
  for (const [id, each] of Object.entries(plots)) each.setSize({ width: at(id).clientWidth, height: 240 });
  drawTimeline();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const each of Object.values(plots)) each.redraw();
  drawTimeline();
});
setInterval(() => state.status === "running" && !document.hidden && drawTimeline(), 1000); // work in hand grows

// Tables -------------------------------------------------------------------------------------------------------------

function cells(row, texts) {
  while (row.cells.length < texts.length) {
    row.append(document.createElement(row.cells.length ? "td" : "th"));
    row.cells[0].scope = "row";
  }
  texts.forEach((text, index) => {
    if (row.cells[index].textContent !== text) row.cells[index].textContent = text;
  });
}

function fillSites() {
  const body = at("sites");
  while (body.rows.length > state.sites.length) body.deleteRow(-1);
  const newest = (rows, site) => rows.findLast((row) => row[site] !== null)?.[site];
  const out = {};
  for (const [, site] of state.refused) out[site] = (out[site] ?? 0) + 1;
  state.sites.forEach((name, site) => {
    const [kind, note, approval, percent] = state.states[site];
    const awaited = percent !== null && state.awaited.includes(name);
    const heard = awaited ? fill(words.live_trains, { percent }) : (words[`kind_${kind}`] ?? "");
    const doing = [heard, awaited ? "" : note].filter(Boolean).join(": ");
    const needed = newest(state.answered, site);
    cells(body.rows[site] ?? body.insertRow(), [
      name,
      words[`approval_${approval}`] ?? "",
      doing,
      needed === undefined ? "" : fill(words.live_seconds, { many: needed.toFixed(1) }),
      short(newest(state.loss, site)),
      short(newest(state.primary, site)),
      out[name] ? String(out[name]) : "",
    ]);
  });
}

function fillLog() {
  const body = at("log");
  const lines = [...state.log].reverse();
  while (body.rows.length > lines.length) body.deleteRow(-1);
  lines.forEach(([time, kind, round, site, note], index) => {
    const what = [words[`kind_${kind}`] ?? kind, note].filter(Boolean).join(": ");
    cells(body.rows[index] ?? body.insertRow(), [time.slice(11, 19), String(round), site, what]);
  });
}

document.addEventListener("visibilitychange", follow);
follow();
