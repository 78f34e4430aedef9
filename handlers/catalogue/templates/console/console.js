// Keeps the overview up to date while somebody looks at it; a part of it that they are using stays as it is.
"use strict";

(() => {
  const FIRST = 5000; // ms between two questions, and more the longer nobody touches anything
  const SLOWEST = 15000;
  const ANSWERS = 10000;

  const place = document.querySelector("[data-live]");
  const says = document.querySelector("[data-says]");
  if (!place) return;
  let waited = 0;
  let timer = null;
  let isAsking = false;
  for (const what of ["pointerdown", "keydown"]) document.addEventListener(what, () => { waited = 0; });
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    waited = 0;
    if (!document.hidden && !isAsking) ask();
  });
  later();

  function later() {
    if (document.hidden) return; // until it is shown again
    const delay = Math.min(SLOWEST, FIRST + waited / 20);
    waited += delay;
    timer = setTimeout(ask, delay);
  }

  async function ask() {
    isAsking = true;
    const stop = new AbortController();
    const giveUp = setTimeout(() => stop.abort(), ANSWERS);
    let isSignedOut = false;
    try {
      const answer = await fetch(place.dataset.live, { cache: "no-store", redirect: "manual", signal: stop.signal });
      isSignedOut = answer.type === "opaqueredirect";
      if (answer.ok) show(await answer.text());
    } catch {
      // Nothing new: web is away.
    } finally {
      clearTimeout(giveUp);
      isAsking = false;
    }
    if (!isSignedOut) return later();
    says.classList.remove("hidden");
    say("ended");
  }

  function show(text) {
    const before = findings();
    const fresh = document.createElement("template");
    fresh.innerHTML = text;
    if (names(place) !== names(fresh.content) && !isInUse(place)) place.replaceChildren(...fresh.content.children);
    for (const part of Array.from(fresh.content.children)) {
      const shown = place.querySelector(`:scope > [data-part="${part.dataset.part}"]`);
      if (shown && !isInUse(shown) && !shown.isEqualNode(part)) shown.replaceWith(part);
    }
    if (findings() !== before) say("changed");
    else says.textContent = "";
  }

  function names(root) {
    return Array.from(root.children, (part) => part.dataset.part).join();
  }

  function isInUse(part) {
    const isScrolled = Array.from(part.querySelectorAll(".table")).some((one) => one.scrollLeft);
    const picked = getSelection();
    const isPicked = !picked.isCollapsed && picked.containsNode(part, true);
    return part.contains(document.activeElement) || part.querySelector("details[open]") || isScrolled || isPicked;
  }

  function findings() {
    return Array.from(place.querySelectorAll(".findings strong"), (one) => one.textContent).join();
  }

  function say(name) {
    says.textContent = document.querySelector(`template[data-${name}]`).content.textContent.trim();
  }
})();
