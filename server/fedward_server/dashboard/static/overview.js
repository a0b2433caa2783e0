// Overview keeps itself up to date, and leaves alone what stays as it was: the focus, a selection, how far a table is scrolled.
"use strict";

const live = document.getElementById("live");
const lost = document.getElementById("lost");

live.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.status !== 200) return;
  event.detail.shouldSwap = false;
  lost.hidden = true;
  const page = new DOMParser().parseFromString(event.detail.serverResponse, "text/html");
  become(live, page.getElementById("live"));
});
for (const failure of ["htmx:sendError", "htmx:responseError"]) {
  live.addEventListener(failure, () => {
    lost.hidden = false;
  });
}

// Give an element the children of another.
function become(element, other) {
  const wanted = [...other.childNodes];
  while (element.childNodes.length > wanted.length) element.lastChild.remove();
  wanted.forEach((child, index) => {
    const present = element.childNodes[index];
    if (!present) element.append(child);
    else if (present.isEqualNode(child)) return;
    else if (child.nodeType === Node.ELEMENT_NODE && present.cloneNode().isEqualNode(child.cloneNode())) become(present, child);
    else present.replaceWith(child);
  });
}
