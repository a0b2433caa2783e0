// A new study's text: kept in this tab until it is started, however the session or the page ends; or from a file.
"use strict";

const form = document.getElementById("new");
const text = document.getElementById("study");
const boxes = [...form.querySelectorAll("input[type=checkbox]")];
let taken = text.defaultValue; // the template or the file that it was before somebody typed

function keep() {
  const ticked = boxes.filter((box) => box.checked).map((box) => box.name);
  sessionStorage.setItem("study", JSON.stringify({ by: form.dataset.by, taken, text: text.value, ticked }));
}

function mayReplace() {
  return [taken, ""].includes(text.value) || confirm(form.dataset.replace);
}

form.addEventListener("input", keep);
form.addEventListener("submit", keep);

document.getElementById("template").form.addEventListener("submit", (event) => {
  if (mayReplace()) sessionStorage.removeItem("study");
  else event.preventDefault();
});

document.getElementById("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  if (!mayReplace()) {
    event.target.value = "";
    return;
  }
  text.value = await file.text();
  taken = text.value;
  htmx.trigger(text, "check");
  keep();
});

document.addEventListener("DOMContentLoaded", () => { // htmx listens by now
  history.replaceState(null, "", `/studies/new${location.search}`); // where a refused one can be loaded again
  const kept = JSON.parse(sessionStorage.getItem("study"));
  if (kept?.by !== form.dataset.by || !["", kept.taken, kept.text].includes(text.defaultValue)) return;
  taken = kept.taken;
  text.value = kept.text;
  for (const box of boxes) box.checked = kept.ticked.includes(box.name);
  htmx.trigger(text, "check");
});
