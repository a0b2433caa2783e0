// A study from a file of this machine: put where it can be read and changed before it is sent.
"use strict";
document.getElementById("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  const text = document.getElementById("study");
  text.value = await file.text();
  htmx.trigger(text, "check");
});
